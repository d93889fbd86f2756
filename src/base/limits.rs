//! Every limit that is not configured, with its reason. Configured ones have their default beside
//! them in `config/validate`.

/// Longest token read, in bytes. A 4096-bit RSA signature is 683 characters and browsers cap a
/// cookie near 4 KiB; twice that is room for large claims.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Deepest nesting of a token's header or payload. Identity providers nest 3 or 4 levels
/// (`resource_access.account.roles[0]`); a recursion bound must be far from the stack's end.
pub const JSON_DEPTH_MAX: usize = 16;

/// Longest `kid`, in bytes. Thumbprints are 43 or 86 characters, some vendors use URLs.
pub const KID_BYTES_MAX: usize = 256;

/// Longest issuer, subject, session, token or client identifier, in bytes. RFC 7519 names no bound;
/// OpenID Connect Core section 2 allows 255 ASCII characters for `sub`.
pub const ID_BYTES_MAX: usize = 1024;

/// Most keys tried for one token that names no `kid`. Each try costs a signature check.
pub const KEYS_TRIED_MAX: usize = 4;

/// Largest key set read, in bytes. The largest public ones are below 50 KiB.
pub const JWKS_BYTES_MAX: usize = 512 * 1024;

/// Most entries of a key set that are looked at. Public sets hold 2 to 10.
pub const JWKS_KEYS_MAX: usize = 256;

/// Longest request path, in bytes, normalised. nginx's default for the whole request line is 8 KiB.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

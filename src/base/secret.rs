//! Bytes that must not be printed. `Debug` shows only that there is a secret; memory is wiped on drop.

pub use secrecy::ExposeSecret;

/// A shared secret: an HMAC key or a bearer token of the admin API.
pub type Secret = secrecy::SecretBox<Vec<u8>>;

/// Wraps `bytes`.
#[must_use]
pub fn secret(bytes: Vec<u8>) -> Secret {
    Secret::new(Box::new(bytes))
}

/// Whether two secrets are equal, in a time that depends on their lengths alone.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    left.ct_eq(right).into()
}

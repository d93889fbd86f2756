//! Who may pass.

/// Who may pass a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// A good token, or 401.
    Required,
    /// No token passes without identity headers; a bad token is 401 all the same.
    Optional,
    /// Tokens are not looked at.
    Public,
}

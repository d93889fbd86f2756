//! Who may pass, and what happens to who may not.

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

/// What becomes of a good token while the denylist may be too old: a rule that another gateway made may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnStale {
    /// It is refused with 503: nobody can say whether it is revoked.
    #[default]
    Deny,
    /// It passes, and is counted.
    Allow,
}

/// What becomes of a request that may not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes as a stranger, and what it would have been refused for is counted: to learn who would be shut out before
    /// anybody is.
    Report,
}

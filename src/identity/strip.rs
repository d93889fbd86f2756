//! The names that only jotgate may write. Services behind WSGI, CGI or PHP see `X_User_Id`, `X.User.Id` and
//! `X-User-Id` as one variable (CVE-2025-64484, CVE-2026-39858), so every sign that is no letter or digit counts as the
//! same sign.

use std::collections::HashSet;

use http::HeaderName;

/// Names that a client must not send, in any spelling.
#[derive(Debug)]
pub struct ProtectedNames {
    /// Bit n: some name is n bytes long. Most header lines of a request are told apart by this alone.
    lengths: u128,
    names: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
}

/// Longest name that can be protected; the bits of `lengths`.
pub const PROTECTED_NAME_BYTES_MAX: usize = 127;

/// Where jotgate's own words to and from services begin.
const OWN_PREFIX: &[u8] = b"jotgate-";

impl ProtectedNames {
    /// Protects `names`; everything that begins with `jotgate-` is protected too. Names longer than
    /// [`PROTECTED_NAME_BYTES_MAX`] are refused by the configuration.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n HeaderName>) -> Self {
        let mut protected = Self {
            lengths: 0,
            names: HashSet::default(),
        };
        for name in names {
            debug_assert!(name.as_str().len() <= PROTECTED_NAME_BYTES_MAX);
            protected.lengths |= 1 << (name.as_str().len() & PROTECTED_NAME_BYTES_MAX);
            protected
                .names
                .insert(name.as_str().bytes().map(fold).collect());
        }
        protected
    }

    /// Whether `name` is protected, or an alias of a protected name.
    #[must_use]
    pub fn covers(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        if starts_with_folded(name, OWN_PREFIX) {
            return true;
        }
        if name.len() > PROTECTED_NAME_BYTES_MAX || self.lengths & (1 << name.len()) == 0 {
            return false;
        }
        let mut folded = [0; PROTECTED_NAME_BYTES_MAX];
        let folded = &mut folded[..name.len()];
        for (to, from) in folded.iter_mut().zip(name) {
            *to = fold(*from);
        }
        self.names.contains(&*folded)
    }
}

/// Whether `name`, folded, begins with `prefix`, which is folded already.
#[must_use]
pub fn starts_with_folded(name: &[u8], prefix: &[u8]) -> bool {
    name.len() >= prefix.len()
        && name
            .iter()
            .zip(prefix)
            .all(|(have, want)| fold(*have) == *want)
}

/// Two names are aliases when they are equal after folding.
#[must_use]
pub const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_covered_and_nothing_else() {
        let names = [
            HeaderName::from_static("x-user-id"),
            HeaderName::from_static("x-roles"),
        ];
        let protected = ProtectedNames::new(&names);
        let covers =
            |name: &str| protected.covers(&HeaderName::from_bytes(name.as_bytes()).unwrap());
        for name in [
            "X-User-Id",
            "x_user_id",
            "X.User.Id",
            "x!user!id",
            "X-USER_ID",
            "x-roles",
            "Jotgate-Revoke",
            "jotgate_x",
            "JOTGATE.SESSION",
        ] {
            assert!(covers(name), "{name}");
        }
        for name in [
            "x-user",
            "x-user-ids",
            "xuserid",
            "x-rules",
            "accept",
            "jotgat",
            "x-jotgate-a",
            &"a".repeat(200),
        ] {
            assert!(!covers(name), "{name}");
        }
    }
}

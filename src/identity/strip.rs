//! The names that only jotgate may write. Services behind WSGI, CGI or PHP see `X_User_Id`, `X.User.Id` and
//! `X-User-Id` as one variable (CVE-2025-64484, CVE-2026-39858), and nobody knows what the next one does with other signs:
//! only letters and digits count, without case.

use std::collections::HashSet;

use http::HeaderName;

use crate::http::headers::letters;

/// Names that a client must not send, in any spelling.
#[derive(Debug)]
pub struct ProtectedNames {
    /// Bit n: some name begins with letter or digit number n. Most header lines of a request are told apart by this alone.
    initials: u64,
    /// The longest name, in letters and digits.
    longest: usize,
    names: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
}

/// Longest name that can be protected, in bytes.
pub const PROTECTED_NAME_BYTES_MAX: usize = 127;

/// Where jotgate's own words to and from services begin.
const OWN_PREFIX: &[u8] = b"jotgate";

impl ProtectedNames {
    /// Protects `names`; everything that begins with `jotgate` is protected too. Names longer than
    /// [`PROTECTED_NAME_BYTES_MAX`] are refused by the configuration.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n HeaderName>) -> Self {
        let mut protected = Self {
            initials: 1 << place(OWN_PREFIX[0]),
            longest: 0,
            names: HashSet::default(),
        };
        for name in names {
            let name: Box<[u8]> = letters(name).collect();
            protected.initials |= name.first().map_or(0, |initial| 1 << place(*initial));
            protected.longest = protected.longest.max(name.len());
            protected.names.insert(name);
        }
        protected
    }

    /// Whether `name` is protected, or an alias of a protected name.
    #[must_use]
    pub fn covers(&self, name: &HeaderName) -> bool {
        let mut name = letters(name).peekable();
        let Some(initial) = name.peek() else {
            return false;
        };
        if self.initials & (1 << place(*initial)) == 0 {
            return false;
        }
        let mut folded = [0; PROTECTED_NAME_BYTES_MAX];
        let mut length = 0;
        for (to, from) in folded.iter_mut().zip(name.by_ref()) {
            *to = from;
            length += 1;
        }
        let folded = &folded[..length];
        folded.starts_with(OWN_PREFIX)
            || (length <= self.longest && name.next().is_none() && self.names.contains(folded))
    }
}

/// 0 to 35.
const fn place(letter: u8) -> u32 {
    let place = if letter.is_ascii_digit() {
        letter - b'0'
    } else {
        10 + (letter - b'a')
    };
    place as u32
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
            "xuserid",
            "-x-user-id-",
            "x--user-id",
            "x-roles",
            "Jotgate-Revoke",
            "jotgate_x",
            "JOTGATE.SESSION",
            "j-otgate",
        ] {
            assert!(covers(name), "{name}");
        }
        for name in [
            "x-user",
            "x-user-ids",
            "x-rules",
            "accept",
            "jotgat",
            "x-jotgate-a",
            "_",
            &"x".repeat(200),
        ] {
            assert!(!covers(name), "{name}");
        }
    }
}

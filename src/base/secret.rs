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

/// [`equal`] for two that nobody has taken out of their boxes.
#[must_use]
pub fn same(left: &Secret, right: &Secret) -> bool {
    equal(left.expose_secret(), right.expose_secret())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_equal_in_every_byte_or_not_at_all() {
        assert!(equal(b"0123456789abcdef", b"0123456789abcdef"));
        for other in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "1123456789abcdef",
            "0123456789abcdeg",
        ] {
            assert!(!equal(b"0123456789abcdef", other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", secret(b"0123456789abcdef".to_vec()));
        assert!(
            !shown.contains("0123") && !shown.contains("48, 49"),
            "{shown}"
        );
    }
}

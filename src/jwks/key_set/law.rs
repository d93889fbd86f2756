//! Law: a key set holds public keys that can check something, believes no invented signature, and is the same set with
//! an entry more that is no key.

use serde_json::json;

use super::{KeySet, KeySetError, Known};
use crate::base::json;
use crate::base::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, KEYS_TRIED_MAX};
use crate::jwks::{Algorithm, Family};

/// Longest signature that is tried: of an RSA key of 8192 bits.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// Panics where the law is broken.
pub(crate) fn holds(text: &[u8]) {
    let parsed = KeySet::parse(text);
    if let Ok(set) = &parsed {
        can_check_something(set);
    }
    let Ok(mut more) = json::parse(text) else {
        return;
    };
    let Some(entries) = more.get_mut("keys").and_then(|keys| keys.as_array_mut()) else {
        return;
    };
    let before = entries.len();
    entries.push(json!({"kty": "none"}));
    let more = more.to_string();
    if before >= JWKS_KEYS_MAX || more.len() > JWKS_BYTES_MAX {
        return;
    }
    match (parsed, KeySet::parse(more.as_bytes())) {
        (Ok(set), Ok(more)) => {
            assert_eq!(names(&set), names(&more));
            assert_eq!(
                more.skipped().last().map(|skipped| skipped.index),
                Some(before)
            );
            assert_eq!(set.skipped().len() + 1, more.skipped().len());
        }
        (
            Err(KeySetError::NoUsableKey { skipped }),
            Err(KeySetError::NoUsableKey { skipped: more }),
        ) => assert_eq!(skipped.len() + 1, more.len()),
        (set, more) => panic!("{set:?} became {more:?}"),
    }
}

fn names(set: &KeySet) -> Vec<(Option<&str>, Family)> {
    let keys = set.keys().iter();
    keys.map(|key| (key.kid(), key.family())).collect()
}

fn can_check_something(set: &KeySet) {
    assert!(!set.keys().is_empty() && set.keys().len() <= JWKS_KEYS_MAX);
    for key in set.keys() {
        assert_ne!(key.family(), Family::Hmac, "a published secret");
        assert!(key.is_live());
        let fitting = || Algorithm::ALL.into_iter().filter(|it| key.fits(*it));
        assert!(fitting().count() > 0, "{key:?}");
        for algorithm in fitting() {
            let candidates = set.candidates(key.kid(), algorithm).count();
            assert!((1..=KEYS_TRIED_MAX).contains(&candidates));
            assert_eq!(set.knows(key.kid(), algorithm), Known::Fits);
            for length in [0, 64, 96, 256, SIGNATURE_BYTES_MAX] {
                assert!(!key.verify(algorithm, b"e30.e30", &vec![0; length]));
            }
        }
    }
}

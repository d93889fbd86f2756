//! Law: an accepted path is its own normal form, says what was sent, and has no dot segment, backslash or control
//! character in it for anybody who decodes as it must be, or not at all, or once more, whatever they drop.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

use super::NormalPath;

/// Panics where the law is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let Ok(raw) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(normal) = NormalPath::parse(raw) else {
        return;
    };
    let text = normal.as_str();
    assert_eq!(NormalPath::parse(text), Ok(NormalPath(Cow::Borrowed(text))));
    let sent = PathAndQuery::try_from(text).expect("a path");
    assert_eq!((sent.path(), sent.query()), (text, None));
    let (was, is) = (decoded(raw.as_bytes()), decoded(text.as_bytes()));
    assert_eq!(
        single_slashes(&was),
        single_slashes(&is),
        "{raw} became {text}"
    );
    let mut reading = text.as_bytes().to_vec();
    for _decoded in 0..3 {
        for segment in reading.split(|byte| *byte == b'/') {
            let name = segment.split(|byte| *byte == b';').next();
            assert!(!matches!(name, Some(b"." | b"..")), "{text}");
        }
        let is_delimiter = |byte: &u8| *byte == b'\\' || byte.is_ascii_control();
        assert!(!reading.iter().any(is_delimiter), "{text}");
        reading = decoded(&reading);
    }
    // Whoever folds reads no path that is refused by itself.
    if let Some(folded) = normal.folded() {
        assert!(folded.starts_with('/') && !folded.contains(|c: char| c.is_ascii_uppercase()));
    }
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    percent_decode(bytes).collect()
}

fn single_slashes(bytes: &[u8]) -> Vec<u8> {
    let mut single = bytes.to_vec();
    single.dedup_by(|next, last| (*next, *last) == (b'/', b'/'));
    single
}

//! Law: an accepted token is the one spelling of its parts (mint ∘ parse), and another reader of its header finds the
//! same `alg`, `kid` and `typ`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Parsed, media_type, parse};
use crate::base::json::read_object;

/// Panics where the law is broken. Reads the bytes as a token, and as three lines to make one of: header, payload,
/// signature.
pub(crate) fn holds(bytes: &[u8]) {
    if let Ok(token) = std::str::from_utf8(bytes) {
        has_one_reading(token, &mut vec![]);
    }
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    if let (Some(header), Some(payload), Some(signature)) =
        (lines.next(), lines.next(), lines.next())
    {
        let token = [header, payload, signature]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let mut room = vec![];
        if let Some(parsed) = has_one_reading(&token, &mut room) {
            assert_eq!(parsed.signature, signature);
            assert_eq!(Ok(parsed.payload), read_object(payload));
        }
    }
}

fn has_one_reading<'t>(token: &'t str, room: &'t mut Vec<u8>) -> Option<Parsed<'t>> {
    let parsed = parse(token, room).ok()?;
    let signature = URL_SAFE_NO_PAD.encode(&parsed.signature);
    assert_eq!(format!("{}.{signature}", parsed.signing_input), token);
    let (header, payload) = parsed.signing_input.split_once('.')?;
    assert_eq!(payload, parsed.payload_segment);
    for segment in [header, payload] {
        let octets = URL_SAFE_NO_PAD.decode(segment).ok();
        let again = octets.map(|octets| URL_SAFE_NO_PAD.encode(octets));
        assert_eq!(again.as_deref(), Some(segment));
    }
    // It knows fewer names of algorithms, and wants more of members that are not looked at here.
    if let Ok(theirs) = jsonwebtoken::decode_header(token) {
        assert_eq!(theirs.alg, parsed.algorithm.to_jsonwebtoken());
        assert_eq!(theirs.kid.as_deref(), parsed.kid.as_deref());
        assert_eq!(theirs.typ.map(|typ| media_type(&typ)), parsed.typ);
    }
    Some(parsed)
}

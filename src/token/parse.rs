//! A compact JWS, taken apart strictly (RFC 7515 section 7.1): three parts, canonical base64url without padding,
//! JSON objects with one reading. Nothing here is believed yet.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::reject::Reject;
use crate::base::json::{Json, Node as _, read_object};
use crate::base::limits::{KID_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::jwks::Algorithm;

/// A token taken apart. The signature is not checked.
#[derive(Debug)]
pub struct Parsed<'t> {
    /// `alg`, if it is one that jotgate knows.
    pub algorithm: Algorithm,
    /// `kid`
    pub kid: Option<Box<str>>,
    /// `typ` in lower case, without `application/` (RFC 7515 section 4.1.9).
    pub typ: Option<Box<str>>,
    /// The payload, an object.
    pub payload: Json<'t>,
    /// `header.payload`: what is signed.
    pub signing_input: &'t str,
    /// The payload as it was sent.
    pub payload_segment: &'t str,
    /// The octets of the signature.
    pub signature: Vec<u8>,
}

/// Takes `token` apart, with `room` for its payload. Every fault is a [`Reject`] of its own.
pub fn parse<'t>(token: &'t str, room: &'t mut Vec<u8>) -> Result<Parsed<'t>, Reject> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Reject::TooLarge);
    }
    let malformed = Reject::Malformed;
    let (header_segment, rest) = token.split_once('.').ok_or(malformed)?;
    let (payload_segment, signature_segment) = rest.split_once('.').ok_or(malformed)?;
    // A further dot is not in the alphabet, so five parts (JWE) and more end here too.
    let header = decode(header_segment)?;
    let header = read_object(&header).map_err(|_| malformed)?;
    let algorithm = check_header(&header)?;
    let signature = decode(signature_segment)?;
    if signature.is_empty() {
        return Err(malformed);
    }
    *room = decode(payload_segment)?;
    let payload = read_object(room).map_err(|_| malformed)?;
    Ok(Parsed {
        algorithm,
        kid: text_member(&header, "kid", KID_BYTES_MAX)?,
        typ: text_member(&header, "typ", TYP_BYTES_MAX)?.map(|typ| media_type(&typ)),
        payload,
        signing_input: &token[..header_segment.len() + 1 + payload_segment.len()],
        payload_segment,
        signature,
    })
}

/// Longest `typ`, in bytes. Media types are at most 127 + 1 + 127 characters (RFC 6838 section 4.2).
const TYP_BYTES_MAX: usize = 255;

/// The engine refuses padding, other alphabets, and trailing bits that are not zero (RFC 4648 section 3.5).
fn decode(segment: &str) -> Result<Vec<u8>, Reject> {
    URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_| Reject::Malformed)
}

fn check_header(header: &Json<'_>) -> Result<Algorithm, Reject> {
    // We understand no extension, so every `crit` names one that we do not (RFC 7515 section 4.1.11), `b64`
    // (RFC 7797) included; `b64` without `crit` is refused whatever it says.
    if header.member("crit").is_some() || header.member("b64").is_some() {
        return Err(Reject::CritUnsupported);
    }
    // A compressed or encrypted payload is not a JWS payload (RFC 7516).
    if header.member("enc").is_some() || header.member("zip").is_some() {
        return Err(Reject::Malformed);
    }
    match header.member("alg") {
        Some(Json::Text(name)) => Algorithm::parse(name).ok_or(Reject::AlgorithmNotAllowed),
        _ => Err(Reject::Malformed),
    }
}

fn text_member(
    header: &Json<'_>,
    name: &str,
    bytes_max: usize,
) -> Result<Option<Box<str>>, Reject> {
    match header.member(name) {
        None => Ok(None),
        Some(Json::Text(text)) if text.len() <= bytes_max => Ok(Some((**text).into())),
        Some(_) => Err(Reject::Malformed),
    }
}

/// `application/at+jwt` and `AT+JWT` are `at+jwt`. A slash elsewhere keeps the whole (RFC 7515 section 4.1.9).
fn media_type(typ: &str) -> Box<str> {
    let lower = typ.to_ascii_lowercase();
    match lower.strip_prefix("application/") {
        Some(short) if !short.contains('/') => short.into(),
        Some(_) | None => lower.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str, signature: &[u8]) -> String {
        format!(
            "{}.{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload),
            URL_SAFE_NO_PAD.encode(signature)
        )
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text = token(
            r#"{"alg":"ES256","kid":"k","typ":"Application/AT+JWT","x5u":"http://x"}"#,
            r#"{"a":1}"#,
            b"s",
        );
        let mut room = vec![];
        let parsed = parse(&text, &mut room).unwrap();
        assert_eq!(parsed.algorithm, Algorithm::ES256);
        assert_eq!(parsed.kid.as_deref(), Some("k"));
        assert_eq!(parsed.typ.as_deref(), Some("at+jwt"));
        assert_eq!(parsed.signing_input, text.rsplit_once('.').unwrap().0);
        assert_eq!(parsed.signature, b"s");
    }

    #[track_caller]
    fn check(token: &str, expected: Reject) {
        let mut room = vec![];
        assert_eq!(parse(token, &mut room).err(), Some(expected), "{token}");
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        let good = token(r#"{"alg":"ES256"}"#, "{}", b"s");
        assert!(parse(&good, &mut vec![]).is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            &format!("{good}."),
            &format!("{good}.x"),
            &format!("{good}="),
            &format!(" {good}"),
            &format!("{good} "),
            &format!("{good}\n"),
            &good.replace('e', "\u{e9}"),
            // "cw" is "s"; "cx" has trailing bits that are not zero.
            &good.replace(".cw", ".cx"),
            &token(r#"{"alg":"ES256"}"#, "{}", b""),
            &token(r#"{"alg":"ES256"}"#, "[]", b"s"),
            &token(r#"{"alg":"ES256"}"#, "", b"s"),
            &token(r#"{"alg":"ES256"}"#, r#"{"sub":"a","sub":"b"}"#, b"s"),
            &token(r#"["ES256"]"#, "{}", b"s"),
            &token(r#"{"alg":"ES256","alg":"HS256"}"#, "{}", b"s"),
            &token(r#"{"alg":["ES256"]}"#, "{}", b"s"),
            &token("{}", "{}", b"s"),
            &token(r#"{"alg":"ES256","kid":null}"#, "{}", b"s"),
            &token(r#"{"alg":"ES256","kid":1}"#, "{}", b"s"),
            &token(
                &format!(
                    r#"{{"alg":"ES256","kid":"{}"}}"#,
                    "k".repeat(KID_BYTES_MAX + 1)
                ),
                "{}",
                b"s",
            ),
            &token(r#"{"alg":"ES256","typ":["JWT"]}"#, "{}", b"s"),
            &token(r#"{"alg":"ES256","enc":"A128GCM"}"#, "{}", b"s"),
            &token(r#"{"alg":"ES256","zip":"DEF"}"#, "{}", b"s"),
        ] {
            check(bad, Reject::Malformed);
        }
        for alg in [
            "none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "HS1", "ES512", "RSA-OAEP",
            "dir",
        ] {
            check(
                &token(&format!(r#"{{"alg":"{alg}"}}"#), "{}", b"s"),
                Reject::AlgorithmNotAllowed,
            );
        }
        for member in [
            r#""crit":["exp"]"#,
            r#""crit":[]"#,
            r#""crit":["b64"],"b64":false"#,
            r#""b64":false"#,
            r#""b64":true"#,
        ] {
            check(
                &token(&format!(r#"{{"alg":"ES256",{member}}}"#), "{}", b"s"),
                Reject::CritUnsupported,
            );
        }
        check(&"a".repeat(TOKEN_BYTES_MAX + 1), Reject::TooLarge);
    }
}

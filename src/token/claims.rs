//! The claims of a token, and the names by which the configuration reaches them.

use std::fmt;

use serde_json::Value;

use super::rules::ClaimNames;
use crate::base::clock::UnixSeconds;
use crate::base::json::{Json, Node};
use crate::base::limits::{ID_BYTES_MAX, JSON_DEPTH_MAX};

/// The way to a claim. `sub` is a member of the payload, `realm_access.roles` a member of a member; a name with
/// `://` in it is taken whole (`https://example.com/roles`), and a JSON Pointer (RFC 6901) says anything else
/// (`/resource_access/my.api/roles/0`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath {
    text: Box<str>,
    segments: Box<[Box<str>]>,
}

/// The text is no way to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no claim; write a name such as \"sub\", \"realm_access.roles\" or \"/realm_access/roles\""
)]
pub struct ClaimPathError;

impl ClaimPath {
    /// Parses a claim's name as the configuration writes it.
    pub fn parse(text: &str) -> Result<Self, ClaimPathError> {
        let segments: Vec<Box<str>> = if let Some(pointer) = text.strip_prefix('/') {
            pointer
                .split('/')
                .map(|segment| segment.replace("~1", "/").replace("~0", "~").into())
                .collect()
        } else if text.contains("://") {
            vec![text.into()]
        } else {
            text.split('.').map(Box::from).collect()
        };
        if segments.iter().any(|segment| segment.is_empty()) || segments.len() > JSON_DEPTH_MAX {
            return Err(ClaimPathError);
        }
        Ok(Self {
            text: text.into(),
            segments: segments.into(),
        })
    }

    /// The claim's value in a payload. An array is entered by index.
    #[must_use]
    pub fn find<'v, N: Node>(&self, payload: &'v N) -> Option<&'v N> {
        self.segments.iter().try_fold(payload, |value, segment| {
            value.member(segment).or_else(|| value.element(segment))
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A token's claims in typed form. Being well formed is all that this type promises; `Verified<Claims>` promises more.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `iss`
    pub issuer: Box<str>,
    /// `aud`, one or many; empty when absent.
    pub audiences: Vec<Box<str>>,
    /// `exp`
    pub expires: UnixSeconds,
    /// `nbf`
    pub not_before: Option<UnixSeconds>,
    /// `iat`
    pub issued: Option<UnixSeconds>,
    /// The token's own identifier, by default `jti`.
    pub token_id: Option<Box<str>>,
    /// By default `sid`.
    pub session_id: Option<Box<str>>,
    /// By default `sub`.
    pub subject: Option<Box<str>>,
    /// By default `client_id`, else `azp`.
    pub client: Option<Box<str>>,
    /// Scopes.
    pub scopes: Vec<Box<str>>,
    /// The whole payload, an object. Null until the signature is known to be good: what is refused is not kept.
    pub all: Value,
}

/// A claim has another form than RFC 7519 gives it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("claim {0} is missing or has the wrong form")]
pub struct ClaimFault(pub Box<str>);

impl Claims {
    /// Reads the registered claims (RFC 7519 section 4.1), and those that `names` says, out of a payload.
    pub fn read(payload: &Json<'_>, names: &ClaimNames) -> Result<Self, ClaimFault> {
        let fault = |name: &str| ClaimFault(name.into());
        let date = |name: &str| match payload.member(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or_else(|| fault(name)),
        };
        let id = |path: &ClaimPath| match path.find(payload) {
            None => Ok(None),
            Some(Json::Text(text)) if is_identifier(text) => Ok(Some(Box::from(&**text))),
            Some(_) => Err(fault(path.as_str())),
        };
        let first = |paths: &[ClaimPath]| {
            paths
                .iter()
                .find(|path| path.find(payload).is_some())
                .map_or(Ok(None), &id)
        };
        let issuer = match payload.member("iss") {
            Some(Json::Text(text)) => Box::from(&**text),
            _ => return Err(fault("iss")),
        };
        let audiences = match payload.member("aud") {
            None => vec![],
            Some(value) => strings(value).ok_or_else(|| fault("aud"))?,
        };
        let scopes = match names
            .scopes
            .iter()
            .find_map(|path| path.find(payload).map(|value| (path, value)))
        {
            None => vec![],
            Some((_, Json::Text(text))) => text
                .split(' ')
                .filter(|s| !s.is_empty())
                .map(Box::from)
                .collect(),
            Some((path, value)) => strings(value).ok_or_else(|| fault(path.as_str()))?,
        };
        Ok(Self {
            issuer,
            audiences,
            expires: date("exp")?.ok_or_else(|| fault("exp"))?,
            not_before: date("nbf")?,
            issued: date("iat")?,
            token_id: id(&names.token_id)?,
            session_id: id(&names.session_id)?,
            subject: id(&names.subject)?,
            client: first(&names.client)?,
            scopes,
            all: Value::Null,
        })
    }

    /// With the whole payload that they were read from.
    pub(super) fn with_all(self, all: Value) -> Self {
        Self { all, ..self }
    }
}

/// What names a token, session, user or client: it goes to logs, headers and the denylist's log, where a control character
/// could pass for the end of one thing and the beginning of another.
fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_BYTES_MAX && !text.chars().any(char::is_control)
}

/// A string or an array of strings.
fn strings(value: &Json<'_>) -> Option<Vec<Box<str>>> {
    let string = |value: &Json<'_>| match value {
        Json::Text(text) => Some(Box::from(&**text)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => None,
    };
    match value {
        Json::Array(elements) => elements.iter().map(string).collect(),
        one => string(one).map(|one| vec![one]),
    }
}

/// A `NumericDate`: a number from 0 to the year 9999. A fraction is cut off, which never lengthens a token's life:
/// `exp` comes earlier, and `nbf` and `iat` by less than a second.
fn numeric_date(value: &Json<'_>) -> Option<UnixSeconds> {
    let Json::Number(number) = value else {
        return None;
    };
    let seconds = match number.as_u64() {
        Some(seconds) => seconds,
        None => whole_seconds(number.as_f64()?)?,
    };
    (seconds <= UnixSeconds::MAX.0).then_some(UnixSeconds(seconds))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and far below 2^53"
)]
fn whole_seconds(float: f64) -> Option<u64> {
    const END: f64 = 253_402_300_800.0;
    (0.0..END).contains(&float).then_some(float as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::json::read_object;

    #[track_caller]
    fn check(path: &str, expected: Option<&Value>) {
        let payload = json!({
            "sub": "alice",
            "realm_access": {"roles": ["admin"]},
            "https://example.com/roles": "owner",
            "a.b": 1,
            "resource": {"my.api": {"a/b": true}},
        });
        assert_eq!(
            ClaimPath::parse(path).unwrap().find(&payload),
            expected,
            "{path}"
        );
    }

    #[test]
    fn a_path_leads_to_one_claim() {
        check("sub", Some(&json!("alice")));
        check("realm_access.roles", Some(&json!(["admin"])));
        check("/realm_access/roles/0", Some(&json!("admin")));
        check("https://example.com/roles", Some(&json!("owner")));
        check("/a.b", Some(&json!(1)));
        check("a.b", None);
        check("/resource/my.api/a~1b", Some(&json!(true)));
        check("sub.x", None);
        for bad in ["", ".", "a.", "/", "a..b", &"a.".repeat(40)] {
            assert_eq!(ClaimPath::parse(bad), Err(ClaimPathError), "{bad}");
        }
    }

    #[test]
    fn what_names_somebody_is_printable() {
        let names = ClaimNames {
            token_id: ClaimPath::parse("jti").unwrap(),
            session_id: ClaimPath::parse("sid").unwrap(),
            subject: ClaimPath::parse("sub").unwrap(),
            client: vec![ClaimPath::parse("azp").unwrap()],
            scopes: vec![],
        };
        for claim in ["jti", "sid", "sub", "azp"] {
            let read = |value: &str| {
                let text = json!({"iss": "i", "exp": 1, claim: value}).to_string();
                Claims::read(&read_object(text.as_bytes()).unwrap(), &names).is_ok()
            };
            assert!(read("Jos\u{e9} \u{1f600}"), "{claim}");
            for odd in [
                "",
                "a\0",
                "a\nb",
                "\u{7f}",
                "a\u{85}",
                &"a".repeat(ID_BYTES_MAX + 1),
            ] {
                assert!(!read(odd), "{claim} {odd:?}");
            }
        }
    }

    #[track_caller]
    fn check_date(value: &Value, expected: Option<u64>) {
        let text = format!(r#"{{"exp":{value}}}"#);
        let json = read_object(text.as_bytes()).unwrap();
        let date = json.member("exp").and_then(numeric_date);
        assert_eq!(date, expected.map(UnixSeconds), "{value}");
    }

    #[test]
    fn dates_are_sane_numbers() {
        check_date(&json!(0), Some(0));
        check_date(&json!(1_800_000_000), Some(1_800_000_000));
        check_date(&json!(1_800_000_000.9), Some(1_800_000_000));
        check_date(&json!(UnixSeconds::MAX.0), Some(UnixSeconds::MAX.0));
        for odd in [
            json!(-1),
            json!(-0.5),
            json!(UnixSeconds::MAX.0 + 1),
            json!(1e300),
            json!(u64::MAX),
            json!("1800000000"),
            json!(null),
            json!(true),
            json!([1_800_000_000]),
            json!({}),
        ] {
            check_date(&odd, None);
        }
    }
}

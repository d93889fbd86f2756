//! `jotgate token inspect`: what a token says, what is wrong with it as far as that shows without a key, and which
//! revocations its issuer makes possible. Sends nothing anywhere and checks no signature.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::{Map, Value, json};

use super::revoke::read_token;
use super::{Failure, Format, Verdict, print, when};
use crate::base::clock::UnixSeconds;
use crate::base::limits::{ID_BYTES_MAX, JSON_DEPTH_MAX, KID_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::jwks::Algorithm;

#[derive(Debug, Args)]
#[command(after_help = "Nothing is sent anywhere, and no signature is checked. \
    Exit code 1 when a gateway with default settings would refuse the token.\n\n\
    Examples:\n  \
    jotgate token inspect \"$TOKEN\"\n  \
    pbpaste | jotgate token inspect -")]
pub(super) struct InspectArgs {
    /// The token; - or nothing reads it from standard input
    #[arg(default_value = "-", hide_default_value = true)]
    token: String,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Why there is nothing to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InspectError {
    #[error("a signed token has three parts with two dots between them; this has {0}")]
    Parts(usize),
    #[error("this has five parts: an encrypted token (JWE), which jotgate does not take")]
    Encrypted,
    #[error("the {0} is not base64url (RFC 7515 section 2)")]
    Base64(Part),
    #[error("the {0} is no JSON object")]
    Json(Part),
}

/// A part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Header,
    Payload,
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a gateway with default settings refuses the token, whatever its keys are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("it has {0} bytes; at most {TOKEN_BYTES_MAX} are read")]
    TooLarge(usize),
    #[error("the {0} is nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep(Part),
    #[error("it has no alg")]
    NoAlgorithm,
    #[error("alg is none: it is not signed")]
    AlgorithmNone,
    #[error("alg {0:?} is none that jotgate verifies")]
    AlgorithmUnknown(String),
    #[error("it has no signature")]
    NoSignature,
    #[error("crit asks for extensions that jotgate does not know (RFC 7515 section 4.1.11)")]
    Critical,
    #[error("b64 is false: the payload is not base64url (RFC 7797)")]
    Unencoded,
    #[error("kid is no text of 1 to {KID_BYTES_MAX} bytes")]
    KeyId,
    #[error("typ {0:?} is not at+jwt or jwt; set token_types when your issuer writes it so")]
    Type(String),
    #[error("the claim {0} has the wrong form")]
    Form(&'static str),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("it expired {0}")]
    Expired(String),
    #[error("it is not valid yet (nbf {0})")]
    NotYet(String),
    #[error("it was issued in the future (iat {0})")]
    Future(String),
    #[error(
        "it lives for {}; the default max_token_lifetime is 24 h",
        humantime::format_duration(*.0)
    )]
    TooLong(Duration),
}

/// The default leeway of `[[issuers]]`.
const LEEWAY: Duration = Duration::from_secs(30);

/// The default `max_token_lifetime` of `[[issuers]]`.
const LIFETIME_MAX: Duration = Duration::from_hours(24);

/// A token taken apart.
#[derive(Debug)]
struct Inspection {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    problems: Vec<Problem>,
}

pub(super) fn inspect(
    args: &InspectArgs,
    now: UnixSeconds,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let token = read_token(&args.token, input)?;
    let inspection = Inspection::new(&token, now)?;
    match args.format {
        Format::Text => inspection.write_text(now, out)?,
        Format::Json => print::json(out, &inspection.to_json())?,
    }
    Ok(if inspection.problems.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

impl Inspection {
    fn new(token: &str, now: UnixSeconds) -> Result<Self, InspectError> {
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(match parts.len() {
                5 => InspectError::Encrypted,
                other => InspectError::Parts(other),
            });
        };
        URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| InspectError::Base64(Part::Signature))?;
        let header = object(header, Part::Header)?;
        let claims = object(payload, Part::Payload)?;
        let mut problems = vec![];
        if token.len() > TOKEN_BYTES_MAX {
            problems.push(Problem::TooLarge(token.len()));
        }
        for (part, members) in [(Part::Header, &header), (Part::Payload, &claims)] {
            if 1 + members.values().map(depth).max().unwrap_or(0) > JSON_DEPTH_MAX {
                problems.push(Problem::TooDeep(part));
            }
        }
        if signature.is_empty() {
            problems.push(Problem::NoSignature);
        }
        check_header(&header, &mut problems);
        check_claims(&claims, now, &mut problems);
        Ok(Self {
            header,
            claims,
            problems,
        })
    }

    fn write_text(&self, now: UnixSeconds, out: &mut dyn Write) -> io::Result<()> {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "header\n{:#}\n", Value::Object(self.header.clone()));
        let _ = writeln!(text, "claims\n{:#}", Value::Object(self.claims.clone()));
        let times = ["iat", "nbf", "exp", "auth_time"];
        let times: Vec<_> = times
            .iter()
            .filter_map(|name| Some((name, numeric_date(self.claims.get(*name)?)?)))
            .collect();
        if !times.is_empty() {
            text.push_str("\ntimes\n");
        }
        for (name, at) in times {
            let (date, relative) = (when::date(at), when::relative(at, now));
            let _ = writeln!(text, "  {name:9}  {date}  {relative}");
        }
        text.push_str("\nproblems (the signature was not checked)\n");
        for problem in &self.problems {
            let _ = writeln!(text, "  - {problem}");
        }
        if self.problems.is_empty() {
            text.push_str("  none that show without the key\n");
        }
        text.push_str("\ncan be revoked by\n");
        for way in self.ways() {
            let _ = writeln!(text, "  {:8}  {}", way.kind, way.says());
        }
        write!(out, "{}", print::harmless(&text))
    }

    fn to_json(&self) -> Value {
        let problems: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        let ways: Map<String, Value> = self
            .ways()
            .iter()
            .map(|way| (way.kind.to_owned(), way.key.clone().into()))
            .collect();
        json!({
            "header": self.header,
            "claims": self.claims,
            "problems": problems,
            "revocable_by": ways,
        })
    }

    /// Which revocations reach this token, in the order from the narrowest to the widest.
    fn ways(&self) -> Vec<Way> {
        let text = |members: &Map<String, Value>, names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = members.get(*name)?.as_str()?;
                (!value.is_empty()).then(|| format!("{name} {value}"))
            })
        };
        let way = |kind, needs, key| Way { kind, needs, key };
        let token = text(&self.claims, &["jti"]);
        let token = token.or_else(|| Some("the hash of its content (it has no jti)".to_owned()));
        vec![
            way("token", "", token),
            way("session", "sid", text(&self.claims, &["sid"])),
            way("user", "sub", text(&self.claims, &["sub"])),
            way(
                "client",
                "client_id or azp",
                text(&self.claims, &["client_id", "azp"]),
            ),
            way("key", "kid", text(&self.header, &["kid"])),
            way("issuer", "iss", text(&self.claims, &["iss"])),
            way(
                "instant",
                "iat, so a rule for its user, client or issuer denies it whenever it was issued",
                self.claims
                    .get("iat")
                    .and_then(numeric_date)
                    .map(|at| format!("iat {}", when::date(at))),
            ),
        ]
    }
}

/// One kind of revocation.
#[derive(Debug)]
struct Way {
    kind: &'static str,
    /// What is missing when there is no key.
    needs: &'static str,
    key: Option<String>,
}

impl Way {
    fn says(&self) -> String {
        match &self.key {
            Some(key) => key.clone(),
            None => format!("- no {}", self.needs),
        }
    }
}

fn check_header(header: &Map<String, Value>, problems: &mut Vec<Problem>) {
    match header.get("alg").map(Value::as_str) {
        None | Some(None) => problems.push(Problem::NoAlgorithm),
        Some(Some(name)) if name.eq_ignore_ascii_case("none") => {
            problems.push(Problem::AlgorithmNone);
        }
        Some(Some(name)) if Algorithm::parse(name).is_none() => {
            problems.push(Problem::AlgorithmUnknown(name.to_owned()));
        }
        Some(Some(_)) => {}
    }
    if header.contains_key("crit") {
        problems.push(Problem::Critical);
    }
    if header
        .get("b64")
        .is_some_and(|b64| *b64 != Value::Bool(true))
    {
        problems.push(Problem::Unencoded);
    }
    let good_kid = |kid: &str| !kid.is_empty() && kid.len() <= KID_BYTES_MAX;
    if header
        .get("kid")
        .is_some_and(|kid| !kid.as_str().is_some_and(good_kid))
    {
        problems.push(Problem::KeyId);
    }
    if let Some(typ) = header.get("typ") {
        // RFC 7515 section 4.1.9: "application/" may be left out, and letters have no case.
        let name = typ.as_str().unwrap_or_default().to_ascii_lowercase();
        let name = name.strip_prefix("application/").unwrap_or(&name);
        if !matches!(name, "at+jwt" | "jwt") {
            problems.push(Problem::Type(print::scalar(typ)));
        }
    }
}

fn check_claims(claims: &Map<String, Value>, now: UnixSeconds, problems: &mut Vec<Problem>) {
    for name in ["iss", "jti", "sid", "sub", "client_id", "azp"] {
        let good = |text: &str| !text.is_empty() && text.len() <= ID_BYTES_MAX;
        if claims
            .get(name)
            .is_some_and(|value| !value.as_str().is_some_and(good))
        {
            problems.push(Problem::Form(name));
        }
    }
    if !claims.contains_key("iss") {
        problems.push(Problem::Missing("iss"));
    }
    match claims.get("aud") {
        None => problems.push(Problem::Missing("aud")),
        Some(Value::String(_)) => {}
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {}
        Some(_) => problems.push(Problem::Form("aud")),
    }
    let mut date = |name| {
        let at = claims.get(name).map(numeric_date);
        if at == Some(None) {
            problems.push(Problem::Form(name));
        }
        at.flatten()
    };
    let (issued, not_before, expires) = (date("iat"), date("nbf"), date("exp"));
    if !claims.contains_key("exp") {
        problems.push(Problem::Missing("exp"));
    }
    if let Some(expires) = expires {
        if expires.plus(LEEWAY) <= now {
            problems.push(Problem::Expired(when::relative(expires, now)));
        }
        let lifetime = expires.since(issued.unwrap_or(now));
        if lifetime > LIFETIME_MAX {
            problems.push(Problem::TooLong(lifetime));
        }
    }
    if let Some(not_before) = not_before.filter(|at| *at > now.plus(LEEWAY)) {
        problems.push(Problem::NotYet(when::relative(not_before, now)));
    }
    if let Some(issued) = issued.filter(|at| *at > now.plus(LEEWAY)) {
        problems.push(Problem::Future(when::relative(issued, now)));
    }
}

fn object(part: &str, name: Part) -> Result<Map<String, Value>, InspectError> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| InspectError::Base64(name))?;
    serde_json::from_slice(&json).map_err(|_| InspectError::Json(name))
}

/// How many arrays and objects lie around the innermost value. The parser bounds it at 128.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(inner) => 1 + inner.iter().map(depth).max().unwrap_or(0),
        Value::Object(inner) => 1 + inner.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whole seconds from 0 to the year 9999 (RFC 7519 section 2).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked first, and its end fits f64 exactly"
)]
fn numeric_date(value: &Value) -> Option<UnixSeconds> {
    let number = value.as_number()?;
    let seconds = number.as_u64().or_else(|| {
        let float = number.as_f64()?;
        let range = 0.0..=UnixSeconds::MAX.0 as f64;
        range.contains(&float).then_some(float as u64)
    })?;
    Some(UnixSeconds(seconds)).filter(|at| *at <= UnixSeconds::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn good_header() -> Value {
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1"})
    }

    fn good_claims() -> Value {
        json!({
            "iss": "https://id", "aud": "api", "sub": "alice", "sid": "s1", "jti": "j1", "azp": "app",
            "iat": 999_900, "exp": 1_000_200
        })
    }

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    fn problems(header: &Value, claims: &Value) -> Vec<Problem> {
        Inspection::new(&token(header, claims), NOW)
            .expect("readable")
            .problems
    }

    /// `changes` in the header give this one problem.
    #[track_caller]
    fn header(changes: Value, expected: Problem) {
        assert_eq!(
            problems(&changed(good_header(), changes), &good_claims()),
            [expected]
        );
    }

    /// `changes` in the claims give this one problem.
    #[track_caller]
    fn claims(changes: Value, expected: Problem) {
        assert_eq!(
            problems(&good_header(), &changed(good_claims(), changes)),
            [expected]
        );
    }

    /// Null removes.
    fn changed(mut value: Value, changes: Value) -> Value {
        let members = value.as_object_mut().expect("an object");
        let Value::Object(changes) = changes else {
            panic!("an object")
        };
        for (name, value) in changes {
            if value.is_null() {
                members.remove(&name);
            } else {
                members.insert(name, value);
            }
        }
        value
    }

    #[test]
    fn each_problem_of_the_header_is_found_alone() {
        assert_eq!(problems(&good_header(), &good_claims()), []);
        assert_eq!(
            problems(
                &changed(good_header(), json!({"typ": "application/AT+JWT"})),
                &good_claims()
            ),
            []
        );
        header(json!({"alg": null}), Problem::NoAlgorithm);
        header(json!({"alg": 1}), Problem::NoAlgorithm);
        header(json!({"alg": "nOnE"}), Problem::AlgorithmNone);
        header(
            json!({"alg": "es256"}),
            Problem::AlgorithmUnknown("es256".into()),
        );
        header(json!({"crit": ["exp"]}), Problem::Critical);
        header(json!({"b64": false}), Problem::Unencoded);
        header(json!({"kid": 7}), Problem::KeyId);
        header(json!({"kid": "x".repeat(257)}), Problem::KeyId);
        header(
            json!({"typ": "logout+jwt"}),
            Problem::Type("logout+jwt".into()),
        );
    }

    #[test]
    fn each_problem_of_the_claims_is_found_alone() {
        claims(json!({"exp": null}), Problem::Missing("exp"));
        claims(json!({"iss": null}), Problem::Missing("iss"));
        claims(json!({"aud": null}), Problem::Missing("aud"));
        claims(json!({"aud": ["a", 1]}), Problem::Form("aud"));
        claims(json!({"exp": "1000200"}), Problem::Form("exp"));
        claims(json!({"nbf": -1}), Problem::Form("nbf"));
        claims(json!({"iat": 1e300}), Problem::Form("iat"));
        claims(json!({"sub": 7}), Problem::Form("sub"));
        claims(json!({"sid": ""}), Problem::Form("sid"));
        claims(json!({"exp": 999_970}), Problem::Expired("30s ago".into()));
        claims(json!({"nbf": 1_000_031}), Problem::NotYet("in 31s".into()));
        claims(json!({"iat": 1_000_031}), Problem::Future("in 31s".into()));
        let day = 24 * 60 * 60;
        claims(
            json!({"exp": 999_901 + day}),
            Problem::TooLong(Duration::from_secs(day + 1)),
        );
        claims(
            json!({"exp": 1_000_001 + day, "iat": null}),
            Problem::TooLong(Duration::from_secs(day + 1)),
        );
    }

    #[test]
    fn the_leeway_is_that_of_the_gateway() {
        for fine in [
            json!({"exp": 999_971, "iat": 999_000}),
            json!({"nbf": 1_000_030}),
            json!({"iat": 1_000_030}),
            json!({"exp": 1_000_200.5}),
        ] {
            assert_eq!(problems(&good_header(), &changed(good_claims(), fine)), []);
        }
    }

    #[test]
    fn size_depth_and_an_empty_signature_are_problems() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let fine = changed(good_claims(), json!({"x": nested(JSON_DEPTH_MAX - 1)}));
        assert_eq!(problems(&good_header(), &fine), []);
        claims(
            json!({"x": nested(JSON_DEPTH_MAX)}),
            Problem::TooDeep(Part::Payload),
        );
        let large = changed(good_claims(), json!({"x": "x".repeat(TOKEN_BYTES_MAX)}));
        assert!(matches!(
            problems(&good_header(), &large)[..],
            [Problem::TooLarge(_)]
        ));
        let unsigned = token(&good_header(), &good_claims());
        let unsigned = unsigned.strip_suffix("c2ln").expect("signed");
        let inspection = Inspection::new(unsigned, NOW).expect("readable");
        assert_eq!(inspection.problems, [Problem::NoSignature]);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let check = |token: &str, expected| {
            assert_eq!(Inspection::new(token, NOW).err(), Some(expected), "{token}");
        };
        check("", InspectError::Parts(1));
        check("a.b", InspectError::Parts(2));
        check("a.b.c.d.e", InspectError::Encrypted);
        check("a.b.c.d.e.f.g", InspectError::Parts(6));
        check("e30=.e30.", InspectError::Base64(Part::Header));
        check("e30.e3+.", InspectError::Base64(Part::Payload));
        check("e30.e30.*", InspectError::Base64(Part::Signature));
        check("W10.e30.", InspectError::Json(Part::Header));
        check("e30.e30x.", InspectError::Json(Part::Payload));
    }

    fn run(token: &str, format: Format) -> (Verdict, String) {
        let mut out = vec![];
        let args = InspectArgs {
            token: "-".to_owned(),
            format,
        };
        let verdict = inspect(&args, NOW, &mut token.as_bytes(), &mut out).expect("readable");
        (verdict, String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn the_text_names_times_problems_and_revocations() {
        let claims = changed(good_claims(), json!({"sid": null, "exp": 999_000}));
        let (verdict, text) = run(&token(&good_header(), &claims), Format::Text);
        assert_eq!(verdict, Verdict::Bad);
        for line in [
            "  iat        1970-01-12T13:45:00Z  1m 40s ago\n",
            "  - it expired 16m 40s ago\n",
            "  token     jti j1\n",
            "  session   - no sid\n",
            "  client    azp app\n",
            "  key       kid k1\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_token_cannot_write_to_the_terminal() {
        let claims = changed(good_claims(), json!({"name": "\u{9b}2J\u{1b}[2J\u{202e}"}));
        let (verdict, text) = run(&token(&good_header(), &claims), Format::Text);
        assert_eq!(verdict, Verdict::Good);
        assert!(!text.contains(['\u{9b}', '\u{1b}', '\u{202e}']), "{text}");
    }

    #[test]
    fn json_is_for_programs() {
        let (_, text) = run(&token(&good_header(), &good_claims()), Format::Json);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["claims"]["sub"], "alice");
        assert_eq!(value["revocable_by"]["session"], "sid s1");
        assert_eq!(value["problems"], json!([]));
    }
}

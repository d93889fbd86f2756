//! `jotgate token mint`: signs a token for tests. Wrong ones too: what the options say is what gets signed.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::Failure;
use super::keys::algorithm_parser;
use super::signing::{self, SigningKey};
use crate::base::clock::UnixSeconds;
use crate::jwks::Algorithm;

#[derive(Debug, Args)]
#[command(
    after_help = "Sets iat, exp and a random jti. --claim, --claim-string and --header replace what the other options \
    say. A value of --claim and --header is read as JSON where it is JSON, as text otherwise; null leaves the member out. \
    In iss, sub, aud, jti, sid, client_id and azp numbers and booleans are texts too; a value of --claim-string always is.\n\n\
    Examples:\n  \
    jotgate token mint --key private.pem --alg ES256 --issuer https://id.example.com \\\n    \
    --audience my-api --subject alice --claim sid=s1 --claim 'roles=[\"admin\"]'\n  \
    jotgate token mint --key private.pem --alg ES256 --issuer https://id --claim exp=null"
)]
pub(super) struct MintArgs {
    /// The private key: PEM, JWK, or the secret's file for HS algorithms
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What it signs with
    #[arg(long, value_name = "ALG", value_parser = algorithm_parser())]
    alg: Algorithm,
    /// The key's name. Default: the JWK's own, else its thumbprint (RFC 7638); none for a secret
    #[arg(long)]
    kid: Option<String>,
    /// The claim iss
    #[arg(long)]
    issuer: String,
    /// The claim aud; repeat it for several
    #[arg(long)]
    audience: Vec<String>,
    /// The claim sub
    #[arg(long)]
    subject: Option<String>,
    /// Another claim, JSON or text; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, Value)>,
    /// Another claim, a text whatever it looks like; repeat it for several
    #[arg(long, value_name = "NAME=TEXT", value_parser = text_member)]
    claim_string: Vec<(String, Value)>,
    /// How long the token lives
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = humantime::parse_duration)]
    expires_in: Duration,
    /// A header member; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = member)]
    header: Vec<(String, Value)>,
    /// The header typ
    #[arg(long = "type", value_name = "TYP", default_value = "at+jwt")]
    typ: String,
}

/// Claims that are texts by their standards (RFC 7519, RFC 9068, OpenID Connect), or lists of them. As numbers they make a wrong
/// token, and an account or a session may well be called by digits.
const TEXTS: [&str; 7] = ["iss", "sub", "aud", "jti", "sid", "client_id", "azp"];

pub(super) fn mint(args: &MintArgs, now: UnixSeconds, out: &mut dyn Write) -> Result<(), Failure> {
    let key = SigningKey::load(&args.key, args.alg, args.kid.clone())?;
    let mut header = key.header(&args.typ);
    apply(&mut header, &args.header);
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), args.issuer.as_str().into());
    claims.insert("iat".to_owned(), now.0.into());
    claims.insert("exp".to_owned(), now.plus(args.expires_in).0.into());
    claims.insert("jti".to_owned(), signing::random_text(16)?.into());
    if let Some(subject) = &args.subject {
        claims.insert("sub".to_owned(), subject.as_str().into());
    }
    match args.audience.as_slice() {
        [] => {}
        [one] => drop(claims.insert("aud".to_owned(), one.as_str().into())),
        many => drop(claims.insert("aud".to_owned(), many.into())),
    }
    apply(&mut claims, &args.claim);
    apply(&mut claims, &args.claim_string);
    writeln!(out, "{}", key.sign(&header, &claims)?)?;
    Ok(())
}

fn apply(members: &mut Map<String, Value>, changes: &[(String, Value)]) {
    for (name, value) in changes {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

/// The text is no member.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("write NAME=VALUE, such as sid=s1 or roles=[\"admin\"]")]
struct MemberError;

fn split(text: &str) -> Result<(&str, &str), MemberError> {
    let member = text.split_once('=').filter(|(name, _)| !name.is_empty());
    member.ok_or(MemberError)
}

fn member(text: &str) -> Result<(String, Value), MemberError> {
    let (name, value) = split(text)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

fn text_member(text: &str) -> Result<(String, Value), MemberError> {
    let (name, value) = split(text)?;
    Ok((name.to_owned(), value.into()))
}

fn claim(text: &str) -> Result<(String, Value), MemberError> {
    let (name, value) = member(text)?;
    if TEXTS.contains(&name.as_str()) && (value.is_number() || value.is_boolean()) {
        return text_member(text);
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use clap::Parser;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: MintArgs,
    }

    const SECRET: &[u8] = b"a secret that is long enough for HS256";

    fn run(options: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, SECRET).expect("written");
        let path = path.to_str().expect("UTF-8");
        let fixed = [
            "mint",
            "--key",
            path,
            "--alg",
            "HS256",
            "--issuer",
            "https://id",
        ];
        let line = fixed.into_iter().chain(options.iter().copied());
        let args = Line::try_parse_from(line).expect("good arguments").args;
        let mut out = vec![];
        mint(&args, UnixSeconds(1000), &mut out).expect("minted");
        String::from_utf8(out).expect("UTF-8").trim_end().to_owned()
    }

    fn part(token: &str, n: usize) -> Value {
        let part = token.split('.').nth(n).expect("three parts");
        let json = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&json).expect("JSON")
    }

    #[test]
    fn a_minted_token_verifies() {
        let token = run(&["--audience", "api", "--subject", "alice"]);
        let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
        validation.set_audience(&["api"]);
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(SECRET);
        let data = jsonwebtoken::decode::<Value>(&token, &key, &validation).expect("verified");
        assert_eq!(data.claims["sub"], "alice");
        assert_eq!(data.claims["iat"], 1000);
        assert_eq!(data.claims["exp"], 1300);
        assert_eq!(data.header.typ.as_deref(), Some("at+jwt"));
        let other = DecodingKey::from_secret(b"another secret, just as long as that");
        assert!(jsonwebtoken::decode::<Value>(&token, &other, &validation).is_err());
    }

    #[test]
    fn claims_are_json_or_text_and_null_removes() {
        let token = run(&[
            "--claim",
            "sid=s1",
            "--claim",
            "n=3",
            "--claim",
            "roles=[\"a\"]",
            "--claim",
            "exp=null",
            "--claim",
            "eq=a=b",
            "--audience",
            "a",
            "--audience",
            "b",
            "--header",
            "crit=[\"x\"]",
            "--header",
            "typ=null",
            "--kid",
            "k1",
        ]);
        let claims = part(&token, 1);
        assert_eq!(claims["sid"], "s1");
        assert_eq!(claims["n"], 3);
        assert_eq!(claims["roles"], json!(["a"]));
        assert_eq!(claims["eq"], "a=b");
        assert_eq!(claims["aud"], json!(["a", "b"]));
        assert_eq!(claims.get("exp"), None);
        assert_eq!(
            part(&token, 0),
            json!({"alg": "HS256", "crit": ["x"], "kid": "k1"})
        );
    }

    #[test]
    fn who_is_called_by_digits_is_called_by_a_text() {
        let of = |name: &str, value: &str| {
            let token = run(&["--claim", &format!("{name}={value}")]);
            part(&token, 1).get(name).cloned()
        };
        for name in TEXTS {
            // As it is written, also where no number is as long or has that form.
            for digits in ["1234567890123456", "123456789012345678901234567890", "1e5"] {
                assert_eq!(of(name, digits), Some(digits.into()), "{name}");
            }
            assert_eq!(of(name, "true"), Some("true".into()), "{name}");
            assert_eq!(of(name, "\"7\""), Some("7".into()), "{name}");
            assert_eq!(of(name, "[\"7\", 8]"), Some(json!(["7", 8])), "{name}");
            assert_eq!(of(name, "null"), None, "{name}");
        }
        assert_eq!(of("exp", "7"), Some(json!(7)));
    }

    #[test]
    fn a_claim_string_is_a_text_whatever_it_looks_like() {
        for text in ["7", "true", "null", "[1]", "\"7\"", "a=b", ""] {
            let token = run(&["--claim-string", &format!("n={text}")]);
            assert_eq!(part(&token, 1)["n"], text);
        }
    }

    #[test]
    fn a_claim_without_a_name_is_wrong_usage() {
        for wrong in ["sid", "=x"] {
            for parse in [member, text_member, claim] {
                assert!(parse(wrong).is_err(), "{wrong}");
            }
        }
    }
}

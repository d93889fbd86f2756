//! What a token must be. Every case fails one rule alone, so a gateway that forgets the rule lets the case through; and
//! every group has tokens that pass, so a gateway that refuses everything fails too.

#![expect(clippy::too_many_lines, reason = "tables")]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jotgate::base::clock::UnixSeconds;
use jotgate::jwks::Algorithm;
use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::issuer::AUDIENCE;
use crate::support::keys::{Key, encode, hmac_sign, key};
use crate::support::tokens::{self, LIFETIME, NOW, Token, assemble, signed, signed_text};
use crate::support::{Gateway, Issuer, Setup, Upstream};

/// The metric's word for a token that is none, or whose header or payload is not what a JWT may be.
const MALFORMED: &str = "token_malformed";
/// … for a claim that is there in a form which RFC 7519 does not give it, or is not there and always must be.
const CLAIM: &str = "claim_malformed";
/// … for a key that is known, and not for this algorithm.
const KEY_UNFIT: &str = "key_mismatch";
const NOT_YET: &str = "not_yet_valid";
const FROM_THE_FUTURE: &str = "issued_in_future";

/// One token and what must become of it.
struct Case {
    name: String,
    token: String,
    /// The reasons that the metric may name; none for a token that passes. Several where a token cannot fail one rule alone.
    reasons: Vec<&'static str>,
}

fn passes(name: impl Into<String>, token: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        token: token.into(),
        reasons: vec![],
    }
}

/// `reasons` are separated by `|`.
fn fails(name: impl Into<String>, token: impl Into<String>, reasons: &'static str) -> Case {
    Case {
        name: name.into(),
        token: token.into(),
        reasons: reasons.split('|').collect(),
    }
}

/// Sends every case, and looks at the answer, the metric and the service after each. All that is wrong is said at once.
async fn check(gateway: &Gateway, upstream: &Upstream, cases: Vec<Case>) {
    assert!(
        cases.iter().any(|case| case.reasons.is_empty()),
        "no control"
    );
    assert!(cases.iter().any(|case| !case.reasons.is_empty()), "no case");
    let mut faults = String::new();
    for case in cases {
        let reached = upstream.count();
        let before = gateway.all_decisions().await;
        let answer = gateway.get("/orders").bearer(&case.token).await;
        let arrived = upstream.count() - reached;
        let after = gateway.all_decisions().await;
        let counted: Vec<String> = after
            .into_iter()
            .filter(|(code, count)| before.get(code) != Some(count))
            .map(|(code, _)| code)
            .collect();
        if let Some(fault) = fault(&case, &answer, arrived, &counted) {
            writeln!(faults, "- {}: {fault}", case.name).expect("text");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

fn fault(case: &Case, answer: &Answer, arrived: usize, counted: &[String]) -> Option<String> {
    let expected = match &*case.reasons {
        [] => {
            let passed = (answer.status(), arrived) == (200, 1);
            return (!passed).then(|| {
                format!(
                    "must pass, but got {} for {counted:?}, and {arrived} reached the service",
                    answer.verdict()
                )
            });
        }
        ["expired"] => "401 token_expired",
        _ => "401 invalid_token",
    };
    if answer.verdict() != expected {
        return Some(format!(
            "{} instead of {expected}, for {counted:?}",
            answer.verdict()
        ));
    }
    let exact = match counted {
        [one] => case.reasons.contains(&one.as_str()),
        _ => false,
    };
    if !exact {
        return Some(format!("counted as {counted:?}, not as {:?}", case.reasons));
    }
    (arrived > 0).then(|| "it reached the service".to_owned())
}

/// An issuer, a service and a gateway between them.
async fn scene(change: impl FnOnce(Setup) -> Setup) -> (Issuer, Upstream, Gateway) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = change(Setup::new(&issuer, &upstream)).start().await;
    (issuer, upstream, gateway)
}

/// The header and payload texts of a good token, to be changed as text.
fn texts(token: &Token) -> (String, String) {
    (token.header_text(), token.payload_text())
}

/// A JSON object with one more member, written first.
fn with_member(object: &str, member: &str) -> String {
    format!("{{{member},{}", &object[1..])
}

#[tokio::test]
async fn an_algorithm_that_is_not_allowed_is_refused() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer.token("alice");
    let (_, payload) = texts(&good);
    let key = issuer.key();
    let mut cases = vec![passes("control", good.sign())];
    for name in ["none", "None", "NONE", "nOnE", "none ", ""] {
        let header = json!({"alg": name, "kid": key.kid()}).to_string();
        cases.push(fails(
            format!("alg {name:?} with a signature"),
            signed(&key, &header, &payload),
            "alg_not_allowed",
        ));
        cases.push(fails(
            format!("alg {name:?} without a signature"),
            assemble(&header, &payload, ""),
            "alg_not_allowed|token_malformed",
        ));
    }
    for name in [
        "es256",
        "Es256",
        "ES256 ",
        " ES256",
        "ES256K",
        "ES512",
        "RS1",
        "ECDSA",
        "dir",
        "A256GCM",
        "RSA-OAEP",
        "ML-DSA-44",
        "HS256",
        "HS384",
        "HS512",
    ] {
        cases.push(fails(
            format!("alg {name:?}"),
            good.clone().header("alg", name).sign(),
            "alg_not_allowed",
        ));
    }
    for alg in [
        json!(null),
        json!(256),
        json!(["ES256"]),
        json!({}),
        json!(true),
    ] {
        cases.push(fails(
            format!("alg {alg}"),
            good.clone().header("alg", alg).sign(),
            MALFORMED,
        ));
    }
    cases.push(fails(
        "no alg",
        good.clone().without_header("alg").sign(),
        MALFORMED,
    ));
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn a_public_key_is_never_a_shared_secret() {
    let issuer = Issuer::with_key(key(Algorithm::RS256, 1)).await;
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&issuer, &upstream).start().await;
    let (rsa, good) = (issuer.key(), issuer.token("alice"));
    let pem = rsa.pem();
    let der = STANDARD
        .decode(
            pem.lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>(),
        )
        .unwrap();
    let secrets: [(&str, Vec<u8>); 7] = [
        ("the PEM text", pem.clone().into()),
        (
            "the PEM text without its last line break",
            pem.trim_end().into(),
        ),
        ("the DER bytes", der),
        ("the JWK", rsa.jwk().to_string().into()),
        (
            "the modulus",
            URL_SAFE_NO_PAD
                .decode(rsa.jwk()["n"].as_str().unwrap())
                .unwrap(),
        ),
        (
            "the modulus as text",
            rsa.jwk()["n"].as_str().unwrap().into(),
        ),
        ("nothing", vec![]),
    ];
    let mut cases = vec![passes("control", good.sign())];
    for (name, secret) in secrets {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forged = good.clone().header("alg", algorithm.name());
            let (header, payload) = texts(&forged);
            let input = format!("{}.{}", encode(header), encode(payload));
            let mac = hmac_sign(algorithm, &secret, input.as_bytes());
            cases.push(fails(
                format!("{algorithm} with {name}"),
                format!("{input}.{}", encode(mac)),
                "alg_not_allowed",
            ));
        }
    }
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn only_listed_algorithms_that_fit_the_key_pass() {
    let issuer = Issuer::with_key(key(Algorithm::RS256, 1)).await;
    let upstream = Upstream::start().await;
    issuer.add_entry(key(Algorithm::ES256, 1).jwk());
    issuer.add_entry(key(Algorithm::ES384, 1).jwk());
    issuer.add_entry(key(Algorithm::EdDSA, 1).jwk());
    let gateway = Setup::new(&issuer, &upstream)
        .issuer(r#"algorithms = ["RS256", "PS256", "ES256", "EdDSA"]"#)
        .start()
        .await;
    let (rsa, good) = (issuer.key(), issuer.token("alice"));
    let by_rsa = |algorithm: Algorithm| {
        let (header, payload) = texts(&good.clone().header("alg", algorithm.name()));
        tokens::signed_as(&rsa, algorithm, &header, &payload)
    };
    let by = |algorithm: Algorithm| good.clone().key(key(algorithm, 1));
    let cases = vec![
        passes("RS256", good.sign()),
        passes(
            "ES256",
            by(Algorithm::ES256)
                .header("alg", "ES256")
                .header("kid", "ES256-1")
                .sign(),
        ),
        passes(
            "EdDSA",
            by(Algorithm::EdDSA)
                .header("alg", "EdDSA")
                .header("kid", "EdDSA-1")
                .sign(),
        ),
        passes(
            "Ed25519, the other name of EdDSA",
            by(Algorithm::EdDSA)
                .header("alg", "Ed25519")
                .header("kid", "EdDSA-1")
                .sign(),
        ),
        fails(
            "RS384 is not listed",
            by_rsa(Algorithm::RS384),
            "alg_not_allowed",
        ),
        fails(
            "RS512 is not listed",
            by_rsa(Algorithm::RS512),
            "alg_not_allowed",
        ),
        fails(
            "PS512 is not listed",
            by_rsa(Algorithm::PS512),
            "alg_not_allowed",
        ),
        fails(
            "ES384 is not listed",
            by(Algorithm::ES384)
                .header("alg", "ES384")
                .header("kid", "ES384-1")
                .sign(),
            "alg_not_allowed",
        ),
        fails(
            "PS256 by a key that says RS256",
            by_rsa(Algorithm::PS256),
            KEY_UNFIT,
        ),
        fails(
            "ES256 said of an RSA key",
            by(Algorithm::ES256).header("alg", "ES256").sign(),
            KEY_UNFIT,
        ),
        fails(
            "RS256 said of an ES256 key",
            good.clone().header("kid", "ES256-1").sign(),
            KEY_UNFIT,
        ),
        fails(
            "ES256 said of an Ed25519 key",
            by(Algorithm::EdDSA)
                .header("alg", "ES256")
                .header("kid", "EdDSA-1")
                .sign(),
            KEY_UNFIT,
        ),
        fails(
            "ES256 said of an ES384 key",
            by(Algorithm::ES384)
                .header("alg", "ES256")
                .header("kid", "ES384-1")
                .sign(),
            KEY_UNFIT,
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn every_supported_public_key_algorithm_passes() {
    // One RSA key without `alg` serves six algorithms.
    let rsa = key(Algorithm::RS256, 1);
    let mut jwk = rsa.jwk();
    jwk.as_object_mut().unwrap().remove("alg");
    let issuer = Issuer::with_key(key(Algorithm::ES256, 1)).await;
    issuer.add_entry({
        jwk["kid"] = json!("any-rsa");
        jwk
    });
    issuer.rotate(key(Algorithm::ES384, 1));
    issuer.rotate(key(Algorithm::EdDSA, 1));
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&issuer, &upstream).start().await;
    let mut cases = vec![];
    for algorithm in Algorithm::ALL
        .into_iter()
        .filter(|algorithm| !algorithm.is_symmetric())
    {
        let (signer, kid) = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA => {
                (key(algorithm, 1), format!("{algorithm}-1"))
            }
            _ => (rsa.clone(), "any-rsa".to_owned()),
        };
        let token = issuer
            .token("alice")
            .header("alg", algorithm.name())
            .header("kid", kid);
        let (header, payload) = texts(&token);
        let forged = with_member(&payload, r#""admin":true"#);
        let good = tokens::signed_as(&signer, algorithm, &header, &payload);
        let [header, _, signature] = tokens::split(&good);
        let changed = format!("{header}.{}.{signature}", encode(forged));
        cases.push(fails(
            format!("{algorithm}, changed"),
            changed,
            "signature_invalid",
        ));
        cases.push(passes(algorithm.name(), good));
    }
    assert_eq!(cases.len(), 18);
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn every_supported_shared_secret_algorithm_passes() {
    let secret = "a shared secret of sixty-four bytes, which is what HS512 asks of";
    assert_eq!(secret.len(), 64);
    let upstream = Upstream::start().await;
    let gateway = Setup::at("https://id.example.com", &upstream.url())
        .issuer(r#"secret = { env = "SHARED" }"#)
        .issuer(r#"algorithms = ["HS256", "HS384", "HS512"]"#)
        .env("SHARED", secret)
        .start()
        .await;
    let mut cases = vec![];
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = |secret: &[u8]| {
            let key = Key::hmac("shared", algorithm, secret);
            Token::new(key.into(), "https://id.example.com", AUDIENCE, "alice")
                .without_header("kid")
        };
        cases.push(passes(algorithm.name(), token(secret.as_bytes()).sign()));
        for other in ["", "another secret", &secret[1..], &format!("{secret}\n")] {
            cases.push(fails(
                format!("{algorithm} with {other:?}"),
                token(other.as_bytes()).sign(),
                "signature_invalid",
            ));
        }
        let [header, payload, _] = {
            let good = token(secret.as_bytes()).sign();
            tokens::split(&good).map(ToOwned::to_owned)
        };
        cases.push(fails(
            format!("{algorithm}, shortened"),
            {
                let mac = hmac_sign(
                    algorithm,
                    secret.as_bytes(),
                    format!("{header}.{payload}").as_bytes(),
                );
                format!("{header}.{payload}.{}", encode(&mac[..16]))
            },
            "signature_invalid",
        ));
    }
    let by_public_key = Token::new(
        key(Algorithm::ES256, 1),
        "https://id.example.com",
        AUDIENCE,
        "a",
    );
    cases.push(fails(
        "a public-key algorithm",
        by_public_key.sign(),
        "alg_not_allowed",
    ));
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn extensions_that_are_not_understood_are_refused() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer.token("alice");
    let crit = |value: Value| good.clone().header("crit", value);
    let cases = vec![
        passes("control", good.sign()),
        passes(
            "an unknown member that is not critical",
            good.clone().header("x-hint", 1).sign(),
        ),
        fails(
            "crit with an unknown name",
            crit(json!(["x"])).header("x", 1).sign(),
            "crit_unsupported",
        ),
        fails(
            "crit with b64",
            crit(json!(["b64"])).header("b64", true).sign(),
            "crit_unsupported",
        ),
        fails(
            "crit with b64 false",
            crit(json!(["b64"])).header("b64", false).sign(),
            "crit_unsupported",
        ),
        fails(
            "crit with exp",
            crit(json!(["exp"])).header("exp", NOW + 60).sign(),
            "crit_unsupported",
        ),
        fails(
            "crit with a registered name",
            crit(json!(["alg"])).sign(),
            "crit_unsupported",
        ),
        fails(
            "crit with an absent name",
            crit(json!(["absent"])).sign(),
            "crit_unsupported",
        ),
        fails(
            "an empty crit",
            crit(json!([])).sign(),
            "crit_unsupported|token_malformed",
        ),
        fails(
            "crit as a text",
            crit(json!("x")).sign(),
            "crit_unsupported|token_malformed",
        ),
        fails(
            "crit as null",
            crit(json!(null)).sign(),
            "crit_unsupported|token_malformed",
        ),
        fails(
            "b64 false",
            good.clone().header("b64", false).sign(),
            "crit_unsupported|token_malformed",
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn the_header_must_be_one_object_read_in_one_way() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let key = issuer.key();
    let (header, payload) = texts(&issuer.token("alice"));
    let sign = |header: &[u8]| signed(&key, header, &payload);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        with_member(&header, &format!(r#""x":{open}{close}"#))
    };
    let mut cases = vec![
        passes("control", sign(header.as_bytes())),
        passes(
            "blanks between members",
            sign(header.replace(',', " ,\r\n\t ").as_bytes()),
        ),
        passes("nested", sign(nested(3).as_bytes())),
        passes(
            "an escaped name",
            sign(header.replace("\"alg\"", r#""\u0061lg""#).as_bytes()),
        ),
    ];
    let mut refuse = |name: &str, header: &[u8]| cases.push(fails(name, sign(header), MALFORMED));
    refuse(
        "alg twice",
        with_member(&header, r#""alg":"none""#).as_bytes(),
    );
    refuse(
        "alg twice, alike",
        with_member(&header, r#""alg":"ES256""#).as_bytes(),
    );
    refuse(
        "alg twice, once escaped",
        with_member(&header, r#""\u0061lg":"ES256""#).as_bytes(),
    );
    refuse(
        "kid twice",
        with_member(&header, r#""kid":"ES256-1""#).as_bytes(),
    );
    refuse(
        "typ twice",
        with_member(&header, r#""typ":"at+jwt""#).as_bytes(),
    );
    refuse(
        "an unknown member twice",
        with_member(&header, r#""x":1,"x":1"#).as_bytes(),
    );
    refuse(
        "a nested member twice",
        with_member(&header, r#""x":{"y":1,"y":1}"#).as_bytes(),
    );
    refuse("too deep", nested(20).as_bytes());
    refuse("far too deep", nested(1500).as_bytes());
    refuse("kid null", header.replace("\"ES256-1\"", "null").as_bytes());
    refuse(
        "kid a number",
        header.replace("\"ES256-1\"", "1").as_bytes(),
    );
    refuse(
        "kid a list",
        header.replace("\"ES256-1\"", "[\"ES256-1\"]").as_bytes(),
    );
    refuse(
        "kid too long",
        header.replace("ES256-1", &"k".repeat(300)).as_bytes(),
    );
    refuse("typ a number", header.replace("\"at+jwt\"", "7").as_bytes());
    refuse("typ null", header.replace("\"at+jwt\"", "null").as_bytes());
    refuse("two objects", format!("{header}{header}").as_bytes());
    refuse("an object and a word", format!("{header} x").as_bytes());
    refuse("a byte order mark", format!("\u{feff}{header}").as_bytes());
    refuse("a NUL at the end", format!("{header}\0").as_bytes());
    refuse("a comment", format!("/**/{header}").as_bytes());
    refuse("a comma too many", header.replace('}', ",}").as_bytes());
    refuse("single quotes", header.replace('"', "'").as_bytes());
    refuse("cut off", &header.as_bytes()[..header.len() - 1]);
    refuse(
        "a lone surrogate",
        with_member(&header, r#""x":"\ud800""#).as_bytes(),
    );
    refuse(
        "a line break in a text",
        with_member(&header, "\"x\":\"\n\"").as_bytes(),
    );
    refuse(
        "no UTF-8",
        &[&header.as_bytes()[..header.len() - 1], b",\"x\":\"\xff\"}"].concat(),
    );
    refuse(
        "UTF-16",
        &header
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>(),
    );
    for other in [
        "[]",
        "null",
        "true",
        "1",
        "\"ES256\"",
        "{}",
        "[{\"alg\":\"ES256\"}]",
    ] {
        refuse(other, other.as_bytes());
    }
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn the_key_is_chosen_by_kid_among_the_issuers_own() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    issuer.add_entry(key(Algorithm::ES256, 2).jwk());
    let thief = Issuer::with_key(key(Algorithm::ES256, 9)).await;
    let good = issuer.token("alice");
    let stolen = |token: Token| token.key(thief.key());
    let thiefs_jwk = thief.key().jwk();
    let private_jwk = {
        let mut jwk = thiefs_jwk.clone();
        jwk["d"] = json!("AAAA");
        jwk
    };
    let url = thief.jwks_url();
    let cases = vec![
        passes("control", good.sign()),
        passes(
            "without kid, by the only key that fits",
            good.clone().without_header("kid").sign(),
        ),
        passes(
            "a foreign jwk is not looked at",
            good.clone().header("jwk", thiefs_jwk.clone()).sign(),
        ),
        passes(
            "a foreign jku is not looked at",
            good.clone().header("jku", url.as_str()).sign(),
        ),
        fails(
            "another key's signature",
            stolen(good.clone()).sign(),
            "signature_invalid",
        ),
        fails(
            "another key without kid",
            stolen(good.clone().without_header("kid")).sign(),
            "signature_invalid",
        ),
        fails(
            "jwk",
            stolen(good.clone().header("jwk", thiefs_jwk.clone())).sign(),
            "signature_invalid",
        ),
        fails(
            "jwk without kid",
            stolen(
                good.clone()
                    .without_header("kid")
                    .header("jwk", thiefs_jwk.clone()),
            )
            .sign(),
            "signature_invalid",
        ),
        fails(
            "private jwk",
            stolen(good.clone().header("jwk", private_jwk)).sign(),
            "signature_invalid",
        ),
        fails(
            "jku",
            stolen(good.clone().header("jku", url.as_str())).sign(),
            "signature_invalid",
        ),
        fails(
            "x5u",
            stolen(good.clone().header("x5u", url.as_str())).sign(),
            "signature_invalid",
        ),
        fails(
            "x5c",
            stolen(good.clone().header("x5c", json!(["MIIB"]))).sign(),
            "signature_invalid",
        ),
        fails(
            "x5t",
            stolen(good.clone().header("x5t", "AAAA")).sign(),
            "signature_invalid",
        ),
        fails(
            "kid of the thief",
            stolen(good.clone().header("kid", "ES256-9")).sign(),
            "key_unknown",
        ),
        fails(
            "an unknown kid",
            good.clone().header("kid", "other").sign(),
            "key_unknown",
        ),
        fails(
            "kid in other case",
            good.clone().header("kid", "es256-1").sign(),
            "key_unknown",
        ),
        fails(
            "kid with a blank",
            good.clone().header("kid", "ES256-1 ").sign(),
            "key_unknown",
        ),
        fails(
            "an empty kid",
            good.clone().header("kid", "").sign(),
            "key_unknown|token_malformed",
        ),
        fails(
            "kid a path",
            good.clone().header("kid", "../../dev/null").sign(),
            "key_unknown",
        ),
        fails(
            "kid a query",
            good.clone().header("kid", "' OR 1=1 --").sign(),
            "key_unknown",
        ),
        fails(
            "kid a URL, followed by nobody",
            good.clone().header("kid", url.as_str()).sign(),
            "key_unknown",
        ),
        fails(
            "kid a command",
            good.clone().header("kid", "$(id)|id;`id`").sign(),
            "key_unknown",
        ),
        fails(
            "kid with a NUL after the right one",
            good.clone().header("kid", "ES256-1\0").sign(),
            "key_unknown",
        ),
        fails(
            "kid of letters that only look like it",
            good.clone().header("kid", "\u{415}S256-1").sign(),
            "key_unknown",
        ),
        fails(
            "the longest kid",
            good.clone().header("kid", "k".repeat(256)).sign(),
            "key_unknown",
        ),
        fails(
            "one byte more",
            good.clone().header("kid", "k".repeat(257)).sign(),
            MALFORMED,
        ),
        fails(
            "one byte more in fewer letters",
            good.clone()
                .header("kid", format!("{}k", "\u{e9}".repeat(128)))
                .sign(),
            MALFORMED,
        ),
        fails(
            "a public key of the thief's in every place at once",
            stolen(
                good.clone()
                    .header("jwk", thiefs_jwk.clone())
                    .header("jku", url.as_str())
                    .header("x5u", url.as_str())
                    .header("x5c", json!(["MIIB"]))
                    .header("x5t#S256", "AAAA"),
            )
            .sign(),
            "signature_invalid",
        ),
    ];
    check(&gateway, &upstream, cases).await;
    assert_eq!(
        (thief.fetches(), thief.discoveries()),
        (0, 0),
        "the gateway never asked the thief"
    );
}

#[tokio::test]
async fn the_compact_form_is_read_to_the_letter() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let key = issuer.key();
    let good = issuer.token("alice").sign();
    let [header, payload, signature] = tokens::split(&good);
    // A text whose last character has bits that belong to nothing.
    let loose = |text: &str| {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let unused = match text.len() % 4 {
            2 => 4,
            3 => 2,
            _ => panic!("{text} has no loose bits"),
        };
        let last = alphabet.find(text.chars().last().unwrap()).unwrap();
        assert_eq!(last % (1 << unused), 0, "canonical");
        let other = &alphabet[last + 1..last + 2];
        format!("{}{other}", &text[..text.len() - 1])
    };
    // A payload or header that does not fill its last group of three bytes.
    let uneven = |text: String| {
        let blank = " ".repeat((4 - text.len() % 3) % 3);
        let text = text + &blank;
        assert_eq!(text.len() % 3, 1);
        encode(text)
    };
    let (header_text, payload_text) = texts(&issuer.token("alice"));
    let (uneven_header, uneven_payload) = (uneven(header_text), uneven(payload_text));
    // A payload that needs both characters in which the two alphabets differ.
    let special = encode(
        issuer
            .token("alice")
            .claim("x", "\u{3ff}?>?>~~\u{fff}\u{3fe}")
            .payload_text(),
    );
    assert!(special.contains('_') || special.contains('-'), "{special}");
    let standard = special.replace('-', "+").replace('_', "/");
    let sized = |length: usize| {
        (0..4)
            .map(|tail| {
                let fill = "x".repeat((length - good.len()) * 3 / 4 - 8 + tail);
                issuer.token("alice").claim("x", fill).sign()
            })
            .find(|token| token.len() <= length && token.len() + 4 > length)
            .unwrap_or_else(|| panic!("no token of about {length} bytes"))
    };
    let cases = vec![
        passes("control", good.clone()),
        passes(
            "loose ends that are zero",
            signed_text(&key, &uneven_header, &uneven_payload),
        ),
        passes("the URL alphabet", signed_text(&key, header, &special)),
        passes("as long as allowed", sized(8 * 1024)),
        fails("too long", sized(8 * 1024 + 5), "token_too_large"),
        fails("far too long", sized(20 * 1024), "token_too_large"),
        fails(
            "loose bits in the header",
            signed_text(&key, &loose(&uneven_header), payload),
            MALFORMED,
        ),
        fails(
            "loose bits in the payload",
            signed_text(&key, header, &loose(&uneven_payload)),
            MALFORMED,
        ),
        fails(
            "loose bits in the signature",
            format!("{header}.{payload}.{}", loose(signature)),
            MALFORMED,
        ),
        fails(
            "padding in the header",
            signed_text(&key, &format!("{uneven_header}=="), payload),
            MALFORMED,
        ),
        fails(
            "padding in the payload",
            signed_text(&key, header, &format!("{uneven_payload}==")),
            MALFORMED,
        ),
        fails("padding in the signature", format!("{good}=="), MALFORMED),
        fails(
            "the other alphabet",
            signed_text(&key, header, &standard),
            MALFORMED,
        ),
        fails(
            "a blank inside",
            signed_text(
                &key,
                header,
                &format!("{} {}", &payload[..8], &payload[8..]),
            ),
            MALFORMED,
        ),
        fails(
            "a tab inside",
            signed_text(
                &key,
                header,
                &format!("{}\t{}", &payload[..8], &payload[8..]),
            ),
            MALFORMED,
        ),
        fails(
            "a character that is in no alphabet",
            signed_text(&key, header, &format!("{payload}!")),
            MALFORMED,
        ),
        fails(
            "a percent sign",
            signed_text(&key, header, &format!("{payload}%3D")),
            MALFORMED,
        ),
        fails(
            "a length that cannot be",
            signed_text(&key, header, &format!("{}A", encode("123"))),
            MALFORMED,
        ),
        fails("one segment", header, MALFORMED),
        fails("two segments", format!("{header}.{payload}"), MALFORMED),
        fails("four segments", format!("{good}.{signature}"), MALFORMED),
        fails("a dot at the end", format!("{good}."), MALFORMED),
        fails("a dot at the beginning", format!(".{good}"), MALFORMED),
        fails("two dots", format!("{header}..{signature}"), MALFORMED),
        fails("only dots", "..", MALFORMED),
        fails("an empty header", signed_text(&key, "", payload), MALFORMED),
        fails("an empty payload", signed_text(&key, header, ""), MALFORMED),
        fails(
            "an empty signature",
            format!("{header}.{payload}."),
            "token_malformed|signature_invalid",
        ),
        fails(
            "the JSON form",
            json!({"protected": header, "payload": payload, "signature": signature}).to_string(),
            MALFORMED,
        ),
        fails(
            "five segments",
            format!("{header}.{payload}.{signature}.{payload}.{signature}"),
            MALFORMED,
        ),
        fails(
            "an encrypted token",
            format!(
                "{}.{}.{}.{}.{}",
                encode(r#"{"alg":"dir","enc":"A256GCM"}"#),
                "",
                encode("123456789012"),
                payload,
                encode("1234567890123456")
            ),
            MALFORMED,
        ),
        fails("a word", "abc", MALFORMED),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn the_signature_must_be_exact() {
    let (issuer, upstream, gateway) =
        scene(|setup| setup.issuer(r#"refresh_min_interval = "1s""#)).await;
    issuer.add_entry(key(Algorithm::EdDSA, 1).jwk());
    let good = issuer.token("alice").sign();
    let [header, payload, signature] = tokens::split(&good);
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let with = |signature: &[u8]| format!("{header}.{payload}.{}", encode(signature));
    let flipped = |at: usize, bit: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << bit;
        with(&bytes)
    };
    let (r, s) = bytes.split_at(32);
    let wide = [&[0; 16], r, &[0; 16], s].concat();
    let other = issuer.token("bob").sign();
    let [_, bobs_payload, bobs_signature] = tokens::split(&other);
    let eddsa = issuer
        .token("alice")
        .header("alg", "EdDSA")
        .header("kid", "EdDSA-1")
        .key(key(Algorithm::EdDSA, 1))
        .sign();
    eventually("the new key", async || {
        (gateway.get("/").bearer(&eddsa).await.status() == 200).then_some(())
    })
    .await;
    upstream.forget();
    let cases = vec![
        passes("control", good.clone()),
        passes("control of EdDSA", eddsa.clone()),
        passes(
            "s and its negative sign the same (so a token is never known by its signature)",
            with(&negated(&bytes)),
        ),
        fails(
            "EdDSA with s beyond the order",
            with_large_s(&eddsa),
            "signature_invalid",
        ),
        fails("the first bit", flipped(0, 7), "signature_invalid"),
        fails("a bit in the middle", flipped(31, 0), "signature_invalid"),
        fails("the last bit", flipped(63, 0), "signature_invalid"),
        fails("cut by one byte", with(&bytes[..63]), "signature_invalid"),
        fails("half of it", with(r), "signature_invalid"),
        fails(
            "one byte more",
            with(&[&bytes[..], &[0]].concat()),
            "signature_invalid",
        ),
        fails(
            "one byte before",
            with(&[&[0], &bytes[..]].concat()),
            "signature_invalid",
        ),
        fails("both halves as for P-384", with(&wide), "signature_invalid"),
        fails("in DER", with(&der(r, s)), "signature_invalid"),
        fails(
            "the halves swapped",
            with(&[s, r].concat()),
            "signature_invalid",
        ),
        fails("zeros", with(&[0; 64]), "signature_invalid"),
        fails("ones", with(&[0xff; 64]), "signature_invalid"),
        fails("r zero", with(&[&[0; 32], s].concat()), "signature_invalid"),
        fails("s zero", with(&[r, &[0; 32]].concat()), "signature_invalid"),
        fails("one byte", with(&[0]), "signature_invalid"),
        fails("a long one", with(&[7; 600]), "signature_invalid"),
        fails(
            "the signature of another token",
            format!("{header}.{payload}.{bobs_signature}"),
            "signature_invalid",
        ),
        fails(
            "the payload of another token",
            format!("{header}.{bobs_payload}.{signature}"),
            "signature_invalid",
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

/// An ECDSA signature in the form of RFC 3279 section 2.2.3.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let digits: Vec<u8> = number
            .iter()
            .copied()
            .skip_while(|digit| *digit == 0)
            .collect();
        let sign = digits
            .first()
            .is_some_and(|digit| *digit >= 0x80)
            .then_some(0);
        let digits: Vec<u8> = sign.into_iter().chain(digits).collect();
        [vec![2, u8::try_from(digits.len()).expect("short")], digits].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(body.len()).expect("short")], body].concat()
}

/// The other signature of the same message by the same P-256 key: (r, n - s).
pub(crate) fn negated(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ];
    let (r, s) = signature.split_at(32);
    let mut difference = [0; 32];
    let mut borrow = false;
    for at in (0..32).rev() {
        let (first, under) = ORDER[at].overflowing_sub(s[at]);
        let (second, again) = first.overflowing_sub(u8::from(borrow));
        difference[at] = second;
        borrow = under || again;
    }
    assert!(!borrow, "s is below the order");
    [r, &difference].concat()
}

/// The same Ed25519 signature with the group's order added to S, which a lax verifier accepts (RFC 8032 section 8.4).
fn with_large_s(token: &str) -> String {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x10,
    ];
    let [header, payload, signature] = tokens::split(token);
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let mut carry = 0;
    for (digit, more) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*digit) + u16::from(more) + carry;
        *digit = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "fits in 256 bits");
    format!("{header}.{payload}.{}", encode(bytes))
}

/// What costs nothing is asked first: each of these has a wrong signature, by a key that nobody knows, and is refused for
/// another reason. Neither a signature is checked for it nor a key fetched.
#[tokio::test]
async fn what_is_cheap_is_asked_before_the_key_and_the_signature() {
    let (issuer, upstream, gateway) = scene(|setup| {
        setup
            .issuer(r#"require = ["sid"]"#)
            .issuer(r#"algorithms = ["ES256", "RS256"]"#)
            .issuer(r#"refresh_min_interval = "1s""#)
    })
    .await;
    let good = issuer.token("alice").sid("s1");
    let stranger = good
        .clone()
        .key(key(Algorithm::ES256, 9))
        .header("kid", "nobody's");
    let with = |claim: &str, value: Value| stranger.clone().claim(claim, value).sign();
    let says = |member: &str, value: Value| stranger.clone().header(member, value).sign();
    let cases = vec![
        passes("control", good.sign()),
        fails(
            "its size",
            with("x", json!("x".repeat(9000))),
            "token_too_large",
        ),
        fails("its form", format!("{}=", stranger.sign()), MALFORMED),
        fails("its JSON", says("typ", json!(7)), MALFORMED),
        fails("crit", says("crit", json!(["x"])), "crit_unsupported"),
        fails("alg", says("alg", json!("none")), "alg_not_allowed"),
        fails(
            "alg of the issuer",
            says("alg", json!("ES384")),
            "alg_not_allowed",
        ),
        fails("typ", says("typ", json!("logout+jwt")), "type_not_allowed"),
        fails(
            "iss",
            with("iss", json!("https://evil.example")),
            "issuer_unknown",
        ),
        fails("a claim", with("sub", json!(7)), CLAIM),
        fails(
            "no claim",
            stranger.clone().without("sid").sign(),
            "claim_missing",
        ),
        fails(
            "exp",
            stranger.clone().issued(NOW - 90_000).sign(),
            "expired",
        ),
        fails("nbf", with("nbf", json!(NOW + 100)), NOT_YET),
        fails("iat", with("iat", json!(NOW + 100)), FROM_THE_FUTURE),
        fails(
            "lifetime",
            with("exp", json!(NOW + 100_000)),
            "lifetime_too_long",
        ),
        fails("aud", with("aud", json!("billing")), "audience_mismatch"),
        // The key's kind and its fitness, before any arithmetic with it.
        fails(
            "a key of another kind",
            stranger
                .clone()
                .header("kid", "ES256-1")
                .header("alg", "RS256")
                .sign(),
            KEY_UNFIT,
        ),
    ];
    let fetches = issuer.fetches();
    check(&gateway, &upstream, cases).await;
    assert_eq!(issuer.fetches(), fetches, "no key was asked for");
    // That is no accident: the same token, with nothing else wrong with it, does ask.
    eventually("a fetch", async || {
        let answer = gateway.get("/").bearer(&stranger.sign()).await;
        assert_eq!(answer.verdict(), "401 invalid_token");
        (issuer.fetches() > fetches).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_issuer_without_iat_can_be_admitted() {
    let (issuer, upstream, gateway) = scene(|setup| setup.issuer("allow_missing_iat = true")).await;
    let until = |exp: u64| {
        issuer
            .token("alice")
            .without("iat")
            .claim("exp", exp)
            .sign()
    };
    let day = 24 * 3600;
    let cases = vec![
        passes("no iat", until(NOW + 60)),
        passes("as long as allowed", until(NOW + day)),
        fails("lives too long", until(NOW + day + 31), "lifetime_too_long"),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn times_are_asked_to_the_second() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer.token("alice").claim("iat", NOW - 600);
    let exp = |value: Value| good.clone().claim("exp", value).sign();
    let nbf = |value: Value| good.clone().claim("nbf", value).sign();
    let iat = |value: Value| good.clone().claim("iat", value).sign();
    let raw_exp = |text: &str| {
        let (header, payload) = texts(&good);
        let exp = format!("\"exp\":{}", NOW + LIFETIME);
        assert!(payload.contains(&exp));
        signed(
            &issuer.key(),
            header,
            payload.replace(&exp, &format!("\"exp\":{text}")),
        )
    };
    let day = 24 * 60 * 60;
    let cases = vec![
        passes("control", good.sign()),
        passes("expired, within the leeway", exp(json!(NOW - 29))),
        passes("exp with a fraction", raw_exp("1800000100.75")),
        passes("exp with an exponent", raw_exp("1.8000001e9")),
        passes("nbf now", nbf(json!(NOW))),
        passes("nbf ahead, within the leeway", nbf(json!(NOW + 30))),
        passes("iat ahead, within the leeway", iat(json!(NOW + 30))),
        passes(
            "as long as allowed",
            good.clone()
                .claim("iat", NOW)
                .claim("exp", NOW + day)
                .sign(),
        ),
        fails("expired beyond the leeway", exp(json!(NOW - 31)), "expired"),
        fails(
            "expired at the leeway's end",
            exp(json!(NOW - 30)),
            "expired",
        ),
        fails(
            "expired long ago",
            good.clone().issued(NOW - 90_000).sign(),
            "expired",
        ),
        fails(
            "exp zero",
            good.clone().claim("iat", 0).claim("exp", 0).sign(),
            "expired",
        ),
        fails(
            "no exp",
            good.clone().without("exp").sign(),
            "claim_missing|claim_malformed",
        ),
        fails("exp a text", exp(json!((NOW + 60).to_string())), CLAIM),
        fails("exp null", exp(json!(null)), CLAIM),
        fails("exp true", exp(json!(true)), CLAIM),
        fails("exp a list", exp(json!([NOW + 60])), CLAIM),
        fails("exp an object", exp(json!({"exp": NOW + 60})), CLAIM),
        fails("exp negative", exp(json!(-1)), CLAIM),
        fails(
            "exp in the year 10000",
            exp(json!(253_402_300_800_u64)),
            CLAIM,
        ),
        fails("exp as large as can be", exp(json!(u64::MAX)), CLAIM),
        fails("exp beyond 64 bits", raw_exp("18446744073709551616"), CLAIM),
        fails("exp huge", raw_exp("1e300"), CLAIM),
        fails(
            "exp beyond a float",
            raw_exp("1e999"),
            "claim_malformed|token_malformed",
        ),
        fails("exp NaN", raw_exp("NaN"), MALFORMED),
        fails("exp Infinity", raw_exp("Infinity"), MALFORMED),
        fails("exp hexadecimal", raw_exp("0x7fffffff"), MALFORMED),
        fails("exp with a leading zero", raw_exp("01800000100"), MALFORMED),
        fails("nbf ahead", nbf(json!(NOW + 31)), NOT_YET),
        fails("nbf far ahead", nbf(json!(NOW + 100_000)), NOT_YET),
        fails("nbf a text", nbf(json!("0")), CLAIM),
        fails("nbf null", nbf(json!(null)), CLAIM),
        fails("nbf negative", nbf(json!(-1)), CLAIM),
        fails("iat ahead", iat(json!(NOW + 31)), FROM_THE_FUTURE),
        fails("iat a text", iat(json!(NOW.to_string())), CLAIM),
        fails("iat null", iat(json!(null)), CLAIM),
        fails(
            "lives too long",
            good.clone()
                .claim("iat", NOW)
                .claim("exp", NOW + day + 1)
                .sign(),
            "lifetime_too_long",
        ),
        fails(
            "lives too long, though little is left",
            good.clone()
                .claim("iat", NOW - day)
                .claim("exp", NOW + 1)
                .sign(),
            "lifetime_too_long",
        ),
        fails(
            "no iat",
            good.clone().without("iat").sign(),
            "claim_missing",
        ),
        fails(
            "lives for ever",
            exp(json!(253_402_300_799_u64)),
            "lifetime_too_long",
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn a_token_ends_while_it_is_cached() {
    let (issuer, upstream, gateway) = scene(|setup| setup.issuer(r#"leeway = "5s""#)).await;
    let token = issuer.token("alice").sign();
    let ask = async || gateway.get("/orders").bearer(&token).await.verdict();
    assert_eq!(ask().await, "200");
    gateway.clock().set(UnixSeconds(NOW + LIFETIME + 4));
    assert_eq!(ask().await, "200");
    gateway.clock().set(UnixSeconds(NOW + LIFETIME + 5));
    assert_eq!(ask().await, "401 token_expired");
    gateway.clock().set(UnixSeconds(NOW + 1));
    assert_eq!(ask().await, "200", "the clock was set back");
    gateway.clock().set(UnixSeconds(NOW - 6));
    assert_eq!(ask().await, "401 invalid_token", "issued in the future");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn the_issuer_is_compared_exactly() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer.token("alice");
    let iss = |value: Value| good.clone().claim("iss", value).sign();
    let url = issuer.url().to_owned();
    let mut cases = vec![passes("control", good.sign())];
    for other in [
        format!("{url}/"),
        format!(" {url}"),
        format!("{url} "),
        format!("{url}\0"),
        url.to_uppercase(),
        url.replace("http://", "HTTP://"),
        url.replace("http://", "https://"),
        url.replace("127.0.0.1", "localhost"),
        url[..url.len() - 1].to_owned(),
        "main".to_owned(),
        "https://evil.example".to_owned(),
        String::new(),
    ] {
        cases.push(fails(
            format!("iss {other:?}"),
            iss(json!(other)),
            "issuer_unknown",
        ));
    }
    for other in [
        json!(1),
        json!(null),
        json!([url]),
        json!({"iss": url}),
        json!(true),
    ] {
        cases.push(fails(
            format!("iss {other}"),
            iss(other),
            "claim_malformed|issuer_unknown",
        ));
    }
    cases.push(fails(
        "no iss",
        good.clone().without("iss").sign(),
        "claim_missing|claim_malformed|issuer_unknown",
    ));
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn the_audience_must_name_this_service() {
    let (issuer, upstream, gateway) =
        scene(|setup| setup.issuer(r#"audiences = ["orders-api", "shop"]"#)).await;
    let good = issuer.token("alice");
    let aud = |value: Value| good.clone().claim("aud", value).sign();
    let mut cases = vec![
        passes("control", good.sign()),
        passes("the other one", aud(json!("shop"))),
        passes("one of many", aud(json!(["account", "orders-api"]))),
        passes("one in a list", aud(json!(["orders-api"]))),
        fails(
            "no aud",
            good.clone().without("aud").sign(),
            "audience_mismatch",
        ),
    ];
    for other in [
        json!("account"),
        json!(""),
        json!("Orders-Api"),
        json!("orders-api "),
        json!("orders-api,shop"),
        json!("orders-api shop"),
        json!("orders"),
        json!([]),
        json!([""]),
        json!(["account", "billing"]),
    ] {
        cases.push(fails(
            format!("aud {other}"),
            aud(other),
            "audience_mismatch",
        ));
    }
    for other in [
        json!(null),
        json!(7),
        json!(true),
        json!({"orders-api": true}),
        json!(["orders-api", 7]),
        json!(["orders-api", null]),
        json!([["orders-api"]]),
    ] {
        cases.push(fails(format!("aud {other}"), aud(other), CLAIM));
    }
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn no_audience_is_asked_where_the_file_says_so() {
    let (issuer, upstream, gateway) = scene(|setup| setup.issuer("audiences = []")).await;
    let good = issuer.token("alice");
    let cases = vec![
        passes("without aud", good.clone().without("aud").sign()),
        passes("any aud", good.clone().claim("aud", "account").sign()),
        fails(
            "aud in a wrong form all the same",
            good.clone().claim("aud", 7).sign(),
            CLAIM,
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn a_token_made_for_something_else_is_refused() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer.token("alice");
    let mut cases = vec![passes(
        "without typ",
        good.clone().without_header("typ").sign(),
    )];
    for typ in [
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "Application/AT+JWT",
        "JWT",
        "jwt",
    ] {
        cases.push(passes(typ, good.clone().header("typ", typ).sign()));
    }
    for typ in [
        "logout+jwt",
        "id_token",
        "ID",
        "dpop+jwt",
        "secevent+jwt",
        "application/logout+jwt",
        "at+jwt ",
        "at+jwt; v=1",
        "application/",
        "text/jwt",
        "JOSE",
        "kb+jwt",
        "at jwt",
    ] {
        cases.push(fails(
            typ,
            good.clone().header("typ", typ).sign(),
            "type_not_allowed",
        ));
    }
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn only_named_types_pass_where_the_file_names_them() {
    let (issuer, upstream, gateway) =
        scene(|setup| setup.issuer(r#"token_types = ["at+jwt"]"#)).await;
    let good = issuer.token("alice");
    let cases = vec![
        passes("control", good.sign()),
        passes(
            "control, with the whole media type",
            good.clone().header("typ", "application/AT+JWT").sign(),
        ),
        fails(
            "an ID token",
            good.clone()
                .header("typ", "JWT")
                .claim("nonce", "n1")
                .claim("at_hash", "AAAA")
                .sign(),
            "type_not_allowed",
        ),
        fails(
            "a logout token",
            good.clone()
                .header("typ", "logout+jwt")
                .claim(
                    "events",
                    json!({"http://schemas.openid.net/event/backchannel-logout": {}}),
                )
                .sign(),
            "type_not_allowed",
        ),
        fails(
            "two types in one text",
            good.clone().header("typ", "JWT, at+jwt").sign(),
            "type_not_allowed",
        ),
        fails(
            "JWT",
            good.clone().header("typ", "JWT").sign(),
            "type_not_allowed",
        ),
        fails(
            "absent",
            good.clone().without_header("typ").sign(),
            "type_not_allowed",
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn required_claims_must_be_there() {
    let (issuer, upstream, gateway) =
        scene(|setup| setup.issuer(r#"require = ["sid", "realm_access.roles"]"#)).await;
    let good = issuer
        .token("alice")
        .sid("s1")
        .claim("realm_access", json!({"roles": ["user"]}));
    let roles = |value: Value| good.clone().claim("realm_access", value).sign();
    let cases = vec![
        passes("control", good.sign()),
        passes("an empty list is there", roles(json!({"roles": []}))),
        fails(
            "no sid",
            good.clone().without("sid").sign(),
            "claim_missing",
        ),
        fails(
            "sid null",
            good.clone().claim("sid", json!(null)).sign(),
            "claim_missing|claim_malformed",
        ),
        fails(
            "no realm_access",
            good.clone().without("realm_access").sign(),
            "claim_missing",
        ),
        fails("no roles in it", roles(json!({})), "claim_missing"),
        fails("roles null", roles(json!({"roles": null})), "claim_missing"),
        fails(
            "realm_access a text",
            roles(json!("roles")),
            "claim_missing",
        ),
        fails(
            "a claim whose name has a dot in it is another",
            good.clone()
                .without("realm_access")
                .claim("realm_access.roles", json!(["user"]))
                .sign(),
            "claim_missing",
        ),
    ];
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn claims_that_identify_must_have_their_form() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let good = issuer
        .token("alice")
        .sid("s1")
        .jti("t1")
        .claim("client_id", "web")
        .scope("a b");
    let mut cases = vec![
        passes("control", good.sign()),
        passes(
            "scopes as a list",
            good.clone().claim("scope", json!(["a", "b"])).sign(),
        ),
        passes("no sub", good.clone().without("sub").sign()),
        passes(
            "other claims in any form",
            good.clone().claim("roles", json!({"a": [1, null]})).sign(),
        ),
    ];
    for name in ["sub", "sid", "jti", "client_id"] {
        for value in [
            json!(7),
            json!(["x"]),
            json!({}),
            json!(true),
            json!(null),
            json!(""),
        ] {
            let case = format!("{name} {value}");
            cases.push(fails(case, good.clone().claim(name, value).sign(), CLAIM));
        }
        let long = "x".repeat(1025);
        cases.push(fails(
            format!("{name} too long"),
            good.clone().claim(name, long).sign(),
            CLAIM,
        ));
    }
    for value in [
        json!(7),
        json!([7]),
        json!({"a": true}),
        json!(true),
        json!(null),
    ] {
        cases.push(fails(
            format!("scope {value}"),
            good.clone().claim("scope", value).sign(),
            CLAIM,
        ));
    }
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn the_payload_must_be_one_object_read_in_one_way() {
    let (issuer, upstream, gateway) = scene(|setup| setup).await;
    let key = issuer.key();
    let (header, payload) = texts(&issuer.token("alice"));
    let sign = |payload: &[u8]| signed(&key, &header, payload);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        with_member(&payload, &format!(r#""x":{open}{close}"#))
    };
    let mut cases = vec![
        passes("control", sign(payload.as_bytes())),
        passes(
            "blanks around",
            sign(format!("\r\n {payload}\t ").as_bytes()),
        ),
        passes("nested", sign(nested(10).as_bytes())),
        passes(
            "the same name at two depths",
            sign(with_member(&payload, r#""x":{"sub":1}"#).as_bytes()),
        ),
        passes(
            "a thousand lists side by side",
            sign(with_member(&payload, &format!("\"x\":[{}0]", "[],".repeat(1300))).as_bytes()),
        ),
        passes(
            "a small number in many digits",
            sign(with_member(&payload, &format!("\"x\":0.{}", "1".repeat(3000))).as_bytes()),
        ),
        passes(
            "letters beyond ASCII",
            sign(with_member(&payload, "\"x\":\"\u{1f600}\\ud83d\\ude00\"").as_bytes()),
        ),
    ];
    let mut refuse = |name: &str, payload: &[u8]| cases.push(fails(name, sign(payload), MALFORMED));
    for name in ["iss", "sub", "aud", "exp", "iat"] {
        refuse(
            &format!("{name} twice"),
            with_member(&payload, &format!("\"{name}\":\"x\"")).as_bytes(),
        );
    }
    refuse(
        "sub twice, alike",
        with_member(&payload, r#""sub":"alice""#).as_bytes(),
    );
    refuse(
        "sub twice, once escaped",
        with_member(&payload, r#""\u0073ub":"bob""#).as_bytes(),
    );
    refuse(
        "an unknown member twice",
        with_member(&payload, r#""role":"a","role":"b""#).as_bytes(),
    );
    refuse(
        "a nested member twice",
        with_member(&payload, r#""x":{"y":1,"y":2}"#).as_bytes(),
    );
    refuse(
        "twice in a list",
        with_member(&payload, r#""x":[{"y":1,"y":2}]"#).as_bytes(),
    );
    refuse("too deep", nested(20).as_bytes());
    refuse("far too deep", nested(1500).as_bytes());
    refuse("two objects", format!("{payload}{payload}").as_bytes());
    refuse("an object and a word", format!("{payload} x").as_bytes());
    refuse("a byte order mark", format!("\u{feff}{payload}").as_bytes());
    refuse("a NUL at the end", format!("{payload}\0").as_bytes());
    refuse(
        "a comma too many",
        format!("{},}}", &payload[..payload.len() - 1]).as_bytes(),
    );
    refuse("cut off", &payload.as_bytes()[..payload.len() - 1]);
    refuse(
        "a lone surrogate",
        with_member(&payload, r#""x":"\udc00""#).as_bytes(),
    );
    refuse(
        "a line break in a text",
        with_member(&payload, "\"x\":\"\n\"").as_bytes(),
    );
    refuse(
        "no UTF-8",
        &[
            &payload.as_bytes()[..payload.len() - 1],
            b",\"x\":\"\xc0\xaf\"}",
        ]
        .concat(),
    );
    refuse(
        "UTF-16",
        &payload
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect::<Vec<u8>>(),
    );
    for other in ["[]", "null", "true", "7", "\"alice\"", " ", "alice", "[{}]"] {
        refuse(other, other.as_bytes());
    }
    refuse("compressed", &[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0]);
    refuse(
        "a number beyond all",
        with_member(&payload, &format!("\"x\":1{}", "0".repeat(400))).as_bytes(),
    );
    refuse(
        "a fraction beyond all",
        with_member(&payload, "\"x\":1e400").as_bytes(),
    );
    refuse(
        "a nested name twice, once escaped",
        with_member(&payload, r#""x":{"y":1,"\u0079":2}"#).as_bytes(),
    );
    refuse(
        "a token in a token",
        issuer.token("alice").sign().as_bytes(),
    );
    cases.push(fails(
        "an empty object",
        sign(b"{}"),
        "claim_missing|claim_malformed|issuer_unknown",
    ));
    check(&gateway, &upstream, cases).await;
}

#[tokio::test]
async fn keys_that_must_not_be_used_are_skipped_and_the_others_serve() {
    let issuer = Issuer::start().await;
    let upstream = Upstream::start().await;
    let named = |mut jwk: Value, kid: &str, change: &dyn Fn(&mut Value)| {
        jwk["kid"] = json!(kid);
        change(&mut jwk);
        jwk
    };
    let es256 = key(Algorithm::ES256, 2);
    // Nobody makes RSA keys of 1024 bits any more, so this is no key: if it is looked at, the reason is another.
    let small = |jwk: &mut Value| {
        let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
        jwk["n"] = json!(encode([&modulus[..127], &[1]].concat()));
    };
    let rsa = key(Algorithm::RS256, 1);
    let secret = Key::generate("secret", Algorithm::HS256);
    let weak_point = |jwk: &mut Value| jwk["y"] = json!(encode([7; 32]));
    for entry in [
        json!(7),
        json!(null),
        json!({}),
        json!({"kty": "EC"}),
        json!({"kty": "LATIN", "kid": "latin"}),
        named(es256.jwk(), "enc", &|jwk| jwk["use"] = json!("enc")),
        named(es256.jwk(), "ops", &|jwk| {
            jwk["key_ops"] = json!(["encrypt"]);
        }),
        named(es256.jwk(), "alg", &|jwk| jwk["alg"] = json!("ECDH-ES")),
        named(es256.jwk(), "curve", &|jwk| jwk["crv"] = json!("P-384")),
        named(es256.jwk(), "off-curve", &weak_point),
        named(es256.jwk(), "short", &|jwk| {
            jwk["x"] = json!(encode([7; 31]));
        }),
        named(es256.jwk(), "text", &|jwk| jwk["x"] = json!(7)),
        named(rsa.jwk(), "small", &small),
        named(secret.jwk(), "secret", &|_| ()),
        named(es256.jwk(), "twin", &|_| ()),
    ] {
        issuer.add_entry(entry);
    }
    let gateway = Setup::new(&issuer, &upstream).start().await;
    let by = |kid: &str| {
        issuer
            .token("alice")
            .key(es256.clone())
            .header("kid", kid)
            .sign()
    };
    let unusable = "key_unknown|key_mismatch";
    let mut cases = vec![
        passes("control", issuer.token("alice").sign()),
        passes("the entry after all the odd ones", by("twin")),
        fails(
            "a small RSA key",
            issuer
                .token("alice")
                .header("alg", "RS256")
                .key(rsa)
                .header("kid", "small")
                .sign(),
            unusable,
        ),
        fails(
            "a secret in a public set",
            issuer
                .token("alice")
                .header("alg", "HS256")
                .key(secret.into())
                .header("kid", "secret")
                .sign(),
            "alg_not_allowed",
        ),
    ];
    for kid in ["enc", "ops", "alg", "curve", "off-curve", "short", "text"] {
        cases.push(fails(format!("key {kid:?}"), by(kid), unusable));
    }
    check(&gateway, &upstream, cases).await;
}

/// The examples of RFC 7515 appendix A, from 2011, with the keys that stand there.
#[tokio::test]
async fn the_examples_of_the_standard_pass() {
    const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SECRET: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    const BY_SECRET: [&str; 2] = [
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    ];
    const RSA: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const BY_RSA: [&str; 2] = [
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ];
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    const BY_P256: [&str; 2] = [
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ];
    const UNSIGNED: [&str; 2] = ["eyJhbGciOiJub25lIn0", ""];
    let token = |[header, signature]: [&str; 2]| format!("{header}.{PAYLOAD}.{signature}");
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let jwks = json!({"keys": [
        {"kty": "RSA", "n": RSA, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": X, "y": Y},
    ]})
    .to_string();
    let (secret_file, jwks_file) = (
        folder.path().join("secret"),
        folder.path().join("jwks.json"),
    );
    std::fs::write(&secret_file, URL_SAFE_NO_PAD.decode(SECRET).unwrap()).unwrap();
    std::fs::write(&jwks_file, &jwks).unwrap();
    let joe = || {
        Setup::at("joe", &upstream.url())
            .issuer("audiences = []")
            .issuer("allow_missing_iat = true")
    };
    let cases = |good: &[[&str; 2]], bad: &[[&str; 2]]| {
        let good = good.iter().map(|parts| passes(parts[0], token(*parts)));
        let bad = bad
            .iter()
            .map(|parts| fails(parts[0], token(*parts), "alg_not_allowed|token_malformed"));
        good.chain(bad).collect::<Vec<_>>()
    };
    for (setup, good, bad) in [
        (
            joe().issuer(format!(
                "secret = {{ file = \"{}\" }}",
                secret_file.display()
            )),
            vec![BY_SECRET],
            vec![BY_RSA, UNSIGNED],
        ),
        (
            joe().issuer(format!("jwks_file = \"{}\"", jwks_file.display())),
            vec![BY_RSA, BY_P256],
            vec![BY_SECRET, UNSIGNED],
        ),
        (
            joe().issuer(format!("jwks = '{jwks}'")),
            vec![BY_RSA, BY_P256],
            vec![BY_SECRET, UNSIGNED],
        ),
    ] {
        let gateway = setup.start().await;
        gateway.clock().set(UnixSeconds(1_300_819_000));
        check(&gateway, &upstream, cases(&good, &bad)).await;
    }
    assert_eq!(upstream.count(), 5);
}

//! `[[issuers]]`

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;

use super::check::{Check, Unique};
use super::client_tls::{SystemRoots, files};
use super::headers::headers;
use super::keys::keys;
use super::url;
use crate::base::limits::ID_BYTES_MAX;
use crate::base::names::IssuerName;
use crate::base::secret::ExposeSecret;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::{Issuer, KeySource};
use crate::http::client_tls::Files;
use crate::jwks::Algorithm;
use crate::token::{ClaimNames, ClaimPath, Earlier, Rules, Types};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The issuers, and what routes may name.
#[derive(Debug)]
pub(super) struct Issuers {
    /// Those without a fault.
    pub(super) made: Vec<Issuer>,
    /// Every name of the file.
    pub(super) names: Names,
}

/// Every issuer's name, also of those that have a fault.
#[derive(Debug)]
pub(super) struct Names {
    /// In the order of the file.
    pub(super) known: Vec<IssuerName>,
    /// Whether a name could not be read.
    pub(super) incomplete: bool,
}

/// All issuers.
pub(super) fn issuers(raw: Option<&raw::List<raw::Issuer>>, check: &mut Check<'_>) -> Issuers {
    let path = KeyPath::default().key("issuers");
    let mut issuers = Issuers {
        made: vec![],
        names: Names {
            known: vec![],
            incomplete: check.is_hole(&path) || raw.is_some_and(raw::List::has_holes),
        },
    };
    let mut names = Unique::new();
    let mut identifiers = Unique::new();
    let mut system_roots = SystemRoots::default();
    for (n, raw) in raw.into_iter().flat_map(raw::List::iter) {
        let at = path.index(n);
        let identifier = identifier(raw, &at, check);
        if let Some(identifier) = identifier
            && let Some(other) = identifiers.insert(identifier.to_owned(), &at)
        {
            let other = check.whereabouts(other);
            check.fault(
                &at.key("issuer"),
                format!("{identifier:?} is the issuer of {other}; a token must have one set of rules, so join them"),
            );
        }
        let name = name(raw, identifier, &at, check);
        match &name {
            None => issuers.names.incomplete = true,
            Some(name) => {
                if let Some(other) = names.insert(name.clone(), &at) {
                    let other = check.whereabouts(other);
                    let key = if raw.name.is_some() { "name" } else { "issuer" };
                    check.fault(
                        &at.key(key),
                        format!("\"{name}\" is the name of {other} already; write another one: name = \"…\""),
                    );
                }
                issuers.names.known.push(name.clone());
            }
        }
        let made = issuer(raw, identifier, name, &at, &mut system_roots, check);
        issuers.made.extend(made);
    }
    issuers
}

/// `issuer`, which is compared with the claim byte by byte, so that blanks at an end are a mistake.
fn identifier<'r>(raw: &'r raw::Issuer, at: &KeyPath, check: &mut Check<'_>) -> Option<&'r str> {
    let cure = "issuer = \"https://id.example.com/realms/shop\", exactly as the claim iss says it";
    let issuer = check.required(at, "issuer", raw.issuer.as_ref(), cure)?;
    let what = if issuer.trim().is_empty() {
        format!("is empty; write {cure}")
    } else if issuer.trim() != issuer || issuer.chars().any(char::is_control) {
        format!("{issuer:?} has blanks around it or control characters; write {cure}")
    } else if issuer.len() > ID_BYTES_MAX {
        format!("is longer than {ID_BYTES_MAX} bytes; no token with it would be read")
    } else {
        return Some(issuer);
    };
    check.fault(&at.key("issuer"), what);
    None
}

/// The name, by default the host of the issuer, or all of it if it is no URL.
fn name(
    raw: &raw::Issuer,
    identifier: Option<&str>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Option<IssuerName> {
    let path = at.key("name");
    if check.is_hole(&path) {
        return None;
    }
    if let Some(name) = &raw.name {
        return check.name(&path, name).then(|| IssuerName::new(name));
    }
    let identifier = identifier?;
    Some(match url::parse(identifier) {
        Ok(url) => IssuerName::new(url.host().unwrap_or(identifier)),
        Err(_) => IssuerName::new(identifier),
    })
}

fn issuer(
    raw: &raw::Issuer,
    identifier: Option<&str>,
    name: Option<IssuerName>,
    at: &KeyPath,
    system_roots: &mut SystemRoots,
    check: &mut Check<'_>,
) -> Option<Issuer> {
    let audiences = audiences(raw, at, check);
    let keys = keys(raw, identifier, at, check);
    let algorithms = algorithms(raw, keys.as_ref(), at, check);
    let types = types(raw, at, check);
    let require = paths(raw.require.as_ref(), &at.key("require"), check);
    let names = claim_names(raw.claims.as_ref(), &at.key("claims"), check);
    let mut duration = |key, value, default, least, most| {
        check.duration(&at.key(key), value, default, least..=most)
    };
    let seconds = Duration::from_secs;
    let leeway = duration(
        "leeway",
        raw.leeway,
        seconds(30),
        Duration::ZERO,
        5 * MINUTE,
    );
    let max_lifetime = duration(
        "max_token_lifetime",
        raw.max_token_lifetime,
        DAY,
        seconds(1),
        400 * DAY,
    );
    let refresh = duration("refresh", raw.refresh, 5 * MINUTE, seconds(30), DAY);
    let refresh_min_interval = duration(
        "refresh_min_interval",
        raw.refresh_min_interval,
        seconds(10),
        seconds(1),
        HOUR,
    );
    let fetch_timeout = duration(
        "fetch_timeout",
        raw.fetch_timeout,
        seconds(5),
        Duration::from_millis(100),
        MINUTE,
    );
    let stale_max = duration(
        "stale_max",
        raw.stale_max,
        DAY.max(refresh),
        MINUTE,
        400 * DAY,
    );
    if stale_max < refresh {
        check.fault(
            &at.key("stale_max"),
            "is shorter than refresh, so good keys would be thrown away before the next fetch; write a longer one",
        );
    }
    let tls = keys
        .as_ref()
        .and_then(|keys| fetch(raw, keys, at, system_roots, check));
    let headers = headers(raw, at, check);
    Some(Issuer {
        name: name?,
        rules: Rules {
            issuer: Arc::from(identifier?),
            audiences,
            algorithms,
            leeway,
            max_lifetime,
            earlier: Earlier::default(),
            allow_missing_iat: raw.allow_missing_iat.unwrap_or(false),
            types,
            require,
            names,
        },
        keys: keys?,
        tls: tls?,
        insecure_http: raw.insecure_http.unwrap_or(false),
        refresh,
        refresh_min_interval,
        fetch_timeout,
        stale_max,
        headers,
    })
}

fn audiences(raw: &raw::Issuer, at: &KeyPath, check: &mut Check<'_>) -> Vec<Arc<str>> {
    let cure = "audiences = [\"orders-api\"], or audiences = [] to accept tokens for anybody, which is dangerous: \
                another service of the same issuer can then use its callers' tokens here";
    let path = at.key("audiences");
    check
        .required(at, "audiences", raw.audiences.as_ref(), cure)
        .into_iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, audience)| {
            let audience = nonempty(&path.index(n), audience, check)?;
            Some(Arc::from(audience))
        })
        .collect()
}

/// What is fetched over the network, and what is only good for that: the TLS of the fetch.
fn fetch(
    raw: &raw::Issuer,
    keys: &KeySource,
    at: &KeyPath,
    system_roots: &mut SystemRoots,
    check: &mut Check<'_>,
) -> Option<Files> {
    let tls_at = at.key("tls");
    match keys {
        KeySource::Discovery(url) | KeySource::Url(url) => {
            let key = if matches!(keys, KeySource::Url(_)) {
                "jwks_uri"
            } else if raw.discovery.is_some() {
                "discovery"
            } else {
                "issuer"
            };
            if url::is_exposed(url) && !raw.insecure_http.unwrap_or(false) {
                check.fault(
                    &at.key(key),
                    format!("keys from {url} can be forged by anybody on the way; write https://, or insecure_http = true if the network is trusted"),
                );
            }
            let Some(tls) = &raw.tls else {
                return Some(Files::default()).filter(|_| !check.is_hole(&tls_at));
            };
            // A document that came without TLS may name a key set with.
            if matches!(keys, KeySource::Url(_)) && url.scheme() == Some(&Scheme::HTTP) {
                check.fault(
                    &tls_at,
                    "is for https://; write that as jwks_uri, or leave tls out",
                );
            }
            files((&tls_at, tls), &at.key(key), system_roots, check)
        }
        KeySource::File(_)
        | KeySource::Inline(_)
        | KeySource::PublicKeyFile(_)
        | KeySource::Secret(_) => {
            let unused = [
                ("tls", raw.tls.is_some()),
                ("insecure_http", raw.insecure_http == Some(true)),
                ("fetch_timeout", raw.fetch_timeout.is_some()),
            ];
            for (key, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
                check.fault(
                    &at.key(key),
                    "would never be used, because this issuer's keys are not fetched; leave it out",
                );
            }
            Some(Files::default())
        }
    }
}

/// The allowed algorithms, which must fit the key source.
fn algorithms(
    raw: &raw::Issuer,
    keys: Option<&KeySource>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Vec<Algorithm> {
    let path = at.key("algorithms");
    let is_secret = raw.secret.is_some() || check.is_hole(&at.key("secret"));
    let Some(raw) = &raw.algorithms else {
        let default: Vec<Algorithm> = if is_secret {
            vec![Algorithm::HS256]
        } else {
            Algorithm::ALL
                .into_iter()
                .filter(|algorithm| !algorithm.is_symmetric())
                .collect()
        };
        secret_length(keys, &default, at, check);
        return default;
    };
    if raw.is_empty() {
        check.fault(
            &path,
            "is empty, so no token would pass; write [\"RS256\"] or leave it out",
        );
    }
    let mut algorithms: Vec<(KeyPath, Algorithm)> = vec![];
    for (n, text) in raw.iter() {
        let path = path.index(n);
        if let Some(algorithm) = check.parsed(&path, text, algorithm)
            && !algorithms.iter().any(|(_, known)| *known == algorithm)
        {
            algorithms.push((path, algorithm));
        }
    }
    let symmetric = algorithms.iter().filter(|(_, a)| a.is_symmetric()).count();
    if symmetric > 0 && symmetric < algorithms.len() {
        check.fault(
            &path,
            "mixes shared secrets (HS…) and public keys, so that a public key could serve as a secret (RFC 8725 section 2.1); write two issuers",
        );
    } else if let Some((path, algorithm)) = algorithms
        .iter()
        .find(|(_, algorithm)| algorithm.is_symmetric() != is_secret)
    {
        let what = if is_secret {
            format!(
                "\"{algorithm}\" needs a public key, but the key source is a secret; write \"HS256\", or jwks_uri, jwks_file … instead of secret"
            )
        } else {
            format!(
                "\"{algorithm}\" needs a shared secret; write secret = {{ env = \"NAME\" }} as the key source, or another algorithm"
            )
        };
        check.fault(path, what);
    }
    let algorithms: Vec<Algorithm> = algorithms.into_iter().map(|(_, a)| a).collect();
    secret_length(keys, &algorithms, at, check);
    algorithms
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    if text.eq_ignore_ascii_case("none") {
        return Err(
            "would let anybody write tokens, so it is never allowed; write \"RS256\" or another algorithm with a signature"
                .to_owned(),
        );
    }
    Algorithm::parse(text).ok_or_else(|| {
        let mut known = Algorithm::ALL.iter().map(|known| known.name());
        known
            .find(|known| known.eq_ignore_ascii_case(text))
            .map_or_else(
                || {
                    let names = Algorithm::ALL.map(Algorithm::name).join(", ");
                    format!("is no algorithm that jotgate verifies; write some of {names}")
                },
                |known| format!("is no algorithm, because case counts; write \"{known}\""),
            )
    })
}

/// A secret is at least as long as the hash (RFC 7518 section 3.2).
fn secret_length(
    keys: Option<&KeySource>,
    algorithms: &[Algorithm],
    at: &KeyPath,
    check: &mut Check<'_>,
) {
    let Some(KeySource::Secret(secret)) = keys else {
        return;
    };
    let longest = algorithms.iter().filter_map(|algorithm| match algorithm {
        Algorithm::HS256 => Some((32, algorithm)),
        Algorithm::HS384 => Some((48, algorithm)),
        Algorithm::HS512 => Some((64, algorithm)),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512
        | Algorithm::ES256
        | Algorithm::ES384
        | Algorithm::EdDSA => None,
    });
    if let Some((least, algorithm)) = longest.max()
        && secret.expose_secret().len() < least
    {
        check.fault(
            &at.key("secret"),
            format!("is shorter than the {least} bytes that {algorithm} needs (RFC 7518 section 3.2); use a longer one"),
        );
    }
}

/// The allowed header `typ` values: RFC 9068 access tokens, plain JWTs, and tokens that do not say.
fn types(raw: &raw::Issuer, at: &KeyPath, check: &mut Check<'_>) -> Types {
    let path = at.key("token_types");
    let Some(raw) = &raw.token_types else {
        return Types {
            named: vec!["at+jwt".into(), "jwt".into()],
            absent: true,
        };
    };
    if raw.is_empty() {
        check.fault(
            &path,
            "is empty, so no token would pass; write [\"at+jwt\", \"jwt\", \"\"], where \"\" stands for none",
        );
    }
    let mut types = Types {
        named: vec![],
        absent: false,
    };
    for (n, text) in raw.iter() {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("application/").unwrap_or(&lower);
        if text.is_empty() {
            types.absent = true;
        } else if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            check.fault(
                &path.index(n),
                format!("{text:?} is no token type; write one such as \"at+jwt\""),
            );
        } else if !types.named.iter().any(|known| **known == *name) {
            types.named.push(name.into());
        }
    }
    types
}

fn paths(raw: Option<&raw::List<String>>, path: &KeyPath, check: &mut Check<'_>) -> Vec<ClaimPath> {
    raw.into_iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, text)| check.parsed(&path.index(n), text, ClaimPath::parse))
        .collect()
}

fn claim_names(raw: Option<&raw::ClaimNames>, at: &KeyPath, check: &mut Check<'_>) -> ClaimNames {
    let none = raw::ClaimNames::default();
    let raw = raw.unwrap_or(&none);
    let mut one = |key, text: Option<&String>, default| {
        text.and_then(|text| check.parsed(&at.key(key), text, ClaimPath::parse))
            .unwrap_or_else(|| registered(default))
    };
    let token_id = one("token_id", raw.token_id.as_ref(), "jti");
    let session_id = one("session_id", raw.session_id.as_ref(), "sid");
    let subject = one("subject", raw.subject.as_ref(), "sub");
    let mut many = |key, texts: Option<&raw::OneOrMany>, default: [&str; 2]| {
        let path = at.key(key);
        let Some(raw::OneOrMany(texts)) = texts else {
            return default.map(registered).into();
        };
        if texts.is_empty() && !check.has_holes(&path) {
            check.fault(
                &path,
                format!("is empty; write {default:?} or leave it out"),
            );
        }
        texts
            .iter()
            .filter_map(|(n, text)| {
                let path = n.map_or_else(|| path.clone(), |n| path.index(n));
                check.parsed(&path, text, ClaimPath::parse)
            })
            .collect()
    };
    ClaimNames {
        token_id,
        session_id,
        subject,
        client: many("client", raw.client.as_ref(), ["client_id", "azp"]),
        scopes: many("scopes", raw.scopes.as_ref(), ["scope", "scp"]),
    }
}

fn registered(name: &str) -> ClaimPath {
    ClaimPath::parse(name).expect("a name without dots is a path")
}

/// The text, or a fault if it is empty.
pub(super) fn nonempty<'t>(
    path: &KeyPath,
    text: &'t str,
    check: &mut Check<'_>,
) -> Option<&'t str> {
    if text.is_empty() {
        check.fault(path, "is empty; write a text or leave it out");
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, faults, good, issuer};
    use super::*;
    use crate::http::client_tls::IdentityFiles;

    /// A second issuer.
    fn second(lines: &str) -> String {
        format!("{BASE}[[issuers]]\naudiences = []\n{lines}\n")
    }

    #[test]
    fn an_issuer_is_called_by_its_host() {
        assert_eq!(good(BASE).issuers[0].name.as_str(), "id.example.com");
        let named = BASE.replace("https://id.example.com", "company");
        let named = named.replace("audiences =", "jwks_uri = \"https://a/\"\naudiences =");
        assert_eq!(good(&named).issuers[0].name.as_str(), "company");
        check(&issuer("name = \" \""), "issuers[0].name", "is empty");
        check(&issuer("name = \"a\\nb\""), "issuers[0].name", "is no name");
        check(
            &issuer(&format!("name = \"{}\"", "a".repeat(201))),
            "issuers[0].name",
            "is no name",
        );
    }

    #[test]
    fn issuers_differ_in_name_and_identifier() {
        good(&second(
            "name = \"b\"\nissuer = \"https://id.example.com/b\"",
        ));
        check(
            &second("issuer = \"https://id.example.com/b\""),
            "issuers[1].issuer",
            "is the name of issuers[0] (line 5) already; write another one",
        );
        check(
            &second("name = \"id.example.com\"\nissuer = \"https://b\""),
            "issuers[1].name",
            "is the name of issuers[0]",
        );
        check(
            &second("name = \"b\"\nissuer = \"https://id.example.com\""),
            "issuers[1].issuer",
            "is the issuer of issuers[0]",
        );
    }

    #[test]
    fn the_issuer_must_be_what_a_token_can_say() {
        let base = |text: &str| BASE.replace("https://id.example.com", text);
        check(&base(""), "issuers[0].issuer", "is empty");
        check(
            &base("https://id.example.com "),
            "issuers[0].issuer",
            "has blanks around it",
        );
        check(
            &base(&format!("https://id/{}", "a".repeat(1024))),
            "issuers[0].issuer",
            "is longer than 1024 bytes",
        );
        check(
            &BASE.replace("issuer = \"https://id.example.com\"", ""),
            "issuers[0].issuer",
            "is missing; write issuer = ",
        );
    }

    #[test]
    fn audiences_are_written_out() {
        check(
            &BASE.replace("audiences = [\"orders\"]", ""),
            "issuers[0].audiences",
            "is dangerous",
        );
        check(
            &BASE.replace("[\"orders\"]", "[\"orders\", \"\"]"),
            "issuers[0].audiences[1]",
            "is empty",
        );
        assert!(
            good(&BASE.replace("[\"orders\"]", "[]")).issuers[0]
                .rules
                .audiences
                .is_empty()
        );
    }

    #[test]
    fn algorithms_fit_each_other_and_the_keys() {
        let at = "issuers[0].algorithms";
        let secret = "secret = { env = \"SECRET_64\" }\n";
        assert_eq!(good(BASE).issuers[0].rules.algorithms.len(), 9);
        assert_eq!(
            good(&issuer(secret)).issuers[0].rules.algorithms,
            [Algorithm::HS256]
        );
        let both = good(&issuer("algorithms = [\"EdDSA\", \"Ed25519\", \"ES256\"]"));
        assert_eq!(
            both.issuers[0].rules.algorithms,
            [Algorithm::EdDSA, Algorithm::ES256]
        );
        check(&issuer("algorithms = []"), at, "no token would pass");
        check(
            &issuer("algorithms = [\"RS256\", \"none\"]"),
            "issuers[0].algorithms[1]",
            "would let anybody write tokens",
        );
        check(
            &issuer("algorithms = [\"NONE\"]"),
            "issuers[0].algorithms[0]",
            "would let anybody write tokens",
        );
        check(
            &issuer("algorithms = [\"rs256\"]"),
            "issuers[0].algorithms[0]",
            "write \"RS256\"",
        );
        check(
            &issuer("algorithms = [\"ES512\"]"),
            "issuers[0].algorithms[0]",
            "is no algorithm that jotgate verifies",
        );
        check(
            &issuer("algorithms = [\"RS256\", \"HS256\"]"),
            at,
            "mixes shared secrets",
        );
        check(
            &issuer(&format!("{secret}algorithms = [\"HS256\", \"RS256\"]")),
            at,
            "mixes shared secrets",
        );
        check(
            &issuer("algorithms = [\"HS256\"]"),
            "issuers[0].algorithms[0]",
            "needs a shared secret",
        );
        check(
            &issuer(&format!("{secret}algorithms = [\"RS256\"]")),
            "issuers[0].algorithms[0]",
            "needs a public key",
        );
    }

    #[test]
    fn a_secret_is_as_long_as_the_longest_hash() {
        for (len, algorithms, fits) in [
            (31, "", false),
            (32, "", true),
            (32, "\"HS256\"", true),
            (47, "\"HS256\", \"HS384\"", false),
            (48, "\"HS256\", \"HS384\"", true),
            (63, "\"HS512\", \"HS256\"", false),
            (64, "\"HS512\", \"HS256\"", true),
        ] {
            let mut lines = format!("secret = {{ env = \"SECRET_{len}\" }}");
            if !algorithms.is_empty() {
                lines = format!("{lines}\nalgorithms = [{algorithms}]");
            }
            if fits {
                good(&issuer(&lines));
            } else {
                check(&issuer(&lines), "issuers[0].secret", "is shorter than the ");
            }
        }
        check(
            &issuer("secret = { env = \"NOWHERE\" }"),
            "issuers[0].secret",
            "the variable NOWHERE is not set",
        );
        check(
            &issuer("secret = { file = \"/no/such/file\" }"),
            "issuers[0].secret",
            "cannot be read",
        );
        check(
            &issuer("secret = {}"),
            "issuers[0].secret",
            "needs one source",
        );
        check(
            &issuer("secret = { env = \"SECRET_64\", file = \"x\" }"),
            "issuers[0].secret",
            "needs one source",
        );
        check(
            &issuer("secret = { env = \"SECRET_64\", fil = \"x\" }"),
            "issuers[0].secret.fil",
            "did you mean `file`?",
        );
    }

    #[test]
    fn unencrypted_keys_stay_on_this_machine() {
        check(
            &issuer("jwks_uri = \"http://a/keys\""),
            "issuers[0].jwks_uri",
            "can be forged",
        );
        check(
            &issuer("discovery = \"http://a/keys\""),
            "issuers[0].discovery",
            "can be forged",
        );
        check(
            &BASE.replace("https://id", "http://id"),
            "issuers[0].issuer",
            "can be forged",
        );
        good(&issuer("jwks_uri = \"http://127.0.0.1:1/keys\""));
        let settings = good(&issuer(
            "jwks_uri = \"http://a/keys\"\ninsecure_http = true",
        ));
        assert!(settings.issuers[0].insecure_http);
        let secret = "secret = { env = \"SECRET_64\" }\n";
        for (key, value) in [
            ("insecure_http", "true"),
            ("fetch_timeout", "\"1s\""),
            ("tls", "{ server_name = \"id\" }"),
        ] {
            check(
                &issuer(&format!("{secret}{key} = {value}")),
                &format!("issuers[0].{key}"),
                "would never be used",
            );
        }
    }

    #[test]
    fn the_tls_of_a_fetch_is_good_when_the_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["gateway".into()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for (name, text) in [
            ("c.pem", pem),
            ("c.key", key.serialize_pem()),
            ("other.key", other),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let with = |url: &str, tls: &str| {
            let tls = tls.replace('@', folder.path().to_str().unwrap());
            issuer(&format!("jwks_uri = \"{url}\"\ntls = {{ {tls} }}"))
        };
        let all = "ca = \"@/c.pem\", certificate = \"@/c.pem\", key = \"@/c.key\", server_name = \"id.internal\"";
        let tls = &good(&with("https://10.0.0.1/keys", all)).issuers[0].tls;
        let path = |name: &str| folder.path().join(name);
        let expected = Files {
            ca: Some(path("c.pem")),
            identity: Some(IdentityFiles {
                certificate: path("c.pem"),
                key: path("c.key"),
            }),
            server_name: Some("id.internal".try_into().unwrap()),
        };
        assert_eq!(*tls, expected);
        for (url, tls, key, word) in [
            (
                "https://id/keys",
                "ca = \"@/none.pem\"",
                ".ca",
                "cannot be read",
            ),
            (
                "https://id/keys",
                "ca = \"@/c.pem\", certificate = \"@/c.pem\"",
                ".key",
                "is missing",
            ),
            (
                "https://id/keys",
                "ca = \"@/c.pem\", certificate = \"@/c.pem\", key = \"@/other.key\"",
                ".key",
                "does not fit the certificate",
            ),
            (
                "http://127.0.0.1/keys",
                "ca = \"@/c.pem\"",
                "",
                "is for https://",
            ),
        ] {
            check(&with(url, tls), &format!("issuers[0].tls{key}"), word);
        }
        let (known, of_discovery) = ("jwks_uri = \"http://", "discovery = \"http://");
        good(&with("http://127.0.0.1/d", "ca = \"@/c.pem\"").replace(known, of_discovery));
    }

    #[test]
    fn times_have_bounds() {
        for line in [
            "refresh = \"29s\"",
            "refresh = \"25h\"",
            "refresh_min_interval = \"0s\"",
            "refresh_min_interval = \"2h\"",
            "fetch_timeout = \"0s\"",
            "fetch_timeout = \"2m\"",
            "stale_max = \"0s\"",
            "leeway = \"301s\"",
            "max_token_lifetime = \"0s\"",
            "max_token_lifetime = \"401days\"",
        ] {
            let key = line.split(' ').next().expect("a key");
            let all = faults(&issuer(line));
            assert!(all[0].contains(&format!("issuers[0].{key}: ")), "{all:?}");
            assert!(all[0].contains("is out of bounds"), "{all:?}");
        }
        check(
            &issuer("refresh = \"1h\"\nstale_max = \"59m\""),
            "issuers[0].stale_max",
            "is shorter than refresh",
        );
        let settings = good(&issuer("leeway = \"0s\"\nrefresh = \"24h\""));
        assert_eq!(settings.issuers[0].rules.leeway, Duration::ZERO);
        assert_eq!(settings.issuers[0].stale_max, DAY);
    }

    #[test]
    fn types_are_folded_and_the_empty_one_is_none() {
        let settings = good(&issuer(
            "token_types = [\"application/AT+JWT\", \"at+jwt\", \"JWT\"]",
        ));
        let types = &settings.issuers[0].rules.types;
        assert_eq!(types.named, ["at+jwt", "jwt"].map(Box::<str>::from));
        assert!(!types.absent);
        assert!(
            good(&issuer("token_types = [\"\"]")).issuers[0]
                .rules
                .types
                .absent
        );
        check(
            &issuer("token_types = []"),
            "issuers[0].token_types",
            "no token would pass",
        );
        check(
            &issuer("token_types = [\"a b\"]"),
            "issuers[0].token_types[0]",
            "is no token type",
        );
        check(
            &issuer("token_types = [\"application/\"]"),
            "issuers[0].token_types[0]",
            "is no token type",
        );
    }

    #[test]
    fn claims_have_names() {
        let settings = good(&issuer(
            "claims = { subject = \"uid\", client = \"appid\", scopes = [\"scp\", \"/a/b\"] }\nrequire = [\"sid\"]",
        ));
        let rules = &settings.issuers[0].rules;
        assert_eq!(rules.names.subject.as_str(), "uid");
        assert_eq!(rules.names.token_id.as_str(), "jti");
        assert_eq!(rules.names.client.len(), 1);
        assert_eq!(rules.names.scopes[1].as_str(), "/a/b");
        assert_eq!(rules.require[0].as_str(), "sid");
        check(
            &issuer("claims = { session_id = \"\" }"),
            "issuers[0].claims.session_id",
            "is no claim",
        );
        check(
            &issuer("claims = { client = \"a..b\" }"),
            "issuers[0].claims.client",
            "is no claim",
        );
        check(
            &issuer("claims = { scopes = [\"scp\", \"\"] }"),
            "issuers[0].claims.scopes[1]",
            "is no claim",
        );
        check(
            &issuer("claims = { scopes = [] }"),
            "issuers[0].claims.scopes",
            "is empty",
        );
        check(
            &issuer("claims = { scopes = [1] }"),
            "issuers[0].claims.scopes[0]",
            "does not fit",
        );
        check(
            &issuer("require = [\"\"]"),
            "issuers[0].require[0]",
            "is no claim",
        );
    }
}

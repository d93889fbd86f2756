//! `[[issuers]]`

use std::sync::Arc;
use std::time::Duration;

use super::check::{Check, Unique};
use super::headers::headers;
use super::keys::keys;
use super::url;
use crate::base::limits::ID_BYTES_MAX;
use crate::base::names::IssuerName;
use crate::base::secret::ExposeSecret;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::{Issuer, KeySource};
use crate::jwks::Algorithm;
use crate::token::{ClaimNames, ClaimPath, Rules, Types};

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
        let made = issuer(raw, identifier, name, &at, check);
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
    let ca = raw
        .ca
        .as_ref()
        .and_then(|file| check.file(&at.key("ca"), file));
    if let Some(keys) = &keys {
        fetch(raw, keys, at, check);
    }
    let headers = headers(raw, at, check);
    Some(Issuer {
        name: name?,
        rules: Rules {
            issuer: Arc::from(identifier?),
            audiences,
            algorithms,
            leeway,
            max_lifetime,
            types,
            require,
            names,
        },
        keys: keys?,
        ca,
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

/// What is fetched over the network, and what is only good for that.
fn fetch(raw: &raw::Issuer, keys: &KeySource, at: &KeyPath, check: &mut Check<'_>) {
    match keys {
        KeySource::Discovery(url) | KeySource::Url(url) => {
            if url::is_exposed(url) && !raw.insecure_http.unwrap_or(false) {
                let key = if matches!(keys, KeySource::Url(_)) {
                    "jwks_uri"
                } else if raw.discovery.is_some() {
                    "discovery"
                } else {
                    "issuer"
                };
                check.fault(
                    &at.key(key),
                    format!("keys from {url} can be forged by anybody on the way; write https://, or insecure_http = true if the network is trusted"),
                );
            }
        }
        KeySource::File(_)
        | KeySource::Inline(_)
        | KeySource::PublicKeyFile(_)
        | KeySource::Secret(_) => {
            let unused = [
                ("ca", raw.ca.is_some()),
                ("insecure_http", raw.insecure_http == Some(true)),
                ("fetch_timeout", raw.fetch_timeout.is_some()),
            ];
            for (key, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
                check.fault(
                    &at.key(key),
                    "would never be used, because this issuer's keys are not fetched; leave it out",
                );
            }
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

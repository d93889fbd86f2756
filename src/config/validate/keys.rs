//! Where an issuer's keys come from: one key of the table at most, by default discovery.

use http::Uri;
use serde_json::Value;

use super::check::Check;
use super::url;
use crate::base::limits::JWKS_BYTES_MAX;
use crate::config::place::KeyPath;
use crate::config::raw::{self, Discovery, Jwks};
use crate::config::settings::KeySource;

/// The key source of an issuer. `issuer` is its identifier, if it has one.
pub(super) fn keys(
    raw: &raw::Issuer,
    issuer: Option<&str>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Option<KeySource> {
    let written: Vec<&str> = [
        ("discovery", raw.discovery.is_some()),
        ("jwks_uri", raw.jwks_uri.is_some()),
        ("jwks_file", raw.jwks_file.is_some()),
        ("jwks", raw.jwks.is_some()),
        ("public_key_file", raw.public_key_file.is_some()),
        ("secret", raw.secret.is_some()),
    ]
    .into_iter()
    .filter(|(key, is_some)| *is_some || check.is_hole(&at.key(key)))
    .map(|(key, _)| key)
    .collect();
    if let [first, second, ..] = written[..] {
        check.fault(
            &at.key(second),
            format!(
                "is a second key source beside {first}; keep one of {}",
                written.join(", ")
            ),
        );
        return None;
    }
    match written.first() {
        None => discovery(None, issuer, at, check),
        Some(&key) => {
            let path = at.key(key);
            if let Some(other) = &raw.discovery {
                discovery(Some(other), issuer, at, check)
            } else if let Some(text) = &raw.jwks_uri {
                check.parsed(&path, text, url::parse).map(KeySource::Url)
            } else if let Some(text) = &raw.jwks_file {
                check.file(&path, text).map(KeySource::File)
            } else if let Some(jwks) = &raw.jwks {
                inline(jwks, &path, check)
            } else if let Some(text) = &raw.public_key_file {
                check.file(&path, text).map(KeySource::PublicKeyFile)
            } else if let Some(reference) = &raw.secret {
                check.secret(&path, reference).map(KeySource::Secret)
            } else {
                None
            }
        }
    }
}

/// OpenID Connect Discovery 1.0 section 4: the issuer without a slash at its end, and the well-known path.
fn discovery(
    raw: Option<&Discovery>,
    issuer: Option<&str>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Option<KeySource> {
    let path = at.key("discovery");
    match raw {
        Some(Discovery::Url(text)) => check
            .parsed(&path, text, url::parse)
            .map(KeySource::Discovery),
        Some(Discovery::Own(false)) => {
            check.fault(
                &path,
                "leaves the issuer without keys; write another key source instead, such as jwks_uri",
            );
            None
        }
        Some(Discovery::Own(true)) | None => {
            let issuer = issuer?;
            let url = own_discovery(issuer);
            if url.is_none() {
                check.fault(
                    &at.key("issuer"),
                    format!("{issuer:?} is no URL that keys can be discovered at; write a key source, such as jwks_uri or jwks_file"),
                );
            }
            url.map(KeySource::Discovery)
        }
    }
}

fn own_discovery(issuer: &str) -> Option<Uri> {
    let issuer_url = url::parse(issuer).ok()?;
    if issuer_url.query().is_some() {
        return None;
    }
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    url::parse(&format!("{base}/.well-known/openid-configuration")).ok()
}

/// A key set in the configuration itself. What single keys are good for is judged where key sets are read.
fn inline(jwks: &Jwks, path: &KeyPath, check: &mut Check<'_>) -> Option<KeySource> {
    let set = match jwks {
        Jwks::Table(set) => set.clone(),
        Jwks::Json(text) => {
            match serde_json::from_str(text) {
                Ok(set) => set,
                Err(error) => {
                    let (line, column) = (error.line(), error.column());
                    check.fault(path, format!("is no JSON (its line {line}, column {column}); write {{\"keys\": [...]}}"));
                    return None;
                }
            }
        }
    };
    let keys = set.get("keys").and_then(Value::as_array);
    let what = match keys {
        None => "is no key set; write {\"keys\": [...]}".to_owned(),
        Some(keys) if keys.is_empty() => "has no keys; write at least one".to_owned(),
        Some(keys) if keys.iter().any(is_private) => {
            "holds a private or symmetric key; write the public members alone, or use secret"
                .to_owned()
        }
        Some(_) => {
            let json = set.to_string();
            if json.len() <= JWKS_BYTES_MAX {
                return Some(KeySource::Inline(json));
            }
            format!("is larger than {JWKS_BYTES_MAX} bytes")
        }
    };
    check.fault(path, what);
    None
}

/// Members that are private (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1).
fn is_private(key: &Value) -> bool {
    ["d", "p", "q", "k"]
        .iter()
        .any(|member| key.get(member).is_some())
}

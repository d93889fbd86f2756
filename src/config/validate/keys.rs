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

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good, issuer};
    use super::*;

    fn source(line: &str) -> KeySource {
        let mut settings = good(&issuer(line));
        settings.issuers.remove(0).keys
    }

    #[test]
    fn keys_are_discovered_at_the_issuer_by_default() {
        let url = "https://id.example.com/.well-known/openid-configuration";
        for line in ["", "discovery = true"] {
            assert!(
                matches!(source(line), KeySource::Discovery(found) if found == url),
                "{line}"
            );
        }
        let slash = BASE.replace("id.example.com", "id.example.com/");
        assert!(
            matches!(&good(&slash).issuers[0].keys, KeySource::Discovery(found) if *found == url)
        );
        let other = source("discovery = \"https://other.example.com/config\"");
        assert!(
            matches!(other, KeySource::Discovery(found) if found == "https://other.example.com/config")
        );
        let named = BASE.replace("https://id.example.com", "company");
        check(
            &named,
            "issuers[0].issuer",
            "is no URL that keys can be discovered at",
        );
        check(
            &issuer("discovery = false"),
            "issuers[0].discovery",
            "without keys",
        );
        check(
            &issuer("discovery = \"config\""),
            "issuers[0].discovery",
            "must begin with https://",
        );
    }

    #[test]
    fn an_issuer_has_one_key_source() {
        assert!(
            matches!(source("jwks_uri = \"https://a/keys\""), KeySource::Url(found) if found == "https://a/keys")
        );
        check(
            &issuer("jwks_uri = \"https://a/keys\"\ndiscovery = true"),
            "issuers[0].jwks_uri",
            "is a second key source beside discovery; keep one of discovery, jwks_uri",
        );
        check(
            &issuer("jwks_uri = \"keys\""),
            "issuers[0].jwks_uri",
            "must begin with https://",
        );
    }

    #[test]
    fn files_must_be_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys");
        std::fs::write(&file, "x").expect("a file");
        let line =
            |key: &str, path: &std::path::Path| format!("{key} = {:?}", path.display().to_string());
        assert!(
            matches!(source(&line("jwks_file", &file)), KeySource::File(found) if found == file)
        );
        assert!(
            matches!(source(&line("public_key_file", &file)), KeySource::PublicKeyFile(found) if found == file)
        );
        for key in ["jwks_file", "public_key_file"] {
            check(
                &issuer(&line(key, &folder.path().join("none"))),
                &format!("issuers[0].{key}"),
                "cannot be read",
            );
            check(
                &issuer(&line(key, folder.path())),
                &format!("issuers[0].{key}"),
                "is a folder",
            );
        }
    }

    #[test]
    fn an_inline_set_has_public_keys() {
        let json = r#"{"keys":[{"kty":"OKP"}]}"#;
        for line in [
            format!("jwks = '{json}'"),
            "jwks = { keys = [{ kty = \"OKP\" }] }".to_owned(),
        ] {
            assert!(
                matches!(source(&line), KeySource::Inline(text) if text == json),
                "{line}"
            );
        }
        for (set, word) in [
            ("'{'", "is no JSON (its line 1, column 1)"),
            ("'[]'", "is no key set"),
            ("{}", "is no key set"),
            ("'{\"keys\": []}'", "has no keys"),
            (
                "{ keys = [{ kty = \"OKP\", d = \"x\" }] }",
                "holds a private or symmetric key",
            ),
            (
                "{ keys = [{ kty = \"oct\", k = \"x\" }] }",
                "holds a private or symmetric key",
            ),
        ] {
            check(&issuer(&format!("jwks = {set}")), "issuers[0].jwks", word);
        }
        let large = format!(
            "jwks = {{ keys = [{{ kty = \"{}\" }}] }}",
            "x".repeat(JWKS_BYTES_MAX)
        );
        check(&issuer(&large), "issuers[0].jwks", "is larger than");
    }
}

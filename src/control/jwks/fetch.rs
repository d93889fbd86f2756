//! One fetch of a key set: discovery if need be, then the set itself, all under one deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::target::may_lead;
use crate::base::limits::JWKS_BYTES_MAX;
use crate::http::client::{Client, ClientError, PlainHttp};
use crate::http::client_tls::{Files, FilesError};
use crate::jwks::{KeySet, KeySetError};

/// Largest discovery document read, in bytes. Public ones have 2 to 8 KiB.
const DISCOVERY_BYTES_MAX: usize = 64 * 1024;

/// Most of a foreign `issuer` or `jwks_uri` that is shown in the log, in characters.
const SHOWN_MAX: usize = 200;

/// Where an issuer's keys are fetched.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) issuer: Arc<str>,
    pub(super) source: Source,
    pub(super) tls: Files,
    pub(super) plain_http: PlainHttp,
    /// For one whole fetch.
    pub(super) timeout: Duration,
}

/// What the configured URL leads to.
#[derive(Debug)]
pub(super) enum Source {
    /// A document that names the key set.
    Discovery(Uri),
    /// The key set.
    Jwks(Uri),
}

impl Source {
    pub(super) const fn url(&self) -> &Uri {
        match self {
            Self::Discovery(url) | Self::Jwks(url) => url,
        }
    }
}

/// A good key set, fresh from its provider.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) set: KeySet,
    /// As it came.
    pub(super) json: Bytes,
    /// How long the provider says that it stays good.
    pub(super) max_age: Option<Duration>,
}

/// Why a fetch gave no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("tls: {0}")]
    Tls(#[from] FilesError),
    #[error("the discovery document: {0}")]
    Discovery(#[source] ClientError),
    #[error("the discovery document is no JSON object with the strings `issuer` and `jwks_uri`")]
    DiscoveryFormat,
    #[error(
        "the discovery document says that its issuer is {found:?}; write exactly that as `issuer`, or correct the URL"
    )]
    Issuer { found: String },
    #[error("the discovery document's `jwks_uri` is no URL")]
    JwksUri,
    #[error(
        "the discovery document's `jwks_uri` leads to {found:?}, where a document must not lead: from https:// to http://, to this machine, or to an address that no provider has; if that is meant, configure it as `jwks_uri`"
    )]
    JwksTarget { found: String },
    #[error("the key set: {0}")]
    Jwks(#[source] ClientError),
    #[error("the key set: {0}")]
    KeySet(#[from] KeySetError),
    #[error("the certificates could not be read in time")]
    Deadline,
}

/// OpenID Connect Discovery 1.0 section 3; the rest is not needed.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the key set.
pub(super) async fn fetch(remote: &Remote) -> Result<Fetched, FetchError> {
    let deadline = Instant::now() + remote.timeout;
    // A new one each time: a fetch happens every few minutes, and renewed certificates count without a restart.
    let client = timeout_at(
        deadline,
        Client::open(remote.tls.clone(), remote.plain_http),
    )
    .await
    .map_err(|_| FetchError::Deadline)??;
    let jwks = match &remote.source {
        Source::Jwks(url) => url.clone(),
        Source::Discovery(url) => discover(remote, &client, url, deadline).await?,
    };
    let answer = client
        .get_json(&jwks, JWKS_BYTES_MAX, deadline)
        .await
        .map_err(FetchError::Jwks)?;
    Ok(Fetched {
        set: KeySet::parse(answer.body())?,
        max_age: max_age(answer.headers()),
        json: answer.into_body(),
    })
}

async fn discover(
    remote: &Remote,
    client: &Client,
    url: &Uri,
    deadline: Instant,
) -> Result<Uri, FetchError> {
    let answer = client
        .get_json(url, DISCOVERY_BYTES_MAX, deadline)
        .await
        .map_err(FetchError::Discovery)?;
    let document: Discovery =
        serde_json::from_slice(answer.body()).map_err(|_| FetchError::DiscoveryFormat)?;
    // Section 4.3: identical, or anybody who can write a file on that host becomes the issuer.
    if document.issuer != *remote.issuer {
        return Err(FetchError::Issuer {
            found: document.issuer.chars().take(SHOWN_MAX).collect(),
        });
    }
    let jwks = document.jwks_uri.parse().map_err(|_| FetchError::JwksUri)?;
    if may_lead(url, &jwks) {
        Ok(jwks)
    } else {
        Err(FetchError::JwksTarget {
            found: document.jwks_uri.chars().take(SHOWN_MAX).collect(),
        })
    }
}

/// RFC 9111 section 5.2.2.1. What cannot be read counts as absent.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .find_map(|directive| {
            let (name, value) = directive.split_once('=')?;
            if !name.trim().eq_ignore_ascii_case("max-age") {
                return None;
            }
            value.trim().trim_matches('"').parse().ok()
        })
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_max_age_is_found_in_any_line() {
        #[track_caller]
        fn check(lines: &[&str], seconds: Option<u64>) {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CACHE_CONTROL, line.parse().unwrap());
            }
            assert_eq!(
                max_age(&headers),
                seconds.map(Duration::from_secs),
                "{lines:?}"
            );
        }
        check(&[], None);
        check(&["max-age=600"], Some(600));
        check(&["public, Max-Age = \"60\", must-revalidate"], Some(60));
        check(&["public", "max-age=0"], Some(0));
        check(&["s-maxage=5"], None);
        check(&["max-age=soon"], None);
        check(&["max-age=-1"], None);
    }
}

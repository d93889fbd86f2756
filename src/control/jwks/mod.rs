//! Fills the key tables: one task per issuer, so that a dead provider harms no other one. A failed or
//! bad fetch never replaces good keys; keys that nobody could confirm for too long are no longer
//! trusted.

mod cache;
mod fetch;
mod file;
mod refresh;
mod target;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::clock::{Clock, UnixSeconds};
use crate::base::names::IssuerName;
use crate::config::settings::{Issuer, KeySource};
use crate::http::client::PlainHttp;
use crate::jwks::{
    Algorithm, Change, Key, KeyError, KeySet, KeySetError, KeyTable, KeyTableWriter, RefreshGate,
    SkipReason, refresh_gate,
};
use cache::Cache;
use fetch::{Remote, Source};
pub use file::FileError;
use file::{Format, WatchedFile};
use refresh::Refresher;

/// An issuer's keys, and the task that keeps them fresh.
#[derive(Debug)]
pub struct IssuerKeys {
    /// What requests read.
    pub table: Arc<KeyTable>,
    /// How requests ask for newer keys.
    pub gate: RefreshGate,
    /// Ends when the shutdown token is cancelled. None where the keys cannot change.
    pub task: Option<JoinHandle<()>>,
}

/// Why an issuer's keys can certainly never be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// The key set in the configuration.
    #[error("jwks: {0}")]
    Inline(#[source] KeySetError),
    /// The PEM file.
    #[error("public_key_file: {0}")]
    PublicKeyFile(#[source] FileError),
    /// The shared secret.
    #[error("secret: {0}")]
    Secret(#[source] KeyError),
    /// A secret that is shorter than an algorithm's hash cannot check it (RFC 7518 section 3.2), and a
    /// key of another kind none at all.
    #[error("algorithms: {0} cannot be checked with the given key")]
    Algorithm(Algorithm),
    /// None of the keys is good for any algorithm of the issuer.
    #[error("no key fits any of the issuer's algorithms")]
    NoKeyFits,
}

/// Starts to load an issuer's keys and to keep them fresh, on the tokio runtime that this is called on.
///
/// A provider that does not answer, or a JWKS file that is not there yet, is no error: it is logged
/// and tried again. Files and keys from the configuration are read before this returns.
pub fn start(
    issuer: &Issuer,
    jwks_cache: Option<&Path>,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> Result<IssuerKeys, KeySourceError> {
    match &issuer.keys {
        KeySource::Discovery(url) => {
            let source = Source::Discovery(url.clone());
            Ok(start_remote(issuer, source, jwks_cache, clock, shutdown))
        }
        KeySource::Url(url) => {
            let source = Source::Jwks(url.clone());
            Ok(start_remote(issuer, source, jwks_cache, clock, shutdown))
        }
        KeySource::File(path) => {
            let mut file = watch(issuer, path, Format::Jwks, clock);
            // Said in the log; it may come later.
            let _ = file.load();
            Ok(file.start(shutdown.clone()))
        }
        KeySource::PublicKeyFile(path) => {
            let mut file = watch(issuer, path, Format::Pem, clock);
            let set = file.load().map_err(KeySourceError::PublicKeyFile);
            set.and_then(|()| file.start_if_fitting(shutdown.clone()))
        }
        KeySource::Inline(json) => {
            let set = KeySet::parse(json.as_bytes()).map_err(KeySourceError::Inline)?;
            if !fits_any(&set, &issuer.rules.algorithms) {
                return Err(KeySourceError::NoKeyFits);
            }
            Ok(fixed(issuer, set, clock.now()))
        }
        KeySource::Secret(secret) => {
            let key = Key::from_secret(secret).map_err(KeySourceError::Secret)?;
            let algorithms = &issuer.rules.algorithms;
            if let Some(misfit) = algorithms.iter().find(|algorithm| !key.fits(**algorithm)) {
                return Err(KeySourceError::Algorithm(*misfit));
            }
            Ok(fixed(issuer, KeySet::from_keys(vec![key]), clock.now()))
        }
    }
}

fn start_remote(
    issuer: &Issuer,
    source: Source,
    jwks_cache: Option<&Path>,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> IssuerKeys {
    let (table, mut writer) = KeyTable::new();
    let (gate, desk) = refresh_gate(issuer.refresh_min_interval);
    let cache = jwks_cache
        .map(|folder| Cache::new(folder, &issuer.rules.issuer, &source.url().to_string()));
    let remote = Remote {
        issuer: Arc::clone(&issuer.rules.issuer),
        source,
        tls: issuer.tls.clone(),
        plain_http: PlainHttp::allowed(issuer.insecure_http),
        timeout: issuer.fetch_timeout,
    };
    writer.trust_for(issuer.stale_max);
    let refresher = Refresher {
        publisher: Publisher::new(issuer, writer),
        remote,
        desk,
        cache,
        clock: clock.clone(),
        refresh: issuer.refresh,
        min_interval: issuer.refresh_min_interval,
        stale_max: issuer.stale_max,
    };
    let task = tokio::spawn(refresher.run(shutdown.clone()));
    IssuerKeys {
        table,
        gate,
        task: Some(task),
    }
}

fn watch(issuer: &Issuer, path: &Path, format: Format, clock: &Clock) -> WatchedFile {
    let (_, mut writer) = KeyTable::new();
    writer.trust_for(issuer.stale_max);
    WatchedFile::new(
        path,
        format,
        Publisher::new(issuer, writer),
        clock.clone(),
        issuer.stale_max,
    )
}

/// Keys that cannot change.
fn fixed(issuer: &Issuer, set: KeySet, now: UnixSeconds) -> IssuerKeys {
    let (table, writer) = KeyTable::new();
    let mut publisher = Publisher::new(issuer, writer);
    publisher.publish(set, now);
    publisher.writer.mark_tried();
    IssuerKeys {
        table,
        gate: RefreshGate::closed(),
        task: None,
    }
}

/// Publishes sets of one issuer, and says in the log what changed.
#[derive(Debug)]
struct Publisher {
    name: IssuerName,
    algorithms: Vec<Algorithm>,
    writer: KeyTableWriter,
}

impl Publisher {
    fn new(issuer: &Issuer, writer: KeyTableWriter) -> Self {
        Self {
            name: issuer.name.clone(),
            algorithms: issuer.rules.algorithms.clone(),
            writer,
        }
    }

    fn publish(&mut self, set: KeySet, good_at: UnixSeconds) {
        let issuer = &self.name;
        let (keys, skipped) = (set.keys().len(), set.skipped().to_vec());
        let fits = fits_any(&set, &self.algorithms);
        let Change { added, retired } = self.writer.publish(set, good_at);
        if added == 0 && retired == 0 {
            return;
        }
        info!(%issuer, keys, added, retired, skipped = skipped.len(), "keys changed");
        if !fits {
            warn!(%issuer, "no key fits any of the issuer's algorithms: every token will be rejected");
        }
        for entry in &skipped {
            if entry.reason == SkipReason::Private {
                warn!(%issuer, index = entry.index, "the key set publishes a private key, which is not used: have it replaced");
            }
        }
    }
}

/// Whether some key is good for some algorithm.
fn fits_any(set: &KeySet, algorithms: &[Algorithm]) -> bool {
    set.keys()
        .iter()
        .any(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm)))
}

//! Fetched key sets on disk, so that a restart does not need the provider. One file per issuer; what
//! it says is parsed as strictly as what comes from the network.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::base::clock::UnixSeconds;
use crate::base::file::read_bounded;
use crate::base::limits::{ID_BYTES_MAX, JWKS_BYTES_MAX};
use crate::base::names::IssuerName;
use crate::jwks::{KeySet, KeySetError};

/// Largest file read, in bytes: a key set as a JSON string, where each quote takes two bytes, and its
/// surroundings.
const FILE_BYTES_MAX: usize = 2 * JWKS_BYTES_MAX + 8 * ID_BYTES_MAX;

/// How far a file's time may lie ahead of the clock, for a clock that was set back a little. A time
/// further ahead would make old keys look fresh.
const AHEAD_MAX: Duration = Duration::from_mins(1);

/// The file of one issuer.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    file: PathBuf,
    issuer: String,
    url: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    issuer: Cow<'a, str>,
    /// The configured one: keys of another source are not taken for this one's.
    url: Cow<'a, str>,
    /// Seconds since 1970.
    fetched_at: u64,
    /// As it came.
    jwks: Cow<'a, str>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("its time lies in the future")]
    Future,
    #[error("its key set: {0}")]
    KeySet(#[from] KeySetError),
}

impl Cache {
    pub(super) fn new(folder: &Path, issuer: &str, url: &str) -> Self {
        let mut name = String::with_capacity(64 + 5);
        for byte in digest(&SHA256, issuer.as_bytes()).as_ref() {
            let _ = write!(name, "{byte:02x}");
        }
        name.push_str(".json");
        Self {
            folder: folder.to_owned(),
            file: folder.join(name),
            issuer: issuer.to_owned(),
            url: url.to_owned(),
        }
    }

    /// The set, and when it was fetched, if it is this issuer's and younger than `age_max`. What is
    /// wrong with a file is said in the log.
    pub(super) async fn load(
        &self,
        name: &IssuerName,
        now: UnixSeconds,
        age_max: Duration,
    ) -> Option<(KeySet, UnixSeconds)> {
        let cache = self.clone();
        let loaded = spawn_blocking(move || cache.read(now, age_max))
            .await
            .ok()?;
        loaded.unwrap_or_else(|error| {
            warn!(issuer = %name, file = %self.file.display(), %error, "the saved key set is ignored");
            None
        })
    }

    /// Replaces the file. A failure is said in the log, and else of no consequence.
    pub(super) async fn store(&self, name: &IssuerName, jwks: Bytes, now: UnixSeconds) {
        let cache = self.clone();
        let stored = spawn_blocking(move || cache.write(&jwks, now)).await;
        if let Ok(Err(error)) = stored {
            warn!(issuer = %name, file = %self.file.display(), %error, "the key set could not be saved");
        }
    }

    fn read(
        &self,
        now: UnixSeconds,
        age_max: Duration,
    ) -> Result<Option<(KeySet, UnixSeconds)>, CacheError> {
        let content = match read_bounded(&self.file, FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            content => content?,
        };
        let record: Record<'_> =
            serde_json::from_slice(&content).map_err(|_| CacheError::Damaged)?;
        if record.issuer != self.issuer || record.url != self.url {
            return Ok(None);
        }
        let fetched_at = UnixSeconds(record.fetched_at);
        if fetched_at > now.plus(AHEAD_MAX) {
            return Err(CacheError::Future);
        }
        if now.since(fetched_at) >= age_max {
            return Ok(None);
        }
        let set = KeySet::parse(record.jwks.as_bytes())?;
        Ok(Some((set, fetched_at)))
    }

    /// Whoever reads the file, after a crash too, finds the old content or the new one, whole.
    fn write(&self, jwks: &[u8], now: UnixSeconds) -> io::Result<()> {
        let record = Record {
            issuer: Cow::Borrowed(&self.issuer),
            url: Cow::Borrowed(&self.url),
            fetched_at: now.0,
            jwks: String::from_utf8_lossy(jwks),
        };
        let content = serde_json::to_vec(&record)?;
        fs::create_dir_all(&self.folder)?;
        let draft = self.file.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            // Public keys are no secret; but whoever can write this file is the issuer.
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&draft, &self.file)?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwks::rfc_examples::ED_X;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);
    const DAY: Duration = Duration::from_hours(24);

    fn jwks() -> String {
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{ED_X}"}}]}}"#)
    }

    #[test]
    fn a_set_comes_back_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("new"), "https://a", "https://a/keys");
        assert!(cache.read(NOW, DAY).unwrap().is_none());
        cache.write(jwks().as_bytes(), NOW).unwrap();
        cache.write(jwks().as_bytes(), NOW).unwrap();
        let (set, fetched_at) = cache
            .read(NOW.plus(DAY).minus(Duration::from_secs(1)), DAY)
            .unwrap()
            .unwrap();
        assert_eq!((set.keys().len(), fetched_at), (1, NOW));
        assert_eq!(
            fs::read_dir(&cache.folder).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn an_old_set_and_one_of_another_source_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "https://a", "https://a/keys");
        cache.write(jwks().as_bytes(), NOW).unwrap();
        assert!(cache.read(NOW.plus(DAY), DAY).unwrap().is_none());
        let other = Cache::new(folder.path(), "https://a", "https://b/keys");
        assert!(other.read(NOW, DAY).unwrap().is_none());
        let other = Cache::new(folder.path(), "https://b", "https://a/keys");
        assert_ne!(other.file, cache.file);
        fs::copy(&cache.file, &other.file).unwrap();
        assert!(other.read(NOW, DAY).unwrap().is_none());
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "https://a", "https://a/keys");
        cache.write(jwks().as_bytes(), NOW).unwrap();
        let whole = fs::read(&cache.file).unwrap();
        for cut in 0..whole.len() {
            fs::write(&cache.file, &whole[..cut]).unwrap();
            assert!(
                matches!(cache.read(NOW, DAY), Err(CacheError::Damaged)),
                "{cut}"
            );
        }
        cache.write(br#"{"keys":[]}"#, NOW).unwrap();
        assert!(matches!(cache.read(NOW, DAY), Err(CacheError::KeySet(_))));
        fs::write(&cache.file, vec![b' '; FILE_BYTES_MAX + 1]).unwrap();
        assert!(matches!(cache.read(NOW, DAY), Err(CacheError::Read(_))));
    }

    #[test]
    fn a_time_in_the_future_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "https://a", "https://a/keys");
        cache.write(jwks().as_bytes(), NOW.plus(AHEAD_MAX)).unwrap();
        assert!(cache.read(NOW, DAY).unwrap().is_some());
        cache.write(jwks().as_bytes(), NOW.plus(DAY)).unwrap();
        assert!(matches!(cache.read(NOW, DAY), Err(CacheError::Future)));
    }

    #[test]
    fn the_largest_set_fits_into_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "https://a", "https://a/keys");
        let mut json = jwks();
        let filler = JWKS_BYTES_MAX - json.len();
        json.push_str(&"\n".repeat(filler));
        cache.write(json.as_bytes(), NOW).unwrap();
        assert!(cache.read(NOW, DAY).unwrap().is_some());
    }
}

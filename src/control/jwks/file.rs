//! The task that watches a file with an issuer's keys. It reads the path anew every second and
//! compares the content: that sees every kind of change, the symlinks that Kubernetes swaps under a
//! `ConfigMap` included.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::select;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{IssuerKeys, KeySourceError, Publisher, fits_any};
use crate::base::clock::{Clock, UnixSeconds};
use crate::base::file::read_bounded;
use crate::base::limits::JWKS_BYTES_MAX;
use crate::jwks::{Key, KeyError, KeySet, KeySetError, KeysState, RefreshGate};

/// How often the file is read. A file in the page cache costs some microseconds.
const POLL: Duration = Duration::from_secs(1);

/// What is in the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Jwks,
    Pem,
}

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or is too long.
    #[error("{}: {source}", path.display())]
    Read {
        /// As configured.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It is no key set.
    #[error("{}: {source}", path.display())]
    Jwks {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        source: KeySetError,
    },
    /// It is no PEM file with a public key.
    #[error("{}: {source}", path.display())]
    Pem {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

/// One file and the table that it fills.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    format: Format,
    publisher: Publisher,
    clock: Clock,
    stale_max: Duration,
    /// What the last look found.
    seen: Option<Seen>,
    /// When the file last had a good set in it. None: never, or too long ago.
    good_at: Option<UnixSeconds>,
}

/// Only the content's SHA-256 is kept: a private key may lie there by mistake.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Good([u8; SHA256_OUTPUT_LEN]),
    Bad([u8; SHA256_OUTPUT_LEN]),
    Unreadable(io::ErrorKind),
}

impl WatchedFile {
    pub(super) fn new(
        path: &Path,
        format: Format,
        publisher: Publisher,
        clock: Clock,
        stale_max: Duration,
    ) -> Self {
        Self {
            path: path.to_owned(),
            format,
            publisher,
            clock,
            stale_max,
            seen: None,
            good_at: None,
        }
    }

    /// Reads the file for the first time.
    pub(super) fn load(&mut self) -> Result<(), FileError> {
        let loaded = self.look(read_bounded(&self.path, JWKS_BYTES_MAX));
        self.publisher.writer.mark_tried();
        loaded
    }

    /// Watches it from now on.
    pub(super) fn start(self, shutdown: CancellationToken) -> IssuerKeys {
        IssuerKeys {
            table: Arc::clone(self.publisher.writer.table()),
            // Whatever is in the file is in the table within a second: nobody needs to ask.
            gate: RefreshGate::closed(),
            task: Some(tokio::spawn(self.run(shutdown))),
        }
    }

    /// The same, if the key that it holds is good for something.
    pub(super) fn start_if_fitting(
        self,
        shutdown: CancellationToken,
    ) -> Result<IssuerKeys, KeySourceError> {
        let fits = match &*self.publisher.writer.table().current() {
            KeysState::Loaded(set) => fits_any(set, &self.publisher.algorithms),
            KeysState::NotLoaded | KeysState::Stale => false,
        };
        if fits {
            Ok(self.start(shutdown))
        } else {
            Err(KeySourceError::NoKeyFits)
        }
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let path = self.path.clone();
            let Ok(read) = spawn_blocking(move || read_bounded(&path, JWKS_BYTES_MAX)).await else {
                // The runtime ends.
                return;
            };
            // Said in the log.
            let _ = self.look(read);
        }
    }

    /// Takes what was read. Content that was seen before is neither parsed nor complained about again.
    fn look(&mut self, read: io::Result<Vec<u8>>) -> Result<(), FileError> {
        let now = self.clock.now();
        let outcome = match read {
            Ok(content) => self.take(&content, now),
            Err(source) => {
                let kind = source.kind();
                let path = self.path.clone();
                self.refuse(Seen::Unreadable(kind), FileError::Read { path, source })
            }
        };
        let age = self.good_at.map_or(Duration::ZERO, |good| now.since(good));
        if self.good_at.is_some() && age >= self.stale_max {
            self.good_at = None;
            self.publisher.writer.mark_stale();
            let issuer = &self.publisher.name;
            warn!(%issuer, age_s = age.as_secs(), "keys are too old and no longer used: requests get 503 until the file is good again");
        }
        outcome
    }

    fn take(&mut self, content: &[u8], now: UnixSeconds) -> Result<(), FileError> {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, content).as_ref());
        match &self.seen {
            Some(Seen::Good(old)) if *old == hash => {
                self.good_at = Some(now);
                self.publisher.writer.confirm(now);
                return Ok(());
            }
            Some(Seen::Bad(old)) if *old == hash => return Ok(()),
            Some(Seen::Good(_) | Seen::Bad(_) | Seen::Unreadable(_)) | None => {}
        }
        match self.parse(content) {
            Ok(set) => {
                self.publisher.writer.count_fetch(true);
                self.publisher.publish(set, now);
                self.good_at = Some(now);
                self.seen = Some(Seen::Good(hash));
                Ok(())
            }
            Err(error) => self.refuse(Seen::Bad(hash), error),
        }
    }

    fn parse(&self, content: &[u8]) -> Result<KeySet, FileError> {
        let path = || self.path.clone();
        match self.format {
            Format::Jwks => KeySet::parse(content).map_err(|source| FileError::Jwks {
                path: path(),
                source,
            }),
            Format::Pem => Key::from_pem(content)
                .map(|key| KeySet::from_keys(vec![key]))
                .map_err(|source| FileError::Pem {
                    path: path(),
                    source,
                }),
        }
    }

    fn refuse(&mut self, seen: Seen, error: FileError) -> Result<(), FileError> {
        let seen = Some(seen);
        if self.seen != seen {
            self.seen = seen;
            self.publisher.writer.count_fetch(false);
            let issuer = &self.publisher.name;
            warn!(%issuer, %error, "keys could not be read; those at hand stay in use");
        }
        Err(error)
    }
}

//! The task that watches the files of listeners' TLS. It reads them anew every second and compares their content: that sees
//! every kind of change, the symlinks that Kubernetes swaps under a volume included. It also says in time that a
//! certificate is about to end.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use tokio::select;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::base::clock::{Clock, UnixSeconds};
use crate::listener::tls::{Contents, Tls, TlsFault};
use crate::telemetry::metrics::as_gauge;

/// How often the files are read. Some files in the page cache cost some microseconds each.
const POLL: Duration = Duration::from_secs(1);

/// How long before its end a certificate is warned of. Those of 90 days are renewed 30 days before: two weeks later nobody
/// has, and there is time to do so.
const WARN_BEFORE: Duration = Duration::from_hours(14 * 24);

/// How often.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// One listener's TLS, and what was seen of its files.
#[derive(Debug)]
pub struct Watched {
    listener: String,
    tls: Arc<Tls>,
    seen: Option<Seen>,
    warned_at: Option<UnixSeconds>,
}

/// What the last look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// In use.
    Good([u8; 32]),
    /// Not usable. Said at the second look: certificate and key may be written one after the other.
    Bad(Option<[u8; 32]>, Told),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

impl Watched {
    /// TLS of the listener with this address.
    #[must_use]
    pub const fn new(listener: String, tls: Arc<Tls>) -> Self {
        Self {
            listener,
            tls,
            seen: None,
            warned_at: None,
        }
    }

    /// Takes what was read, if it is new and good.
    fn look(&mut self, read: Result<Contents, TlsFault>) {
        let digest = read.as_ref().ok().map(Contents::digest);
        let listener = &self.listener;
        let told = match self.seen {
            Some(Seen::Good(known)) if Some(known) == digest => return,
            Some(Seen::Bad(known, Told::Yes)) if known == digest => return,
            Some(Seen::Bad(known, Told::No)) if known == digest => Told::Yes,
            Some(Seen::Good(_) | Seen::Bad(..)) | None => Told::No,
        };
        let renewed = read.and_then(|contents| {
            self.tls.renew(&contents)?;
            Ok(contents.digest())
        });
        match renewed {
            Ok(digest) => {
                // The first look finds what the start has read, mostly.
                if self.seen.is_some() {
                    info!(%listener, "new certificates are in use");
                }
                self.seen = Some(Seen::Good(digest));
                self.warned_at = None;
            }
            Err(fault) => {
                if told == Told::Yes {
                    warn!(%listener, %fault, "new certificates cannot be used; those at hand stay in use");
                }
                self.seen = Some(Seen::Bad(digest, told));
            }
        }
    }

    /// Says when the certificates end: the metric always, the log once a day when it is soon.
    fn tell(&mut self, expiry: &IntGaugeVec, now: UnixSeconds) {
        let quiet = self
            .warned_at
            .is_some_and(|warned_at| now.since(warned_at) < WARN_EVERY);
        for (files, not_after) in self.tls.expiries() {
            let certificate = files.to_string();
            expiry
                .with_label_values(&[&self.listener, &certificate])
                .set(as_gauge(not_after.0));
            let listener = &self.listener;
            match Alarm::of(not_after, now).filter(|_| !quiet) {
                None => {}
                Some(Alarm::Ended) => {
                    self.warned_at = Some(now);
                    error!(%listener, certificate, "a certificate has expired: clients refuse it");
                }
                Some(Alarm::Soon { days }) => {
                    self.warned_at = Some(now);
                    warn!(%listener, certificate, days, "a certificate is about to expire");
                }
            }
        }
    }
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    Ended,
    Soon { days: u64 },
}

impl Alarm {
    fn of(not_after: UnixSeconds, now: UnixSeconds) -> Option<Self> {
        let left = not_after.since(now);
        if not_after.0 < now.0 {
            Some(Self::Ended)
        } else if left < WARN_BEFORE {
            let days = left.as_secs() / (24 * 60 * 60);
            Some(Self::Soon { days })
        } else {
            None
        }
    }
}

/// Watches all of them until shutdown.
pub async fn watch(
    mut all: Vec<Watched>,
    expiry: IntGaugeVec,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for watched in &mut all {
        watched.tell(&expiry, clock.now());
    }
    loop {
        select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for watched in &mut all {
            let tls = Arc::clone(&watched.tls);
            let Ok(read) = spawn_blocking(move || tls.options().files.read()).await else {
                // The runtime ends.
                return;
            };
            watched.look(read);
            watched.tell(&expiry, clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_of_two_weeks_before_its_end() {
        const DAY: u64 = 24 * 60 * 60;
        let check = |left: i64, expected| {
            let now = UnixSeconds(100 * DAY);
            let not_after = UnixSeconds(now.0.checked_add_signed(left).unwrap());
            assert_eq!(Alarm::of(not_after, now), expected, "{left}");
        };
        let day = i64::try_from(DAY).unwrap();
        check(14 * day, None);
        check(14 * day - 1, Some(Alarm::Soon { days: 13 }));
        check(0, Some(Alarm::Soon { days: 0 }));
        check(-1, Some(Alarm::Ended));
    }
}

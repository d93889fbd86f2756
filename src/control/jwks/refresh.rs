//! The task that keeps one issuer's fetched keys fresh.

use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Publisher;
use super::cache::Cache;
use super::fetch::{FetchError, Fetched, Remote, fetch};
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, UnixSeconds};
use crate::jwks::RefreshDesk;

/// However short a provider's `max-age` is, its keys are not fetched more often on schedule. A set
/// that changes faster than this is met by the wish for an unknown `kid`.
const SCHEDULE_MIN: Duration = Duration::from_secs(30);

/// First and longest pause after a failed fetch. They hold for our own tries alone and may be shorter
/// than the pause between asked ones: a provider that is just starting must not keep us waiting, and
/// no stranger can make these come faster.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`RETRY_FIRST`].
const RETRY_LAST: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Refresher {
    pub(super) publisher: Publisher,
    pub(super) remote: Remote,
    pub(super) desk: RefreshDesk,
    pub(super) cache: Option<Cache>,
    pub(super) clock: Clock,
    pub(super) refresh: Duration,
    pub(super) min_interval: Duration,
    pub(super) stale_max: Duration,
}

impl Refresher {
    /// Runs until `shutdown`. A fetch that runs then is dropped, a file that is being written is not.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        let mut good_at = self.load_from_disk().await;
        loop {
            self.desk.begin();
            let fetched = select! {
                biased;
                () = shutdown.cancelled() => return,
                fetched = fetch(&self.remote) => fetched,
            };
            let wait = match fetched {
                Ok(fetched) => {
                    backoff.reset();
                    let now = self.clock.now();
                    good_at = Some(now);
                    self.take(fetched, now).await
                }
                Err(error) => {
                    let wait = backoff.next(chance());
                    self.give_up(&error, wait);
                    wait
                }
            };
            select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.pause(wait, &mut good_at) => {}
            }
        }
    }

    /// Keys from before a restart serve until the first fetch has ended.
    async fn load_from_disk(&mut self) -> Option<UnixSeconds> {
        let (set, good_at) = self
            .cache
            .as_ref()?
            .load(&self.publisher.name, self.clock.now(), self.stale_max)
            .await?;
        info!(issuer = %self.publisher.name, "keys loaded from disk");
        self.publisher.publish(set, good_at);
        Some(good_at)
    }

    /// A good fetch. Yields how long to wait for the next one.
    async fn take(&mut self, fetched: Fetched, now: UnixSeconds) -> Duration {
        let Fetched { set, json, max_age } = fetched;
        // Publish, then answer who waits, then all the rest.
        self.publisher.publish(set, now);
        self.publisher.writer.count_fetch(true);
        self.desk.end(true);
        self.publisher.writer.mark_tried();
        if let Some(cache) = &self.cache {
            cache.store(&self.publisher.name, json, now).await;
        }
        until_next(self.refresh, max_age, self.min_interval, chance())
    }

    /// A failed one: the keys stay as they are.
    fn give_up(&mut self, error: &FetchError, wait: Duration) {
        let retry_s = wait.as_secs_f32();
        let issuer = &self.publisher.name;
        // The host alone: a query may hold somebody's secret.
        let host = self.remote.source.url().host().unwrap_or_default();
        warn!(%issuer, host, %error, retry_s, "keys could not be fetched; those at hand stay in use");
        self.publisher.writer.count_fetch(false);
        self.desk.end(false);
        self.publisher.writer.mark_tried();
    }

    /// Returns when the next fetch is due or asked for. Meanwhile sees to it that keys which are too
    /// old are no longer used.
    async fn pause(&mut self, wait: Duration, good_at: &mut Option<UnixSeconds>) {
        let due = Instant::now() + wait;
        loop {
            let mut wake = due;
            if let Some(good) = *good_at {
                let age = self.clock.now().since(good);
                let left = self.stale_max.saturating_sub(age);
                if left.is_zero() {
                    *good_at = None;
                    self.publisher.writer.mark_stale();
                    let issuer = &self.publisher.name;
                    warn!(%issuer, age_s = age.as_secs(), "keys are too old and no longer used: requests get 503 until the provider answers");
                } else {
                    wake = wake.min(Instant::now() + left);
                }
            }
            select! {
                () = self.desk.asked() => return,
                () = sleep_until(wake) => {
                    if Instant::now() >= due {
                        return;
                    }
                }
            }
        }
    }
}

/// The pause after a good fetch: `refresh`, or the provider's `max_age` if that is shorter, 10 % more
/// or less so that a fleet does not come in step, and never shorter than the floors.
fn until_next(
    refresh: Duration,
    max_age: Option<Duration>,
    min_interval: Duration,
    chance: u32,
) -> Duration {
    let wish = max_age.map_or(refresh, |max_age| max_age.min(refresh));
    let spread = 0.9 + 0.2 * f64::from(chance) / f64::from(u32::MAX);
    wish.mul_f64(spread).max(min_interval).max(SCHEDULE_MIN)
}

/// Uniform over all of `u32`. Without a source of chance jitter is the least problem.
fn chance() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(waits: Duration, seconds: f64) {
        assert!((waits.as_secs_f64() - seconds).abs() < 0.01, "{waits:?}");
    }

    #[test]
    fn the_next_fetch_comes_at_the_shorter_of_two_times() {
        let s = Duration::from_secs;
        let middle = u32::MAX / 2;
        check(until_next(s(300), None, s(10), middle), 300.0);
        check(until_next(s(300), Some(s(100)), s(10), middle), 100.0);
        check(until_next(s(300), Some(s(900)), s(10), middle), 300.0);
        check(until_next(s(300), Some(s(0)), s(10), middle), 30.0);
        check(until_next(s(300), Some(s(0)), s(60), middle), 60.0);
        check(until_next(s(300), None, s(10), 0), 270.0);
        check(until_next(s(300), None, s(10), u32::MAX), 330.0);
    }
}

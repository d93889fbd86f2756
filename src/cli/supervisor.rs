//! What systemd is told of the gateway's life (`sd_notify(3)`). Nothing where there is no `NOTIFY_SOCKET`, and a word that does not
//! arrive is a line in the log: whoever watches over the gateway must not be what ends it.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::app::{Gateway, Vitals};

/// It is ready: the keys of each issuer have been tried. Units that come after it may send requests.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is read again; [`reloaded`] follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd was not told: there is no monotonic clock"),
    }
}

/// It serves on, under the new configuration or the old one.
pub(super) fn reloaded(is_new: bool) {
    let status = if is_new {
        "serving"
    } else {
        "serving; the changed configuration was refused, the log says why"
    };
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It ends, which may take so long; systemd would otherwise kill it after `TimeoutStopSec`.
pub(super) fn ending(gateway: &Gateway) {
    let most = gateway.longest_end() + MARGIN;
    let more = format!("EXTEND_TIMEOUT_USEC={}", most.as_micros());
    tell(&[NotifyState::Stopping, NotifyState::Custom(&more)]);
}

/// What the end takes beside waiting for requests: the rest of the log is written.
const MARGIN: Duration = Duration::from_secs(5);

/// Says three times in each `WatchdogSec` that it lives, for ever: that this thread has its turn, and that each serving thread does
/// something. One that hangs is ended by systemd, and started anew.
pub(super) async fn watchdog(mut vitals: Vitals) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(period / 3);
    loop {
        ticks.tick().await;
        match vitals.silent(Instant::now()) {
            None => tell(&[NotifyState::Watchdog]),
            Some(thread) => {
                tracing::error!(
                    thread,
                    "a serving thread hangs; systemd is told no longer that the gateway lives"
                );
            }
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

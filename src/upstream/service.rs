//! One upstream as all threads know it.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::time::Instant;

use super::circuit::Circuit;
use super::endpoint::Endpoint;
use super::options::{Options, Server};
use super::outlier::ms;
use crate::telemetry::metrics::Metrics;

/// How long an upstream's failed handshakes are silent after one was told. A service that is not who it should be fails each
/// connection, and a line for each would drown the log.
const ALARM_INTERVAL: Duration = Duration::from_mins(1);

/// One upstream, shared by the pools of all threads.
#[derive(Debug)]
pub struct Upstream {
    /// What the operator set.
    pub options: Options,
    endpoints: Box<[Arc<Endpoint>]>,
    /// Where it counts what happens to it.
    pub(super) counters: Counters,
    /// The zero of its clock.
    born: Instant,
    /// What all threads together may have under way.
    pub(super) circuit: Circuit,
    /// Whoever has it ejects a server. Nobody waits for it.
    pub(super) ejecting: Mutex<()>,
    alarm: Alarm,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) ejections: IntCounterVec,
    refusals: IntCounterVec,
    retries: IntCounterVec,
}

/// How many servers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// They get requests.
    pub available: u64,
    /// They pass their health checks, but requests failed.
    pub ejected: u64,
    /// They fail their health checks.
    pub unhealthy: u64,
}

impl Upstream {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(options: Options, metrics: &Metrics) -> Self {
        let servers = options.servers.iter().cloned();
        let endpoints = servers.map(|server| Arc::new(Endpoint::new(server)));
        Self {
            endpoints: endpoints.collect(),
            options,
            counters: Counters {
                ejections: metrics.upstream_ejections.clone(),
                refusals: metrics.upstream_refusals.clone(),
                retries: metrics.upstream_retries.clone(),
            },
            born: Instant::now(),
            circuit: Circuit::default(),
            ejecting: Mutex::new(()),
            alarm: Alarm::new(Instant::now()),
        }
    }

    /// Milliseconds since it was made.
    pub(super) fn now_ms(&self) -> u64 {
        ms(self.born.elapsed())
    }

    /// How its servers fare now.
    #[must_use]
    pub fn states(&self) -> States {
        let now_ms = self.now_ms();
        let mut states = States::default();
        for endpoint in self.endpoints() {
            if !endpoint.is_healthy() {
                states.unhealthy += 1;
            } else if endpoint.is_ejected(now_ms) {
                states.ejected += 1;
            } else {
                states.available += 1;
            }
        }
        states
    }

    /// Its servers.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// A request was refused because `limit` is reached.
    pub(super) fn note_refusal(&self, limit: &str) {
        let labels = [self.options.name.as_str(), limit];
        self.counters.refusals.with_label_values(&labels).inc();
    }

    /// A request is sent once more, or would have been if the budget had allowed it.
    pub(super) fn note_retry(&self, is_sent: bool) {
        let result = if is_sent { "sent" } else { "over_budget" };
        let labels = [self.options.name.as_str(), result];
        self.counters.retries.with_label_values(&labels).inc();
    }

    /// Tells the operator why TLS to `server` fails; the client is not told.
    pub(super) fn handshake_failed(&self, server: &Server, error: &(dyn Error + 'static)) {
        let (upstream, cause) = (&self.options.name, root_cause(error));
        if self.alarm.rings(Instant::now()) {
            tracing::warn!(%upstream, %server, error = %cause, "TLS to a service failed; more of this upstream within a minute is not told");
        } else {
            tracing::debug!(%upstream, %server, error = %cause, "TLS to a service failed");
        }
    }
}

fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut cause = error;
    while let Some(beneath) = cause.source() {
        cause = beneath;
    }
    cause
}

/// Rings at most once in [`ALARM_INTERVAL`], whichever thread asks.
#[derive(Debug)]
struct Alarm {
    born: Instant,
    /// Since `born`, in milliseconds.
    silent_until_ms: AtomicU64,
}

impl Alarm {
    const fn new(born: Instant) -> Self {
        Self {
            born,
            silent_until_ms: AtomicU64::new(0),
        }
    }

    fn rings(&self, now: Instant) -> bool {
        let now_ms = ms(now.duration_since(self.born));
        let next = now_ms.saturating_add(ms(ALARM_INTERVAL));
        self.silent_until_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now_ms >= until).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_in_its_interval() {
        let born = Instant::now();
        let alarm = Alarm::new(born);
        let rings = |ms| alarm.rings(born + Duration::from_millis(ms));
        assert!(rings(10));
        assert!(!rings(10) && !rings(60_009));
        assert!(rings(60_010));
        assert!(!rings(60_011));
    }
}

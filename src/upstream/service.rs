//! One upstream as all threads know it.

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use prometheus::IntCounterVec;
use tokio::sync::watch;
use tokio::time::Instant;

use super::circuit::Circuit;
use super::connect::SendError;
use super::endpoint::Endpoint;
use super::options::{Options, Server};
use super::roster::Roster;
use crate::base::causes::root_cause;
use crate::base::clock::millis;
use crate::base::seldom::Seldom;
use crate::telemetry::metrics::Metrics;

/// How long an upstream's failed handshakes are silent after one was told. A service that is not who it should be fails each
/// connection, and a line for each would drown the log.
const ALARM_INTERVAL: Duration = Duration::from_mins(1);

/// One upstream, shared by the pools of all threads.
#[derive(Debug)]
pub struct Upstream {
    /// What the operator set.
    pub options: Options,
    roster: ArcSwap<Roster>,
    /// Names of servers that nobody has tried to resolve.
    untried: watch::Sender<usize>,
    /// Where it counts what happens to it.
    pub(super) counters: Counters,
    /// The zero of its clock.
    born: Instant,
    /// What all threads together may have under way.
    pub(super) circuit: Circuit,
    /// Whoever has it ejects a server. Nobody waits for it.
    pub(super) ejecting: Mutex<()>,
    alarm: Seldom,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) ejections: IntCounterVec,
    refusals: IntCounterVec,
    retries: IntCounterVec,
}

/// How a server fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It gets requests.
    Available,
    /// It passes its health checks, but requests failed.
    Ejected,
    /// It fails its health checks.
    Unhealthy,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Available, Self::Ejected, Self::Unhealthy];

    /// For metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Upstream {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(options: Options, metrics: &Metrics) -> Self {
        let names = options
            .servers
            .iter()
            .filter(|server| server.name().is_some());
        Self {
            untried: watch::Sender::new(names.count()),
            roster: ArcSwap::from_pointee(Roster::new(&options.servers)),
            options,
            counters: Counters {
                ejections: metrics.upstream_ejections.clone(),
                refusals: metrics.upstream_refusals.clone(),
                retries: metrics.upstream_retries.clone(),
            },
            born: Instant::now(),
            circuit: Circuit::default(),
            ejecting: Mutex::new(()),
            alarm: Seldom::new(ALARM_INTERVAL),
        }
    }

    /// Milliseconds since it was made.
    pub(super) fn now_ms(&self) -> u64 {
        millis(self.born.elapsed())
    }

    /// Its servers now, and how they fare.
    #[must_use]
    pub fn states(&self) -> Vec<(Arc<Endpoint>, State)> {
        let now_ms = self.now_ms();
        let state = |endpoint: &Endpoint| {
            if !endpoint.is_healthy() {
                State::Unhealthy
            } else if endpoint.is_ejected(now_ms) {
                State::Ejected
            } else {
                State::Available
            }
        };
        let endpoints = self.endpoints().into_iter();
        endpoints
            .map(|endpoint| {
                let state = state(&endpoint);
                (endpoint, state)
            })
            .collect()
    }

    pub(super) fn roster(&self) -> Guard<Arc<Roster>> {
        self.roster.load()
    }

    /// Its servers now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.roster().0.to_vec()
    }

    /// The name of the `at`th server has these addresses now. Called by the one task that resolves it. Returns whether that
    /// is new.
    pub fn move_to(&self, at: usize, addresses: &[IpAddr]) -> bool {
        let mut is_new = false;
        // Another name of this upstream may be resolved at the same time.
        self.roster.rcu(|roster| {
            let moved = roster.with(&self.options.servers, at, addresses);
            is_new = moved.is_some();
            moved.map_or_else(|| Arc::clone(roster), Arc::new)
        });
        is_new
    }

    /// One more name was tried to be resolved for the first time.
    pub fn note_tried(&self) {
        self.untried
            .send_modify(|untried| *untried = untried.saturating_sub(1));
    }

    /// Until all names have been tried to be resolved.
    pub async fn until_tried(&self) {
        // An error would mean that it is gone.
        drop(
            self.untried
                .subscribe()
                .wait_for(|untried| *untried == 0)
                .await,
        );
    }

    /// Whether all names have been tried to be resolved.
    #[must_use]
    pub fn tried(&self) -> bool {
        *self.untried.borrow() == 0
    }

    /// Whether there may be more than one server.
    pub(super) fn may_be_many(&self) -> bool {
        let servers = &self.options.servers;
        servers.len() > 1 || servers.iter().any(|server| server.name().is_some())
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

    /// What a try to connect says of the server.
    pub(super) fn note_connected<T>(&self, endpoint: &Endpoint, connected: &Result<T, SendError>) {
        let Err(error) = connected else { return };
        if !error.is_ours() {
            self.note_failure(endpoint);
        }
        if let SendError::Handshake(fault) = error {
            self.handshake_failed(&endpoint.server, fault);
        }
    }

    /// Tells the operator why TLS to `server` fails; the client is not told.
    pub(super) fn handshake_failed(&self, server: &Server, error: &(dyn Error + 'static)) {
        let (upstream, cause) = (&self.options.name, root_cause(error));
        if self.alarm.is_due(self.now_ms()) {
            tracing::warn!(%upstream, %server, error = %cause, "TLS to a service failed; more of this upstream within a minute is not told");
        } else {
            tracing::debug!(%upstream, %server, error = %cause, "TLS to a service failed");
        }
    }
}

//! The admin API: health, metrics, status and revocations over HTTP/1.1, on a listener of its own.
//! `docs/admin-api.md` shows every endpoint.

mod answer;
mod api;
mod auth;
mod guesses;
mod host;
#[cfg(test)]
mod openapi_tests;
mod problem;
mod server;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::IntCounterVec;
use serde_json::{Map, Value};

use self::auth::Callers;
use self::host::Hosts;
use super::denylist::Revocations;
use crate::base::clock::{Clock, UnixSeconds};
use crate::config::settings;
use crate::denylist::Lease;

pub use self::auth::Door;
pub use self::server::{serve, serve_probes};

/// Whether the gateway can serve, and what it waits for if not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// All must hold.
    pub conditions: Vec<Condition>,
}

impl Readiness {
    /// Whether every condition holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.conditions.iter().all(|condition| condition.holds)
    }
}

/// One thing that must be there before the gateway is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// For people, such as `keys of shop`.
    pub name: Cow<'static, str>,
    /// Whether it is there.
    pub holds: bool,
}

/// What the admin API shows of the rest of the gateway, asked anew for each request.
#[derive(Clone)]
pub struct Views {
    /// `/ready`
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// `/metrics`, in the text format of Prometheus.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// For how long the denylist may be trusted.
    pub lease: Lease,
    /// More members of `/v1/status`.
    pub status: Arc<dyn Fn() -> Map<String, Value> + Send + Sync>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views { .. }")
    }
}

/// Answers the requests of the admin API.
pub struct Admin {
    /// Both are swapped by a reload.
    hosts: ArcSwap<Hosts>,
    callers: ArcSwap<Callers>,
    /// Requests that were turned away, by code.
    refusals: IntCounterVec,
    revocations: Revocations,
    views: Views,
    clock: Clock,
    started: UnixSeconds,
}

impl Admin {
    /// The API for these callers, and for those that come through the door. Counts the uptime from here, and who is turned
    /// away in `refusals`, by code.
    #[must_use]
    pub fn new(
        settings: settings::Admin,
        revocations: Revocations,
        views: Views,
        clock: Clock,
        door: Option<Door>,
        refusals: IntCounterVec,
    ) -> Self {
        Self {
            hosts: ArcSwap::from_pointee(Hosts::new(settings.hosts)),
            refusals,
            callers: ArcSwap::from_pointee(Callers::new(settings.tokens, door)),
            revocations,
            views,
            started: clock.now(),
            clock,
        }
    }

    /// Takes over names and callers of a new configuration. Addresses stay.
    pub fn replace(&self, settings: settings::Admin, door: Option<Door>) {
        let callers = self.callers.load().renewed(settings.tokens, door);
        self.hosts.store(Arc::new(Hosts::new(settings.hosts)));
        self.callers.store(Arc::new(callers));
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("revocations", &self.revocations)
            .finish_non_exhaustive()
    }
}

//! The tasks beside the upstreams: who resolves names of services, and asks services whether they are well.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::health::HealthChecks;
use crate::control::names::{Begun, Names};
use crate::proxy::Shared;
use crate::upstream::Upstream;

/// The tasks of the upstreams in force.
#[derive(Debug)]
pub(super) struct Upstreams {
    health: HealthChecks,
    names: Names,
}

impl Upstreams {
    /// Begins with those of the plan.
    pub(super) fn start(
        dns_servers: Vec<SocketAddr>,
        shared: &Shared,
        tasks: &TaskTracker,
        control: &CancellationToken,
    ) -> Self {
        let checks = shared.metrics.upstream_health_checks.clone();
        let resolutions = shared.metrics.upstream_resolutions.clone();
        let mut upstreams = Self {
            health: HealthChecks::new(tasks.clone(), control.clone(), checks),
            names: Names::new(tasks.clone(), control.clone(), dns_servers, resolutions),
        };
        let plan = shared.plan.load();
        let begun = upstreams.prepare(&plan.upstreams);
        upstreams.take_over(begun, &plan.upstreams);
        upstreams
    }

    /// What has to begin before these are in force: their first requests need addresses. Dropped before, it ends.
    pub(super) fn prepare(&mut self, upstreams: &[Arc<Upstream>]) -> Begun {
        self.names.begin(upstreams)
    }

    /// These are in force, and no others.
    pub(super) fn take_over(&mut self, begun: Begun, upstreams: &[Arc<Upstream>]) {
        self.names.keep(begun, upstreams);
        self.health.replace(upstreams);
    }
}

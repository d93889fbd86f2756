//! The tasks that ask servers how they are: one for each upstream with `health`, for as long as it is in force.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fastrand::Rng;
use prometheus::IntCounterVec;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::upstream::{Endpoint, Health, Streak, Upstream, probe};

/// Starts and ends the tasks as upstreams come and go.
#[derive(Debug)]
pub struct HealthChecks {
    tasks: TaskTracker,
    control: CancellationToken,
    checks: IntCounterVec,
    /// By the place of the upstream in memory, which is held.
    running: HashMap<usize, (Arc<Upstream>, DropGuard)>,
}

impl HealthChecks {
    /// None yet. Checks are counted by upstream, server and result.
    #[must_use]
    pub fn new(tasks: TaskTracker, control: CancellationToken, checks: IntCounterVec) -> Self {
        Self {
            tasks,
            control,
            checks,
            running: HashMap::new(),
        }
    }

    /// From now on these are in force. One that was before, unchanged, goes on as if nothing had happened.
    pub fn replace(&mut self, upstreams: &[Arc<Upstream>]) {
        let kept: HashSet<usize> = upstreams.iter().map(|it| Arc::as_ptr(it).addr()).collect();
        self.running.retain(|place, _| kept.contains(place));
        for upstream in upstreams {
            let place = Arc::as_ptr(upstream).addr();
            let is_known = self.running.contains_key(&place);
            if let (false, Some(health)) = (is_known, &upstream.options.health) {
                let end = self.control.child_token();
                let task = Checks {
                    upstream: Arc::clone(upstream),
                    health: Arc::new(health.clone()),
                    counter: self.checks.clone(),
                    known: vec![],
                };
                let run = end.clone().run_until_cancelled_owned(task.run());
                self.tasks.spawn(run);
                let running = (Arc::clone(upstream), end.drop_guard());
                self.running.insert(place, running);
            }
        }
    }
}

/// The checks of one upstream.
struct Checks {
    upstream: Arc<Upstream>,
    health: Arc<Health>,
    counter: IntCounterVec,
    known: Vec<(Arc<Endpoint>, Streak)>,
}

impl Checks {
    async fn run(mut self) {
        let mut chance = Rng::new();
        loop {
            let next = Instant::now() + self.health.wait(chance.u32(..));
            self.round().await;
            sleep_until(next).await;
        }
    }

    /// Asks every server once, all at the same time.
    async fn round(&mut self) {
        let endpoints = self.upstream.endpoints();
        self.known
            .retain(|(known, _)| endpoints.iter().any(|kept| Arc::ptr_eq(kept, known)));
        let mut asked = JoinSet::new();
        for endpoint in endpoints {
            let health = Arc::clone(&self.health);
            let http2 = self.upstream.options.http2;
            asked.spawn(async move {
                let verdict = ask(&endpoint, http2, &health).await;
                (endpoint, verdict)
            });
        }
        while let Some(answer) = asked.join_next().await {
            // A panic is counted and told by itself; the next round asks again.
            if let Ok((endpoint, verdict)) = answer {
                self.take(&endpoint, verdict);
            }
        }
    }

    fn take(&mut self, endpoint: &Arc<Endpoint>, verdict: Result<(), String>) {
        let name = &self.upstream.options.name;
        let server = &**endpoint;
        let result = if verdict.is_ok() { "ok" } else { "failed" };
        let labels = [name.as_str(), &server.server.to_string(), result];
        self.counter.with_label_values(&labels).inc();
        if let Err(reason) = &verdict {
            debug!(upstream = %name, %server, reason, "a health check failed");
        }
        let known = self
            .known
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, endpoint));
        let at = known.unwrap_or_else(|| {
            self.known.push((Arc::clone(endpoint), Streak::new()));
            self.known.len() - 1
        });
        let Some(is_healthy) = self.known[at].1.take(verdict.is_ok(), &self.health) else {
            return;
        };
        endpoint.set_healthy(is_healthy);
        match verdict {
            Ok(()) => info!(upstream = %name, %server, "a server is healthy again"),
            Err(reason) => {
                warn!(upstream = %name, %server, reason, "a server is unhealthy: it gets no requests");
            }
        }
    }
}

/// One check, or what is wrong.
async fn ask(endpoint: &Endpoint, http2: bool, health: &Health) -> Result<(), String> {
    match timeout(health.timeout, probe(endpoint, http2, &health.path)).await {
        Ok(Ok(status)) if health.is_good(status) => Ok(()),
        Ok(Ok(status)) => Err(format!("status {}", status.as_u16())),
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error);
            Err(cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
        }
        Err(_) => Err("no answer in time".to_owned()),
    }
}

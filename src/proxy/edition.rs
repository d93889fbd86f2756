//! What one thread needs to serve: the plan's current edition, its own pools and counters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{Histogram, IntCounterVec};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::RequestBody;
use super::drain::Drain;
use super::request;
use super::stale::StaleNotice;
use super::streams::{STREAM_SWEEP, Streams};
use crate::authorize::Tables;
use crate::base::chance::Chance;
use crate::base::clock::Clock;
use crate::base::deadline::Deadlines;
use crate::denylist::Desk;
use crate::plan::Plan;
use crate::telemetry::metrics::{DecisionCounters, Metrics};
use crate::upstream::{Pool, Upstream};

/// What all threads share.
#[derive(Debug)]
pub struct Shared {
    /// Swapped whole on a reload.
    pub plan: ArcSwap<Plan>,
    /// Read by every request.
    pub tables: Arc<Tables>,
    /// Tells the time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Takes the revocations that requests wish.
    pub desk: Desk,
    /// Says now and then that requests pass on an old denylist.
    pub stale_notice: StaleNotice,
}

/// One thread's side of the proxy.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) deadlines: Deadlines,
    /// Tunnels, which outlive the connections that they were.
    pub(super) tasks: TaskTracker,
    /// Where bodies are left that nobody wants.
    pub(super) drain: Drain,
    /// Counts streams that were cut short. Shared within the thread: what all threads take and give back is fought over.
    pub(super) ended: Rc<IntCounterVec>,
    /// What may be cut short by a rule.
    pub(super) streams: Streams,
    /// The thread ends: tunnels say goodbye.
    pub(super) leaving: CancellationToken,
    /// For what is done of some requests only.
    pub(super) chance: RefCell<Chance>,
    edition: RefCell<Rc<Edition>>,
}

/// One edition of the plan with what this thread keeps for it.
pub(super) struct Edition {
    pub(super) plan: Arc<Plan>,
    pub(super) services: Box<[Rc<Service>]>,
    pub(super) decisions: DecisionCounters,
    /// See [`request::passed`].
    pub(super) passed: request::Names,
}

/// A service as this thread reaches it.
pub(super) struct Service {
    pub(super) pool: Pool<RequestBody>,
    pub(super) seconds: Histogram,
}

impl Worker {
    /// A worker for the thread that `deadlines` belongs to; what outlives a connection is waited for by `tasks`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, deadlines: Deadlines, tasks: TaskTracker) -> Self {
        let ended = shared.metrics.streams_ended.clone();
        let edition = Edition::new(shared.plan.load_full(), &shared.metrics, &deadlines, &[]);
        Self {
            edition: RefCell::new(Rc::new(edition)),
            shared,
            deadlines,
            tasks,
            drain: Drain::default(),
            ended: Rc::new(ended),
            streams: Streams::default(),
            leaving: CancellationToken::new(),
            chance: RefCell::default(),
        }
    }

    /// Ends all tunnels, each with a goodbye to its client.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// The current edition. A new one is noticed by the first request after the swap; requests that run keep theirs.
    pub(super) fn edition(&self) -> Rc<Edition> {
        let current = self.shared.plan.load();
        let mut edition = self.edition.borrow_mut();
        if !Arc::ptr_eq(&current, &edition.plan) {
            *edition = Rc::new(Edition::new(
                Arc::clone(&current),
                &self.shared.metrics,
                &self.deadlines,
                &edition.services,
            ));
        }
        Rc::clone(&edition)
    }

    /// Reads the rest of bodies that nobody wants, for ever.
    pub async fn drain_bodies(self: Rc<Self>) {
        self.drain.clone().run(self.deadlines.clone()).await;
    }

    /// Ends the streams that a rule, the hour or the end of the lease has caught up with, for ever.
    pub async fn end_streams(self: Rc<Self>) {
        let mut sweep = tokio::time::interval(STREAM_SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            sweep.tick().await;
            let (tables, clock) = (&self.shared.tables, &self.shared.clock);
            let stale = tables.lease.is_over(clock);
            self.streams.sweep(&tables.denylist, stale, clock.now());
        }
    }

    /// Closes upstream connections that were idle for too long, and those of services that are gone: a thread without requests
    /// learns of a new edition here.
    pub fn sweep(&self) {
        for service in &self.edition().services {
            service.pool.sweep();
        }
    }
}

impl Edition {
    /// An upstream that is the very same as one of `running` keeps its connections.
    fn new(
        plan: Arc<Plan>,
        metrics: &Metrics,
        deadlines: &Deadlines,
        running: &[Rc<Service>],
    ) -> Self {
        // By their places in memory, which `running` keeps: this runs between requests, and may have thousands to compare.
        let running: HashMap<*const Upstream, &Rc<Service>> = running
            .iter()
            .map(|service| (Arc::as_ptr(service.pool.upstream()), service))
            .collect();
        let service = |upstream: &Arc<Upstream>| {
            running.get(&Arc::as_ptr(upstream)).map_or_else(
                || {
                    Rc::new(Service {
                        pool: Pool::new(Arc::clone(upstream), deadlines.clone()),
                        seconds: metrics.upstream_seconds(upstream.options.name.as_str()),
                    })
                },
                |service| Rc::clone(service),
            )
        };
        let services = plan.upstreams.iter().map(service).collect();
        Self {
            services,
            decisions: DecisionCounters::new(metrics),
            passed: request::passed(&plan),
            plan,
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

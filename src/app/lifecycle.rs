//! A gateway from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::issuers::{Members, Starter};
use super::pulse::{Pulses, Vitals};
use super::report::Report;
use super::traces::Traces;
use super::upstreams::Upstreams;
use super::work::{End, Post};
use super::{build, denylist, work};
use crate::authorize::{Bearer, Issuer, Tables};
use crate::base::clock::Clock;
use crate::config::settings::{self, Shutdown};
use crate::config::{Outline, Settings};
use crate::control::admin::{Admin, Door, serve, serve_probes};
use crate::control::certificates::{Watched, watch};
use crate::control::denylist::{Bounds, BoundsError, OpenError, Revocations, serve_desk};
use crate::control::jwks::KeySourceError;
use crate::denylist::{Desk, Lease, desk};
use crate::listener::tls::Tls;
use crate::listener::{self, Address, Inherited, ListenError, ListenerMetrics, inherit_or_bind};
use crate::plan::Plan;
use crate::proxy::{Shared, StaleNotice};
use crate::route::Conflict;
use crate::telemetry::logs::Log;
use crate::telemetry::metrics::{Metrics, as_gauge};
use crate::token::TokenCache;

/// A running gateway. Its threads end when it is shut down.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<Address>,
    admin: Option<AdminAddresses>,
    /// What a reload swaps, and what it needs.
    pub(super) shared: Arc<Shared>,
    /// What was let through by the running configuration.
    pub(super) outline: Arc<Outline>,
    pub(super) members: Members,
    pub(super) starter: Starter,
    pub(super) traces: Traces,
    pub(super) revocations: Revocations,
    /// By which rules of the denylist are kept, and tokens of each time held.
    pub(super) bounds: Bounds,
    pub(super) upstreams: Upstreams,
    pub(super) api: Option<Arc<Admin>>,
    pub(super) shutdown: Shutdown,
    draining: Arc<AtomicBool>,
    end: End,
    threads: Vec<JoinHandle<()>>,
    pulses: Pulses,
    control: CancellationToken,
    tasks: TaskTracker,
    denylist_failed: CancellationToken,
    panics: IntCounter,
    /// A gateway that is dropped leaves nothing running.
    _guards: [DropGuard; 3],
}

/// Where the admin API and probes are answered.
#[derive(Clone, Copy, Debug)]
struct AdminAddresses {
    api: SocketAddr,
    probes: Option<SocketAddr>,
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket came with the process that no listener is for.
    #[error(
        "systemd passed a socket of {0}, which is the address of no listener; write [[listeners]] with it, or take it out of the .socket"
    )]
    Unclaimed(Address),
    /// The address of the admin API or of probes cannot be used.
    #[error("the admin API cannot listen on {address}: {source}")]
    ListenAdmin {
        /// As configured.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// Keys that stand in the configuration or on disk cannot be used.
    #[error("issuer {issuer}: {source}")]
    Keys {
        /// Its name.
        issuer: String,
        /// What is wrong with them.
        source: KeySourceError,
    },
    /// Two routes match the same requests.
    #[error("routes[{}] and routes[{}] match the same requests", .0.first, .0.second)]
    Routes(Conflict),
    /// Revocations that were acknowledged before may be lost.
    #[error("denylist.path: {0}")]
    Denylist(#[from] OpenError),
    /// Bounds of token lives cannot be remembered, without which revocations may be forgotten too soon.
    #[error("denylist.path: {0}")]
    Bounds(#[from] BoundsError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The system gives no thread.
    #[error("cannot start a serving thread: {0}")]
    Thread(std::io::Error),
}

/// How often [`Gateway::ready`] looks whether the lease has begun. Nothing waits for it but a start.
const LEASE_POLL: Duration = Duration::from_millis(10);

impl Gateway {
    /// Starts every listener and background task; must be called within a tokio runtime, which runs the background tasks.
    /// Returns when requests are accepted, which is before the gateway is ready: keys may still be on their way.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        Self::start_with(settings, clock, Inherited::default()).await
    }

    /// The same, with sockets that listen already. Each of them must be of an address in the configuration.
    pub async fn start_with(
        settings: Settings,
        clock: Clock,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        let lease = match settings.denylist.redis {
            None => Lease::unlimited(),
            Some(_) => Lease::ended(),
        };
        Self::start_under(settings, clock, inherited, lease).await
    }

    /// The same, with a denylist that is trusted for as long as `lease` says. Somebody must renew it.
    pub async fn start_under(
        settings: Settings,
        clock: Clock,
        inherited: Inherited,
        lease: Lease,
    ) -> Result<Self, StartError> {
        let control = CancellationToken::new();
        // A start that fails half way leaves nothing running.
        let undo = control.clone().drop_guard();
        let tasks = TaskTracker::new();
        let metrics = Metrics::new();
        let outline = Arc::new(Outline::of(&settings));
        let starter = Starter {
            jwks_cache: settings.jwks_cache,
            clock: clock.clone(),
            tasks: tasks.clone(),
            control: control.clone(),
        };
        let members = Members::default();
        let opened = denylist::open(&settings.denylist, &settings.issuers, &clock, &metrics)?;
        let bounds = opened.bounds.clone();
        let next = starter
            .next(settings.issuers, &[], true, &bounds)
            .map_err(|mut errors| errors.swap_remove(0))?;
        let issuers = next.issuers();
        let traces = Traces::begin(settings.telemetry.otlp, &metrics, &tasks, &control);
        let plan = build::plan(
            settings.routes,
            settings.upstreams,
            &issuers,
            &settings.listeners,
            (settings.telemetry.access_log, traces.tracer()),
            &metrics,
            None,
        )
        .map_err(StartError::Routes)?;
        next.take_over(&members);

        let denylist = denylist::start(
            opened,
            &settings.denylist,
            &members,
            &lease,
            (&clock, &metrics),
            (&tasks, &control),
        );
        let (desk, wishes) = desk();
        let revocations = denylist.revocations.clone();
        tasks.spawn(serve_desk(wishes, revocations, control.clone()));
        let tables = Tables {
            tokens: TokenCache::new(settings.token_cache_bytes, Bearer::weight),
            denylist: denylist.index,
            fingerprinter: denylist.fingerprinter,
            lease,
        };
        let shared = shared(desk, plan, tables, &clock, &metrics);
        note_good(&shared);
        let draining = Arc::new(AtomicBool::new(false));
        let admin_tls = settings.admin.as_ref().and_then(|admin| admin.tls.clone());
        let report = Report {
            shared: Arc::clone(&shared),
            members: Arc::clone(&members),
            draining: Arc::clone(&draining),
            revocations: denylist.revocations.clone(),
        };
        let admin = match settings.admin {
            None => None,
            Some(admin) => Some(start_admin(admin, &report, &issuers, &tasks, &control).await?),
        };
        let (api, admin) = admin.unzip();

        let end = End::default();
        let tls: Vec<_> = settings.listeners.iter().map(|l| l.tls.clone()).collect();
        let pulses = Pulses::new(settings.workers.get());
        let (addresses, threads) =
            start_threads((settings.listeners, inherited), &pulses, &shared, &end)?;
        let listeners = addresses.iter().map(ToString::to_string).zip(tls);
        let api_tls = admin.map(|admin| (admin.api.to_string(), admin_tls));
        watch_certificates(listeners.chain(api_tls), &shared, &tasks, &control);
        let upstreams = Upstreams::start(settings.dns_servers, &shared, &tasks, &control);
        Ok(Self {
            addresses,
            admin,
            shared,
            outline,
            members,
            starter,
            traces,
            revocations: denylist.revocations,
            bounds,
            upstreams,
            api,
            shutdown: settings.shutdown,
            draining,
            threads,
            pulses,
            control,
            tasks,
            denylist_failed: denylist.failed,
            panics: metrics.panics,
            _guards: [
                undo,
                end.stop.clone().drop_guard(),
                end.abort.clone().drop_guard(),
            ],
            end,
        })
    }

    /// Where the listeners listen, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.addresses.clone()
    }

    /// Where the admin API listens.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.map(|admin| admin.api)
    }

    /// Where probes alone are answered.
    #[must_use]
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.admin.and_then(|admin| admin.probes)
    }

    /// Returns when every issuer's keys and every name of a service have been tried, and the denylist was in sync once: when `/ready`
    /// says 200.
    pub async fn ready(&self) {
        for member in self.members.load_full().iter() {
            member.issuer.keys.until_tried().await;
        }
        for upstream in &self.shared.plan.load_full().upstreams {
            upstream.until_tried().await;
        }
        while !self.shared.tables.lease.has_begun() {
            tokio::time::sleep(LEASE_POLL).await;
        }
    }

    /// Returns when the denylist's log has failed: nothing can be revoked any more, and the process should end.
    pub async fn denylist_failed(&self) {
        self.denylist_failed.cancelled().await;
    }

    /// Where the process counts its panics. A panic is the whole process's affair, so whoever owns it must count.
    #[must_use]
    pub fn panics(&self) -> IntCounter {
        self.panics.clone()
    }

    /// To see whether its serving threads do something.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.pulses.watch(Instant::now())
    }

    /// The longest that [`Self::shutdown`] waits for others.
    #[must_use]
    pub fn longest_end(&self) -> Duration {
        self.shutdown.drain_delay + self.shutdown.drain_timeout
    }

    /// Tells by a metric how many lines the log of the process has dropped.
    pub fn tell_dropped_lines(&self, log: &Log) {
        self.shared.metrics.tell_dropped_lines(log.dropped());
    }

    /// Ends gracefully: not ready, drain delay, no new connections, running requests finish under the drain timeout.
    pub async fn shutdown(self) {
        self.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.shutdown.drain_delay).await;
        self.end.stop.cancel();
        let threads = self.threads;
        let mut ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a serving thread panicked");
                }
            }
        });
        if tokio::time::timeout(self.shutdown.drain_timeout, &mut ended)
            .await
            .is_err()
        {
            tracing::warn!("requests still run after the drain timeout; they are cut");
            self.end.abort.cancel();
            drop(ended.await);
        }
        self.control.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What all serving threads share.
fn shared(desk: Desk, plan: Plan, tables: Tables, clock: &Clock, metrics: &Metrics) -> Arc<Shared> {
    Arc::new(Shared {
        desk,
        stale_notice: StaleNotice::default(),
        plan: ArcSwap::from_pointee(plan),
        tables: Arc::new(tables),
        clock: clock.clone(),
        metrics: metrics.clone(),
    })
}

/// Every thread has its share of every listener.
fn start_threads(
    (listeners, mut inherited): (Vec<listener::Options>, Inherited),
    pulses: &Pulses,
    shared: &Arc<Shared>,
    end: &End,
) -> Result<(Vec<Address>, Vec<JoinHandle<()>>), StartError> {
    let threads = pulses.threads();
    let mut posts: Vec<Vec<Post>> = (0..threads).map(|_| vec![]).collect();
    let mut addresses = vec![];
    for options in listeners {
        let (address, acceptors) = inherit_or_bind(&options, threads, &mut inherited)?;
        tracing::info!(%address, "listening");
        let metrics = ListenerMetrics {
            connections: shared
                .metrics
                .connections
                .with_label_values(&[&address.to_string()]),
            requests: shared
                .metrics
                .requests
                .with_label_values(&[&address.to_string()]),
            faults: shared.metrics.connection_errors.clone(),
        };
        for (post, acceptor) in posts.iter_mut().zip(acceptors) {
            post.push(Post {
                acceptor,
                options: options.clone(),
                metrics: metrics.clone(),
            });
        }
        addresses.push(address);
    }
    if let Some(address) = inherited.left() {
        return Err(StartError::Unclaimed(address.clone()));
    }
    let threads = posts
        .into_iter()
        .enumerate()
        .map(|(number, posts)| {
            let (shared, end) = (Arc::clone(shared), end.clone());
            work::start(number, posts, shared, end, pulses.clone())
        })
        .collect::<Result<_, _>>()
        .map_err(StartError::Thread)?;
    Ok((addresses, threads))
}

/// The configuration is in force.
pub(super) fn note_good(shared: &Shared) {
    let now = shared.clock.now().0;
    shared.metrics.config_last_good.set(as_gauge(now));
}

/// Takes over certificates of listeners whose files change, and tells when they end.
fn watch_certificates(
    listeners: impl Iterator<Item = (String, Option<Arc<Tls>>)>,
    shared: &Shared,
    tasks: &TaskTracker,
    control: &CancellationToken,
) {
    let watched: Vec<_> = listeners
        .filter_map(|(address, tls)| Some(Watched::new(address, tls?)))
        .collect();
    if !watched.is_empty() {
        let expiry = shared.metrics.certificate_expiry.clone();
        tasks.spawn(watch(
            watched,
            expiry,
            shared.clock.clone(),
            control.clone(),
        ));
    }
}

async fn start_admin(
    settings: settings::Admin,
    report: &Report,
    issuers: &[Arc<Issuer>],
    tasks: &TaskTracker,
    control: &CancellationToken,
) -> Result<(Arc<Admin>, AdminAddresses), StartError> {
    let (listener, api) = listen(settings.address).await?;
    tracing::info!(address = %api, "the admin API answers");
    if !api.ip().is_loopback() && settings.tls.is_none() {
        tracing::warn!(
            address = %api,
            "admin.insecure: the admin API can be reached from other machines and has no TLS; whoever is on the way reads its callers' secrets"
        );
    }
    let mut probes = None;
    if let Some(address) = settings.probes {
        let (listener, address) = listen(address).await?;
        tracing::info!(%address, "probes and metrics are answered");
        tasks.spawn(serve_probes(listener, report.views(), control.clone()));
        probes = Some(address);
    }
    let shared = &report.shared;
    let door = door(&settings, issuers, shared);
    let refusals = shared.metrics.admin_refusals.clone();
    let (views, clock) = (report.views(), shared.clock.clone());
    let tls = settings.tls.clone();
    let revocations = report.revocations.clone();
    let admin = Admin::new(settings, revocations, views, clock, door, refusals);
    let admin = Arc::new(admin);
    tasks.spawn(serve(listener, tls, Arc::clone(&admin), control.clone()));
    Ok((admin, AdminAddresses { api, probes }))
}

/// Lets in who has a token of the issuer that the configuration names, which has shown that it is there.
pub(super) fn door(
    settings: &settings::Admin,
    issuers: &[Arc<Issuer>],
    shared: &Shared,
) -> Option<Door> {
    let wanted = settings.issuer.as_ref()?;
    let issuer = issuers.iter().find(|issuer| issuer.name == wanted.name)?;
    Some(Door::new(
        Arc::clone(issuer),
        wanted.clone(),
        Arc::clone(&shared.tables),
        shared.clock.clone(),
    ))
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let fault = |source| StartError::ListenAdmin { address, source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    Ok((listener, bound))
}

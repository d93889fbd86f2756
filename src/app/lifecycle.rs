//! A gateway from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::issuers::{Members, Starter};
use super::report::Report;
use super::tokens::KnownTokens;
use super::upstreams::Upstreams;
use super::work::{End, Post};
use super::{build, work};
use crate::authorize::{Bearer, Issuer, Tables};
use crate::base::clock::Clock;
use crate::config::settings::{self, Shutdown};
use crate::config::{Outline, Settings};
use crate::control::admin::{Admin, Door, serve, serve_probes};
use crate::control::certificates::{Watched, watch};
use crate::control::denylist::{
    IssuerLife, Log, OpenError, Parts, Revocations, revocations, serve_desk,
};
use crate::control::jwks::KeySourceError;
use crate::denylist::{Fingerprinter, Index, desk, index};
use crate::listener::tls::Tls;
use crate::listener::{self, Address, ListenError, ListenerMetrics, bind};
use crate::proxy::Shared;
use crate::route::Conflict;
use crate::telemetry::metrics::Metrics;
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
    pub(super) revocations: Revocations,
    pub(super) upstreams: Upstreams,
    pub(super) api: Option<Arc<Admin>>,
    pub(super) shutdown: Shutdown,
    draining: Arc<AtomicBool>,
    end: End,
    threads: Vec<JoinHandle<()>>,
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
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The system gives no thread.
    #[error("cannot start a serving thread: {0}")]
    Thread(std::io::Error),
}

impl Gateway {
    /// Starts every listener and background task; must be called within a tokio runtime, which runs the background tasks.
    /// Returns when requests are accepted, which is before the gateway is ready: keys may still be on their way.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
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
        let next = starter
            .next(settings.issuers, &[], true)
            .map_err(|mut errors| errors.swap_remove(0))?;
        let issuers = next.issuers();
        let plan = build::plan(
            settings.routes,
            settings.upstreams,
            &issuers,
            &settings.listeners,
            settings.telemetry.access_log,
            &metrics,
            None,
        )
        .map_err(StartError::Routes)?;
        next.take_over(&members);

        let denylist = start_denylist(
            &settings.denylist,
            &members,
            &clock,
            &metrics,
            &tasks,
            &control,
        )?;
        let (desk, wishes) = desk();
        let revocations = denylist.revocations.clone();
        tasks.spawn(serve_desk(wishes, revocations, control.clone()));
        let shared = Arc::new(Shared {
            desk,
            plan: ArcSwap::from_pointee(plan),
            tables: Arc::new(Tables {
                tokens: TokenCache::new(settings.token_cache_bytes, Bearer::weight),
                denylist: denylist.index,
                fingerprinter: denylist.fingerprinter,
            }),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        note_good(&shared);
        let draining = Arc::new(AtomicBool::new(false));
        let admin_tls = settings.admin.as_ref().and_then(|admin| admin.tls.clone());
        let (api, admin) = match settings.admin {
            None => (None, None),
            Some(admin) => {
                let report = Report {
                    shared: Arc::clone(&shared),
                    members: Arc::clone(&members),
                    draining: Arc::clone(&draining),
                    revocations: denylist.revocations.clone(),
                };
                let (api, places) = start_admin(admin, &report, &issuers, &tasks, &control).await?;
                (Some(api), Some(places))
            }
        };

        let end = End::default();
        let tls: Vec<_> = settings.listeners.iter().map(|l| l.tls.clone()).collect();
        let (addresses, threads) =
            start_threads(settings.listeners, settings.workers.get(), &shared, &end)?;
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
            revocations: denylist.revocations,
            upstreams,
            api,
            shutdown: settings.shutdown,
            draining,
            threads,
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

    /// Returns when every issuer's keys and every name of a service have been tried: when `/ready` says 200.
    pub async fn ready(&self) {
        for member in self.members.load_full().iter() {
            member.issuer.keys.until_tried().await;
        }
        for upstream in &self.shared.plan.load_full().upstreams {
            upstream.until_tried().await;
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

/// The denylist and its one writer, at work.
struct Denylist {
    index: Arc<Index>,
    fingerprinter: Fingerprinter,
    revocations: Revocations,
    failed: CancellationToken,
}

/// Reads the log before anything is served.
fn start_denylist(
    settings: &settings::Denylist,
    members: &Members,
    clock: &Clock,
    metrics: &Metrics,
    tasks: &TaskTracker,
    control: &CancellationToken,
) -> Result<Denylist, StartError> {
    let (index, mut index_writer) = index(settings.max_entries);
    let mut salt = [0; 16];
    let log = if let Some(path) = &settings.path {
        let sync_seconds = metrics.denylist_sync_seconds.clone();
        let log = Log::open(path, &mut index_writer, clock.now(), sync_seconds)?;
        salt = *log.salt();
        Some(log)
    } else {
        getrandom::fill(&mut salt).map_err(StartError::Random)?;
        tracing::warn!(
            "the denylist is in memory only: a restart forgets revocations; set denylist.path"
        );
        None
    };
    let fingerprinter = Fingerprinter::new(&salt);
    let (revocations, writer) = revocations(Parts {
        index: index_writer,
        log,
        fingerprinter,
        issuers: members
            .load()
            .iter()
            .map(|member| IssuerLife::from(&member.issuer.rules))
            .collect(),
        tokens: Arc::new(KnownTokens {
            members: Arc::clone(members),
            fingerprinter,
        }),
        clock: clock.clone(),
    });
    let failed = writer.failed();
    tasks.spawn(writer.run(control.clone()));
    Ok(Denylist {
        index,
        fingerprinter,
        revocations,
        failed,
    })
}

/// Every thread has its share of every listener.
fn start_threads(
    listeners: Vec<listener::Options>,
    threads: usize,
    shared: &Arc<Shared>,
    end: &End,
) -> Result<(Vec<Address>, Vec<JoinHandle<()>>), StartError> {
    let mut posts: Vec<Vec<Post>> = (0..threads).map(|_| vec![]).collect();
    let mut addresses = vec![];
    for options in listeners {
        let (address, acceptors) = bind(&options, threads)?;
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
    let threads = posts
        .into_iter()
        .enumerate()
        .map(|(number, posts)| work::start(number, posts, Arc::clone(shared), end.clone()))
        .collect::<Result<_, _>>()
        .map_err(StartError::Thread)?;
    Ok((addresses, threads))
}

/// The configuration is in force.
pub(super) fn note_good(shared: &Shared) {
    let now = shared.clock.now().0;
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    shared.metrics.config_last_good.set(now);
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

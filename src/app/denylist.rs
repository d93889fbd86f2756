//! The denylist at work: its log, its one writer, and in a fleet its relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Histogram;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::issuers::Members;
use super::lifecycle::StartError;
use super::tokens::KnownTokens;
use crate::base::clock::Clock;
use crate::config::settings;
use crate::control::denylist::{
    Bounds, IssuerLife, Joint, Log, Parts, RedisCarrier, Relay, RelayOptions, Revocations, Seal,
    join, keys_of, revocations,
};
use crate::denylist::{Fingerprinter, Index, IndexWriter, Lease, index};
use crate::telemetry::metrics::Metrics;

/// Entries stay in the stream for this much longer than the longest life of a token: sweeps and clocks are not exact.
const RETAINED_LONGER: Duration = Duration::from_mins(10);

/// What the rest of the gateway needs of it.
pub(super) struct Denylist {
    pub(super) index: Arc<Index>,
    pub(super) fingerprinter: Fingerprinter,
    pub(super) revocations: Revocations,
    /// Cancelled when nothing can be acknowledged any more.
    pub(super) failed: CancellationToken,
}

/// The denylist as it was before, and the bounds that tokens of that time are held to.
pub(super) struct Opened {
    index: Arc<Index>,
    index_writer: IndexWriter,
    fingerprinter: Fingerprinter,
    log: Option<Log>,
    /// By which rules are kept.
    lives: Vec<IssuerLife>,
    pub(super) bounds: Bounds,
    /// What the fleet seals with.
    seal: Option<Seal>,
}

/// Reads the log before anything is served, and writes which bounds of token lives are in force from now on.
pub(super) fn open(
    settings: &settings::Denylist,
    issuers: &[settings::Issuer],
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Opened, StartError> {
    let (index, mut index_writer) = index(settings.max_entries);
    let fleet = settings.redis.as_ref().map(|redis| {
        let secret = redis.secret.expose_secret();
        keys_of(secret, &redis.options.stream)
    });
    let wanted = fleet.as_ref().map(|(salt, _)| *salt);
    let mut salt = wanted.unwrap_or_default();
    let mut bounds = Bounds::default();
    let log = if let Some(path) = &settings.path {
        let sync_seconds = metrics.denylist_sync_seconds.clone();
        let log = Log::open(path, wanted, &mut index_writer, clock.now(), sync_seconds)?;
        salt = *log.salt();
        bounds = Bounds::open(&log)?;
        Some(log)
    } else {
        if wanted.is_none() {
            getrandom::fill(&mut salt).map_err(StartError::Random)?;
            tracing::warn!(
                "the denylist is in memory only: a restart forgets revocations; set denylist.path"
            );
        }
        None
    };
    let lives: Vec<_> = issuers
        .iter()
        .map(|issuer| IssuerLife::from(&issuer.rules))
        .collect();
    let bounds = bounds.then(&lives, clock.now());
    bounds.save()?;
    let lives = bounds.lives(&lives);
    Ok(Opened {
        index,
        index_writer,
        fingerprinter: Fingerprinter::new(&salt),
        log,
        lives,
        bounds,
        seal: fleet.map(|(_, seal)| seal),
    })
}

/// Takes up the denylist's work, and joins the fleet.
pub(super) fn start(
    opened: Opened,
    settings: &settings::Denylist,
    members: &Members,
    lease: &Lease,
    (clock, metrics): (&Clock, &Metrics),
    (tasks, control): (&TaskTracker, &CancellationToken),
) -> Denylist {
    let (index, fingerprinter) = (opened.index, opened.fingerprinter);
    let mut parts = Parts {
        index: opened.index_writer,
        log: opened.log,
        fingerprinter,
        issuers: opened.lives.into_iter().collect(),
        fleet: None,
        ways: None,
        tokens: Arc::new(KnownTokens {
            members: Arc::clone(members),
            fingerprinter,
        }),
        clock: clock.clone(),
    };
    let mut joint = None;
    if let Some(redis) = &settings.redis {
        let (fleet, ways, end) = join(&redis.name, settings.max_staleness);
        parts.fleet = Some(fleet);
        parts.ways = Some(ways);
        joint = Some(end);
    }
    let (revocations, writer) = revocations(parts);
    let failed = writer.failed();
    tasks.spawn(writer.run(control.clone()));
    if let (Some(redis), Some(seal), Some(joint)) = (&settings.redis, opened.seal, joint) {
        let tables = (Arc::clone(&index), lease.clone());
        let propagation = metrics.fleet().propagation_seconds.clone();
        let options = options(settings, redis, clock, &revocations, propagation);
        let relay = relay(redis, seal, joint, tables, options);
        tasks.spawn(relay.run(control.clone()));
    }
    Denylist {
        index,
        fingerprinter,
        revocations,
        failed,
    }
}

fn relay(
    redis: &settings::Redis,
    seal: Seal,
    joint: Joint,
    tables: (Arc<Index>, Lease),
    options: RelayOptions,
) -> Relay<RedisCarrier> {
    let carrier = RedisCarrier::new(Arc::clone(&redis.options));
    Relay::new(carrier, seal, joint, tables, options)
}

fn options(
    settings: &settings::Denylist,
    redis: &settings::Redis,
    clock: &Clock,
    revocations: &Revocations,
    propagation: Histogram,
) -> RelayOptions {
    let revocations = revocations.clone();
    let boot = clock.clone();
    let longest_s = AtomicU64::new(0);
    RelayOptions {
        max_staleness: settings.max_staleness,
        members_forgotten_after: redis.members_forgotten_after,
        retention: Arc::new(move || {
            // It never shrinks: rules on tokens of an issuer that left are needed until those are over, and it may come back.
            let wanted = (revocations.longest_life() + RETAINED_LONGER).as_secs();
            let before = longest_s.fetch_max(wanted, Ordering::Relaxed);
            Duration::from_secs(wanted.max(before))
        }),
        clock: clock.clone(),
        boot: Arc::new(move || boot.boot()),
        propagation,
        // Without chance gateways that come back together stay together, which is slower and nothing else.
        chance: Arc::new(|| getrandom::u64().unwrap_or_default()),
    }
}

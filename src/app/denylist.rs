//! The denylist at work: its log, its one writer, and in a fleet its relay.

use std::sync::Arc;
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
    IssuerLife, Joint, Log, Parts, RedisCarrier, Relay, RelayOptions, Revocations, Seal, join,
    keys_of, revocations,
};
use crate::denylist::{Fingerprinter, Index, Lease, index};
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

/// Reads the log before anything is served, and joins the fleet.
pub(super) fn start(
    settings: &settings::Denylist,
    members: &Members,
    lease: &Lease,
    clock: &Clock,
    metrics: &Metrics,
    (tasks, control): (&TaskTracker, &CancellationToken),
) -> Result<Denylist, StartError> {
    let (index, mut index_writer) = index(settings.max_entries);
    let fleet = settings.redis.as_ref().map(|redis| {
        let secret = redis.secret.expose_secret();
        keys_of(secret, &redis.options.stream)
    });
    let wanted = fleet.as_ref().map(|(salt, _)| *salt);
    let mut salt = wanted.unwrap_or_default();
    let log = if let Some(path) = &settings.path {
        let sync_seconds = metrics.denylist_sync_seconds.clone();
        let log = Log::open(path, wanted, &mut index_writer, clock.now(), sync_seconds)?;
        salt = *log.salt();
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
    let fingerprinter = Fingerprinter::new(&salt);
    let mut parts = Parts {
        index: index_writer,
        log,
        fingerprinter,
        issuers: members
            .load()
            .iter()
            .map(|member| IssuerLife::from(&member.issuer.rules))
            .collect(),
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
    if let (Some(redis), Some((_, seal)), Some(joint)) = (&settings.redis, fleet, joint) {
        let tables = (Arc::clone(&index), lease.clone());
        let propagation = metrics.fleet().propagation_seconds.clone();
        let options = options(settings, redis, clock, &revocations, propagation);
        let relay = relay(redis, seal, joint, tables, options);
        tasks.spawn(relay.run(control.clone()));
    }
    Ok(Denylist {
        index,
        fingerprinter,
        revocations,
        failed,
    })
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
    RelayOptions {
        max_staleness: settings.max_staleness,
        members_forgotten_after: redis.members_forgotten_after,
        retention: Arc::new(move || revocations.longest_life() + RETAINED_LONGER),
        clock: clock.clone(),
        boot: Arc::new(move || boot.boot()),
        propagation,
        // Without chance gateways that come back together stay together, which is slower and nothing else.
        chance: Arc::new(|| getrandom::u64().unwrap_or_default()),
    }
}

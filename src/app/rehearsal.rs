//! A gateway that decides and serves nobody: the same plan, keys and tables as one that runs, to be asked by a person.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build;
use super::issuers::{Next, Starter};
use super::lifecycle::StartError;
use crate::authorize::{Bearer, Tables};
use crate::base::clock::Clock;
use crate::config::Settings;
use crate::control::denylist::Bounds;
use crate::denylist::{Fingerprinter, Lease, index};
use crate::plan::Plan;
use crate::telemetry::metrics::Metrics;
use crate::token::TokenCache;

/// Longest wait for keys. A person waits, and one fetch takes 5 s unless the file says otherwise.
const KEYS_WAIT_MAX: Duration = Duration::from_secs(10);

/// Tasks that fetch keys end when it is dropped.
#[derive(Debug)]
pub struct Rehearsal {
    /// What a request reads.
    pub plan: Plan,
    /// Keys stand in the plan; the denylist is empty and never too old, because only the running gateway knows it.
    pub tables: Tables,
    /// Their tasks end with it.
    _keys: Next,
}

impl Rehearsal {
    /// Must be called within a tokio runtime. Waits for the issuers' keys, for some seconds at most.
    pub async fn of(settings: Settings, clock: &Clock) -> Result<Self, StartError> {
        let starter = Starter {
            // What a running gateway keeps there is its own.
            jwks_cache: None,
            clock: clock.clone(),
            tasks: TaskTracker::new(),
            control: CancellationToken::new(),
        };
        let next = starter
            .next(settings.issuers, &[], true, &Bounds::default())
            .map_err(|mut errors| errors.swap_remove(0))?;
        let access_log = settings.telemetry.access_log;
        let issuers = next.issuers();
        let plan = build::plan(
            settings.routes,
            settings.upstreams,
            &issuers,
            &settings.listeners,
            (access_log, None),
            // Nobody asks for them.
            &Metrics::new(),
            None,
        )
        .map_err(StartError::Routes)?;
        // Late or dead: the decision says what is missing.
        let _ = tokio::time::timeout(KEYS_WAIT_MAX, next.until_tried()).await;
        Ok(Self {
            plan,
            tables: Tables {
                tokens: TokenCache::new(0, Bearer::weight),
                denylist: index(1).0,
                fingerprinter: Fingerprinter::new(&[0; 16]),
                lease: Lease::unlimited(),
            },
            _keys: next,
        })
    }
}

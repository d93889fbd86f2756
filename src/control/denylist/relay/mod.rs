//! A fleet: rules written on one gateway hold on all of them. The gateways hold the truth; Redis or Valkey carries it.
//!
//! - Own changes come from the outbox and become entries of one stream; what others added is read and merged. Rules merge as the
//!   larger of both, so order, repetition and replays do no harm.
//! - Redis may lose what it had: a restart, a failover to a replica that lags, a flush. Each of them is another [`Run`]. Then a gateway
//!   reads everything and publishes again whatever the stream lacks.
//! - A report to Redis, and its answer, prove that this gateway has read everything up to an instant; that renews the [`Lease`]. After
//!   another run it is not renewed before all members that were there have published what they had, or `max_staleness` has passed.
//!
//! `link` is what is needed of Redis, `redis` the real one; `session` follows the stream over one pair of links, `members` knows who is
//! there, `payload` and `seal` are the bytes. Tests drive the same code over a simulated Redis (`simulation`).

mod fleet;
mod link;
mod members;
mod payload;
mod redis;
mod seal;
mod session;
#[cfg(test)]
mod simulation;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Histogram;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::members::Members;
use self::session::{Ended, Session};
use super::outbox::Outbox;
use super::record::RuleId;
use super::writer::Message;
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, UnixSeconds};
use crate::denylist::{BootMillis, Index, Lease};

use fleet::{FleetHand, fleet};

#[cfg(test)]
pub(in crate::control) mod testing {
    //! What plays the relay in tests.

    pub(in crate::control) use super::fleet::{FleetHand, fleet};
}

pub use fleet::{Fleet, Member, RelayState, Relayed, View};
pub use link::{Carrier, Entry, EntryId, Link, LinkFault, Run, Sight};
pub use redis::{RedisCarrier, RedisLink};
pub use seal::{Seal, keys_of};

/// After a fault the relay waits this long at first …
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// … and this long at most, so that a Redis that is back is found within a second.
const BACKOFF_LAST: Duration = Duration::from_millis(500);

/// What an operator sets of a fleet, and what the rest of the gateway tells the relay.
#[derive(Clone)]
pub struct Options {
    /// How old the proof may be that this gateway is in sync.
    pub max_staleness: Duration,
    /// Who has said nothing for so long is no member any more.
    pub members_forgotten_after: Duration,
    /// For how long entries are needed: the longest life of a token, and some more. Issuers may change with the configuration.
    pub retention: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The time of day.
    pub clock: Clock,
    /// The machine's clock since its start.
    pub boot: Arc<dyn Fn() -> BootMillis + Send + Sync>,
    /// From an entry's writing to its coming into force here, in seconds.
    pub propagation: Histogram,
    /// Chance for jitter: any number.
    pub chance: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("max_staleness", &self.max_staleness)
            .field("members_forgotten_after", &self.members_forgotten_after)
            .finish_non_exhaustive()
    }
}

/// Where the relay stands, over all its sessions.
#[derive(Debug, Default)]
struct Place {
    /// The run in which `applied` means something.
    run: Run,
    /// Every entry up to this one is in force here.
    applied: EntryId,
    /// In this run everything was read, and what the stream lacked was published.
    is_reconciled: bool,
    /// Members that may know more than the stream, since it may have lost something.
    suspects: HashSet<Box<str>>,
    /// When this run began to be followed.
    since: BootMillis,
    /// Not settled before, by the server's clock.
    ripe_ms: u64,
}

/// The relay of one gateway. Give it a task: [`Relay::run`].
pub struct Relay<C> {
    carrier: C,
    options: Options,
    seal: Seal,
    hand: FleetHand,
    lease: Lease,
    writer: mpsc::Sender<Message>,
    outbox: Outbox,
    index: Arc<Index>,
    place: Place,
    members: Members,
    view: View,
    /// When rules that outlive the stream's entries were last seen in it, by the server's clock in milliseconds.
    lasting: HashMap<RuleId, u64>,
    /// The newest entry whose propagation was measured: what is read again is not.
    measured: EntryId,
    /// Whether this gateway ever had something to lose.
    has_state: bool,
    /// Which process this is: two with one name have different ones.
    instance: u64,
    /// When this process first reported, by the relay's clock. What was said in its name before that is of an earlier one.
    reports_since: Option<UnixSeconds>,
    /// Somebody else reports in this gateway's name.
    twin: Option<Twin>,
}

/// Another gateway with this one's name, as it was last seen.
#[derive(Clone, Copy, Debug)]
struct Twin {
    /// Until then it may trust what it knows.
    until: BootMillis,
    /// As configured there, or here if that is longer.
    max_staleness: Duration,
}

/// Questions of the relay that wait for the writer: entries of one read.
const QUESTIONS: usize = 64;

/// What joins the writer of a denylist to a relay: the writer's end of it.
#[derive(Debug)]
pub struct Ways {
    /// Own changes.
    pub(super) outbox: Outbox,
    /// What the relay asks. Heard also while everybody else waits for the relay.
    pub(super) inbox: mpsc::Receiver<Message>,
}

/// … and the relay's end.
#[derive(Debug)]
pub struct Joint {
    hand: FleetHand,
    writer: mpsc::Sender<Message>,
    outbox: Outbox,
}

/// A fleet of which nothing is known yet, and the two ends of what joins a gateway to it. `name` is this gateway's.
#[must_use]
pub fn join(name: &str, max_staleness: Duration) -> (Fleet, Ways, Joint) {
    let (fleet, hand) = fleet(name.into(), max_staleness);
    let (writer, inbox) = mpsc::channel(QUESTIONS);
    let outbox = Outbox::default();
    let ways = Ways {
        outbox: outbox.clone(),
        inbox,
    };
    let joint = Joint {
        hand,
        writer,
        outbox,
    };
    (fleet, ways, joint)
}

impl<C> fmt::Debug for Relay<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("place", &self.place)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl<C: Carrier> Relay<C> {
    /// Carries rules between the gateway at the other end of `joint`, whose rules requests read in `index`, and the fleet. Renews `lease`.
    #[must_use]
    pub fn new(
        carrier: C,
        seal: Seal,
        joint: Joint,
        (index, lease): (Arc<Index>, Lease),
        options: Options,
    ) -> Self {
        let instance = (options.chance)();
        Self {
            carrier,
            seal,
            hand: joint.hand,
            lease,
            writer: joint.writer,
            outbox: joint.outbox,
            index,
            options,
            place: Place::default(),
            members: Members::default(),
            view: View::default(),
            lasting: HashMap::new(),
            measured: EntryId::default(),
            has_state: false,
            instance,
            reports_since: None,
            twin: None,
        }
    }

    /// Follows the fleet until `shutdown`, and then leaves it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LAST);
        self.has_state = self.index.total() > 0;
        loop {
            let ended = Session::follow(&mut self, &shutdown, &mut backoff).await;
            self.outbox.serve(false);
            match ended {
                Ended::Shutdown => return,
                Ended::Changed => tracing::info!(
                    "the fleet's relay is another, or may have lost something; everything is compared"
                ),
                Ended::Fault(fault) => self.note_away(&fault),
            }
            let wait = backoff.next(self.chance());
            if !self.pause(wait, &shutdown).await {
                return;
            }
        }
    }

    /// Waits, and tells those who ask that the relay is away. False: it is time to end.
    async fn pause(&mut self, wait: Duration, shutdown: &CancellationToken) -> bool {
        let wait = tokio::time::sleep(wait);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = &mut wait => return true,
                Some(question) = self.hand.asked.recv() => drop(question),
            }
        }
    }

    fn note_away(&mut self, fault: &LinkFault) {
        if self.view.state != RelayState::Away || self.view.fault.is_none() {
            tracing::warn!(
                error = %fault,
                "the fleet's relay is away; revocations of other gateways do not arrive, and own ones wait"
            );
        }
        self.view.state = RelayState::Away;
        self.view.fault = Some(fault.to_string().into());
        self.show();
    }

    /// Shows what the relay is doing.
    fn show(&mut self) {
        self.view.run.clone_from(&self.place.run);
        self.view.applied = self.place.applied;
        self.view.outbox = self.outbox.records() as u64;
        self.hand.show(self.view.clone());
    }

    fn boot(&self) -> BootMillis {
        (self.options.boot)()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "any part of chance is chance"
    )]
    fn chance(&self) -> u32 {
        (self.options.chance)() as u32
    }

    /// Own changes up to `sequence` are in the stream, at or before `id`, and were at `at` of the server's clock.
    fn note_relayed(&self, sequence: u64, id: EntryId, at: UnixSeconds) {
        let relayed = Relayed {
            sequence,
            run: self.place.run.clone(),
            id,
            // Its second may be nearly over.
            at: at.plus(Duration::from_secs(1)),
        };
        self.hand.relayed.send_replace(relayed);
    }
}

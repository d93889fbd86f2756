//! The fleet as this gateway sees it, for the admin API, metrics and the commands. The relay's task writes it; everybody may read.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::link::{EntryId, Run};
use crate::base::clock::UnixSeconds;

/// What one gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name: `denylist.redis.name`, by default the host's name.
    pub name: Box<str>,
    /// Its version of jotgate.
    pub version: Box<str>,
    /// The run of the relay that it follows. Only within the same run can `applied` be compared.
    pub run: Run,
    /// Every entry up to this one is in force there.
    pub applied: EntryId,
    /// Rules in force there.
    pub entries: u64,
    /// It is in sync: its lease was renewed.
    pub in_sync: bool,
    /// When it said so, by the relay's clock.
    pub at: UnixSeconds,
    /// How old the proof may be that it is in sync. It may differ while a fleet is configured anew.
    pub max_staleness: Duration,
    /// Another gateway has the same name, so that what either says is not known of both.
    pub shares_name: bool,
}

/// How far this gateway's own changes have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Every change up to this one is in the stream.
    pub sequence: u64,
    /// In which run.
    pub run: Run,
    /// They are at or before this entry.
    pub id: EntryId,
    /// When the last of them was taken by the relay; `effective_by` is this plus the longest `max_staleness`.
    pub at: UnixSeconds,
}

impl Relayed {
    /// Whether the change with this sequence is in the stream. In none yet, nothing is, whatever a log holds.
    #[must_use]
    pub fn has(&self, sequence: u64) -> bool {
        self.run != Run::default() && self.sequence >= sequence
    }
}

/// What the relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayState {
    /// No connection.
    #[default]
    Away,
    /// Reads everything, and publishes what the stream lacks.
    Reconciling,
    /// Waits for others that may know more, after something was lost.
    Settling,
    /// Follows.
    Following,
    /// Follows, and cannot hold what it reads: the denylist is full.
    Full,
}

impl RelayState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Away,
        Self::Reconciling,
        Self::Settling,
        Self::Following,
        Self::Full,
    ];

    /// The state's word in status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Reconciling => "reconciling",
            Self::Settling => "settling",
            Self::Following => "following",
            Self::Full => "full",
        }
    }
}

/// The relay as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What it is doing.
    pub state: RelayState,
    /// Why it is away, in words.
    pub fault: Option<Box<str>>,
    /// Where it follows.
    pub run: Run,
    /// Every entry up to this one is in force here.
    pub applied: EntryId,
    /// The newest entry that the relay spoke of.
    pub last: EntryId,
    /// Own changes that are not in the stream yet.
    pub outbox: u64,
    /// Clock of this machine minus that of the relay, in milliseconds.
    pub clock_offset_ms: i64,
    /// Entries that were not ours to read: a wrong seal, or no entry at all.
    pub refused_entries: u64,
    /// How often there was no room for rules of others.
    pub refused_rules: u64,
}

/// The fleet. Clones see the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    /// Asks the relay's task for the members as they are now.
    ask: mpsc::Sender<oneshot::Sender<Vec<Member>>>,
    relayed: watch::Receiver<Relayed>,
}

/// The one writer of what [`Fleet`] shows: the relay's task.
#[derive(Debug)]
pub(in crate::control) struct FleetHand {
    shared: Arc<Shared>,
    /// How far own changes have come.
    pub(in crate::control) relayed: watch::Sender<Relayed>,
    /// Who wants to know the members as they are now. A question that is dropped says that the relay is away.
    pub(in crate::control) asked: mpsc::Receiver<oneshot::Sender<Vec<Member>>>,
}

#[derive(Debug)]
struct Shared {
    name: Box<str>,
    max_staleness: Duration,
    view: ArcSwap<View>,
    members: ArcSwap<Vec<Member>>,
}

/// Questions that wait for the relay's task; more wait at their own end.
const QUESTIONS: usize = 16;

/// A fleet of which nothing is known yet, and its one writer.
pub(in crate::control) fn fleet(name: Box<str>, max_staleness: Duration) -> (Fleet, FleetHand) {
    let shared = Arc::new(Shared {
        name,
        max_staleness,
        view: ArcSwap::default(),
        members: ArcSwap::default(),
    });
    let (ask, asked) = mpsc::channel(QUESTIONS);
    let (sender, relayed) = watch::channel(Relayed::default());
    let hand = FleetHand {
        shared: Arc::clone(&shared),
        relayed: sender,
        asked,
    };
    let fleet = Fleet {
        shared,
        ask,
        relayed,
    };
    (fleet, hand)
}

impl FleetHand {
    /// This gateway's name.
    pub(in crate::control) fn name(&self) -> Box<str> {
        self.shared.name.clone()
    }

    /// Shows the relay as it is now.
    pub(in crate::control) fn show(&self, view: View) {
        self.shared.view.store(Arc::new(view));
    }

    /// Shows the members as they are now.
    pub(in crate::control) fn show_members(&self, members: Vec<Member>) {
        self.shared.members.store(Arc::new(members));
    }
}

impl Fleet {
    /// This gateway's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// As configured here.
    #[must_use]
    pub fn max_staleness(&self) -> Duration {
        self.shared.max_staleness
    }

    /// The relay as it is now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// Every member as it was last seen, this one included, those away for too long not.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.shared.members.load_full()
    }

    /// Asks the relay for the members as they are now. None: it is away.
    pub async fn refreshed(&self) -> Option<Vec<Member>> {
        let (answer, members) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        members.await.ok()
    }

    /// Follows how far own changes have come.
    #[must_use]
    pub fn relayed(&self) -> watch::Receiver<Relayed> {
        self.relayed.clone()
    }
}

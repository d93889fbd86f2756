//! Own changes on their way to the relay. The writer puts them in and never waits; the relay takes them out when the stream has them.
//!
//! While the relay is away they gather here up to a bound. Beyond it they are dropped, because the gateway has them all the same:
//! when the relay is back it compares everything with the stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::record::Record;

/// Records that gather while the relay is away: a hundred seconds of a thousand revocations a second, some 30 MB.
const RECORDS_MAX: usize = 100_000;

/// While the relay follows, the writer takes nothing more until there are fewer: so a burst is as fast as the stream takes it, and is not
/// dropped.
const CROWDED: usize = 32_768;

/// The changes of one group of the writer.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// See `Written::sequence`.
    pub(super) sequence: u64,
    /// Each rule as it then was.
    pub(super) records: Vec<Arc<Record>>,
}

/// Clones are the same outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was put in.
    filled: Notify,
    /// Something was taken out, or the relay went away.
    eased: Notify,
}

#[derive(Debug, Default)]
struct State {
    parcels: VecDeque<Parcel>,
    /// Of all parcels.
    records: usize,
    /// The newest change that was put in.
    sequence: u64,
    /// Something was dropped.
    overflown: bool,
    /// The relay takes.
    is_served: bool,
}

impl Outbox {
    /// Nothing panics while it is locked, and what is in it is whole after each step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes of one more group.
    pub(super) fn put(&self, sequence: u64, records: Vec<Arc<Record>>) {
        let mut state = self.state();
        state.sequence = sequence;
        if records.is_empty() {
            return;
        }
        state.records += records.len();
        state.parcels.push_back(Parcel { sequence, records });
        if state.records > RECORDS_MAX && !state.is_served {
            state.parcels.clear();
            state.records = 0;
            state.overflown = true;
        }
        drop(state);
        self.0.filled.notify_one();
    }

    /// Waits until the writer may go on.
    pub(super) async fn room(&self) {
        loop {
            let eased = self.0.eased.notified();
            if !self.is_crowded() {
                return;
            }
            eased.await;
        }
    }

    /// Whether the writer should wait.
    pub(super) fn is_crowded(&self) -> bool {
        let state = self.state();
        state.is_served && state.records > CROWDED
    }

    /// Waits until something is in it.
    pub(super) async fn filled(&self) {
        loop {
            let filled = self.0.filled.notified();
            if self.records() > 0 {
                return;
            }
            filled.await;
        }
    }

    /// Records in it.
    pub(super) fn records(&self) -> usize {
        self.state().records
    }

    /// The oldest parcels with about so many records; they stay in it.
    pub(super) fn oldest(&self, records: usize) -> Vec<Parcel> {
        let mut seen = 0;
        self.state()
            .parcels
            .iter()
            .take_while(|parcel| {
                let wanted = seen < records;
                seen += parcel.records.len();
                wanted
            })
            .cloned()
            .collect()
    }

    /// The stream has everything up to `sequence`.
    pub(super) fn sent(&self, sequence: u64) {
        let mut state = self.state();
        while let Some(parcel) = state.parcels.front()
            && parcel.sequence <= sequence
        {
            state.records -= parcel.records.len();
            state.parcels.pop_front();
        }
        drop(state);
        self.0.eased.notify_one();
    }

    /// The relay begins or ceases to take.
    pub(super) fn serve(&self, is_served: bool) {
        self.state().is_served = is_served;
        self.0.eased.notify_one();
    }

    /// Whether something was dropped, so that only comparing everything helps.
    pub(super) fn is_overflown(&self) -> bool {
        self.state().overflown
    }

    /// Everything is compared now: answers with the newest change that this covers.
    pub(super) fn begin_anew(&self) -> u64 {
        let mut state = self.state();
        state.parcels.clear();
        state.records = 0;
        state.overflown = false;
        state.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::{IssuerLife, Order};
    use super::super::record::{Origin, Way};
    use super::*;
    use crate::base::clock::UnixSeconds;
    use crate::denylist::{Fingerprinter, Kind};

    fn record() -> Arc<Record> {
        let life = IssuerLife {
            issuer: "https://id".into(),
            max_lifetime: std::time::Duration::from_hours(1),
            leeway: std::time::Duration::ZERO,
        };
        let make = Fingerprinter::new(&[1; 16]);
        let order = Order::named(&make, &life, (Kind::User, "a"), None, false, UnixSeconds(9));
        let origin = Origin {
            by: "ops".into(),
            way: Way::AdminApi,
        };
        Arc::new(Record::new(&order, &origin, UnixSeconds(9)))
    }

    #[test]
    fn what_was_sent_is_gone_and_the_rest_is_in_order() {
        let outbox = Outbox::default();
        for sequence in 1..=4 {
            outbox.put(sequence, vec![record(); 2]);
        }
        outbox.put(5, vec![]);
        assert_eq!(outbox.records(), 8);
        let sequences = |records| -> Vec<u64> {
            outbox
                .oldest(records)
                .iter()
                .map(|parcel| parcel.sequence)
                .collect()
        };
        assert_eq!(sequences(3), [1, 2]);
        outbox.sent(2);
        assert_eq!(sequences(9), [3, 4]);
        assert_eq!(outbox.begin_anew(), 5);
        assert_eq!(outbox.records(), 0);
    }

    #[test]
    fn while_the_relay_is_away_it_overflows_and_while_it_takes_the_writer_waits() {
        let outbox = Outbox::default();
        outbox.put(1, vec![record(); RECORDS_MAX]);
        assert!(!outbox.is_overflown() && !outbox.is_crowded());
        outbox.put(2, vec![record()]);
        assert_eq!((outbox.is_overflown(), outbox.records()), (true, 0));
        assert_eq!(outbox.begin_anew(), 2);
        assert!(!outbox.is_overflown());

        outbox.serve(true);
        outbox.put(3, vec![record(); RECORDS_MAX + 1]);
        assert!(outbox.is_crowded() && !outbox.is_overflown());
        outbox.sent(3);
        assert!(!outbox.is_crowded());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let outbox = Outbox::default();
        outbox.serve(true);
        outbox.put(1, vec![record(); CROWDED + 1]);
        outbox.filled().await;
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        // A relay that goes away holds nobody back.
        outbox.serve(false);
        waiting.await.expect("woken");
    }
}

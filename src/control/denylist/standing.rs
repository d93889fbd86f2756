//! The part of a rule that stays until it is lifted, so that gateways agree on it whatever they hear first.
//!
//! An order carries the time at which it was made, and a lift the time of the newest order that it knew: it ends what was ordered
//! until then. Merging keeps the latest time of each cutoff and of lifting: the larger of both, so order, repetition and replays do no
//! harm. An order that was made while a lift was on its way stays; so does the wider of two orders that were made at once.

use crate::denylist::{Cutoff, SetAt};

/// Most orders of one rule that are kept apart. One gateway makes one; each more takes another gateway that ordered something narrower before
/// it heard of the wider one.
pub(super) const ORDERS_MAX: usize = 8;

/// Orders that stay until they are lifted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// What was ordered until then is over.
    lifted: Option<SetAt>,
    /// The widest first, each made later than those before it: what a wider and later order covers is left out.
    orders: Vec<(Cutoff, SetAt)>,
}

impl Standing {
    /// What was lifted then, and what was ordered since.
    pub(super) fn new(
        lifted: Option<SetAt>,
        orders: impl IntoIterator<Item = (Cutoff, SetAt)>,
    ) -> Self {
        let mut standing = Self {
            lifted,
            orders: orders.into_iter().collect(),
        };
        standing.tidy();
        standing
    }

    /// What is denied; None: nothing.
    pub(super) fn cutoff(&self) -> Option<Cutoff> {
        self.orders.first().map(|(cutoff, _)| *cutoff)
    }

    /// When it was last lifted.
    pub(super) const fn lifted(&self) -> Option<SetAt> {
        self.lifted
    }

    /// Each cutoff, and when it was last ordered.
    pub(super) fn orders(&self) -> &[(Cutoff, SetAt)] {
        &self.orders
    }

    /// Denies up to `cutoff`, too. Said again it is newer than any lift that is known.
    pub(super) fn order(&mut self, cutoff: Cutoff, set: impl FnOnce(Option<SetAt>) -> SetAt) {
        let set = set(self.newest());
        let widest = self.cutoff().map_or(cutoff, |known| known.max(cutoff));
        self.orders.push((widest, set));
        self.tidy();
    }

    /// Ends every order that is known. What somebody else orders meanwhile is newer, and stays.
    pub(super) fn lift(&mut self) {
        self.lifted = self.newest();
        self.tidy();
    }

    /// What both know.
    pub(super) fn merge(&mut self, other: &Self) {
        self.lifted = self.lifted.max(other.lifted);
        self.orders.extend(&other.orders);
        self.tidy();
    }

    fn newest(&self) -> Option<SetAt> {
        let ordered = self.orders.last().map(|(_, set)| *set);
        ordered.max(self.lifted)
    }

    fn tidy(&mut self) {
        // The widest first; of equal ones the latest.
        self.orders.sort_unstable_by(|a, b| b.cmp(a));
        let mut latest = self.lifted;
        self.orders.retain(|&(_, set)| {
            let is_later = latest.is_none_or(|latest| set > latest);
            if is_later {
                latest = Some(set);
            }
            is_later
        });
        self.orders.truncate(ORDERS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::clock::UnixSeconds;

    fn at(micros: u64) -> SetAt {
        SetAt::from_micros(micros)
    }

    fn ordered(cutoff: u64, set: u64) -> Standing {
        Standing::new(None, [(Cutoff::at(UnixSeconds(cutoff)), at(set))])
    }

    fn lifted(set: u64) -> Standing {
        Standing::new(Some(at(set)), [])
    }

    fn merged<'a>(parts: impl IntoIterator<Item = &'a Standing>) -> Standing {
        let mut whole = Standing::default();
        for part in parts {
            whole.merge(part);
        }
        whole
    }

    #[test]
    fn a_lift_ends_what_was_ordered_before_it_and_nothing_later() {
        let cutoff = |parts: &[&Standing]| merged(parts.iter().copied()).cutoff();
        let (before, after) = (ordered(5, 10), ordered(3, 30));
        assert_eq!(cutoff(&[&before]), Some(Cutoff::at(UnixSeconds(5))));
        assert_eq!(cutoff(&[&before, &lifted(10)]), None);
        assert_eq!(cutoff(&[&lifted(20), &before]), None);
        let later = Some(Cutoff::at(UnixSeconds(3)));
        assert_eq!(cutoff(&[&lifted(20), &after]), later);
        assert_eq!(cutoff(&[&before, &after, &lifted(20)]), later);
        assert_eq!(cutoff(&[&after, &lifted(20), &before]), later);
    }

    #[test]
    fn of_two_gateways_that_order_at_once_the_wider_one_holds() {
        let both = merged([&ordered(5, 10), &ordered(9, 9)]);
        assert_eq!(both.cutoff(), Some(Cutoff::at(UnixSeconds(9))));
        // The wider one was made first, and a lift came in between: the other one is all there is.
        let rest = merged([&both, &lifted(9)]);
        assert_eq!(rest.cutoff(), Some(Cutoff::at(UnixSeconds(5))));
    }

    #[test]
    fn one_gateway_keeps_one_order_and_its_clock_may_go_back() {
        let mut standing = Standing::default();
        let now = |seconds| move |known| SetAt::new(UnixSeconds(seconds), known);
        standing.order(Cutoff::at(UnixSeconds(9)), now(100));
        standing.order(Cutoff::at(UnixSeconds(5)), now(90));
        assert_eq!(standing.orders().len(), 1);
        assert_eq!(standing.cutoff(), Some(Cutoff::at(UnixSeconds(9))));
        standing.lift();
        assert_eq!(standing.cutoff(), None);
        standing.order(Cutoff::at(UnixSeconds(5)), now(70));
        assert_eq!(standing.cutoff(), Some(Cutoff::at(UnixSeconds(5))));
    }

    proptest! {
        #[test]
        fn whatever_is_heard_first_all_agree(
            parts in prop::collection::vec((any::<bool>(), 1..6_u64, 1..8_u64), 0..7),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let parts: Vec<_> = parts
                .iter()
                .map(|&(is_lift, cutoff, set)| if is_lift { lifted(set) } else { ordered(cutoff, set) })
                .collect();
            let expected = merged(&parts);
            // Some in any order and any number of times, in two halves, and then all backwards.
            let some = order.iter().filter(|_| !parts.is_empty()).map(|index| index.get(&parts));
            let mut halves = [Standing::default(), Standing::default()];
            for (place, part) in some.enumerate() {
                halves[place % 2].merge(part);
            }
            let mut whole = merged(&halves);
            for part in parts.iter().rev() {
                whole.merge(part);
            }
            prop_assert_eq!(&whole, &expected);
            // As plainly as can be said: what is denied is the widest order later than the last lift.
            let last = parts.iter().filter_map(Standing::lifted).max();
            let widest = parts
                .iter()
                .flat_map(Standing::orders)
                .filter(|(_, set)| last.is_none_or(|last| *set > last))
                .map(|(cutoff, _)| *cutoff)
                .max();
            prop_assert_eq!(whole.cutoff(), widest);
        }
    }
}

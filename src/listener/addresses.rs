//! Connections of one client address, counted over all threads of a listener. Asked once for each connection, under a lock
//! that few others want at the same time; requests never come here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::address::AddressBlock;

/// Parts of the table, each with a lock of its own: several times the threads of a large machine.
const SHARDS: usize = 64;

/// How many connections each address has. Whoever has none is not in it, so it never holds more addresses than there are
/// connections.
#[derive(Debug)]
pub(super) struct Addresses {
    max: NonZeroUsize,
    /// Seeded at random: strangers choose the addresses.
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<AddressBlock, usize>>]>,
}

/// A connection's place in the count of its address; given back when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    addresses: Arc<Addresses>,
    block: AddressBlock,
}

impl Addresses {
    /// At most `max` connections for each address.
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Self {
            max,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A place for one more connection of `block`, if it has any left.
    pub(super) fn admit(self: &Arc<Self>, block: AddressBlock) -> Option<Guest> {
        let mut shard = self.shard(block);
        let open = shard.entry(block).or_default();
        if *open == self.max.get() {
            return None;
        }
        *open += 1;
        Some(Guest {
            addresses: Arc::clone(self),
            block,
        })
    }

    fn shard(&self, block: AddressBlock) -> MutexGuard<'_, HashMap<AddressBlock, usize>> {
        let hash = self.hasher.hash_one(block);
        let at = usize::try_from(hash % SHARDS as u64).expect("below the number of shards");
        // Nobody panics half way.
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut shard = self.addresses.shard(self.block);
        if let Entry::Occupied(mut open) = shard.entry(self.block) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn addresses(max: usize) -> Arc<Addresses> {
        Arc::new(Addresses::new(NonZeroUsize::new(max).unwrap()))
    }

    fn client(number: u32) -> AddressBlock {
        IpAddr::V4(Ipv4Addr::from_bits(number)).into()
    }

    fn known(addresses: &Addresses) -> usize {
        let shards = addresses.shards.iter();
        shards.map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn an_address_has_so_many_and_no_more() {
        let addresses = addresses(2);
        let first = addresses.admit(client(1)).expect("the first");
        let _second = addresses.admit(client(1)).expect("the second");
        assert!(addresses.admit(client(1)).is_none());
        assert!(addresses.admit(client(2)).is_some(), "another address");
        drop(first);
        assert!(addresses.admit(client(1)).is_some());
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let addresses = addresses(2);
        let guests: Vec<_> = (0..1000)
            .flat_map(|number| [number, number, number])
            .filter_map(|number| addresses.admit(client(number)))
            .collect();
        assert_eq!((guests.len(), known(&addresses)), (2000, 1000));
        drop(guests);
        assert_eq!(known(&addresses), 0);
    }

    #[test]
    fn threads_together_admit_exactly_so_many() {
        let addresses = addresses(100);
        let admitted: Vec<Vec<Guest>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter_map(|_| addresses.admit(client(1)))
                            .collect()
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.collect()
        });
        assert_eq!(admitted.iter().map(Vec::len).sum::<usize>(), 100);
    }
}

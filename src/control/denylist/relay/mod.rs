//! A fleet: rules written on one gateway hold on all of them. Redis or Valkey carries them; the gateways hold the truth.

mod fleet;
mod link;

#[cfg(test)]
pub(in crate::control) mod testing {
    //! What plays the relay in tests.

    pub(in crate::control) use super::fleet::{FleetHand, fleet};
}

pub use fleet::{Fleet, Member, RelayState, Relayed, View};
pub use link::{Carrier, Entry, EntryId, Link, LinkFault, Run, Sight};

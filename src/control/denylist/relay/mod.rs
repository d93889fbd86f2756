//! A fleet: rules written on one gateway hold on all of them. Redis or Valkey carries them; the gateways hold the truth.

mod fleet;
mod link;
mod redis;

pub use fleet::{Fleet, Member, RelayState, Relayed, View};
pub use link::{Carrier, Entry, EntryId, Link, LinkFault, Run, Sight};
pub use redis::{RedisCarrier, RedisLink};

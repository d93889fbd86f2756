//! What is revoked: rules, and the index that requests read. The one writer is `control/denylist`.

mod desk;
mod index;
mod lease;
mod pins;
pub mod redis;
mod rule;

pub use crate::base::clock::BootMillis;
pub use desk::{Desk, Scope, Wish, WishRefused, WishSubject, Wisher, desk};
pub use index::{Full, Index, IndexWriter, SHARDS, index, shard_of};
pub use lease::Lease;
pub use rule::{
    Cutoff, Fingerprint, Fingerprinter, Kind, Pin, Rule, SetAt, Span, TokenKeys, Until,
};

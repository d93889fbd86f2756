//! The one writer of the denylist, and what its rules mean to people: who revoked what, why, and until when. Requests
//! never come here; they read the index of `denylist/`.
//!
//! A revocation is computed by [`Order`], written by [`Writer`] (a task of the control runtime), and asked for through
//! [`Revocations`]. HTTP is left to `control/admin`.

mod bounds;
mod clerk;
mod log;
mod measure;
mod order;
mod outbox;
mod receipt;
mod record;
mod records;
mod relay;
mod request;
mod service;
mod standing;
mod writer;

pub use bounds::{Bounds, BoundsError};
pub use clerk::serve_desk;
#[cfg(any(test, fuzzing))]
pub(crate) use log::law as log_law;
pub use log::{CommitError, Log, LogView, OpenError, Unreadable};
pub use measure::{FleetStatus, measure};
pub use order::{IdentifiedToken, IdentifyFault, IssuerLife, Issuers, Order, Spared, Tokens};
pub use receipt::{Patience, Receipt, Wait};
pub use record::{Origin, Outcome, Pinned, Record, RuleId, Way};
#[cfg(test)]
pub(in crate::control) use relay::testing;
pub use relay::{
    Carrier, Entry, EntryId, Fleet, Joint, Link, LinkFault, Member, Options as RelayOptions,
    RedisCarrier, RedisLink, Relay, RelayState, Relayed, Run, Seal, Sight, View, Ways, join,
    keys_of,
};
pub use request::{Asked, Fault, Faults};
#[cfg(test)]
pub(in crate::control) use service::testing::parts;
pub use service::{Parts, Revocations, revocations};
pub use writer::{
    LiftError, Lifted, Page, Query, ReadError, RevokeError, Stopped, Verdict, Writer, Written,
};

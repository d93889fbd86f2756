//! The one writer of the denylist, and what its rules mean to people: who revoked what, why, and until when. Requests
//! never come here; they read the index of `denylist/`.
//!
//! A revocation is computed by [`Order`], written by [`Writer`] (a task of the control runtime), and asked for through
//! [`Revocations`]. HTTP is left to `control/admin`.

mod bounds;
mod clerk;
mod log;
mod order;
mod record;
mod records;
mod request;
mod service;
mod writer;

pub use bounds::{Bounds, BoundsError};
pub use clerk::serve_desk;
#[cfg(any(test, fuzzing))]
pub(crate) use log::law as log_law;
pub use log::{CommitError, Log, LogView, OpenError, Unreadable};
pub use order::{IdentifiedToken, IdentifyFault, IssuerLife, Issuers, Order, Spared, Tokens};
pub use record::{Origin, Outcome, Pinned, Record, RuleId, Way};
pub use request::{Fault, Faults};
pub use service::{Parts, Revocations, revocations};
pub use writer::{LiftError, Page, Query, ReadError, RevokeError, Stopped, Verdict, Writer};

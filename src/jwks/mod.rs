//! Key sets in memory: what a JSON Web Key Set says, which of its keys can be used, and the table
//! that requests read. Fetching is `control/jwks`.

mod algorithm;
mod gate;
mod jwk;
mod key;
mod key_set;
mod material;
#[cfg(test)]
pub(crate) mod rfc_examples;
mod table;

pub use algorithm::{Algorithm, Family};
pub use gate::{RefreshDesk, RefreshGate, RefreshOutcome, WAITERS_MAX, refresh_gate};
pub use jwk::SkipReason;
pub use key::{Key, KeyError};
#[cfg(any(test, fuzzing))]
pub(crate) use key_set::law as key_set_law;
pub use key_set::{KeySet, KeySetError, Known, Skipped};
pub use table::{Change, Current, KeyStatus, KeyTable, KeyTableWriter, KeysState};

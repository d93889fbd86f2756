//! The decision: may this request pass? A plain function over tables in memory, without I/O and without a clock of its own.

mod access;
mod bearer;
mod decide;
mod denied;

pub use access::{Access, Issuer, IssuerSet};
pub use bearer::Bearer;
pub use decide::{Decided, Decision, Pass, Presented, Tables, decide};
pub use denied::Denied;

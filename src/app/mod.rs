//! Puts the program together, and takes it down.

mod build;
mod denylist;
mod issuers;
mod lifecycle;
mod pulse;
mod rehearsal;
mod reload;
mod report;
mod tokens;
mod traces;
mod upstreams;
mod watch;
mod work;

pub use lifecycle::{Gateway, StartError};
pub use pulse::Vitals;
pub use rehearsal::Rehearsal;
pub use watch::Watch;

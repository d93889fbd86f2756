//! Puts the program together, and takes it down.

mod build;
mod issuers;
mod lifecycle;
mod rehearsal;
mod reload;
mod report;
mod tokens;
mod upstreams;
mod watch;
mod work;

pub use lifecycle::{Gateway, StartError};
pub use rehearsal::Rehearsal;
pub use watch::Watch;

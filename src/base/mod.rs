//! Words without opinions: time, names, addresses, secrets, limits. Everything else stands on this floor.

pub mod address;
pub mod backoff;
pub mod causes;
pub mod chance;
pub mod clock;
pub mod deadline;
pub mod failures;
pub mod file;
pub mod json;
pub mod limits;
pub mod names;
pub mod patience;
#[cfg(test)]
pub(crate) mod refusing;
pub mod secret;
pub mod seldom;
pub mod signal;
pub mod task;

//! Words without opinions: time, names, secrets, limits. Everything else stands on this floor.

pub mod backoff;
pub mod clock;
pub mod deadline;

pub mod json;
pub mod limits;
pub mod names;
pub mod patience;
pub mod secret;

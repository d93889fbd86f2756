//! What a bearer must have besides a good token: scopes and claims. RFC 6750 section 3.1
//! (`insufficient_scope`).

mod auth;
mod check;
mod requirement;

pub use auth::{Auth, Mode, OnStale};
pub use check::{Lacking, check};
pub use requirement::{ClaimRequirement, Requirement};

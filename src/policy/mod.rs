//! What a bearer must have besides a good token: scopes, claims, and what an expression says of both and the request.
//! RFC 6750 section 3.1 (`insufficient_scope`).

mod auth;
mod check;
mod expression;
mod requirement;

pub use auth::{Auth, Mode, OnStale};
pub use check::{Lacking, check};
pub use expression::{EXPRESSION_BYTES_MAX, Expression, ExpressionFault, Refused, Request};
pub use requirement::{ClaimRequirement, Requirement};

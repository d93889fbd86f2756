//! Front end 1: the reverse proxy. It takes a request apart, asks `authorize`, and acts on the decision.

mod answer;
mod body;
mod clock;
mod drain;
mod edition;
mod failure;
mod handler;
mod request;
mod revoke;
mod stale;
mod streams;
mod upgrade;
mod websocket;

pub use body::{RequestBody, ResponseBody};
pub use edition::{Shared, Worker};
pub use failure::Failure;
pub(crate) use request::{check_overrides, is_hidden};
pub use stale::StaleNotice;

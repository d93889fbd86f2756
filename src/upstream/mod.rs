//! Bytes out: connections to services, kept and used again. One pool for each thread, so nothing here locks or wakes
//! another thread.

mod balance;
mod circuit;
mod connect;
mod endpoint;
mod health;
mod io;
mod options;
mod outlier;
mod pool;
mod probe;
mod retry;
mod roster;
mod send;
mod service;
mod tls;

pub use balance::Balance;
pub use connect::SendError;
pub use endpoint::Endpoint;
pub use health::{Health, Streak};
pub use options::{Options, Server};
pub use outlier::Outlier;
pub use pool::{Lease, Pool, Sent};
pub use probe::probe;
pub use retry::{Budget, Retries};
pub use service::{State, Upstream};
pub use tls::{Tls, TlsClient};

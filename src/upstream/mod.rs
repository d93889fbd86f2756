//! Bytes out: connections to services, kept and used again. One pool for each thread, so nothing here locks or wakes
//! another thread.

mod connect;
mod io;
mod options;
mod pool;
mod service;
mod tls;

pub use connect::SendError;
pub use options::{Options, Server};
pub use pool::{Lease, Pool, Sent};
pub use service::Upstream;
pub use tls::{Tls, TlsClient};

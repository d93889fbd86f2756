//! Bytes in: accepts connections and serves HTTP on them. Knows no JWT.

mod accept;
mod connection;
mod frames;
mod framing;
mod io;
mod options;
mod serve;
mod streams;

pub use accept::{Acceptor, Crew, ListenError, ListenerMetrics, bind};
pub use connection::{Busy, Coming, Connection, MayEnd};
pub use options::{Address, Options};
pub use serve::{ConnectionFault, Front};

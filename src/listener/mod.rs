//! Bytes in: accepts connections and serves HTTP on them. Knows no JWT.

mod accept;
mod addresses;
mod connection;
mod frames;
mod framing;
mod gather;
mod inherited;
mod io;
mod options;
mod pace;
mod proxy_protocol;
mod serve;
pub mod tls;

pub use accept::{Acceptor, Crew, ListenError, ListenerMetrics, bind, inherit_or_bind};
pub use connection::{Busy, Coming, Connection, MayEnd};
#[cfg(any(test, fuzzing))]
pub(crate) use framing::law as framing_law;
pub use inherited::{InheritError, Inherited};
pub use options::{Address, Options};
pub use proxy_protocol::ProxyFault;
#[cfg(any(test, fuzzing))]
pub(crate) use proxy_protocol::law as proxy_protocol_law;
pub use serve::{ConnectionFault, Front};

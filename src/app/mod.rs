//! Puts the program together, and takes it down.

use std::net::SocketAddr;

use crate::base::clock::Clock;
use crate::config::Settings;
use crate::listener::Address;

/// A running gateway. Its threads end when it is shut down.
#[derive(Debug)]
pub struct Gateway {}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// The system's word.
        source: std::io::Error,
    },
}

impl Gateway {
    /// Starts every listener and background task. Returns when requests are accepted, which is before the gateway
    /// is ready: keys may still be on their way.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let _ = (settings, clock);
        todo!()
    }

    /// Where the listeners listen, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        todo!()
    }

    /// Where the admin API listens.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Returns when every issuer's keys have been tried and the denylist is loaded: when `/ready` says 200.
    pub async fn ready(&self) {
        todo!()
    }

    /// Ends gracefully: not ready, drain delay, no new connections, running requests finish under the drain timeout.
    pub async fn shutdown(self) {
        todo!()
    }
}

//! One server of an upstream as all threads know it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::options::Server;

/// One server, shared by the pools of all threads.
#[derive(Debug)]
pub struct Endpoint {
    /// As it is written in the configuration.
    pub server: Server,
    /// The place where it is written.
    pub(super) position: usize,
    /// One of the addresses of its name; None where the configuration has an address or a socket.
    pub address: Option<SocketAddr>,
    /// Requests under way, of all threads.
    load: AtomicUsize,
    /// By its health checks, of which the control plane alone makes some. Without: true.
    is_healthy: AtomicBool,
    /// Failures in a row.
    pub(super) failures: AtomicU32,
    /// How often it was ejected lately.
    pub(super) times: AtomicU32,
    /// On the upstream's clock; 0: it never was.
    pub(super) ejected_until_ms: AtomicU64,
}

impl Endpoint {
    /// Nothing has happened yet.
    pub(super) const fn new(position: usize, server: Server, address: Option<SocketAddr>) -> Self {
        Self {
            server,
            position,
            address,
            load: AtomicUsize::new(0),
            is_healthy: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            times: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// It has answered.
    pub(super) fn note_success(&self) {
        // Mostly there is nothing to write, and what nobody writes is shared for nothing.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Its health checks have come to another verdict. Called by the one task that makes them. Who is well again gets
    /// requests at once, whatever failed before.
    pub fn set_healthy(&self, is_healthy: bool) {
        if is_healthy {
            self.failures.store(0, Ordering::Relaxed);
            self.times.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
        self.is_healthy.store(is_healthy, Ordering::Relaxed);
    }

    /// Whether its health checks pass, or there are none.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Relaxed)
    }

    pub(super) fn was_ejected(&self) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) != 0
    }

    pub(super) fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.ejected_until_ms.load(Ordering::Relaxed)
    }

    pub(super) fn is_available(&self, now_ms: u64) -> bool {
        self.is_healthy() && !self.is_ejected(now_ms)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} ({})", self.server, address.ip()),
            None => self.server.fmt(f),
        }
    }
}

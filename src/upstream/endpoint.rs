//! One server of an upstream as all threads know it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::options::Server;

/// One server, shared by the pools of all threads.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub server: Server,
    /// Requests under way, of all threads.
    load: AtomicUsize,
}

impl Endpoint {
    /// Nothing has happened yet.
    pub(super) const fn new(server: Server) -> Self {
        Self {
            server,
            load: AtomicUsize::new(0),
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
}

//! What a connection is doing, so that it can be ended when it does it for too long.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::accept::Place;
use crate::base::deadline::DeadlineHandle;
use crate::http::forwarded::Peer;

/// One client connection, as the front end sees it.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// Largest request body, in bytes.
    pub max_body_size: Option<u64>,
    /// Longest silence in the middle of a request's body.
    pub body_timeout: Duration,
    idle_timeout: Duration,
    phase: Phase,
    requests: Cell<usize>,
    /// Kept by the last request too: a tunnel outlives the HTTP of its connection, and counts as open until it ends.
    _place: Place,
}

/// A request is running; ends when dropped.
#[derive(Debug)]
pub struct Busy(Rc<Connection>);

/// What a connection waits for. Shared with its I/O, which sees the first byte of a head.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    now: Arc<AtomicU8>,
    deadline: DeadlineHandle,
    /// None on HTTP/2, where bytes between requests are frames of the connection and begin no head.
    header_timeout: Option<Duration>,
}

/// Nothing of a request has come.
const IDLE: u8 = 0;
/// A part of a request's head has come.
const HEAD: u8 = 1;
/// A request is running.
const BUSY: u8 = 2;

impl Phase {
    pub(super) fn new(deadline: DeadlineHandle, header_timeout: Option<Duration>) -> Self {
        Self {
            now: Arc::new(AtomicU8::new(IDLE)),
            deadline,
            header_timeout,
        }
    }

    /// Bytes have come in.
    pub(super) fn bytes_came(&self) {
        if let Some(header_timeout) = self.header_timeout
            && self.now.load(Ordering::Relaxed) == IDLE
        {
            self.now.store(HEAD, Ordering::Relaxed);
            self.deadline.set(header_timeout);
        }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_head(&self) -> bool {
        self.now.load(Ordering::Relaxed) == HEAD
    }

    fn idle(&self, timeout: Duration) {
        self.now.store(IDLE, Ordering::Relaxed);
        self.deadline.set(timeout);
    }

    fn busy(&self) {
        self.now.store(BUSY, Ordering::Relaxed);
        self.deadline.clear();
    }
}

impl Connection {
    pub(super) fn new(peer: Peer, options: &super::Options, phase: Phase, place: Place) -> Self {
        phase.idle(options.idle_timeout);
        Self {
            peer,
            max_body_size: options.max_body_size,
            body_timeout: options.body_timeout,
            idle_timeout: options.idle_timeout,
            phase,
            requests: Cell::new(0),
            _place: place,
        }
    }

    /// A request begins.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.phase.busy();
        Busy(Rc::clone(self))
    }
}

impl Busy {
    /// The connection that the request came on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let left = self.0.requests.get() - 1;
        self.0.requests.set(left);
        if left == 0 {
            self.0.phase.idle(self.0.idle_timeout);
        }
    }
}

//! What a connection is doing, so that it can be ended when it does it for too long.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use super::accept::Place;
use crate::base::deadline::DeadlineHandle;
use crate::http::forwarded::Peer;

/// One client connection, as the front end sees it.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// Most header lines. hyper sees to it on HTTP/1, nobody on HTTP/2.
    pub max_headers: usize,
    /// Largest request body, in bytes.
    pub max_body_size: Option<u64>,
    /// Longest silence in the middle of a request's body.
    pub body_timeout: Duration,
    phase: Phase,
    requests: Cell<usize>,
    bodies: Cell<usize>,
    end: RefCell<End>,
    /// Kept by the last request too: a tunnel outlives the HTTP of its connection, and counts as open until it ends.
    _place: Place,
}

/// What may end an answer that is on its way, while its client takes nothing of it and nobody asks the answer's body.
pub trait MayEnd {
    /// Whether it has.
    fn has_ended(&self) -> bool;
}

/// Of the answer that said so last.
#[derive(Default)]
struct End(Option<Rc<dyn MayEnd>>);

/// A request is running; ends when dropped.
#[derive(Debug)]
pub struct Busy(Rc<Connection>);

/// The body of a request is on its way; ends when dropped.
#[derive(Debug)]
pub struct Coming(Rc<Connection>);

/// What a connection waits for. Shared with its I/O, which sees the first byte of a head.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    now: Arc<AtomicU8>,
    /// The client has not taken what we have for it.
    stalled: Arc<AtomicBool>,
    deadline: DeadlineHandle,
    /// None on HTTP/2, where bytes between requests are frames of the connection and begin no head.
    header_timeout: Option<Duration>,
    idle_timeout: Duration,
}

/// Nothing of a request has come.
const IDLE: u8 = 0;
/// A part of a request's head has come.
const HEAD: u8 = 1;
/// A request is running.
const BUSY: u8 = 2;
/// All requests are answered, but the body of one still comes.
const BODY: u8 = 3;
/// The connection speaks another protocol from here on.
const TUNNEL: u8 = 4;

impl Phase {
    /// A connection that is idle.
    pub(super) fn new(
        deadline: DeadlineHandle,
        header_timeout: Option<Duration>,
        idle_timeout: Duration,
    ) -> Self {
        let phase = Self {
            now: Arc::new(AtomicU8::new(IDLE)),
            stalled: Arc::default(),
            deadline,
            header_timeout,
            idle_timeout,
        };
        phase.wait(IDLE);
        phase
    }

    /// Bytes have come in.
    pub(super) fn bytes_came(&self) {
        match (self.now.load(Ordering::Relaxed), self.header_timeout) {
            (IDLE, Some(header_timeout)) => {
                self.now.store(HEAD, Ordering::Relaxed);
                self.deadline.set(header_timeout);
            }
            (BODY, _) => self.deadline.set(self.idle_timeout),
            _ => {}
        }
    }

    /// We have something for the client, and it took some of it or nothing.
    pub(super) fn offered(&self, taken: bool) {
        if self.stalled.swap(!taken, Ordering::Relaxed) != taken {
            return;
        }
        match (self.now.load(Ordering::Relaxed), taken) {
            (BUSY, true) => self.deadline.clear(),
            (BUSY, false) => self.deadline.set(self.idle_timeout),
            // A deadline runs already.
            _ => {}
        }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_head(&self) -> bool {
        self.now.load(Ordering::Relaxed) == HEAD
    }

    /// Whether the bytes are no HTTP any more.
    pub(super) fn is_tunnel(&self) -> bool {
        self.now.load(Ordering::Relaxed) == TUNNEL
    }

    /// Nothing runs: `phase` is [`IDLE`] or [`BODY`].
    fn wait(&self, phase: u8) {
        self.now.store(phase, Ordering::Relaxed);
        self.deadline.set(self.idle_timeout);
    }

    fn busy(&self) {
        let before = self.now.swap(BUSY, Ordering::Relaxed);
        if !self.stalled.load(Ordering::Relaxed) {
            self.deadline.clear();
        } else if before == HEAD {
            self.deadline.set(self.idle_timeout);
        }
    }
}

impl Connection {
    pub(super) fn new(peer: Peer, options: &super::Options, phase: Phase, place: Place) -> Self {
        Self {
            peer,
            max_headers: options.max_headers,
            max_body_size: options.max_body_size,
            body_timeout: options.body_timeout,
            phase,
            requests: Cell::new(0),
            bodies: Cell::new(0),
            end: RefCell::default(),
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

    /// The body of a running request is going to be read.
    #[must_use]
    pub fn expect_body(self: &Rc<Self>) -> Coming {
        self.bodies.set(self.bodies.get() + 1);
        Coming(Rc::clone(self))
    }

    /// The answer whose body is being asked ends with `end`, whatever it waits for then; what has ended it wakes it.
    pub fn may_end(&self, end: Rc<dyn MayEnd>) {
        *self.end.borrow_mut() = End(Some(end));
    }

    /// What was said by [`Self::may_end`] since this was asked last.
    pub(super) fn take_end(&self) -> Option<Rc<dyn MayEnd>> {
        self.end.take().0
    }

    /// Whether the answer that is on its way has ended.
    pub(super) fn has_ended(&self) -> bool {
        let end = self.end.borrow();
        end.0.as_ref().is_some_and(|end| end.has_ended())
    }

    /// A request was answered, or a body has ended.
    fn ended(&self) {
        self.end.take();
        if self.requests.get() == 0 {
            let phase = if self.bodies.get() == 0 { IDLE } else { BODY };
            self.phase.wait(phase);
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("End")
    }
}

impl Coming {
    /// The connection that the body comes on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.bodies.set(self.0.bodies.get() - 1);
        self.0.ended();
    }
}

impl Busy {
    /// The client is about to be told 101: what it sends after that is no HTTP.
    pub fn becomes_tunnel(&self) {
        self.0.phase.now.store(TUNNEL, Ordering::Relaxed);
    }

    /// The connection that the request came on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.ended();
    }
}

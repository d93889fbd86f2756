//! What a connection is doing, so that it can be ended when it does it for too long.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use ipnet::IpNet;

use super::accept::Place;
use crate::base::deadline::DeadlineHandle;
use crate::base::failures::Failures;
use crate::http::forwarded::{self, Peer};

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
    /// Least rate of a request's body in bytes a second, beyond that; 0: none.
    pub body_min_rate: u64,
    /// None where the peer is none of them: then nobody asks.
    trusted_proxies: Option<Arc<[IpNet]>>,
    phase: Phase,
    requests: Cell<usize>,
    bodies: Cell<usize>,
    /// Requests that the listener may have at once.
    requests_max: i64,
    end: RefCell<End>,
    /// Kept by the last request too: a tunnel outlives the HTTP of its connection, and counts as open until it ends.
    place: Place,
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
pub struct Busy {
    connection: Rc<Connection>,
    /// Whether it has one of the places for requests.
    counted: bool,
}

/// The body of a request is on its way; ends when dropped.
#[derive(Debug)]
pub struct Coming(Rc<Connection>);

/// What a connection waits for. Shared with its I/O, which sees the first byte of a head.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    state: Arc<State>,
    deadline: DeadlineHandle,
    /// None on HTTP/2, where bytes between requests are frames of the connection and begin no head.
    header_timeout: Option<Duration>,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct State {
    phase: AtomicU8,
    /// The client does not take what we have for it, and has until then; or [`TAKING`].
    stalled_until: AtomicU64,
}

/// The client takes what it gets.
const TAKING: u64 = u64::MAX;

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
        let state = State {
            phase: AtomicU8::new(IDLE),
            stalled_until: AtomicU64::new(TAKING),
        };
        let phase = Self {
            state: Arc::new(state),
            deadline,
            header_timeout,
            idle_timeout,
        };
        phase.set_deadline();
        phase
    }

    /// The clock of the deadline.
    pub(super) fn clock(&self) -> u64 {
        self.deadline.now()
    }

    /// Bytes have come in.
    pub(super) fn bytes_came(&self) {
        match (self.now(), self.header_timeout) {
            (IDLE, Some(header_timeout)) => {
                self.state.phase.store(HEAD, Ordering::Relaxed);
                self.deadline.set(header_timeout);
            }
            (BODY, _) => self.set_deadline(),
            _ => {}
        }
    }

    /// We have something for the client. It took some of it, or has until `stalled_until` to do so.
    pub(super) fn offered(&self, stalled_until: Option<u64>) {
        let until = stalled_until.unwrap_or(TAKING);
        // One thread writes it.
        if self.state.stalled_until.load(Ordering::Relaxed) != until {
            self.state.stalled_until.store(until, Ordering::Relaxed);
            self.set_deadline();
        }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_head(&self) -> bool {
        self.now() == HEAD
    }

    /// Whether the bytes are no HTTP any more.
    pub(super) fn is_tunnel(&self) -> bool {
        self.now() == TUNNEL
    }

    /// Whether the client does not take what we have for it.
    pub(super) fn is_stalled(&self) -> bool {
        self.state.stalled_until.load(Ordering::Relaxed) != TAKING
    }

    fn now(&self) -> u8 {
        self.state.phase.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: u8) {
        self.state.phase.store(phase, Ordering::Relaxed);
        self.set_deadline();
    }

    fn set_deadline(&self) {
        let stalled_until = self.state.stalled_until.load(Ordering::Relaxed);
        match self.now() {
            // It was set with the first byte.
            HEAD => {}
            // Also of a tunnel whose 101 is not taken: it has no deadline of its own before that.
            _ if stalled_until != TAKING => self.deadline.set_at(stalled_until),
            BUSY | TUNNEL => self.deadline.clear(),
            _ => self.deadline.set(self.idle_timeout),
        }
    }
}

impl Connection {
    pub(super) fn new(peer: Peer, options: &super::Options, phase: Phase, place: Place) -> Self {
        let trusted_proxies = &options.trusted_proxies;
        Self {
            trusted_proxies: peer.trusted.then(|| Arc::clone(trusted_proxies)),
            peer,
            max_headers: options.max_headers,
            max_body_size: options.max_body_size,
            body_timeout: options.body_timeout,
            body_min_rate: options.body_min_rate,
            phase,
            requests: Cell::new(0),
            bodies: Cell::new(0),
            requests_max: i64::try_from(options.max_requests).unwrap_or(i64::MAX),
            end: RefCell::default(),
            place,
        }
    }

    /// A request begins. Ask [`Busy::is_overload`] before any work is done for it.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.phase.enter(BUSY);
        Busy {
            connection: Rc::clone(self),
            counted: self.take_place(),
        }
    }

    /// One more request of the listener, unless it has as many as it may. Two that come at once for the last place may both
    /// be turned away, and never both be let in: each sees at least itself and those that were let in.
    fn take_place(&self) -> bool {
        let requests = &self.place.requests;
        requests.inc();
        let is_free = requests.get() <= self.requests_max;
        if !is_free {
            requests.dec();
        }
        is_free
    }

    /// The client of a request with `headers`, as far as it is proven. None if a trusted proxy does not say who it is.
    #[must_use]
    pub fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let trusted_proxies = self.trusted_proxies.as_deref().unwrap_or_default();
        forwarded::client(&self.peer, headers, trusted_proxies)
    }

    /// Who sends wrong tokens to the listener, by [`Self::client`]: behind a proxy all clients have its address. None where
    /// nobody counts.
    #[must_use]
    pub fn failures(&self) -> Option<&Failures> {
        self.place.failures()
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
        if self.requests.get() == 0 {
            let phase = if self.bodies.get() == 0 { IDLE } else { BODY };
            self.phase.enter(phase);
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
        self.connection.phase.enter(TUNNEL);
    }

    /// Whether the listener has as many requests as it may without this one.
    #[must_use]
    pub const fn is_overload(&self) -> bool {
        !self.counted
    }

    /// The connection that the request came on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let connection = &self.connection;
        if self.counted {
            connection.place.requests.dec();
        }
        connection.requests.set(connection.requests.get() - 1);
        connection.end.take();
        connection.ended();
    }
}

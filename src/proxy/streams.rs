//! Answers that are still on their way when a rule comes: WebSockets, server-sent events, long downloads, gRPC streams.
//! Each was let in with a token; a rule that matches it ends it, and so does the token's end where the route says so, and a
//! denylist that is too old where the route does not say otherwise.
//!
//! A sweep a few times a second asks the denylist's epoch for each of them, which costs a comparison while nothing has
//! changed.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::authorize::{Bearer, Denied};
use crate::base::clock::UnixSeconds;
use crate::denylist::{Index, Kind, TokenKeys};
use crate::listener::MayEnd;
use crate::token::Reject;

/// How often the sweep looks. A stream ends within this time of the rule that matches it.
pub(super) const STREAM_SWEEP: Duration = Duration::from_millis(250);

/// Why a stream ends before its service has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A rule of the denylist.
    Revoked(Kind),
    /// The token's `exp`.
    Expired,
    /// The denylist may be too old to know of a rule.
    Stale,
}

impl Ended {
    /// What a client is told whose answer had not begun.
    pub(super) const fn denied(self) -> Denied {
        match self {
            Self::Revoked(kind) => Denied::Revoked(kind),
            Self::Expired => Denied::Token(Reject::Expired),
            Self::Stale => Denied::DenylistStale,
        }
    }

    /// For the access line and the metric.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Revoked(_) => "ended_revoked",
            Self::Expired => "ended_expired",
            Self::Stale => "ended_stale",
        }
    }
}

/// The open streams of one thread.
#[derive(Clone, Default)]
pub(super) struct Streams(Rc<RefCell<Slab<Open>>>);

struct Open {
    keys: TokenKeys,
    clean_at: AtomicU64,
    terms: Terms,
    ended: Rc<Cell<Option<Ended>>>,
    waker: Option<Waker>,
}

/// What is needed to watch a stream, before it is one: most answers end with their first frame.
pub(super) struct Admission {
    streams: Streams,
    bearer: Arc<Bearer>,
    terms: Terms,
}

/// What ends a stream beside a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The end of its token, if that counts.
    pub(super) expires: Option<UnixSeconds>,
    /// Whether it ends while the denylist may be too old.
    pub(super) deny_when_stale: bool,
}

/// One open stream; no longer watched when dropped.
pub(super) struct Watch {
    streams: Streams,
    place: usize,
    ended: Rc<Cell<Option<Ended>>>,
}

impl Streams {
    /// The bearer's stream may be watched from here on.
    pub(super) fn admit(&self, bearer: &Arc<Bearer>, terms: Terms) -> Admission {
        Admission {
            streams: self.clone(),
            bearer: Arc::clone(bearer),
            terms,
        }
    }

    /// Ends what must not go on at `now`, with a denylist that may be too old if it is `stale`.
    pub(super) fn sweep(&self, denylist: &Index, stale: bool, now: UnixSeconds) {
        let mut woken = vec![];
        for (_, open) in self.0.borrow_mut().iter_mut() {
            if open.ended.get().is_some() {
                continue;
            }
            let revoked = denylist
                .is_denied_since(&open.keys, &open.clean_at)
                .map(Ended::Revoked);
            let expired = || {
                open.terms
                    .expires
                    .is_some_and(|expires| now >= expires)
                    .then_some(Ended::Expired)
            };
            let too_old = || (stale && open.terms.deny_when_stale).then_some(Ended::Stale);
            if let Some(ended) = revoked.or_else(expired).or_else(too_old) {
                open.ended.set(Some(ended));
                woken.extend(open.waker.take());
            }
        }
        // Not while the table is borrowed: a waker may drop a stream.
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Admission {
    /// The stream goes on: watch it.
    pub(super) fn watch(self) -> Watch {
        let ended = Rc::new(Cell::new(None));
        let place = self.streams.0.borrow_mut().insert(Open {
            keys: self.bearer.revocation.of_session(),
            // What was clean at the decision was clean by the token's own rule too, which a session does not ask for.
            clean_at: AtomicU64::new(self.bearer.clean_at.load(Ordering::Relaxed)),
            terms: self.terms,
            ended: Rc::clone(&ended),
            waker: None,
        });
        Watch {
            streams: self.streams,
            place,
            ended,
        }
    }
}

impl Watch {
    /// Ready when the stream must end.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.ended.get() {
            return Poll::Ready(ended);
        }
        let mut streams = self.streams.0.borrow_mut();
        let waker = &mut streams[self.place].waker;
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl MayEnd for Cell<Option<Ended>> {
    fn has_ended(&self) -> bool {
        self.get().is_some()
    }
}

impl Watch {
    /// For those who can end the stream while nobody polls this.
    pub(super) fn end(&self) -> Rc<dyn MayEnd> {
        Rc::<Cell<Option<Ended>>>::clone(&self.ended)
    }

    /// Why the stream must end.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.streams.0.borrow_mut().remove(self.place);
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.ended.get()).finish()
    }
}

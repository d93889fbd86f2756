//! The streams of one HTTP/2 connection while they are answered. HTTP/2 lets a client hold each answer back by its window,
//! and hyper asks a body for nothing before what it gave last has gone out. So a body cannot see that its client takes
//! nothing, nor end itself then. Whoever runs the stream's task can: this ends the task, which resets the stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::task::spawn_local;

use super::connection::Connection;
use super::frames::Credit;
use super::serve::{Answer, Front, FrontService};
use crate::base::deadline::{Deadline, Deadlines};

/// Largest piece of a body that is handed to hyper, in bytes: a frame of the size that every peer takes (RFC 9113 section
/// 4.2). hyper buffers a piece as a whole once the window has room for its first byte, so this is also what a client that
/// stops in the middle of an answer holds, and what it must take within `idle_timeout`.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Runs the streams of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct Streams(Rc<Shared>);

struct Shared {
    connection: Rc<Connection>,
    deadlines: Deadlines,
    /// Longest time that a client may take nothing of an answer.
    stalled_max: Duration,
    credit: Credit,
    /// What the body of the stream that is being polled did last.
    turn: Cell<Turn>,
}

#[derive(Clone, Copy, Default)]
enum Turn {
    /// It was not asked.
    #[default]
    None,
    /// It waits for its service.
    Waits,
    /// It gave something, and was not asked for more.
    Gave,
}

impl Streams {
    pub(super) fn new(
        connection: Rc<Connection>,
        deadlines: Deadlines,
        stalled_max: Duration,
        credit: Credit,
    ) -> Self {
        Self(Rc::new(Shared {
            connection,
            deadlines,
            stalled_max,
            credit,
            turn: Cell::default(),
        }))
    }

    /// Runs one stream to its end, or until its client has taken nothing for too long, or its answer may not go on.
    async fn run(self, stream: impl Future) {
        let mut stream = pin!(stream);
        let mut stalled: Option<Deadline> = None;
        let mut end = None;
        poll_fn(|cx| {
            self.0.turn.take();
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            end = self.0.connection.take_end().or(end.take());
            if end.as_ref().is_some_and(|end| end.has_ended()) {
                return Poll::Ready(());
            }
            match self.0.turn.take() {
                Turn::None => {}
                Turn::Waits => {
                    if let Some(stalled) = &stalled {
                        stalled.clear();
                    }
                }
                Turn::Gave => stalled
                    .get_or_insert_with(|| self.0.deadlines.deadline())
                    .set(self.0.stalled_max),
            }
            stalled
                .as_ref()
                .map_or(Poll::Pending, |stalled| stalled.poll(cx))
        })
        .await;
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        spawn_local(self.clone().run(stream));
    }
}

/// Answers the requests of these streams.
pub(super) struct StreamService<F> {
    front: FrontService<F>,
    streams: Streams,
}

impl<F> StreamService<F> {
    pub(super) const fn new(front: FrontService<F>, streams: Streams) -> Self {
        Self { front, streams }
    }
}

impl<F: Front> Service<Request<Incoming>> for StreamService<F> {
    type Response = Response<StreamBody<F::Body>>;
    type Error = std::convert::Infallible;
    type Future = StreamAnswer<<FrontService<F> as Service<Request<Incoming>>>::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        StreamAnswer {
            answer: self.front.call(request),
            streams: self.streams.clone(),
        }
    }
}

/// The head of an answer, to come.
pub(super) struct StreamAnswer<A> {
    answer: A,
    streams: Streams,
}

impl<B, F: Future<Output = Response<B>> + Unpin> Future for StreamAnswer<Answer<F>> {
    type Output = Result<Response<StreamBody<B>>, std::convert::Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Pin::new(&mut this.answer).poll(cx).map_ok(|response| {
            this.streams.0.credit.answered();
            response.map(|body| StreamBody {
                body,
                rest: Bytes::new(),
                streams: this.streams.clone(),
            })
        })
    }
}

/// The body of an answer, in pieces.
pub(super) struct StreamBody<B> {
    body: B,
    /// Of what the body gave last.
    rest: Bytes,
    streams: Streams,
}

impl<B> StreamBody<B> {
    fn give<E>(&mut self, mut data: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let piece = data.split_to(data.len().min(PIECE_BYTES_MAX));
        self.rest = data;
        let shared = &self.streams.0;
        shared.turn.set(Turn::Gave);
        shared.credit.passed_on(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return this.give(rest);
        }
        this.streams.0.turn.set(Turn::Waits);
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => this.give(data),
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Only asked before the first piece.
        self.body.size_hint()
    }
}

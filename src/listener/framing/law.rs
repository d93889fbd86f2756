//! Law: what passes means the same to hyper. It serves no request that this did not see, each with the method, the target
//! and the body that this saw, and none behind bytes that have two readings.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::{Framing, State};

/// Small, so that heads that are too large come, too.
const HEAD_BYTES_MAX: usize = 512;

/// hyper's smallest.
const BUFFER_BYTES_MIN: usize = 8 * 1024;

/// A request on the wire.
#[derive(Debug, Default)]
struct Seen {
    line: Vec<u8>,
    body: Vec<u8>,
    is_whole: bool,
}

/// A request that hyper handed over. The body is none if it broke off.
struct Served {
    method: String,
    target: String,
    body: Option<Bytes>,
}

/// Panics where the law is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let (seen, passed) = follow(bytes);
    let served = serve(passed);
    assert!(
        served.len() <= seen.len(),
        "hyper saw {} requests",
        served.len()
    );
    for (served, seen) in served.iter().zip(&seen) {
        let line = String::from_utf8_lossy(&seen.line);
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some(&*served.method), "{line}");
        // In absolute form the target is written otherwise.
        if served.target.starts_with('/') {
            assert_eq!(words.next(), Some(&*served.target), "{line}");
        }
        if let Some(body) = &served.body {
            assert!(seen.is_whole, "hyper saw the end of {line}");
            assert_eq!(body, &seen.body, "{line}");
        }
    }
}

/// The requests as this module sees them, and what it passes on.
fn follow(bytes: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let mut framing = Framing::new(HEAD_BYTES_MAX);
    let mut passed = bytes.to_vec();
    let mut seen: Vec<Seen> = vec![];
    let mut line = vec![];
    for byte in &mut passed {
        let before = framing.state;
        let sent = *byte;
        framing.pass(std::slice::from_mut(byte));
        match (before, framing.state) {
            (State::Start, State::Header) => seen.push(Seen {
                line: std::mem::take(&mut line),
                ..Seen::default()
            }),
            // An empty line before a request.
            (State::Start, State::Start) if sent == b'\n' => line.clear(),
            (State::Start, _) if sent != b'\r' => line.push(sent),
            (State::Body(_) | State::Chunk(_), _) => {
                seen.last_mut().expect("a head").body.push(sent);
            }
            _ => {}
        }
        if before != State::Start && framing.state == State::Start {
            seen.last_mut().expect("a head").is_whole = true;
        }
    }
    (seen, passed)
}

/// The requests as hyper sees them.
fn serve(bytes: Vec<u8>) -> Vec<Served> {
    let served = RefCell::new(vec![]);
    let service = service_fn(|request: Request<Incoming>| async {
        let place = served.borrow().len();
        served.borrow_mut().push(Served {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            body: None,
        });
        let body = request.into_body().collect().await;
        served.borrow_mut()[place].body = body.ok().map(http_body_util::Collected::to_bytes);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MIN)
        // The answer to the last request is not cut off by the end of the bytes.
        .half_close(true)
        .ignore_invalid_headers(false)
        .serve_connection(Wire { bytes, at: 0 }, service);
    {
        let mut connection = pin!(connection);
        let mut context = Context::from_waker(Waker::noop());
        // The bytes are all there, so whoever waits has more to do: each turn makes progress.
        let mut turns = 0;
        while connection.as_mut().poll(&mut context).is_pending() {
            turns += 1;
            assert!(turns < 10_000, "hyper waits for nothing");
        }
    }
    served.into_inner()
}

/// A client that has sent all of it, and reads nothing.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let length = into.remaining().min(self.bytes.len() - self.at);
        into.put_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

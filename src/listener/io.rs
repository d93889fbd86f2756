//! A client's bytes: those that were read to tell the protocol first, then the rest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Phase;
use super::frames::Frames;
use super::framing::Framing;
use crate::base::patience::Patience;

/// The client preface of HTTP/2 (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct First {
    bytes: [u8; PREFACE.len()],
    read: usize,
    taken: usize,
}

impl First {
    /// Room for what is not read yet.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.read..]
    }

    /// `n` more bytes stand in the room.
    pub(super) const fn filled(&mut self, n: usize) {
        self.read += n;
    }

    /// Whether this is the HTTP/2 preface; None if more bytes must tell.
    pub(super) fn is_http2(&self) -> Option<bool> {
        let read = &self.bytes[..self.read];
        if PREFACE.starts_with(read) {
            (self.read == PREFACE.len()).then_some(true)
        } else {
            Some(false)
        }
    }

    fn left(&self) -> &[u8] {
        &self.bytes[self.taken..self.read]
    }
}

/// The I/O of one connection.
#[derive(Debug)]
pub(super) struct ClientIo<S> {
    first: First,
    stream: S,
    phase: Phase,
    /// With a client that does not take what we have for it.
    patience: Patience,
    watch: Watch,
}

/// Who looks at the bytes before hyper does.
#[derive(Debug)]
pub(super) enum Watch {
    Http1(Framing),
    Http2(Frames),
}

impl<S> ClientIo<S> {
    pub(super) const fn new(
        first: First,
        stream: S,
        phase: Phase,
        patience: Patience,
        watch: Watch,
    ) -> Self {
        Self {
            first,
            stream,
            phase,
            patience,
            watch,
        }
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// We had something for the client, and it took some of it or nothing.
    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        let now = self.phase.clock();
        let stalled_until = match written {
            Poll::Pending => Some(self.patience.wait(now)),
            Poll::Ready(Ok(bytes)) => {
                self.patience.came(now, *bytes);
                None
            }
            Poll::Ready(Err(_)) => None,
        };
        self.phase.offered(stalled_until);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let left = this.first.left();
        if left.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let n = left.len().min(buffer.remaining());
            buffer.put_slice(&left[..n]);
            this.first.taken += n;
        }
        match &mut this.watch {
            Watch::Http1(framing) if !this.phase.is_tunnel() => {
                framing.pass(&mut buffer.filled_mut()[before..]);
            }
            Watch::Http1(_) => {}
            Watch::Http2(frames) => frames.pass(&buffer.filled()[before..])?,
        }
        this.phase.bytes_came();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }
}

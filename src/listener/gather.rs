//! HTTP/2: what one turn of a connection has for its client goes out together, at the end of the turn. `h2` writes each
//! frame of an answer's body by itself: eight small answers were eight system calls, and over TLS eight records.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that wait for the end of a turn: a frame of the largest size (RFC 9113 section 4.2) is not copied, unless it
/// is small.
const WAITING_BYTES_MAX: usize = 16 * 1024;

/// Slices that are written at once: `h2` has two, a frame's head and its payload, and before them is what waits.
const SLICES_MAX: usize = 8;

thread_local! {
    /// Nothing waits between turns, but for clients that do not take it: one buffer serves all connections of a thread.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[derive(Debug)]
struct Gather<S> {
    stream: S,
    waiting: Vec<u8>,
    /// So many bytes of what waits are written.
    written: usize,
}

/// The connection as hyper sees it: what is written waits.
#[derive(Debug)]
pub(super) struct Gathered<S>(Rc<RefCell<Gather<S>>>);

/// The end of a turn.
#[derive(Debug)]
pub(super) struct Outlet<S>(Rc<RefCell<Gather<S>>>);

/// Lets what is written to `stream` wait until the outlet is flushed.
pub(super) fn gather<S>(stream: S) -> (Gathered<S>, Outlet<S>) {
    let gather = Rc::new(RefCell::new(Gather {
        stream,
        waiting: Vec::new(),
        written: 0,
    }));
    (Gathered(Rc::clone(&gather)), Outlet(gather))
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Writes what waits. Until then nothing may be at rest that has written: whoever polls the connection calls this after.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn take_up(&mut self, slices: &[IoSlice<'_>]) {
        if self.waiting.capacity() == 0 {
            self.waiting = SPARE.take();
            self.waiting.reserve_exact(WAITING_BYTES_MAX);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
    }

    /// So many bytes more of what waits are written.
    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.waiting.len() {
            self.written = 0;
            self.waiting.clear();
            SPARE.set(std::mem::take(&mut self.waiting));
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        loop {
            if self.waiting.len() + bytes <= WAITING_BYTES_MAX {
                self.take_up(slices);
                return Poll::Ready(Ok(bytes));
            }
            let waiting = self.waiting.len() - self.written;
            let mut all = [IoSlice::new(&[]); SLICES_MAX];
            all[0] = IoSlice::new(&self.waiting[self.written..]);
            for (room, slice) in all[1..].iter_mut().zip(slices) {
                *room = IoSlice::new(slice);
            }
            let first = usize::from(waiting == 0);
            let count = slices.len().min(SLICES_MAX - 1) + 1;
            let stream = Pin::new(&mut self.stream);
            let n = ready!(stream.poll_write_vectored(cx, &all[first..count]))?;
            if waiting > 0 {
                self.wrote(n.min(waiting));
            }
            if n > waiting || n == 0 {
                return Poll::Ready(Ok(n.saturating_sub(waiting)));
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(n);
        }
        // Always: TLS has something to say of its own, too.
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(bytes)])
    }

    /// That of the [`Outlet`] counts.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.borrow_mut();
        ready!(gather.poll_flush(cx))?;
        Pin::new(&mut gather.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// What the socket does.
    #[derive(Debug, Default)]
    struct Socket {
        /// How many bytes each of the next writes takes, 0 for none now; later ones take all.
        takes: VecDeque<usize>,
        /// What each write that took something took.
        writes: Vec<Vec<u8>>,
        /// It takes no more, ever.
        is_full: bool,
        /// So many flushes have something left.
        unflushed: usize,
        flushes: usize,
        is_shut: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.unflushed > 0 {
                self.unflushed -= 1;
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.is_full {
                return Poll::Ready(Ok(0));
            }
            let mut bytes = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect::<Vec<u8>>();
            bytes.truncate(self.takes.pop_front().unwrap_or(usize::MAX));
            if bytes.is_empty() {
                return Poll::Pending;
            }
            let taken = bytes.len();
            self.writes.push(bytes);
            Poll::Ready(Ok(taken))
        }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// How many bytes were taken; None: not now.
    fn write(gathered: &mut Gathered<Socket>, slices: &[&[u8]]) -> Option<usize> {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        match Pin::new(gathered).poll_write_vectored(&mut cx(), &slices) {
            Poll::Ready(taken) => Some(taken.unwrap()),
            Poll::Pending => None,
        }
    }

    fn flush(outlet: &Outlet<Socket>) -> bool {
        outlet.poll_flush(&mut cx()).map(Result::unwrap).is_ready()
    }

    #[test]
    fn what_a_turn_writes_goes_out_at_its_end_at_once() {
        let (mut gathered, outlet) = gather(Socket::default());
        for turn in 1..=2 {
            for answer in [&b"head"[..], b"body", b""] {
                assert_eq!(
                    write(&mut gathered, &[answer, answer]),
                    Some(2 * answer.len())
                );
                assert!(Pin::new(&mut gathered).poll_flush(&mut cx()).is_ready());
            }
            assert_eq!(outlet.0.borrow().stream.writes.len(), turn - 1);
            assert!(flush(&outlet));
            let inner = outlet.0.borrow();
            assert_eq!(inner.stream.writes.len(), turn);
            assert_eq!(inner.stream.writes[turn - 1], b"headheadbodybody");
            assert_eq!(inner.waiting.capacity(), 0, "who is at rest keeps nothing");
        }
    }

    #[test]
    fn what_is_large_goes_out_with_what_waits_and_is_not_copied() {
        let (mut gathered, outlet) = gather(Socket::default());
        let large = vec![b'x'; WAITING_BYTES_MAX];
        assert_eq!(write(&mut gathered, &[b"head"]), Some(4));
        assert_eq!(
            write(&mut gathered, &[b"frame", &large]),
            Some(5 + large.len())
        );
        let writes = outlet.0.borrow().stream.writes.clone();
        assert_eq!(writes, [[&b"headframe"[..], &large].concat()]);
        assert!(flush(&outlet));
        assert_eq!(outlet.0.borrow().stream.writes.len(), 1);
    }

    #[test]
    fn what_is_beneath_is_flushed_until_it_has_nothing_left() {
        let (mut gathered, outlet) = gather(Socket::default());
        for (answer, unflushed) in [("answer", 2), ("", 0), ("", 1)] {
            write(&mut gathered, &[answer.as_bytes()]);
            let before = outlet.0.borrow().stream.flushes;
            outlet.0.borrow_mut().stream.unflushed = unflushed;
            for _ in 0..unflushed {
                assert!(!flush(&outlet));
            }
            assert!(flush(&outlet));
            assert_eq!(outlet.0.borrow().stream.flushes - before, unflushed + 1);
        }
    }

    #[test]
    fn a_socket_that_takes_nothing_more_is_an_end() {
        let (mut gathered, outlet) = gather(Socket::default());
        write(&mut gathered, &[b"answer"]);
        outlet.0.borrow_mut().stream.is_full = true;
        let flushed = outlet.poll_flush(&mut cx());
        assert!(
            matches!(&flushed, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WriteZero),
            "{flushed:?}"
        );
        assert_eq!(write(&mut gathered, &[&[0; WAITING_BYTES_MAX]]), Some(0));
    }

    #[test]
    fn nobody_is_shut_before_all_is_written() {
        let (mut gathered, outlet) = gather(Socket::default());
        write(&mut gathered, &[b"goodbye"]);
        outlet.0.borrow_mut().stream.takes = [3, 0].into();
        assert!(
            Pin::new(&mut gathered)
                .poll_shutdown(&mut cx())
                .is_pending()
        );
        assert!(!outlet.0.borrow().stream.is_shut);
        assert!(Pin::new(&mut gathered).poll_shutdown(&mut cx()).is_ready());
        let inner = outlet.0.borrow();
        assert_eq!(inner.stream.writes, [&b"goo"[..], b"dbye"]);
        assert!(inner.stream.is_shut);
    }

    proptest! {
        /// Whatever the socket takes and when, it gets each byte once and in order, and no more waits than may.
        #[test]
        fn no_byte_is_lost(
            frames in prop::collection::vec((0..40_usize, 0..3 * WAITING_BYTES_MAX, any::<bool>()), 1..20),
            takes in prop::collection::vec(prop_oneof![Just(0), 1..100_usize, 1..50_000_usize], 0..60),
        ) {
            let (mut gathered, outlet) = gather(Socket::default());
            outlet.0.borrow_mut().stream.takes = takes.into();
            let mut next = 0_u8;
            let mut bytes = |count: usize| -> Vec<u8> {
                (0..count).map(|_| { next = next.wrapping_add(1) % 251; next }).collect()
            };
            let mut sent = vec![];
            for (head, payload, ends_turn) in frames {
                let frame = [bytes(head), bytes(payload)];
                let mut at = 0;
                while at < head + payload {
                    let (first, second) = (&frame[0][at.min(head)..], &frame[1][at.saturating_sub(head)..]);
                    // None: the socket takes more at the next call.
                    at += write(&mut gathered, &[first, second]).unwrap_or_default();
                    prop_assert!(outlet.0.borrow().waiting.len() <= WAITING_BYTES_MAX);
                }
                sent.extend(frame.concat());
                while ends_turn && !flush(&outlet) {}
            }
            while !flush(&outlet) {}
            prop_assert_eq!(&outlet.0.borrow().stream.writes.concat(), &sent);
        }
    }
}

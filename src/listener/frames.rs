//! What an HTTP/2 client may send that carries nothing. The `h2` crate bounds what one frame may cost: lists of headers,
//! CONTINUATION, small DATA, streams that it has to reset. It does not bound how many PINGs, SETTINGS, priorities, window
//! updates or unknown frames come, nor how many streams are opened and reset again once their requests have begun (rapid
//! reset, CVE-2023-44487). So frames are counted here, below hyper: each costs credit, and answers pay it back. Who has
//! spent it all, and quickly, is cut off.
//!
//! It reads the heads of frames, nine bytes each, and nothing else.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::io::PREFACE;

/// Credit of a new connection, beside what its streams need. Ten thousand PINGs are 170 KB and some milliseconds of work.
const CREDIT: i64 = 10_000;

/// Whoever takes longer than this to spend all credit gets it again: a thousand frames each second, or fifty requests that
/// are given up, are no flood.
const CREDIT_SPAN: Duration = Duration::from_secs(10);

/// A frame that carries nothing of a message.
const COST_FRAME: i64 = 1;

/// A stream. Its answer pays for it and for another one, so that a client may give up half of its requests, as fast as it
/// likes: Envoy draws the line there, too.
const COST_STREAM: i64 = 20;
const PAID_BY_ANSWER: i64 = 2 * COST_STREAM;

/// A piece of an answer's body pays for the window updates and PINGs that follow from it: clients that measure their way
/// send one for each piece, and those that read 4 KiB at a time two updates for each of these.
const PAID_BY_PIECE: i64 = 10;
const PIECE_BYTES_PER_FRAME: usize = 1024;

/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// Flag of DATA and HEADERS.
const END_STREAM: u8 = 1;

/// Follows the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that are not looked at: the preface, then payloads.
    skip: usize,
    head: [u8; HEAD_BYTES],
    /// So many bytes of the head have come.
    have: usize,
    credit: Credit,
    /// When the credit was full.
    full_at: Instant,
}

/// What a connection may still spend. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Credit {
    left: Arc<AtomicI64>,
    full: i64,
}

/// The connection's credit is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spent;

impl Frames {
    /// Follows a connection from the first byte of its preface.
    pub(super) fn new(credit: Credit) -> Self {
        Self {
            skip: PREFACE.len(),
            head: [0; HEAD_BYTES],
            have: 0,
            credit,
            full_at: Instant::now(),
        }
    }

    /// Looks at the next bytes of the connection.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.frame().map_err(io::Error::other)?;
            }
        }
    }

    /// The head of a frame is whole.
    fn frame(&mut self) -> Result<(), Spent> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let cost = match kind {
            HEADERS => COST_STREAM,
            DATA if self.skip > 0 || flags & END_STREAM != 0 => return Ok(()),
            _ => COST_FRAME,
        };
        if self.credit.spend(cost) {
            return Ok(());
        }
        if self.full_at.elapsed() < CREDIT_SPAN {
            return Err(Spent);
        }
        self.full_at = Instant::now();
        self.credit.refill();
        Ok(())
    }
}

impl Credit {
    /// For a connection with so many streams at once.
    pub(super) fn new(max_streams: u32) -> Self {
        let full = CREDIT + i64::from(max_streams) * COST_STREAM;
        Self {
            left: Arc::new(AtomicI64::new(full)),
            full,
        }
    }

    /// Whether the connection was cut off for it.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        self.pay(PAID_BY_ANSWER);
    }

    /// A piece of an answer's body goes out.
    pub(super) fn passed_on(&self, bytes: usize) {
        let frames = bytes / PIECE_BYTES_PER_FRAME;
        self.pay(PAID_BY_PIECE + i64::try_from(frames).unwrap_or(CREDIT));
    }

    // One thread writes; the others of `Arc` and atomic are for hyper, which wants I/O that can be sent.
    fn pay(&self, amount: i64) {
        let left = self.left.load(Ordering::Relaxed);
        self.left
            .store((left + amount).min(self.full), Ordering::Relaxed);
    }

    fn spend(&self, cost: i64) -> bool {
        let left = self.left.load(Ordering::Relaxed) - cost;
        self.left.store(left, Ordering::Relaxed);
        left >= 0
    }

    fn refill(&self) {
        self.left.store(self.full, Ordering::Relaxed);
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client sends frames that carry nothing, too many and too fast")
    }
}

impl std::error::Error for Spent {}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const RST_STREAM: u8 = 3;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + usize::from(length), 0xff);
        frame
    }

    struct Scene {
        frames: Frames,
        credit: Credit,
    }

    impl Scene {
        fn new() -> Self {
            let credit = Credit::new(0);
            let mut frames = Frames::new(credit.clone());
            frames.pass(PREFACE).unwrap();
            Self { frames, credit }
        }

        /// How many of these pass; a million are no flood.
        fn passing(&mut self, bytes: &[u8], mut after_each: impl FnMut(&Credit)) -> usize {
            for n in 0..1_000_000 {
                if self.frames.pass(bytes).is_err() {
                    assert!(self.credit.is_spent());
                    return n;
                }
                after_each(&self.credit);
            }
            usize::MAX
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_nothing_ends_the_connection() {
        for kind in [2, 4, PING, 7, 8, 9, 0xfe] {
            assert_eq!(Scene::new().passing(&frame(kind, 0, 8), |_| ()), 10_000);
        }
        let empty_data = frame(DATA, 0, 0);
        assert_eq!(Scene::new().passing(&empty_data, |_| ()), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_no_flood() {
        let data = frame(DATA, 0, 1);
        assert_eq!(Scene::new().passing(&data, |_| ()), usize::MAX);
        let end = frame(DATA, END_STREAM, 0);
        assert_eq!(Scene::new().passing(&end, |_| ()), usize::MAX);
        let headers = frame(HEADERS, 0, 1);
        let answered = Scene::new().passing(&headers, Credit::answered);
        assert_eq!(answered, usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_given_up_end_the_connection() {
        let given_up = [frame(HEADERS, 0, 1), frame(RST_STREAM, 0, 4)].concat();
        assert_eq!(Scene::new().passing(&given_up, |_| ()), 476);
        let mut nth = 0;
        let every_second = |credit: &Credit| {
            nth += 1;
            if nth % 2 == 0 {
                credit.answered();
            }
        };
        // The resets themselves are not paid for, but nobody resets what was answered.
        let opened = frame(HEADERS, 0, 1);
        let passed = Scene::new().passing(&opened, every_second);
        assert_eq!(passed, usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_pay_for_the_window_updates_that_follow_them() {
        let two_for_each_4_kib = frame(8, 0, 4).repeat(8);
        let passed = Scene::new().passing(&two_for_each_4_kib, |credit| {
            credit.passed_on(16 * 1024);
        });
        assert_eq!(passed, usize::MAX);
        let two_hundred = frame(8, 0, 4).repeat(200);
        let passed = Scene::new().passing(&two_hundred, |credit| credit.passed_on(1));
        assert!(passed < 60, "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn slowly_it_is_no_flood() {
        let mut scene = Scene::new();
        let pings = frame(PING, 0, 8).repeat(9000);
        for _ in 0..20 {
            scene.frames.pass(&pings).unwrap();
            tokio::time::advance(CREDIT_SPAN).await;
        }
        scene.frames.pass(&pings).unwrap();
        assert!(scene.frames.pass(&pings).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_matter_how_the_bytes_are_cut() {
        let mut bytes = PREFACE.to_vec();
        for n in 0..40 {
            bytes.extend(frame(DATA, 0, n));
            bytes.extend(frame(PING, 0, 8));
        }
        for cut in 1..40 {
            let credit = Credit::new(0);
            let mut frames = Frames::new(credit.clone());
            for piece in bytes.chunks(cut) {
                frames.pass(piece).unwrap();
            }
            // The DATA without a byte counts, too.
            assert_eq!(credit.left.load(Ordering::Relaxed), CREDIT - 41);
        }
    }
}

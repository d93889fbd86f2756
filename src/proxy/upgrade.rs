//! A WebSocket: after the service has said 101, bytes go both ways until one side ends, both fall silent, the bearer may no
//! longer, or the gateway ends.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy, split};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Record, SILENT};
use super::body::RequestBody;
use super::streams::{Ended, Watch};
use super::websocket::{CLOSE_AWAY, CLOSE_LATER, CLOSE_POLICY, Frames};
use crate::base::deadline::{Deadline, Deadlines};
use crate::upstream::Lease;

/// Octets read at once from the service.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long a client may take to accept the rest of a frame and our goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Joins the two connections once both have switched. Nothing that the client sent after its request reached the service
/// before it said 101: hyper hands those bytes over only now.
pub(super) fn join(
    client: OnUpgrade,
    (response, lease): (&mut Response<Incoming>, Lease<RequestBody>),
    record: Record,
    watch: Option<Watch>,
    (deadlines, idle_timeout): (Deadlines, Duration),
    (tasks, leaving): (&TaskTracker, CancellationToken),
) {
    let service = hyper::upgrade::on(response);
    let tunnel = async move {
        let mut record = record;
        if let (Ok(client), Ok(service)) = tokio::join!(client, service) {
            let (down, end) =
                run(client, service, watch, (&deadlines, idle_timeout), &leaving).await;
            record.bytes = down;
            match end {
                Ok(End::Both) => record.complete = true,
                Ok(End::Silence) => record.cut(SILENT),
                Ok(End::Bearer(ended)) => record.end(ended),
                Ok(End::Leaving) | Err(_) => {}
            }
        }
        // The request has ended now, and not when its head was answered.
        drop((record, lease));
    };
    spawn_local(tasks.track_future(tunnel));
}

/// How a tunnel ended that did not break.
enum End {
    /// Both sides have ended it.
    Both,
    /// Neither side sent anything for too long.
    Silence,
    /// Its bearer may no longer.
    Bearer(Ended),
    /// The gateway ends, and has waited long enough.
    Leaving,
}

/// Runs until both sides have ended. Tells how many octets went down, and how it ended.
async fn run(
    client: Upgraded,
    service: Upgraded,
    watch: Option<Watch>,
    (deadlines, idle_timeout): (&Deadlines, Duration),
    leaving: &CancellationToken,
) -> (u64, io::Result<End>) {
    let silence = deadlines.deadline();
    silence.set(idle_timeout);
    let heard = |io| Heard {
        io,
        silence: &silence,
        idle_timeout,
    };
    let (client_read, client_write) = split(TokioIo::new(client));
    let (service_read, mut service_write) = split(TokioIo::new(service));
    let mut client_read = heard(client_read);
    let mut down = Down {
        from: heard(service_read),
        to: client_write,
        chunk: vec![0; CHUNK_BYTES].into(),
        waiting: 0..0,
        frames: Frames::default(),
        passed: 0,
    };
    let up = async {
        copy(&mut client_read, &mut service_write).await?;
        service_write.shutdown().await
    };
    let both = async { tokio::try_join!(up, down.run()) };
    let ended = async {
        match &watch {
            Some(watch) => poll_fn(|cx| watch.poll(cx)).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        ended = ended => Ok(End::Bearer(ended)),
        finished = both => finished.map(|_| End::Both),
        () = poll_fn(|cx| silence.poll(cx)) => Ok(End::Silence),
        () = leaving.cancelled() => Ok(End::Leaving),
    };
    let close = match outcome {
        Ok(End::Bearer(Ended::Revoked(_) | Ended::Expired)) => Some(&CLOSE_POLICY),
        Ok(End::Bearer(Ended::Stale)) => Some(&CLOSE_LATER),
        Ok(End::Silence | End::Leaving) => Some(&CLOSE_AWAY),
        Ok(End::Both) | Err(_) => None,
    };
    if let Some(close) = close {
        // Late or broken, the connection is closed all the same.
        let goodbye = down.say_goodbye(close);
        let _ = deadlines.within(GOODBYE_TIMEOUT, goodbye).await;
    }
    (down.passed, outcome)
}

/// One side of a tunnel, which ends the silence when it sends.
struct Heard<'s, R> {
    io: R,
    silence: &'s Deadline,
    idle_timeout: Duration,
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        self.silence.set(self.idle_timeout);
        Poll::Ready(read)
    }
}

/// From the service to the client. Dropping a step half way loses nothing: what was read and not yet written is kept.
struct Down<R, W> {
    from: R,
    to: W,
    chunk: Box<[u8]>,
    /// The part of the chunk that is not written yet.
    waiting: Range<usize>,
    frames: Frames,
    passed: u64,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Down<R, W> {
    async fn run(&mut self) -> io::Result<()> {
        while self.step().await? {}
        self.to.shutdown().await
    }

    /// A close frame, after the frame that is on its way.
    async fn say_goodbye(&mut self, close: &[u8]) -> io::Result<()> {
        while !self.frames.is_between() {
            if !self.step().await? {
                return Ok(());
            }
        }
        self.to.write_all(close).await?;
        self.to.shutdown().await
    }

    /// Reads once or writes once; false at the end.
    async fn step(&mut self) -> io::Result<bool> {
        if self.waiting.is_empty() {
            self.waiting = 0..self.from.read(&mut self.chunk).await?;
            return Ok(!self.waiting.is_empty());
        }
        let written = self.to.write(&self.chunk[self.waiting.clone()]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames
            .pass(&self.chunk[self.waiting.start..][..written]);
        self.waiting.start += written;
        self.passed += written as u64;
        Ok(true)
    }
}

//! Clients that take their answers too slowly. On HTTP/1 the connection's own writes show it. On HTTP/2 a client can read
//! the connection well and yet hold one stream back, with a window of zero or of a byte a minute; hyper then waits for
//! the window and asks nobody: the body can neither see that, nor end itself when its bearer is revoked. So each stream's
//! task is ended from here, which resets the stream.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::spawn_local;

use super::connection::Connection;
use super::frames::Credit;
use crate::base::deadline::{Deadline, Deadlines};
use crate::base::patience::Patience;

/// How patiently one stream's answer waits for its client.
pub(super) struct Pace {
    deadlines: Deadlines,
    account: RefCell<Account>,
    /// Answers pay for the frames of their connection.
    credit: Credit,
}

struct Account {
    patience: Patience,
    /// Bytes of the frame that was handed over and that the client has no room for yet, as far as we know.
    offered: usize,
    /// Most answers never wait.
    deadline: Option<Deadline>,
}

impl Pace {
    pub(super) const fn new(deadlines: Deadlines, patience: Patience, credit: Credit) -> Self {
        Self {
            deadlines,
            account: RefCell::new(Account {
                patience,
                offered: 0,
                deadline: None,
            }),
            credit,
        }
    }

    /// The head of the answer is there.
    pub(super) fn answered(&self) {
        self.credit.answered();
    }

    /// A frame is handed over. hyper asks for the next one as soon as the client has room for this one.
    fn offer(&self, bytes: usize) {
        self.account.borrow_mut().offered = bytes;
        if bytes > 0 {
            self.credit.passed_on(bytes);
        }
    }

    /// The client had room for what was offered.
    fn taken(&self) {
        let Account {
            patience,
            offered,
            deadline,
        } = &mut *self.account.borrow_mut();
        let bytes = std::mem::take(offered);
        if let Some(deadline) = deadline {
            patience.came(deadline.now(), bytes);
            deadline.clear();
        }
    }

    /// The stream can do nothing more for now. Ready when that is the client's fault for too long.
    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Account {
            patience,
            offered,
            deadline,
        } = &mut *self.account.borrow_mut();
        if *offered == 0 {
            return Poll::Pending;
        }
        let deadline = deadline.get_or_insert_with(|| self.deadlines.deadline());
        deadline.set_at(patience.wait(deadline.now()));
        deadline.poll(cx)
    }
}

/// The body of an answer; on HTTP/2 it notes how quickly it is taken. Its frames are small there: it is asked for the next
/// one only when the client has room for all of one, so a rate cannot be seen in large ones.
pub(super) struct Paced<B> {
    body: B,
    pace: Option<Rc<Pace>>,
}

impl<B> Paced<B> {
    pub(super) const fn new(body: B, pace: Option<Rc<Pace>>) -> Self {
        Self { body, pace }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(pace) = &this.pace else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        pace.taken();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            pace.offer(frame.data_ref().map_or(0, Bytes::len));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the streams of one HTTP/2 connection on this thread, each until its client is too slow or its answer may not go
/// on.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    connection: Rc<Connection>,
    next: Rc<RefCell<Option<Rc<Pace>>>>,
}

impl StreamExecutor {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            next: Rc::default(),
        }
    }

    /// The next stream has this pace: hyper makes the answer's future and hands it over in one go.
    pub(super) fn next(&self, pace: Rc<Pace>) {
        *self.next.borrow_mut() = Some(pace);
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let pace = self.next.borrow_mut().take();
        let connection = Rc::clone(&self.connection);
        spawn_local(async move {
            let mut stream = pin!(stream);
            let mut end = None;
            std::future::poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                // Said by the body of this very stream, if it was asked just now.
                end = connection.take_end().or(end.take());
                if end.as_ref().is_some_and(|end| end.has_ended()) {
                    return Poll::Ready(());
                }
                // Dropping the stream resets it (CANCEL), and lets go of the service.
                pace.as_ref()
                    .map_or(Poll::Pending, |pace| pace.poll_over(cx))
            })
            .await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response, Version};
    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Incoming;
    use hyper::client::conn::http2;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::{JoinHandle, LocalSet};
    use tokio::time::{Instant, sleep, timeout};

    use super::super::accept::Place;
    use super::super::connection::Busy;
    use super::super::serve::serve;
    use super::super::{ConnectionFault, Front, Options};
    use super::*;
    use crate::base::signal::Signal;
    use crate::http::executor::LocalExecutor;
    use crate::http::forwarded::Peer;

    const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

    /// What a client has room for.
    const ROOM_BYTES: u32 = 1000;

    /// Answers each request with so many bytes as its path says, in frames of the size of the room.
    struct Service;

    /// An answer, and the request that it belongs to.
    struct Answer {
        left: usize,
        _busy: Busy,
    }

    impl Body for Answer {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let bytes = self.left.min(ROOM_BYTES as usize);
            self.left -= bytes;
            let frame = Frame::data(Bytes::from(vec![b'x'; bytes]));
            Poll::Ready((bytes > 0).then_some(Ok(frame)))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.left as u64)
        }
    }

    impl Front for Service {
        type Body = Answer;

        async fn answer(
            self: Rc<Self>,
            connection: Rc<Connection>,
            request: Request<Incoming>,
        ) -> Response<Answer> {
            Response::new(Answer {
                left: request.uri().path()[1..].parse().unwrap(),
                _busy: connection.begin(),
            })
        }
    }

    /// A connection whose two ends hold as many bytes as `room`, and how it ends at our side.
    fn connection(
        deadlines: &Deadlines,
        room: usize,
    ) -> (DuplexStream, JoinHandle<Result<(), ConnectionFault>>) {
        let options = Rc::new(Options {
            max_connections: 8,
            max_requests: 8,
            idle_timeout: IDLE_TIMEOUT,
            max_streams: 8,
            ..Options::defaults()
        });
        let (client, ours) = tokio::io::duplex(room);
        let place = Place::anywhere(&options);
        let deadlines = deadlines.clone();
        let serving = spawn_local(async move {
            let peer = Peer::new(None, false);
            let drain = Signal::default();
            serve(
                ours,
                (peer, place, Duration::ZERO),
                options,
                Rc::new(Service),
                &deadlines,
                &drain,
            )
            .await
        });
        (client, serving)
    }

    async fn with_deadlines<F: Future<Output = ()>>(test: impl FnOnce(Deadlines) -> F) {
        LocalSet::new()
            .run_until(async {
                let deadlines = Deadlines::new();
                spawn_local(deadlines.clone().sweep());
                test(deadlines).await;
            })
            .await;
    }

    fn get(bytes: usize, version: Version) -> Request<Empty<Bytes>> {
        Request::get(format!("http://x/{bytes}"))
            .version(version)
            .header("host", "x")
            .body(Empty::new())
            .unwrap()
    }

    async fn sender(client: DuplexStream) -> http2::SendRequest<Empty<Bytes>> {
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(ROOM_BYTES)
            .handshake(TokioIo::new(client))
            .await
            .unwrap();
        spawn_local(async { drop(connection.await) });
        sender
    }

    /// Reads a body, one frame in each `pause`. Says how many bytes came until it ended or broke.
    async fn read(mut body: Incoming, pause: Duration) -> Result<usize, hyper::Error> {
        let mut read = 0;
        loop {
            sleep(pause).await;
            match body.frame().await {
                Some(frame) => read += frame?.into_data().unwrap().len(),
                None => return Ok(read),
            }
        }
    }

    /// Reads `most` bytes, so many a second; fewer if the connection ends before.
    async fn read_slowly(mut client: DuplexStream, rate: usize, most: usize) -> usize {
        let mut read = 0;
        while read < most {
            sleep(Duration::from_secs(1)).await;
            let mut left = rate;
            while left > 0 && read < most {
                let mut room = [0; 100];
                let room = &mut room[..left.min(100)];
                match client.read(room).await {
                    Ok(0) | Err(_) => return read,
                    Ok(bytes) => (left, read) = (left - bytes, read + bytes),
                }
            }
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_answer_too_slowly_is_cut_off() {
        with_deadlines(|deadlines| async move {
            for (bytes, rate, whole) in [
                (200_000, 0, false),
                (200_000, 1, false),
                (200_000, 200, false),
                (200_000, 300, true),
                // hyper holds all of it at once, so that for us the request is over.
                (30_000, 1, false),
                (30_000, 300, true),
            ] {
                let (mut client, serving) = connection(&deadlines, 100);
                let head = format!("GET /{bytes} HTTP/1.1\r\nhost: x\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                let began = Instant::now();
                tokio::select! {
                    read = read_slowly(client, rate, bytes) => {
                        assert!(whole && read == bytes, "{bytes} bytes at {rate}: {read}");
                        assert!(began.elapsed() > IDLE_TIMEOUT);
                    }
                    ended = serving => {
                        assert!(!whole, "{bytes} bytes at {rate}: {ended:?}");
                        assert!(matches!(ended, Ok(Err(ConnectionFault::SlowReader))), "{ended:?}");
                        assert!(began.elapsed() >= IDLE_TIMEOUT);
                    }
                }
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_taken_too_slowly_is_reset_alone() {
        with_deadlines(|deadlines| async move {
            let (client, _serving) = connection(&deadlines, 64 * 1024);
            let mut sender = sender(client).await;
            let version = Version::HTTP_2;
            for (pause, whole) in [(10, false), (2, true)] {
                let slow = sender.send_request(get(100_000, version)).await.unwrap();
                let pause = Duration::from_secs(pause);
                let read = timeout(Duration::from_hours(1), read(slow.into_body(), pause)).await;
                match read.unwrap() {
                    Ok(bytes) => assert!(whole && bytes == 100_000),
                    Err(error) => {
                        assert!(!whole);
                        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
                    }
                }
                let next = sender.send_request(get(5, version)).await.unwrap();
                assert_eq!(
                    next.into_body().collect().await.unwrap().to_bytes(),
                    "xxxxx"
                );
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_never_opens_holds_a_stream_for_its_time_only() {
        with_deadlines(|deadlines| async move {
            let (client, serving) = connection(&deadlines, 64 * 1024);
            let mut sender = sender(client).await;
            let began = Instant::now();
            let mut held = vec![];
            for _ in 0..8 {
                let answer = sender.send_request(get(100_000, Version::HTTP_2)).await;
                held.push(answer.unwrap().into_body());
            }
            // Eight are allowed: the ninth waits until they are given up.
            let next = sender.send_request(get(5, Version::HTTP_2)).await.unwrap();
            let took = began.elapsed();
            assert!(
                took >= IDLE_TIMEOUT && took < IDLE_TIMEOUT + Duration::from_secs(5),
                "{took:?}"
            );
            assert_eq!(
                next.into_body().collect().await.unwrap().to_bytes(),
                "xxxxx"
            );
            assert!(!serving.is_finished(), "the connection goes on");
            for mut body in held {
                while let Some(Ok(_)) = body.frame().await {}
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_connection_is_told_and_closed_and_a_busy_one_is_not() {
        with_deadlines(|deadlines| async move {
            let (client, idle) = connection(&deadlines, 64 * 1024);
            let mut sender_of_idle = sender(client).await;
            let (client, busy) = connection(&deadlines, 64 * 1024);
            let mut sender_of_busy = sender(client).await;
            let answer = sender_of_idle.send_request(get(5, Version::HTTP_2)).await;
            answer.unwrap().into_body().collect().await.unwrap();
            let began = Instant::now();
            let answer = sender_of_busy
                .send_request(get(1_000_000, Version::HTTP_2))
                .await
                .unwrap();
            let reading = spawn_local(read(answer.into_body(), Duration::from_millis(500)));
            let ended = idle.await.unwrap();
            assert!(
                !matches!(ended, Err(ConnectionFault::SlowReader)),
                "{ended:?}"
            );
            let took = began.elapsed();
            assert!(
                took >= IDLE_TIMEOUT && took < IDLE_TIMEOUT + Duration::from_secs(10),
                "{took:?}"
            );
            assert!(sender_of_idle.is_closed());
            assert_eq!(reading.await.unwrap().unwrap(), 1_000_000);
            assert!(!busy.is_finished() && !sender_of_busy.is_closed());
        })
        .await;
    }
}

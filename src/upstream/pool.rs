//! The connections of one thread to the servers of one upstream.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use fastrand::Rng;
use http::Response;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::balance::{Balance, Chooser};
use super::circuit::{ConnectionPlace, RequestPlace};
use super::connect::{self, SendError};
use super::endpoint::Endpoint;
use super::io::TlsFault;
use super::options::Options;
use super::retry::Spent;
use super::roster::Roster;
use super::send::Tried;
use super::service::Upstream;
use crate::base::deadline::Deadlines;

/// The connections of one thread to one upstream. `B` is the body of requests; its default is empty.
pub struct Pool<B> {
    pub(super) upstream: Arc<Upstream>,
    homes: RefCell<Homes<B>>,
    chooser: Chooser,
    pub(super) deadlines: Deadlines,
    /// Requests and retries of this thread.
    pub(super) spent: Spent,
    /// Connections of this thread.
    connections: Arc<AtomicUsize>,
}

/// The connections to each server of a roster.
struct Homes<B> {
    roster: Arc<Roster>,
    all: Rc<[Rc<Connections<B>>]>,
}

/// The connections to one server.
pub(super) struct Connections<B> {
    pub(super) endpoint: Arc<Endpoint>,
    /// Whether anybody asks for its load: what all threads count is fought over.
    is_counted: bool,
    /// The most recently used is last.
    idle: RefCell<VecDeque<Idle<B>>>,
    idle_max: usize,
    pub(super) http2: RefCell<Http2<B>>,
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    since: Instant,
}

pub(super) enum Http2<B> {
    None,
    /// One connection is on its way, whoever waits for it.
    Connecting(watch::Receiver<Option<Connected<B>>>),
    /// With the instant at which it was used last.
    Ready(http2::SendRequest<B>, TlsFault, Instant),
}

pub(super) type Connected<B> = Result<(http2::SendRequest<B>, TlsFault), Unconnected>;

/// Why there is no connection, for everybody who waited for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unconnected {
    Full,
    TimedOut,
    Connect(io::ErrorKind),
    Handshake(io::ErrorKind),
}

/// An answer, and the connection that its body still comes from.
#[derive(Debug)]
pub struct Sent<B> {
    /// Its body is still on its way.
    pub response: Response<Incoming>,
    /// To be released when the body has ended.
    pub lease: Lease<B>,
}

/// A connection in use. Dropped before its body has ended, the connection is closed, and the service sees that nobody
/// waits any more.
pub struct Lease<B> {
    sender: Option<http1::SendRequest<B>>,
    load: Load<B>,
    place: Option<RequestPlace>,
}

/// A request under way at one server, counted until it is dropped.
pub(super) struct Load<B>(Rc<Connections<B>>);

impl<B> Pool<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Default
        + Unpin
        + 'static,
{
    /// A pool without connections.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, deadlines: Deadlines) -> Self {
        let options = &upstream.options;
        let homes = Homes::new(&upstream, &[]);
        let chooser = Chooser::new(options.balance, Rng::new());
        Self {
            upstream,
            homes: RefCell::new(homes),
            chooser,
            deadlines,
            spent: Spent::new(),
            connections: Arc::default(),
        }
    }

    /// What the pool was made from.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.upstream.options
    }

    /// What the pools of all threads share.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let idle_timeout = self.options().idle_timeout;
        for home in self.homes().iter() {
            home.idle
                .borrow_mut()
                .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < idle_timeout);
            let mut http2 = home.http2.borrow_mut();
            if let Http2::Ready(_, _, used) = &*http2
                && used.elapsed() >= idle_timeout
            {
                // Requests that still run on it finish; the last one closes it.
                *http2 = Http2::None;
            }
        }
    }

    /// Its servers as they are now. Connections to one that is gone are closed when nobody uses them any more.
    pub(super) fn homes(&self) -> Rc<[Rc<Connections<B>>]> {
        let mut homes = self.homes.borrow_mut();
        if !Arc::ptr_eq(&self.upstream.roster(), &homes.roster) {
            *homes = Homes::new(&self.upstream, &homes.all);
        }
        Rc::clone(&homes.all)
    }

    /// One of `homes` that is not in `tried`, healthy, and not ejected if there is such a one: an ejection is a guess.
    pub(super) fn choose(&self, homes: &[Rc<Connections<B>>], tried: &Tried) -> Option<usize> {
        if tried.is_full() {
            return None;
        }
        let endpoint = |at: usize| &homes[at].endpoint;
        let is_open = |at: usize| !tried.contains(at) && endpoint(at).is_healthy();
        let load = |at: usize| endpoint(at).load();
        // The hour is asked only where it matters.
        if !homes.iter().any(|home| home.endpoint.was_ejected()) {
            return self.chooser.choose(homes.len(), is_open, load);
        }
        let now_ms = self.upstream.now_ms();
        let is_available = |at: usize| is_open(at) && !endpoint(at).is_ejected(now_ms);
        self.chooser
            .choose(homes.len(), is_available, load)
            .or_else(|| self.chooser.choose(homes.len(), is_open, load))
    }

    /// A new connection of HTTP/1.1.
    pub(super) async fn connect_http1(
        &self,
        home: &Connections<B>,
    ) -> Result<http1::SendRequest<B>, SendError> {
        let Ok(place) = ConnectionPlace::take(&self.upstream, &self.connections) else {
            return Err(SendError::Full);
        };
        let connecting = Box::pin(connect::http1(&home.endpoint, place));
        let connected = self
            .deadlines
            .within(self.options().connect_timeout, connecting)
            .await
            .unwrap_or(Err(SendError::ConnectTimeout));
        self.upstream.note_connected(&home.endpoint, &connected);
        connected
    }

    /// The one connection of HTTP/2, which may have to be made.
    pub(super) async fn http2(
        &self,
        home: &Rc<Connections<B>>,
    ) -> Result<(http2::SendRequest<B>, TlsFault), SendError> {
        let connecting = match &mut *home.http2.borrow_mut() {
            Http2::Ready(sender, tls_fault, used) if !sender.is_closed() => {
                *used = Instant::now();
                return Ok((sender.clone(), tls_fault.clone()));
            }
            Http2::Connecting(waiting) => Some(waiting.clone()),
            Http2::Ready(..) | Http2::None => None,
        };
        // A statement of its own: starting writes what was borrowed.
        let mut waiting = connecting.unwrap_or_else(|| self.start_http2(home));
        let connected = match waiting.wait_for(Option::is_some).await {
            Ok(connected) => connected.clone().expect("waited for"),
            Err(_) => Err(Unconnected::Connect(io::ErrorKind::Interrupted)),
        };
        connected.map_err(|reason| match reason {
            Unconnected::Full => SendError::Full,
            Unconnected::TimedOut => SendError::ConnectTimeout,
            Unconnected::Connect(kind) => SendError::Connect(kind.into()),
            Unconnected::Handshake(kind) => SendError::Handshake(kind.into()),
        })
    }

    /// Connects in a task of its own, because the request that asked for it may go away while others wait too.
    fn start_http2(&self, home: &Rc<Connections<B>>) -> watch::Receiver<Option<Connected<B>>> {
        let Ok(place) = ConnectionPlace::take(&self.upstream, &self.connections) else {
            return watch::channel(Some(Err(Unconnected::Full))).1;
        };
        let (done, waiting) = watch::channel(None);
        *home.http2.borrow_mut() = Http2::Connecting(waiting.clone());
        let (home, upstream) = (Rc::clone(home), Arc::clone(&self.upstream));
        let deadlines = self.deadlines.clone();
        spawn_local(async move {
            let span = upstream.options.connect_timeout;
            let connecting = Box::pin(connect::http2(&home.endpoint, place));
            let connected = deadlines
                .within(span, connecting)
                .await
                .unwrap_or(Err(SendError::ConnectTimeout));
            upstream.note_connected(&home.endpoint, &connected);
            let connected = connected.map_err(|error| match error {
                SendError::Connect(error) => Unconnected::Connect(error.kind()),
                SendError::Handshake(error) => Unconnected::Handshake(error.kind()),
                SendError::NoAnswer(_) => Unconnected::Connect(io::ErrorKind::ConnectionReset),
                SendError::ConnectTimeout
                // Connecting says nothing else.
                | SendError::Full
                | SendError::NoServer
                | SendError::TryTimeout => Unconnected::TimedOut,
            });
            *home.http2.borrow_mut() = match &connected {
                Ok((sender, tls_fault)) => {
                    Http2::Ready(sender.clone(), tls_fault.clone(), Instant::now())
                }
                Err(_) => Http2::None,
            };
            done.send_replace(Some(connected));
        });
        waiting
    }
}

impl<B> Homes<B> {
    /// A server that was there before keeps its connections.
    fn new(upstream: &Upstream, before: &[Rc<Connections<B>>]) -> Self {
        let roster = Arc::clone(&upstream.roster());
        let options = &upstream.options;
        let is_counted = options.balance == Balance::LeastRequests && upstream.may_be_many();
        let home = |endpoint: &Arc<Endpoint>| {
            let same = |home: &&Rc<Connections<B>>| Arc::ptr_eq(&home.endpoint, endpoint);
            before.iter().find(same).map_or_else(
                || {
                    Rc::new(Connections {
                        endpoint: Arc::clone(endpoint),
                        is_counted,
                        idle: RefCell::default(),
                        idle_max: options.max_idle,
                        http2: RefCell::new(Http2::None),
                    })
                },
                Rc::clone,
            )
        };
        let all = roster.0.iter().map(home).collect();
        Self { roster, all }
    }
}

impl<B> Connections<B> {
    /// The most recently used connection that can be used: it is the least likely to be closed by the server.
    pub(super) fn take_idle(&self) -> Option<http1::SendRequest<B>> {
        let mut idle = self.idle.borrow_mut();
        for at in (0..idle.len()).rev() {
            if idle[at].sender.is_ready() {
                return idle.remove(at).map(|idle| idle.sender);
            }
            if idle[at].sender.is_closed() {
                idle.remove(at);
            }
        }
        None
    }

    fn keep(&self, sender: http1::SendRequest<B>) {
        if self.idle_max == 0 {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.idle_max {
            // The least recently used makes room.
            idle.pop_front();
        }
        idle.push_back(Idle {
            sender,
            since: Instant::now(),
        });
    }
}

impl<B> Load<B> {
    pub(super) fn new(home: &Rc<Connections<B>>) -> Self {
        if home.is_counted {
            home.endpoint.begin();
        }
        Self(Rc::clone(home))
    }
}

impl<B> Drop for Load<B> {
    fn drop(&mut self) {
        if self.0.is_counted {
            self.0.endpoint.end();
        }
    }
}

impl<B: 'static> Lease<B> {
    /// `sender`: of HTTP/1.1. A connection of HTTP/2 is shared, and stays where it is.
    pub(super) const fn new(sender: Option<http1::SendRequest<B>>, load: Load<B>) -> Self {
        Self {
            sender,
            load,
            place: None,
        }
    }

    /// Gives `place` back with the connection.
    pub(super) fn hold(&mut self, place: RequestPlace) {
        self.place = Some(place);
    }

    /// The answer's body has ended: the connection may be used again, as soon as the request's body has ended too.
    pub fn release(self) {
        let Self {
            sender,
            load,
            place,
        } = self;
        let Some(mut sender) = sender.filter(|sender| !sender.is_closed()) else {
            return;
        };
        if sender.is_ready() {
            load.0.keep(sender);
            return;
        }
        spawn_local(async move {
            if std::future::poll_fn(|cx| sender.poll_ready(cx))
                .await
                .is_ok()
            {
                load.0.keep(sender);
            }
            drop(place);
        });
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Lease<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("server", &self.load.0.endpoint.server)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::time::Duration;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::LocalSet;

    use super::super::options::Server;
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn pool(path: &Path, http2: bool) -> Pool<Empty<Bytes>> {
        let options = Options {
            http2,
            ..Options::of(Server::Unix(path.to_owned()))
        };
        let upstream = Upstream::new(options, &Metrics::new());
        Pool::new(Arc::new(upstream), Deadlines::new())
    }

    fn get(path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("http://service{path}"))
            .body(Empty::new())
            .unwrap()
    }

    #[tokio::test]
    async fn an_ejected_server_is_better_than_none_and_an_unhealthy_one_is_not() {
        let server = |n: usize| Server::Unix(format!("/{n}").into());
        let options = Options {
            servers: vec![server(0), server(1)],
            ..Options::of(server(0))
        };
        let upstream = Arc::new(Upstream::new(options, &Metrics::new()));
        let pool = Pool::<Empty<Bytes>>::new(Arc::clone(&upstream), Deadlines::new());
        let choose = || pool.choose(&pool.homes(), &Tried::default());
        let endpoints = upstream.endpoints();
        (0..5).for_each(|_| upstream.note_failure(&endpoints[0]));
        assert_eq!([(); 4].map(|()| choose()), [Some(1); 4]);
        endpoints[1].set_healthy(false);
        assert_eq!(choose(), Some(0), "ejected");
        endpoints[0].set_healthy(false);
        assert_eq!(choose(), None);
    }

    #[tokio::test]
    async fn a_request_is_offered_to_so_many_servers_at_most() {
        let server = |n: usize| Server::Unix(format!("/{n}").into());
        let options = Options {
            servers: (0..20).map(server).collect(),
            ..Options::of(server(0))
        };
        let upstream = Arc::new(Upstream::new(options, &Metrics::new()));
        let pool = Pool::<Empty<Bytes>>::new(upstream, Deadlines::new());
        let mut tried = Tried::default();
        let mut offers = vec![];
        while let Some(at) = pool.choose(&pool.homes(), &tried) {
            tried.push(at);
            offers.push(at);
        }
        offers.sort_unstable();
        offers.dedup();
        assert_eq!(offers.len(), 8, "each another one");
    }

    #[tokio::test]
    async fn http2_requests_share_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = Rc::new(Cell::new(0));
        let serving = {
            let accepted = Rc::clone(&accepted);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    accepted.set(accepted.get() + 1);
                    let service = service_fn(|_| async {
                        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
                    });
                    let connection = hyper::server::conn::http2::Builder::new(
                        crate::http::executor::LocalExecutor,
                    )
                    .serve_connection(TokioIo::new(stream), service);
                    spawn_local(async { drop(connection.await) });
                }
            }
        };
        LocalSet::new()
            .run_until(async {
                spawn_local(serving);
                let pool = pool(&path, true);
                let (first, second) = tokio::join!(
                    Box::pin(pool.send(get("/1"))),
                    Box::pin(pool.send(get("/2")))
                );
                assert_eq!(first.unwrap().response.status(), 200);
                assert_eq!(second.unwrap().response.status(), 200);
                let third = Box::pin(pool.send(get("/3"))).await.unwrap();
                assert_eq!(third.response.status(), 200);
                assert_eq!(accepted.get(), 1);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_not_used_is_closed_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        LocalSet::new()
            .run_until(async {
                let pool = pool(&path, false);
                let send = spawn_local({
                    let request = get("/");
                    async move {
                        let sent = Box::pin(pool.send(request)).await;
                        let Sent { response, lease } = sent.unwrap();
                        response.into_body().collect().await.unwrap();
                        lease.release();
                        pool
                    }
                });
                let (mut service, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                assert_ne!(service.read(&mut head).await.unwrap(), 0);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                service.write_all(answer).await.unwrap();
                let pool = send.await.unwrap();
                let mut end = std::pin::pin!(service.read(&mut head));
                for (seconds, is_open) in [(59, true), (1, false)] {
                    tokio::time::advance(Duration::from_secs(seconds)).await;
                    pool.sweep();
                    assert_eq!(pool.homes()[0].idle.borrow().len(), usize::from(is_open));
                }
                assert_eq!(end.as_mut().await.unwrap(), 0, "the service sees it");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_connection_that_is_not_used_is_closed_when_its_last_stream_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (go, gone) = tokio::sync::oneshot::channel();
        let gone = Cell::new(Some(gone));
        let serving = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|_| {
                let gone = gone.take();
                async {
                    if let Some(gone) = gone {
                        drop(gone.await);
                    }
                    Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            hyper::server::conn::http2::Builder::new(crate::http::executor::LocalExecutor)
                .serve_connection(TokioIo::new(stream), service)
                .await
        };
        LocalSet::new()
            .run_until(async {
                let serving = spawn_local(serving);
                let pool = Rc::new(pool(&path, true));
                let slow = spawn_local({
                    let pool = Rc::clone(&pool);
                    async move { Box::pin(pool.send(get("/slow"))).await }
                });
                tokio::time::sleep(Duration::from_secs(30)).await;
                let quick = Box::pin(pool.send(get("/quick"))).await.unwrap();
                assert_eq!(quick.response.status(), 200);
                for (seconds, is_open) in [(59, true), (1, false)] {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    pool.sweep();
                    let is_ready = matches!(&*pool.homes()[0].http2.borrow(), Http2::Ready(..));
                    assert_eq!(is_ready, is_open);
                }
                assert!(!serving.is_finished(), "a request still runs on it");
                go.send(()).unwrap();
                assert_eq!(slow.await.unwrap().unwrap().response.status(), 200);
                drop(quick);
                serving.await.unwrap().unwrap();
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_http2_connection_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame, and then nothing more.
            stream
                .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            std::future::pending::<()>().await;
        };
        LocalSet::new()
            .run_until(async {
                spawn_local(serving);
                let pool = pool(&path, true);
                let sent = Box::pin(pool.send(get("/")));
                let sent = tokio::time::timeout(Duration::from_mins(1), sent).await;
                assert!(sent.expect("an end in time").is_err());
            })
            .await;
    }

    /// Answers every request but those to `/die`, at which it closes the connection; counts these.
    async fn mortal(mut stream: UnixStream, deaths: Rc<Cell<usize>>) {
        let mut head = vec![];
        loop {
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            if head.windows(4).any(|word| word == b"/die") {
                deaths.set(deaths.get() + 1);
                return;
            }
            head.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_request_that_kills_the_service_is_sent_twice_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let deaths = Rc::new(Cell::new(0));
        let serving = {
            let deaths = Rc::clone(&deaths);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    spawn_local(mortal(stream, Rc::clone(&deaths)));
                }
            }
        };
        LocalSet::new()
            .run_until(async {
                spawn_local(serving);
                let pool = pool(&path, false);
                let mut all = vec![];
                for _ in 0..4 {
                    all.push(Box::pin(pool.send(get("/"))).await.unwrap());
                }
                for Sent { response, lease } in all {
                    response.into_body().collect().await.unwrap();
                    lease.release();
                }
                tokio::task::yield_now().await;
                let home = &pool.homes()[0];
                assert_eq!(home.idle.borrow().len(), 4, "all four are kept");
                assert!(Box::pin(pool.send(get("/die"))).await.is_err());
                assert_eq!(deaths.get(), 2);
            })
            .await;
    }
}

//! Accepting: every thread has a socket of its own for each address (`SO_REUSEPORT`), so that no lock and no other thread
//! stands in the way. The kernel spreads connections by a hash, which is uneven when there are few: a thread that has more
//! than its share hands the next one over.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::{Addresses, Guest};
use super::inherited::Inherited;
use super::options::{Address, Options};
use super::proxy_protocol::{self, Told};
use super::serve::{ConnectionFault, Front, serve};
use crate::base::deadline::Deadlines;
use crate::base::failures::Failures;
use crate::base::signal::Signal;
use crate::http::forwarded::{Peer, is_trusted};

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// As configured.
    pub address: Address,
    /// The system's word.
    pub source: io::Error,
}

/// Connections that may wait in the kernel to be accepted. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// After a failed accept (no more file descriptors, mostly), how long to wait before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most bytes of a client that the kernel keeps and has not sent yet, once it says that there is room. It says so when
/// half of them are gone. Without a bound it waits for a third of a buffer that it lets grow to megabytes, so that a slow
/// but steady client looks like one that takes nothing for minutes.
const UNSENT_BYTES_MAX: u32 = 32 * 1024;

/// Connections that a thread may have beyond the one with the fewest before it hands the next one over.
const SKEW_MAX: usize = 1;

/// One thread's sockets for one listener.
#[derive(Debug)]
pub struct Acceptor {
    socket: Listening,
    crew: Crew,
    me: usize,
    handed_over: mpsc::UnboundedReceiver<(Parcel, Seat)>,
}

#[derive(Debug)]
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

impl Listening {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

/// A connection on its way from one thread's runtime to another's.
#[derive(Debug)]
enum Parcel {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// All threads of one listener: how many connections each has, and how to hand one over.
#[derive(Clone, Debug)]
pub struct Crew(Arc<Members>);

#[derive(Debug)]
struct Members {
    loads: Box<[AtomicUsize]>,
    inboxes: Box<[mpsc::UnboundedSender<(Parcel, Seat)>]>,
    max: usize,
    /// A connection has ended while the listener was full.
    room: Notify,
    /// None where an address may have any number of connections.
    addresses: Option<Arc<Addresses>>,
    /// None where an address may send any number of wrong tokens.
    failures: Option<Failures>,
}

/// Opens a listener's sockets, one for each of `threads`. Returns the address with the port that the system chose.
pub fn bind(options: &Options, threads: usize) -> Result<(Address, Vec<Acceptor>), ListenError> {
    inherit_or_bind(options, threads, &mut Inherited::default())
}

/// The same, but where a socket came with the process, that one is used. There is no other of its address, so all threads accept
/// from it; who has more than its share hands connections over as ever.
pub fn inherit_or_bind(
    options: &Options,
    threads: usize,
    inherited: &mut Inherited,
) -> Result<(Address, Vec<Acceptor>), ListenError> {
    let (address, sockets) = match (inherited.take(&options.address), &options.address) {
        (Some(socket), address) => share(&socket, threads).map(|all| (address.clone(), all)),
        (None, Address::Tcp(address)) => {
            bind_tcp(*address, threads).map(|(address, all)| (Address::Tcp(address), all))
        }
        (None, Address::Unix(path)) => bind_unix(path)
            .and_then(|socket| share(&Listening::Unix(socket), threads))
            .map(|all| (options.address.clone(), all)),
    }
    .map_err(|source| ListenError {
        address: options.address.clone(),
        source,
    })?;
    let (inboxes, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| mpsc::unbounded_channel()).unzip();
    let crew = Crew(Arc::new(Members {
        loads: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
        inboxes: inboxes.into(),
        max: options.max_connections,
        room: Notify::new(),
        addresses: options
            .max_connections_per_address
            .map(|max| Arc::new(Addresses::new(max))),
        failures: options.failure_limit.map(Failures::new),
    }));
    let acceptors = sockets
        .into_iter()
        .zip(receivers)
        .enumerate()
        .map(|(me, (socket, handed_over))| Acceptor {
            socket,
            crew: crew.clone(),
            me,
            handed_over,
        })
        .collect();
    Ok((address, acceptors))
}

/// One socket for all threads.
fn share(socket: &Listening, threads: usize) -> io::Result<Vec<Listening>> {
    (0..threads).map(|_| socket.try_clone()).collect()
}

fn bind_tcp(address: SocketAddr, threads: usize) -> io::Result<(SocketAddr, Vec<Listening>)> {
    // Sockets that share a port would share it with another process of this user too, which would then get a part of
    // our connections. So the port must be free without sharing first.
    let address = if address.port() == 0 {
        address
    } else {
        drop(tcp_socket(address, false)?);
        address
    };
    let first = tcp_socket(address, true)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![Listening::Tcp(first)];
    for _ in 1..threads {
        sockets.push(Listening::Tcp(tcp_socket(bound, true)?));
    }
    Ok((bound, sockets))
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

fn bind_unix(path: &std::path::Path) -> io::Result<StdUnixListener> {
    // A socket that a dead process left behind is in the way; one that answers is not ours to take.
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let socket = StdUnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Acceptor {
    /// Accepts and serves until `stop`; then open connections are told to end, and are waited for by `tasks`.
    pub async fn run<F: Front>(
        mut self,
        options: Rc<Options>,
        front: Rc<F>,
        deadlines: Deadlines,
        tasks: TaskTracker,
        stop: CancellationToken,
        metrics: ListenerMetrics,
    ) -> io::Result<()> {
        let socket = match self.socket {
            Listening::Tcp(socket) => AsyncListening::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => AsyncListening::Unix(UnixListener::from_std(socket)?),
        };
        let serving = Serving {
            options,
            front,
            deadlines,
            tasks,
            drain: Signal::default(),
            metrics,
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some((parcel, seat)) = self.handed_over.recv() => {
                    if let Ok(accepted) = parcel.open() {
                        serving.start(accepted, seat);
                    }
                    continue;
                }
                accepted = async {
                    self.crew.wait_for_room().await;
                    socket.accept().await
                } => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    let guest = match self.crew.admit(&accepted, &serving.options) {
                        Ok(guest) => guest,
                        Err(refused) => {
                            let faults = &serving.metrics.faults;
                            faults.with_label_values(&[refused.code()]).inc();
                            tracing::debug!(%refused, "a connection was closed at once");
                            continue;
                        }
                    };
                    let seat = self.crew.seat(self.me, guest);
                    if seat.at == self.me {
                        serving.start(accepted, seat);
                    } else {
                        self.crew.hand_over(accepted, seat);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; is the limit of open files high enough?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What a listener counts.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Open connections.
    pub connections: IntGauge,
    /// Requests under way. What `max_requests` bounds.
    pub requests: IntGauge,
    /// Connections that did not end well, by `ConnectionFault::code`.
    pub faults: prometheus::IntCounterVec,
}

struct Serving<F> {
    options: Rc<Options>,
    front: Rc<F>,
    deadlines: Deadlines,
    tasks: TaskTracker,
    /// Connections are told to end.
    drain: Signal,
    metrics: ListenerMetrics,
}

impl<F> Drop for Serving<F> {
    /// However it ends.
    fn drop(&mut self) {
        self.drain.give();
    }
}

impl<F: Front> Serving<F> {
    fn start(&self, accepted: Accepted, seat: Seat) {
        let (options, front) = (Rc::clone(&self.options), Rc::clone(&self.front));
        let (deadlines, drain, metrics) = (
            self.deadlines.clone(),
            self.drain.clone(),
            self.metrics.clone(),
        );
        let place = Place::new(seat, &metrics);
        let serving = self.tasks.track_future(async move {
            let ended = match accepted {
                Accepted::Tcp(stream, address) => {
                    let trusted = is_trusted(&options.trusted_proxies, address.ip());
                    let peer = Peer::new(Some(address.ip()), trusted);
                    welcome(stream, (peer, place), options, front, &deadlines, &drain).await
                }
                // Whoever may open the socket's file is on this machine and let in by the operator.
                Accepted::Unix(stream) => {
                    let peer = Peer::new(None, true);
                    welcome(stream, (peer, place), options, front, &deadlines, &drain).await
                }
            };
            if let Err(fault) = ended {
                metrics.faults.with_label_values(&[fault.code()]).inc();
                tracing::debug!(%fault, "a client connection did not end well");
            }
        });
        spawn_local(serving);
    }
}

/// Learns whom the connection is for, where a proxy says so, and serves it.
async fn welcome<S, F>(
    mut stream: S,
    (mut peer, mut place): (Peer, Place),
    options: Rc<Options>,
    front: Rc<F>,
    deadlines: &Deadlines,
    drain: &Signal,
) -> Result<(), ConnectionFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Front,
{
    let mut spent = Duration::ZERO;
    if options.proxy_protocol {
        let began = Instant::now();
        // In a box, so that connections of other listeners have no room for it.
        let reading = Box::pin(proxy_protocol::read(&mut stream));
        let told = deadlines
            .within(options.handshake_timeout(), reading)
            .await
            .map_err(|_| ConnectionFault::ProxyTimeout)??;
        spent = began.elapsed();
        peer = match told {
            Told::Client(address) => {
                let trusted = is_trusted(&options.trusted_proxies, address);
                if !trusted {
                    place.seat.guest = place.seat.crew.guest(address)?;
                }
                Peer::new(Some(address), trusted)
            }
            // What the request says about its way may come from anybody.
            Told::Nobody => Peer::new(None, false),
        };
    }
    let client = (peer, place, spent);
    serve(stream, client, options, front, deadlines, drain).await
}

enum AsyncListening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsyncListening {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                stream.set_nodelay(true)?;
                // Best effort: kernels that do not know it serve all the same.
                #[cfg(target_os = "linux")]
                drop(socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
                Ok(Accepted::Tcp(stream, address))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok(Accepted::Unix(stream))
            }
        }
    }
}

impl Accepted {
    fn pack(self) -> io::Result<Parcel> {
        Ok(match self {
            Self::Tcp(stream, address) => Parcel::Tcp(stream.into_std()?, address),
            Self::Unix(stream) => Parcel::Unix(stream.into_std()?),
        })
    }
}

impl Parcel {
    fn open(self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(stream, address) => Accepted::Tcp(TcpStream::from_std(stream)?, address),
            Self::Unix(stream) => Accepted::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A connection's place in the count of a thread; given back when dropped.
#[derive(Debug)]
struct Seat {
    crew: Crew,
    at: usize,
    /// Given back with it.
    guest: Option<Guest>,
}

/// An open connection, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    seat: Seat,
    open: IntGauge,
    /// Requests of all connections of the listener.
    pub(super) requests: IntGauge,
}

impl Place {
    fn new(seat: Seat, metrics: &ListenerMetrics) -> Self {
        metrics.connections.inc();
        Self {
            seat,
            open: metrics.connections.clone(),
            requests: metrics.requests.clone(),
        }
    }

    /// Who sends wrong tokens to this listener; None where nobody counts.
    pub(super) fn failures(&self) -> Option<&Failures> {
        self.seat.crew.0.failures.as_ref()
    }
}

#[cfg(test)]
impl Place {
    /// On a listener of its own.
    pub(super) fn anywhere(options: &Options) -> Self {
        let (_, acceptors) = bind(options, 1).expect("a port");
        let gauge = |name| IntGauge::new(name, name).expect("a name");
        let fault = prometheus::Opts::new("faults", "faults");
        let metrics = ListenerMetrics {
            connections: gauge("connections"),
            requests: gauge("requests"),
            faults: prometheus::IntCounterVec::new(fault, &["reason"]).expect("a name"),
        };
        Self::new(acceptors[0].crew.seat(0, None), &metrics)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Crew {
    /// Counts the connection for its address, where that is asked. Behind a trusted proxy are many clients, and a Unix socket
    /// has no address. Where proxies say whom they speak for, nobody else is let in.
    fn admit(
        &self,
        accepted: &Accepted,
        options: &Options,
    ) -> Result<Option<Guest>, ConnectionFault> {
        match accepted {
            Accepted::Tcp(_, address) if !is_trusted(&options.trusted_proxies, address.ip()) => {
                if options.proxy_protocol {
                    return Err(ConnectionFault::NoProxy);
                }
                self.guest(address.ip())
            }
            Accepted::Tcp(..) | Accepted::Unix(_) => Ok(None),
        }
    }

    /// One more connection of this client, if it may have one.
    fn guest(&self, address: IpAddr) -> Result<Option<Guest>, ConnectionFault> {
        match &self.0.addresses {
            None => Ok(None),
            Some(addresses) => addresses
                .admit(address.into())
                .map(Some)
                .ok_or(ConnectionFault::AddressFull),
        }
    }

    /// A place with the thread that has the fewest connections, or with `me` if it has hardly more. Counted at once.
    fn seat(&self, me: usize, guest: Option<Guest>) -> Seat {
        let loads = &self.0.loads;
        let mine = loads[me].load(Ordering::Relaxed);
        let at = (0..loads.len())
            .min_by_key(|&other| (loads[other].load(Ordering::Relaxed), other != me))
            .filter(|&other| mine >= loads[other].load(Ordering::Relaxed) + SKEW_MAX)
            .unwrap_or(me);
        loads[at].fetch_add(1, Ordering::Relaxed);
        Seat {
            crew: self.clone(),
            at,
            guest,
        }
    }

    fn hand_over(&self, accepted: Accepted, seat: Seat) {
        // What cannot be handed over is closed; its seat is given back with it.
        if let Ok(parcel) = accepted.pack() {
            drop(self.0.inboxes[seat.at].send((parcel, seat)));
        }
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.0.room.notified();
            if self.open() < self.0.max {
                return;
            }
            room.await;
        }
    }

    fn open(&self) -> usize {
        self.0
            .loads
            .iter()
            .map(|load| load.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let members = &self.crew.0;
        members.loads[self.at].fetch_sub(1, Ordering::Relaxed);
        members.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::super::connection::{Connection, Phase};
    use super::*;
    use crate::http::executor::LocalExecutor;

    fn options() -> Options {
        Options {
            max_connections: 1,
            max_requests: 1,
            ..Options::defaults()
        }
    }

    fn metrics() -> ListenerMetrics {
        let gauge = || IntGauge::new("open", "open").unwrap();
        let faults = prometheus::Opts::new("faults", "faults");
        ListenerMetrics {
            connections: gauge(),
            requests: gauge(),
            faults: prometheus::IntCounterVec::new(faults, &["reason"]).unwrap(),
        }
    }

    #[test]
    fn a_connection_counts_until_its_last_request_has_ended() {
        let (options, metrics) = (options(), metrics());
        let (_, acceptors) = bind(&options, 1).unwrap();
        let crew = &acceptors[0].crew;
        let place = Place::new(crew.seat(0, None), &metrics);
        let phase = Phase::new(
            Deadlines::new().deadline().handle(),
            None,
            options.idle_timeout,
        );
        let connection = Rc::new(Connection::new(
            Peer::new(None, false),
            &options,
            phase,
            place,
        ));
        let tunnel = connection.begin();
        drop(connection);
        let counted = || {
            (
                crew.open(),
                metrics.connections.get(),
                metrics.requests.get(),
            )
        };
        assert_eq!(counted(), (1, 1, 1), "the tunnel is open");
        drop(tunnel);
        assert_eq!(counted(), (0, 0, 0));
    }

    /// Panics on `/panic`, answers everything else.
    struct Clumsy;

    impl Front for Clumsy {
        type Body = http_body_util::Empty<bytes::Bytes>;

        async fn answer(
            self: Rc<Self>,
            connection: Rc<Connection>,
            request: http::Request<hyper::body::Incoming>,
        ) -> http::Response<Self::Body> {
            let _busy = connection.begin();
            tokio::task::yield_now().await;
            assert_ne!(request.uri().path(), "/panic", "on purpose");
            http::Response::default()
        }
    }

    /// Begins to accept: where, and by which task.
    fn accept(
        options: Options,
        metrics: &ListenerMetrics,
    ) -> (SocketAddr, JoinHandle<io::Result<()>>) {
        let (Address::Tcp(address), mut acceptors) = bind(&options, 1).unwrap() else {
            panic!("an address of TCP was asked for");
        };
        let deadlines = Deadlines::new();
        spawn_local(deadlines.clone().sweep());
        let accepting = acceptors.remove(0).run(
            Rc::new(options),
            Rc::new(Clumsy),
            deadlines,
            TaskTracker::new(),
            CancellationToken::new(),
            metrics.clone(),
        );
        (address, spawn_local(accepting))
    }

    #[tokio::test]
    async fn who_accepts_tells_its_connections_to_end_though_nobody_told_it_to_stop() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let (address, accepting) = accept(options(), &metrics());
                let mut client = TcpStream::connect(address).await.unwrap();
                client
                    .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    .await
                    .unwrap();
                let mut said = vec![0; 8];
                client.read_exact(&mut said).await.unwrap();
                assert_eq!(said, b"HTTP/1.1", "it is served, and kept");
                accepting.abort();
                let rest = client.read_to_end(&mut said);
                let rest = tokio::time::timeout(Duration::from_secs(10), rest).await;
                rest.expect("closed long before it is idle for too long")
                    .unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_or_stream_and_gives_back_its_places() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let mut options = options();
                options.max_connections_per_address = NonZeroUsize::new(1);
                let metrics = metrics();
                let (address, _) = accept(options, &metrics);
                let mut first = TcpStream::connect(address).await.unwrap();
                first
                    .write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n")
                    .await
                    .unwrap();
                let mut said = vec![];
                first.read_to_end(&mut said).await.unwrap();
                assert!(said.is_empty(), "closed without an answer");

                // The only place is free again: for the listener, for the address, and for the request.
                let second = TokioIo::new(TcpStream::connect(address).await.unwrap());
                let (mut second, driver) =
                    hyper::client::conn::http2::handshake(LocalExecutor, second)
                        .await
                        .unwrap();
                spawn_local(async { drop(driver.await) });
                let get = |path: &str| {
                    let uri = format!("http://x{path}");
                    let body = http_body_util::Empty::<bytes::Bytes>::new();
                    http::Request::get(uri).body(body).unwrap()
                };
                let reset = second.send_request(get("/panic")).await;
                assert!(reset.is_err(), "reset without an answer");
                let answer = second.send_request(get("/")).await.unwrap();
                assert_eq!(answer.status(), 200, "the connection goes on");
                let counted = (metrics.connections.get(), metrics.requests.get());
                assert_eq!(counted, (1, 0));
            })
            .await;
    }
}

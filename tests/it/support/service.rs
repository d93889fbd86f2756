//! A service that the scenario plays by hand, byte for byte: for what no well-behaved service can say.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::raw::Raw;
use super::within;

/// Where it listens.
pub(crate) struct RawService(TcpListener);

impl RawService {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().expect("an address"))
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Raw {
        let (stream, _) = within("a connection to the service", self.0.accept())
            .await
            .expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Raw::new(stream)
    }

    /// The next connection and the head that came on it.
    pub(crate) async fn request(&self) -> (Raw, String) {
        let mut raw = self.accept().await;
        let head = raw.read_head().await;
        (raw, head)
    }

    /// Whether nobody has connected who was not accepted.
    pub(crate) async fn is_left_alone(&self) -> bool {
        let accept = tokio::time::timeout(Duration::from_millis(1), self.0.accept());
        accept.await.is_err()
    }
}

/// A port that answers no connection: its queue is full, and the kernel drops what comes.
pub(crate) struct BlackHole {
    listener: Socket,
    /// What fills its queue.
    waiting: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("a listener");
        let mut hole = Self {
            listener,
            waiting: vec![],
        };
        let wait = Duration::from_millis(300);
        while let Ok(connected) =
            tokio::time::timeout(wait, TcpStream::connect(hole.address())).await
        {
            hole.waiting.push(connected.expect("a place in the queue"));
        }
        hole
    }

    fn address(&self) -> std::net::SocketAddr {
        let address = self.listener.local_addr().expect("an address");
        address.as_socket().expect("an address of IPv4")
    }

    pub(crate) fn url(&self) -> String {
        assert!(!self.waiting.is_empty(), "somebody waits");
        format!("http://{}", self.address())
    }
}

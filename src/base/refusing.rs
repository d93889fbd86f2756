//! A port where nobody is, for unit tests and, by its path, for those in `tests/it`.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// A port that refuses every connection. It is bound, so that nobody else gets it meanwhile, and never listens.
pub(crate) struct Refusing(pub(crate) Socket);

impl Refusing {
    pub(crate) fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("an address");
        address.as_socket().expect("one of IPv4")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

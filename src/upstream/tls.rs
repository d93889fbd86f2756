//! TLS to a service. One configuration for all servers of an upstream and all threads, so that a session which one of them
//! began is resumed by the others.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::client_tls::{self, Identity};

/// The names of HTTP/2 and HTTP/1.1 (RFC 9113 section 3.2, RFC 7301 section 6).
const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";

/// Names of servers whose sessions are remembered, for each upstream: few upstreams have more servers, and what is forgotten
/// costs one whole handshake. It is the library's own number, written out.
const SESSIONS_MAX: usize = 256;

/// How one server is reached over TLS.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// What all servers of an upstream have in common. Fails when the key is not the certificate's.
    pub fn client(
        roots: Arc<RootCertStore>,
        identity: Option<Identity>,
        http2: bool,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut client = client_tls::client(roots, identity)?;
        client.alpn_protocols = vec![if http2 { H2 } else { HTTP_11 }.to_vec()];
        client.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        // What is sent early can be sent again by anybody on the way (RFC 8446 section 8).
        client.enable_early_data = false;
        Ok(Arc::new(client))
    }

    /// For the server whose certificate has this name or address; a name is also sent, as SNI.
    #[must_use]
    pub const fn new(client: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { client, name }
    }

    /// The handshake. With `http2` the server must have chosen it: prior knowledge is for connections in clear text
    /// (RFC 9113 section 3.3).
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let stream = connector.connect(self.name.clone(), stream).await?;
        if http2 && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the server does not offer HTTP/2 (ALPN h2)",
            ));
        }
        Ok(stream)
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client) && self.name == other.name
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

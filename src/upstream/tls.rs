//! TLS to a service. One configuration for all servers of an upstream and all threads, so that a session which one of them
//! began is resumed by the others.

use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
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

/// What all servers of an upstream have in common: whom we believe, and who we are.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// Of all that it was made from, so that a reload knows what has not changed.
    digest: [u8; 32],
}

/// How one server is reached over TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    client: TlsClient,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Fails when the key is not the certificate's.
    pub fn new(
        roots: Arc<RootCertStore>,
        identity: Option<Identity>,
        http2: bool,
    ) -> Result<Self, rustls::Error> {
        let digest = digest(&roots, identity.as_ref(), http2);
        let mut config = client_tls::client(roots, identity)?;
        config.alpn_protocols = vec![if http2 { H2 } else { HTTP_11 }.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        // What is sent early can be sent again by anybody on the way (RFC 8446 section 8).
        config.enable_early_data = false;
        let config = Arc::new(config);
        Ok(Self { config, digest })
    }
}

/// Each part with its length before it, so that no two lists read the same.
fn digest(roots: &RootCertStore, identity: Option<&Identity>, http2: bool) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    };
    add(&[u8::from(http2)]);
    add(&(roots.len() as u64).to_be_bytes());
    for root in &roots.roots {
        add(&root.subject);
        add(&root.subject_public_key_info);
        add(root.name_constraints.as_deref().unwrap_or_default());
    }
    if let Some(identity) = identity {
        add(identity.key.secret_der());
        for certificate in &identity.certificates {
            add(certificate);
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TlsClient {}

impl Tls {
    /// For the server whose certificate has this name or address; a name is also sent, as SNI.
    #[must_use]
    pub const fn new(client: TlsClient, name: ServerName<'static>) -> Self {
        Self { client, name }
    }

    /// The handshake. With `http2` the server must have chosen it: prior knowledge is for connections in clear text
    /// (RFC 9113 section 3.3).
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::clone(&self.client.config));
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

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;
    use crate::http::client_tls::Roots;

    fn authority() -> (rcgen::KeyPair, rcgen::Certificate) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (key, certificate)
    }

    #[test]
    fn what_is_made_from_the_same_is_the_same() {
        let ((key, certificate), (_, other)) = (authority(), authority());
        let make = |certificate: &rcgen::Certificate, with_identity: bool, http2: bool, name| {
            let identity = with_identity.then(|| Identity {
                certificates: vec![certificate.der().clone()],
                key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            });
            let roots = Arc::new(Roots::Pem(certificate.pem().as_bytes()).load());
            assert_eq!(roots.len(), 1);
            let client = TlsClient::new(roots, identity, http2).unwrap();
            Tls::new(client, ServerName::try_from(name).unwrap())
        };
        let first = make(&certificate, false, false, "a");
        assert_eq!(first, make(&certificate, false, false, "a"));
        assert_ne!(first, make(&other, false, false, "a"));
        assert_ne!(first, make(&certificate, true, false, "a"));
        assert_ne!(first, make(&certificate, false, true, "a"));
        assert_ne!(first, make(&certificate, false, false, "b"));
    }
}

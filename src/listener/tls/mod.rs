//! TLS 1.2 and 1.3 on a listener: handshakes with the newest certificates, which are swapped whole when their files change.
//! Connections that are open go on. Who reads the files again, and when: `control/certificates.rs`.

mod choice;
mod client;
mod files;
mod pair;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::choice::Choice;
use self::pair::Pair;
use crate::base::clock::UnixSeconds;

pub use client::CertificateHeaders;
pub use files::{Contents, FileRole, Files, PairFiles, TlsFault, Wrong};

/// Sessions of TLS 1.2 whose client knows no tickets, to be resumed. A few hundred bytes each; such clients are rare.
const SESSIONS_MAX: usize = 4096;

/// What we have for a client and it has not taken yet, in bytes, above what the kernel keeps. The default of rustls,
/// written out: four records.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// What an operator sets of TLS.
#[derive(Clone, Debug)]
pub struct Options {
    /// At least one pair.
    pub files: Files,
    /// Whether a client must have a certificate of `files.client_ca`.
    pub client_auth: ClientAuth,
    /// Which headers say who the client is.
    pub headers: CertificateHeaders,
    /// Whether `h2` is offered beside `http/1.1`.
    pub http2: bool,
    /// From the first byte to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// Who shows one shows a good one.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// TLS of one listener, shared by its threads.
pub struct Tls {
    options: Options,
    /// None where clients show certificates: a resumed session would outlive its certificate, and the authority too.
    resumption: Option<Resumption>,
    current: ArcSwap<Current>,
}

/// What handshakes are made with.
struct Current {
    server: Arc<ServerConfig>,
    /// In the order of the files.
    expiries: Box<[UnixSeconds]>,
}

/// Outlives the certificates, so that their exchange costs nobody a full handshake.
struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured<S> {
    /// The client's bytes.
    pub stream: TlsIo<S>,
    /// Whether both have agreed on HTTP/2.
    pub http2: bool,
    /// Who the client is, as headers.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
}

impl Tls {
    /// TLS with what stands in the files.
    pub fn new(options: Options, contents: &Contents) -> Result<Self, TlsFault> {
        let resumption = match options.client_auth {
            ClientAuth::None => Some(Resumption {
                ticketer: rustls::crypto::aws_lc_rs::Ticketer::new()
                    .map_err(|_| TlsFault::Random)?,
                sessions: ServerSessionMemoryCache::new(SESSIONS_MAX),
            }),
            ClientAuth::Optional | ClientAuth::Required => None,
        };
        let current = build(&options, resumption.as_ref(), contents)?;
        Ok(Self {
            options,
            resumption,
            current: ArcSwap::from_pointee(current),
        })
    }

    /// Takes what stands in the files now, or nothing of it. Connections that are open go on.
    pub fn renew(&self, contents: &Contents) -> Result<(), TlsFault> {
        let current = build(&self.options, self.resumption.as_ref(), contents)?;
        self.current.store(Arc::new(current));
        Ok(())
    }

    /// As configured.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// When each certificate ends, in the order of the files.
    #[must_use]
    pub fn expiries(&self) -> Vec<(PairFiles, UnixSeconds)> {
        let current = self.current.load();
        let files = self.options.files.pairs.iter().cloned();
        files.zip(current.expiries.iter().copied()).collect()
    }

    /// The handshake. Whoever waits for it sets a deadline.
    pub async fn accept<S>(&self, stream: S) -> io::Result<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server = Arc::clone(&self.current.load().server);
        let stream = TlsAcceptor::from(server)
            .accept_with(stream, |session| {
                session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
            })
            .await?;
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let headers = match session.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) => self.options.headers.of(certificate)?,
            None => Box::default(),
        };
        Ok(Secured {
            stream: TlsIo(stream),
            http2,
            headers,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

fn build(
    options: &Options,
    resumption: Option<&Resumption>,
    contents: &Contents,
) -> Result<Current, TlsFault> {
    // The provider is named because a process-wide default could be set by any library.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pairs = contents
        .pairs
        .iter()
        .enumerate()
        .map(|(n, content)| {
            Pair::parse(content, &provider).map_err(|(of, wrong)| {
                let role = of(n);
                options.files.fault(role, wrong)
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let expiries = pairs.iter().map(|pair| pair.not_after).collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc-rs has cipher suites for both versions");
    let builder = match (options.client_auth, &contents.client_ca) {
        (ClientAuth::None, _) => builder.with_no_client_auth(),
        (client_auth, ca) => {
            let verifier = verifier(ca.as_deref().unwrap_or_default(), client_auth, &provider)
                .map_err(|wrong| options.files.fault(FileRole::ClientCa, wrong))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder.with_cert_resolver(Arc::new(Choice::new(pairs)));
    let protocols: &[&[u8]] = if options.http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Early data can be replayed by whoever was on the way (RFC 8446 section 8). The default, written out.
    server.max_early_data_size = 0;
    if let Some(resumption) = resumption {
        server.ticketer = Arc::clone(&resumption.ticketer);
        server.session_storage = Arc::clone(&resumption.sessions);
    } else {
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(Current {
        server: Arc::new(server),
        expiries,
    })
}

fn verifier(
    ca: &[u8],
    client_auth: ClientAuth,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Wrong> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|_| Wrong::Pem)?;
        roots.add(certificate).map_err(Wrong::Authority)?;
    }
    if roots.is_empty() {
        return Err(Wrong::NoCertificate);
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match client_auth {
        ClientAuth::Optional => builder.allow_unauthenticated(),
        ClientAuth::None | ClientAuth::Required => builder,
    };
    builder.build().map_err(|_| Wrong::NoCertificate)
}

/// A client's bytes under TLS. An end without `close_notify` is an end: many clients leave so, and HTTP says itself whether
/// a message is whole (RFC 9112 section 8), so nobody on the way gains by cutting it.
#[derive(Debug)]
pub struct TlsIo<S>(TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}

//! An authority, certificates of it, and clients that check them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// Issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Files that the gateway reads; they vanish with this.
#[derive(Debug)]
pub(crate) struct Folder(tempfile::TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        // No two have the same: clients tell them apart by it, before they look at keys.
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// For a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.issue(&CertificateParams::new(names).expect("names"))
    }

    /// For a client of this name.
    pub(crate) fn client(&self, name: &str, alternatives: Vec<SanType>) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Shop, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = alternatives;
        self.issue(&params)
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// `certificate = …, key = …` of a pair that is written here.
    pub(crate) fn pair(&self, name: &str, issued: &Issued) -> String {
        let certificate = self.write(&format!("{name}.crt"), &issued.certificate);
        let key = self.write(&format!("{name}.key"), &issued.key);
        files(&certificate, &key)
    }
}

/// `certificate = …, key = …` of files.
pub(crate) fn files(certificate: &Path, key: &Path) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!("certificate = \"{certificate}\", key = \"{key}\"")
}

/// A client of TLS.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

/// What a client is made from.
pub(crate) struct TlsSetup<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) protocols: &'a [&'a str],
    pub(crate) certificate: Option<&'a Issued>,
}

impl<'a> TlsSetup<'a> {
    /// Trusts `authority`, and speaks both versions and HTTP/1.1.
    pub(crate) fn new(authority: &'a Authority) -> Self {
        Self {
            authority,
            versions: rustls::ALL_VERSIONS,
            protocols: &["http/1.1"],
            certificate: None,
        }
    }

    pub(crate) fn client(self) -> TlsClient {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).expect("PEM");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
                let chain = vec![issued.der()];
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsClient(Arc::new(config))
    }
}

impl TlsClient {
    /// The handshake. With TLS 1.3 a client that has been refused sees it only when it reads.
    pub(crate) fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> impl Future<Output = std::io::Result<TlsStream<TcpStream>>> + use<> {
        let client = Self(Arc::clone(&self.0));
        let name = name.to_owned();
        async move {
            let stream = within("a connection", TcpStream::connect(address)).await?;
            client.over(stream, &name).await
        }
    }

    /// The same over a connection on which something was said before.
    pub(crate) fn over(
        &self,
        stream: TcpStream,
        name: &str,
    ) -> impl Future<Output = std::io::Result<TlsStream<TcpStream>>> + use<> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::clone(&self.0));
        within("a handshake", connector.connect(name, stream))
    }
}

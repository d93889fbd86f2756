//! A certificate authority, and the certificates and services of its making.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// HTTP/1.1 alone, and HTTP/2 alone, as ALPN names them.
pub(crate) const HTTP_11: &[&[u8]] = &[b"http/1.1"];
pub(crate) const H2: &[&[u8]] = &[b"h2"];

/// Its files are removed when it is dropped.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key, in files too.
pub(crate) struct Issued {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose subject is its issuer's for one that signed itself.
        let name = rcgen::DnType::CommonName;
        params
            .distinguished_name
            .push(name, "Authority of the tests");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file");
        Self { issuer, folder }
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name or an address.
    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| {})
    }

    /// One whose time is over.
    pub(crate) fn issue_expired(&self, name: &str) -> Issued {
        self.issue_with(name, |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |end: &str, text: String| {
            let file = self.folder.path().join(format!("{name}.{end}"));
            std::fs::write(&file, text).expect("a file");
            file
        };
        Issued {
            certificate_file: write("pem", certificate.pem()),
            key_file: write("key", key.serialize_pem()),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        }
    }

    /// What lets in those alone who have a certificate of this authority.
    pub(crate) fn demand(&self) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
            .build()
            .expect("a verifier")
    }
}

impl Issued {
    /// A service with this certificate, which asks for none.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> ServerConfig {
        self.server_of(rustls::ALL_VERSIONS, None, alpn)
    }

    /// A service that speaks these versions, and asks for certificates.
    pub(crate) fn server_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        demand: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
        alpn: &[&[u8]],
    ) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("cipher suites");
        let builder = match demand {
            Some(demand) => builder.with_client_cert_verifier(demand),
            None => builder.with_no_client_auth(),
        };
        let chain = vec![self.certificate.clone()];
        let mut config = builder
            .with_single_cert(chain, self.key.clone_key().into())
            .expect("a key that fits");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

/// A file's name for a line of a configuration.
pub(crate) fn quoted(file: &Path) -> String {
    format!("\"{}\"", file.to_str().expect("a name in UTF-8"))
}

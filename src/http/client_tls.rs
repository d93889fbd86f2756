//! TLS of the connections that the gateway makes, to services and to providers of keys: whom it believes, and how it shows
//! who it is.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::base::secret::{ExposeSecret, Secret};

/// Largest file of certificates read, in bytes. The Mozilla bundle, the largest in use, has 220 KiB.
pub const CERTIFICATES_BYTES_MAX: usize = 1024 * 1024;

/// Whose certificates are trusted.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// Those of the system.
    System,
    /// Those of a PEM text, and no others.
    Pem(&'a [u8]),
}

impl Roots<'_> {
    /// The certificates; none if there are none. Reads files of the system for [`Roots::System`]. Single odd certificates
    /// are common in such collections, and no reason to stop: they are left out.
    #[must_use]
    pub fn load(self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        match self {
            Self::System => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Self::Pem(pem) => {
                let found = CertificateDer::pem_slice_iter(pem);
                store.add_parsable_certificates(found.filter_map(Result::ok));
            }
        }
        store
    }
}

/// Who the gateway says it is, to servers that ask.
#[derive(Debug)]
pub struct Identity {
    /// Its own certificate first, then intermediates.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Why a PEM text is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// None, or one that is damaged.
    #[error("has no certificates that can be read; write a PEM file of them")]
    Certificates,
    /// None, damaged, or encrypted.
    #[error("has no private key that can be read; write a PEM file with one that is not encrypted")]
    Key,
}

/// Every certificate of a PEM text, at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(PemError::Certificates),
    }
}

/// The first private key of a PEM text: PKCS #8, PKCS #1 or SEC 1.
pub fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem.expose_secret()).map_err(|_| PemError::Key)
}

/// What a client of TLS 1.2 and 1.3 says and believes. Fails when the key is not the certificate's.
pub fn client(
    roots: impl Into<Arc<RootCertStore>>,
    identity: Option<Identity>,
) -> Result<ClientConfig, rustls::Error> {
    // The provider is named because a process-wide default could be set by any library.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { certificates, key }) => builder.with_client_auth_cert(certificates, key),
    }
}

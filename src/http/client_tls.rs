//! TLS of the connections that the gateway makes, to services and to providers of keys: whom it believes, and how it shows
//! who it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::base::file::read_bounded;
use crate::base::secret::{ExposeSecret, Secret, secret};

/// Largest file of certificates read, in bytes. The Mozilla bundle, the largest in use, has 220 KiB.
pub const CERTIFICATES_BYTES_MAX: usize = 1024 * 1024;

/// Largest file of a private key read, in bytes. One of RSA with 16,384 bits has 13 KiB.
const KEY_BYTES_MAX: usize = 64 * 1024;

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

/// Where the certificates of a client are, for one that is made anew from time to time: renewed files count then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Authorities that are believed, and no others; else those of the system.
    pub ca: Option<PathBuf>,
    /// Who the gateway says it is.
    pub identity: Option<IdentityFiles>,
    /// What each certificate must name, instead of the host that is called.
    pub server_name: Option<ServerName<'static>>,
}

/// Where an [`Identity`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate first, then intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not there, is too large, or is not ours to read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// What it has is not what it should have.
    #[error("{} {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is missing.
        source: PemError,
    },
    /// The key is not the certificate's.
    #[error("{} does not fit the certificate: {source}", key.display())]
    Misfit {
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

impl Files {
    /// The configuration of a client, and whether there is any certificate that it believes. Reads files.
    pub(super) fn load(&self) -> Result<(ClientConfig, bool), FilesError> {
        let roots = match &self.ca {
            None => Roots::System.load(),
            Some(path) => Roots::Pem(&read(path, CERTIFICATES_BYTES_MAX)?).load(),
        };
        let has_roots = !roots.is_empty();
        let Some(IdentityFiles { certificate, key }) = &self.identity else {
            return Ok((anonymous(roots), has_roots));
        };
        let pem = |path: &PathBuf| {
            let path = path.clone();
            move |source| FilesError::Pem { path, source }
        };
        let chain = read(certificate, CERTIFICATES_BYTES_MAX)?;
        let identity = Identity {
            certificates: certificates(&chain).map_err(pem(certificate))?,
            key: private_key(&secret(read(key, KEY_BYTES_MAX)?)).map_err(pem(key))?,
        };
        let config = client(roots, Some(identity)).map_err(|source| FilesError::Misfit {
            key: key.clone(),
            source,
        })?;
        Ok((config, has_roots))
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, FilesError> {
    read_bounded(path, limit).map_err(|source| FilesError::Read {
        path: path.to_owned(),
        source,
    })
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

/// A client that shows no certificate.
pub(super) fn anonymous(roots: RootCertStore) -> ClientConfig {
    client(roots, None).expect("aws-lc-rs has cipher suites for both versions")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_of_no_use_are_named_with_their_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        for name in ["own", "other"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["gateway".into()]).unwrap();
            write(&format!("{name}.key"), &key.serialize_pem());
            let certificate = params.self_signed(&key).unwrap();
            write(&format!("{name}.pem"), &certificate.pem());
        }
        write("large.key", &"k".repeat(KEY_BYTES_MAX + 1));
        write("large.pem", &"c".repeat(CERTIFICATES_BYTES_MAX + 1));
        let load = |ca: &str, certificate: &str, key: &str| {
            let identity = Some(IdentityFiles {
                certificate: path(certificate),
                key: path(key),
            });
            let files = Files {
                ca: Some(path(ca)),
                identity,
                server_name: None,
            };
            files.load().map(|(_, has_roots)| has_roots)
        };
        assert!(load("own.pem", "own.pem", "own.key").unwrap());
        assert!(!load("own.key", "own.pem", "own.key").unwrap(), "no roots");
        for (files, file, word) in [
            (
                ["none.pem", "own.pem", "own.key"],
                "none.pem",
                "cannot be read",
            ),
            (
                ["large.pem", "own.pem", "own.key"],
                "large.pem",
                "too large",
            ),
            (
                ["own.pem", "none.pem", "own.key"],
                "none.pem",
                "cannot be read",
            ),
            (
                ["own.pem", "large.pem", "own.key"],
                "large.pem",
                "too large",
            ),
            (
                ["own.pem", "own.key", "own.key"],
                "own.key",
                "no certificates",
            ),
            (
                ["own.pem", "own.pem", "none.key"],
                "none.key",
                "cannot be read",
            ),
            (
                ["own.pem", "own.pem", "large.key"],
                "large.key",
                "too large",
            ),
            (
                ["own.pem", "own.pem", "own.pem"],
                "own.pem",
                "no private key",
            ),
            (
                ["own.pem", "own.pem", "other.key"],
                "other.key",
                "does not fit",
            ),
        ] {
            let [ca, certificate, key] = files;
            let error = load(ca, certificate, key).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(word), "{error}");
        }
    }
}

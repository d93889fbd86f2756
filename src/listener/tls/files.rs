//! The files of a listener's TLS, and what can be wrong with them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::base::file::read_bounded;
use crate::base::secret::{ExposeSecret, Secret, secret};

/// Largest file read, in bytes. A bundle of all public authorities has a quarter of it; a wrong file may be anything.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Where certificates and keys are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The first is for clients that name no host, or one that none fits.
    pub pairs: Vec<PairFiles>,
    /// The authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
}

/// One certificate with its chain, and its key.
#[derive(Clone, Debug)]
pub struct PairFiles {
    /// PEM: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// What stands in [`Files`].
#[derive(Debug)]
pub struct Contents {
    pub(super) pairs: Vec<PairContents>,
    pub(super) client_ca: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct PairContents {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Secret,
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// The certificate of this pair.
    Certificate(usize),
    /// The key of this pair.
    Key(usize),
    /// The authorities of clients.
    ClientCa,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file is wrong.
    #[error("{} {wrong}", path.display())]
    File {
        /// Which.
        role: FileRole,
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        wrong: Wrong,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// It cannot be read, or is too long.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It is no PEM.
    #[error("holds PEM that cannot be read")]
    Pem,
    /// No certificate in it.
    #[error("holds no certificate; write a file with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// The certificate cannot be read.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// An authority that cannot be used.
    #[error("holds an authority that cannot be used: {0}")]
    Authority(rustls::Error),
    /// No private key in it.
    #[error(
        "holds no private key; write a file with -----BEGIN PRIVATE KEY-----, without a password"
    )]
    NoKey,
    /// A key of a kind that is not known.
    #[error(
        "holds a private key that cannot be used; write one of RSA, ECDSA (P-256, P-384) or Ed25519"
    )]
    Key,
    /// The key of another certificate.
    #[error("is not the key of its certificate; write the pair that was issued together")]
    Mismatch,
}

impl Files {
    /// Reads all of them.
    pub fn read(&self) -> Result<Contents, TlsFault> {
        let read = |role, path: &Path| {
            read_bounded(path, FILE_BYTES_MAX).map_err(|error| self.fault(role, Wrong::Read(error)))
        };
        let pairs = self
            .pairs
            .iter()
            .enumerate()
            .map(|(n, pair)| {
                Ok(PairContents {
                    certificate: read(FileRole::Certificate(n), &pair.certificate)?,
                    key: secret(read(FileRole::Key(n), &pair.key)?),
                })
            })
            .collect::<Result<_, TlsFault>>()?;
        let client_ca = self
            .client_ca
            .as_ref()
            .map(|path| read(FileRole::ClientCa, path))
            .transpose()?;
        Ok(Contents { pairs, client_ca })
    }

    pub(super) fn fault(&self, role: FileRole, wrong: Wrong) -> TlsFault {
        let path = match role {
            FileRole::Certificate(n) => self.pairs.get(n).map(|pair| &pair.certificate),
            FileRole::Key(n) => self.pairs.get(n).map(|pair| &pair.key),
            FileRole::ClientCa => self.client_ca.as_ref(),
        };
        TlsFault::File {
            role,
            path: path.cloned().unwrap_or_default(),
            wrong,
        }
    }
}

impl Contents {
    /// Equal for equal contents, and for no others.
    #[must_use]
    pub fn digest(&self) -> [u8; SHA256_OUTPUT_LEN] {
        let mut context = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            // Where one file ends and the next begins counts, too.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        };
        for pair in &self.pairs {
            add(&pair.certificate);
            add(pair.key.expose_secret());
        }
        add(self.client_ca.as_deref().unwrap_or_default());
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl fmt::Display for PairFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificate.display().fmt(f)
    }
}

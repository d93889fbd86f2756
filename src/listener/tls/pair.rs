//! A certificate with its key, from PEM.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::files::{FileRole, PairContents, Wrong};
use crate::base::clock::UnixSeconds;
use crate::base::secret::ExposeSecret;

/// A certificate that its key fits.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: CertifiedKey,
    /// Host names of its subject alternative names, in lower case; `*.` at the front is a wildcard.
    pub(super) names: Vec<Box<str>>,
    pub(super) not_after: UnixSeconds,
}

/// Of which file of a pair.
type Of = fn(usize) -> FileRole;

impl Pair {
    pub(super) fn parse(
        content: &PairContents,
        provider: &CryptoProvider,
    ) -> Result<Self, (Of, Wrong)> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&content.certificate)
                .collect::<Result<_, _>>()
                .map_err(|_| (FileRole::Certificate as Of, Wrong::Pem))?;
        let (names, not_after) = match chain.first() {
            None => return Err((FileRole::Certificate, Wrong::NoCertificate)),
            Some(certificate) => {
                read(certificate).ok_or((FileRole::Certificate as Of, Wrong::Certificate))?
            }
        };
        let key = PrivateKeyDer::from_pem_slice(content.key.expose_secret())
            .map_err(|_| (FileRole::Key as Of, Wrong::NoKey))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                (FileRole::Key as Of, Wrong::Mismatch)
            }
            Error::InvalidCertificate(_) => (FileRole::Certificate as Of, Wrong::Certificate),
            _ => (FileRole::Key as Of, Wrong::Key),
        })?;
        Ok(Self {
            key,
            names,
            not_after,
        })
    }
}

/// Names and end of a certificate.
fn read(der: &[u8]) -> Option<(Vec<Box<str>>, UnixSeconds)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
            // Nobody asks for them by SNI (RFC 6066 section 3).
            _ => None,
        })
        .collect();
    let not_after = certificate.validity().not_after.timestamp();
    Some((names, UnixSeconds(u64::try_from(not_after).unwrap_or(0))))
}

//! Which certificate a client gets: one whose names fit the host that it asks for (SNI, RFC 6066 section 3), else the first
//! of the file, as in nginx and HAProxy. Who has no certificate for a name and answers all the same gives nothing away: the
//! client sees that it does not fit.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::Pair;

/// All certificates of a listener.
#[derive(Debug)]
pub(super) struct Choice {
    keys: Vec<Arc<CertifiedKey>>,
    /// Places in `keys`. A wildcard stands here without its star: `.example.com`.
    by_name: HashMap<Box<str>, Vec<usize>>,
}

impl Choice {
    pub(super) fn new(pairs: Vec<Pair>) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (n, pair) in pairs.iter().enumerate() {
            for name in &pair.names {
                let is_wildcard = name.starts_with("*.");
                let name = if is_wildcard { &name[1..] } else { name };
                by_name.entry(name.into()).or_default().push(n);
            }
        }
        let keys = pairs.into_iter().map(|pair| Arc::new(pair.key)).collect();
        Self { keys, by_name }
    }

    /// The exact name before the wildcard, and among several of one name the first that the client can check: RSA beside
    /// ECDSA.
    fn choose(
        &self,
        host: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let host = host.map(str::to_ascii_lowercase).unwrap_or_default();
        let parent = host.find('.').map(|dot| &host[dot..]);
        let named = |name: &str| self.by_name.get(name).map(Vec::as_slice);
        let exact = named(&host).unwrap_or_default();
        let wildcard = parent.and_then(named).unwrap_or_default();
        let named = exact.iter().chain(wildcard).map(|&n| &self.keys[n]);
        let can_check = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        named.chain(&self.keys).find(can_check)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::super::files::PairContents;
    use super::*;
    use crate::base::secret::secret;

    fn pair(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let content = PairContents {
            certificate: params.self_signed(&key).unwrap().pem().into_bytes(),
            key: secret(key.serialize_pem().into_bytes()),
        };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Pair::parse(&content, &provider).expect("a pair")
    }

    #[test]
    fn the_exact_name_comes_first_then_the_wildcard_then_the_first_that_can_be_checked() {
        const EC: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        const ED: SignatureScheme = SignatureScheme::ED25519;
        let choice = Choice::new(vec![
            pair(&["default.example"], &PKCS_ECDSA_P256_SHA256),
            pair(&["*.shop.example"], &PKCS_ECDSA_P256_SHA256),
            pair(&["api.shop.example"], &PKCS_ED25519),
            pair(&["Api.Shop.Example"], &PKCS_ECDSA_P256_SHA256),
        ]);
        let check = |host: Option<&str>, schemes: &[SignatureScheme], expected: Option<usize>| {
            let chosen = choice.choose(host, schemes);
            let place = chosen.and_then(|key| {
                let is_it = |other: &Arc<CertifiedKey>| Arc::ptr_eq(key, other);
                choice.keys.iter().position(is_it)
            });
            assert_eq!(place, expected, "{host:?} {schemes:?}");
        };
        check(Some("api.shop.example"), &[EC, ED], Some(2));
        check(Some("api.shop.example"), &[EC], Some(3));
        check(Some("API.shop.example"), &[ED], Some(2));
        check(Some("www.shop.example"), &[EC, ED], Some(1));
        check(Some("www.shop.example"), &[ED], Some(2));
        for host in [
            None,
            Some("shop.example"),
            Some("a.b.shop.example"),
            Some(""),
        ] {
            check(host, &[EC, ED], Some(0));
        }
        check(None, &[SignatureScheme::RSA_PSS_SHA256], None);
    }
}

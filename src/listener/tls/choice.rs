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

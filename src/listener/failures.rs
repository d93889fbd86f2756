//! Who sends wrong tokens, by client address: the one that the chain of trusted proxies proves, because behind a proxy all
//! clients have its address.

use http::HeaderMap;
use ipnet::IpNet;

use crate::base::address::AddressBlock;
use crate::base::failures::{Budget, Failures};
use crate::http::forwarded::{self, Peer};

/// The failures of one listener's clients.
#[derive(Debug)]
pub struct ClientFailures {
    /// By address.
    pub failures: Failures,
    trusted_proxies: Box<[IpNet]>,
}

impl ClientFailures {
    pub(super) fn new(budget: Budget, trusted_proxies: &[IpNet]) -> Self {
        Self {
            failures: Failures::new(budget),
            trusted_proxies: trusted_proxies.into(),
        }
    }

    /// The client of a request that `peer` sent with `headers`. None if a trusted proxy does not say who it is: then nobody
    /// is counted, because the proxy's own address stands for all of its clients.
    #[must_use]
    pub fn client(&self, peer: &Peer, headers: &HeaderMap) -> Option<AddressBlock> {
        forwarded::client(peer, headers, &self.trusted_proxies).map(AddressBlock::from)
    }
}

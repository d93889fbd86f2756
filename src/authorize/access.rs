//! What a route asks of those who want to pass.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::names::IssuerName;
use crate::identity::HeaderMap;
use crate::jwks::{KeyTable, RefreshGate};
use crate::policy::{Auth, OnStale, Requirement};
use crate::token::{Places, Rules};

/// An issuer, as requests see it.
#[derive(Debug)]
pub struct Issuer {
    /// For logs and metrics.
    pub name: IssuerName,
    /// Unique in the process, also over editions: what was verified for another issuer, or under other rules, does not
    /// count here.
    pub id: usize,
    /// What its tokens must be.
    pub rules: Rules,
    /// Claims that become headers.
    pub headers: HeaderMap,
    /// Its keys.
    pub keys: Arc<KeyTable>,
    /// Asks for a fetch when a key is unknown.
    pub refresh: RefreshGate,
}

/// The issuers that a route accepts, by `iss`.
#[derive(Clone, Debug, Default)]
pub struct IssuerSet(Arc<HashMap<Arc<str>, Arc<Issuer>, foldhash::fast::RandomState>>);

impl IssuerSet {
    /// The issuer whose tokens say `iss`.
    #[must_use]
    pub fn find(&self, iss: &str) -> Option<&Arc<Issuer>> {
        self.0.get(iss)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.0.values()
    }
}

impl FromIterator<Arc<Issuer>> for IssuerSet {
    fn from_iter<I: IntoIterator<Item = Arc<Issuer>>>(issuers: I) -> Self {
        let by_iss = |issuer: Arc<Issuer>| (Arc::clone(&issuer.rules.issuer), issuer);
        Self(Arc::new(issuers.into_iter().map(by_iss).collect()))
    }
}

/// What a route asks of those who want to pass.
#[derive(Debug)]
pub struct Access {
    /// Whether a token is asked for.
    pub auth: Auth,
    /// Whose tokens.
    pub issuers: IssuerSet,
    /// Where the token is.
    pub places: Places,
    /// What it must say.
    pub requirement: Requirement,
    /// Whether it passes while the denylist may be too old.
    pub on_stale: OnStale,
}

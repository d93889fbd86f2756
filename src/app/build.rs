//! Settings → one edition of the plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::authorize::{Access, Issuer, IssuerSet};
use crate::base::names::{IssuerName, UpstreamName};
use crate::config::settings;
use crate::identity::ProtectedNames;
use crate::jwks::{KeyTable, RefreshGate};
use crate::plan::{Plan, Route};
use crate::policy::{Auth, Requirement};
use crate::route::{Conflict, Entry, RouteTable};
use crate::upstream::{self, Upstream};

/// An issuer as requests see it, beside the task that keeps its keys.
pub(super) fn issuer(
    settings: &settings::Issuer,
    keys: Arc<KeyTable>,
    refresh: RefreshGate,
) -> Arc<Issuer> {
    // From 1: 0 stands for no issuer. Never used twice, so that what was verified under other rules is not taken for good.
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    Arc::new(Issuer {
        name: settings.name.clone(),
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        rules: settings.rules.clone(),
        headers: settings.headers.clone(),
        keys,
        refresh,
    })
}

/// One edition. The configuration has shown already that no two routes are alike.
pub(super) fn plan(
    routes: Vec<settings::Route>,
    upstreams: Vec<upstream::Options>,
    issuers: &[Arc<Issuer>],
    access_log: bool,
) -> Result<Plan, Conflict> {
    let by_name: HashMap<&IssuerName, &Arc<Issuer>> = issuers
        .iter()
        .map(|issuer| (&issuer.name, issuer))
        .collect();
    let places: HashMap<UpstreamName, usize> = upstreams
        .iter()
        .enumerate()
        .map(|(at, upstream)| (upstream.name.clone(), at))
        .collect();
    let headers = issuers.iter().flat_map(|issuer| {
        issuer
            .headers
            .claims
            .iter()
            .map(|mapping| &mapping.header)
            .chain(&issuer.headers.payload)
    });
    let protected = ProtectedNames::new(headers);
    let mut sets: HashMap<Vec<IssuerName>, IssuerSet> = HashMap::new();
    let mut protections = Protections::default();
    let mut patterns = Vec::with_capacity(routes.len());
    for (position, route) in routes.into_iter().enumerate() {
        let set = sets
            .entry(route.issuers.clone())
            .or_insert_with(|| {
                let known = route.issuers.iter().filter_map(|name| by_name.get(name));
                known.map(|issuer| Arc::clone(issuer)).collect()
            })
            .clone();
        let protection = protections.number(&route);
        let built = Arc::new(Route {
            name: route.name,
            number: position + 1,
            access: Access {
                auth: route.auth,
                issuers: set,
                places: route.token,
                requirement: route.requirement,
            },
            upstream: places[&route.upstream],
            cors: route.cors,
            timeout: route.timeout,
            idle_timeout: route.idle_timeout,
            tunnel_idle_timeout: route.tunnel_idle_timeout,
            logout: route.logout,
            trust_revoke_header: route.trust_revoke_header,
            end_at_expiry: route.end_at_expiry,
        });
        patterns.push((route.hosts, route.path, route.methods, protection, built));
    }
    let entries: Vec<_> = patterns
        .iter()
        .map(|(hosts, path, methods, protection, route)| Entry {
            hosts,
            path,
            methods,
            protection: *protection,
            route: Arc::clone(route),
        })
        .collect();
    Ok(Plan {
        routes: RouteTable::build(&entries)?,
        protected,
        upstreams: upstreams
            .into_iter()
            .map(|options| Arc::new(Upstream::new(options)))
            .collect(),
        access_log,
    })
}

/// Numbers for what routes ask, equal where they ask the same.
#[derive(Debug, Default)]
struct Protections(Vec<(Auth, Vec<IssuerName>, Requirement, u32)>);

impl Protections {
    fn number(&mut self, route: &settings::Route) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let known = self.0.iter().find(|(auth, issuers, requirement, _)| {
            *auth == route.auth && *issuers == route.issuers && *requirement == route.requirement
        });
        if let Some((.., number)) = known {
            return *number;
        }
        self.0.push((
            route.auth,
            route.issuers.clone(),
            route.requirement.clone(),
            next,
        ));
        next
    }
}

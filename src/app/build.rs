//! Settings → one edition of the plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::warn;

use crate::authorize::{Access, Issuer, IssuerSet};
use crate::base::names::{IssuerName, UpstreamName};
use crate::config::{Protections, settings};
use crate::identity::ProtectedNames;
use crate::jwks::{KeyTable, RefreshGate};
use crate::listener;
use crate::plan::{Plan, Route};
use crate::policy::Mode;
use crate::route::{Conflict, Entry, RouteTable};
use crate::telemetry::access;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;
use crate::token::{Earlier, Rules};
use crate::upstream::{self, Upstream};

/// An issuer as requests see it, beside the task that keeps its keys. `earlier`: the bounds that its older tokens are held to.
pub(super) fn issuer(
    settings: &settings::Issuer,
    earlier: Earlier,
    keys: Arc<KeyTable>,
    refresh: RefreshGate,
) -> Arc<Issuer> {
    // From 1: 0 stands for no issuer. Never used twice, so that what was verified under other rules is not taken for good.
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    Arc::new(Issuer {
        name: settings.name.clone(),
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        rules: Rules {
            earlier,
            ..settings.rules.clone()
        },
        headers: settings.headers.clone(),
        keys,
        refresh,
    })
}

/// One edition. The configuration has shown already that no two routes are alike. An upstream that `running` has in the same
/// way is the very same here, by which threads know that they may keep its connections.
pub(super) fn plan(
    routes: Vec<settings::Route>,
    upstreams: Vec<upstream::Options>,
    issuers: &[Arc<Issuer>],
    listeners: &[listener::Options],
    (access_log, tracer): (Option<access::Options>, Option<Arc<Tracer>>),
    metrics: &Metrics,
    running: Option<&Plan>,
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
    // Those of certificates on every listener: a service does not know which one a request came by.
    let certificates = listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    let certificates = certificates.flat_map(|tls| tls.options().headers.names());
    let protected = ProtectedNames::new(headers.chain(certificates));
    let mut sets: Vec<IssuerSet> = vec![];
    let mut protections = Protections::default();
    let mut patterns = Vec::with_capacity(routes.len());
    for (position, route) in routes.into_iter().enumerate() {
        let (list, protection) = protections.number(&route);
        if list == sets.len() {
            let known = route.issuers.iter().filter_map(|name| by_name.get(name));
            sets.push(known.map(|issuer| Arc::clone(issuer)).collect());
        }
        if route.mode == Mode::Report {
            warn!(route = %route.name, "mode = \"report\": nothing is enforced on this route");
        }
        let built = Arc::new(Route {
            name: route.name,
            number: position + 1,
            access: Access {
                auth: route.auth,
                issuers: sets[list].clone(),
                places: route.token,
                requirement: route.requirement,
                on_stale: route.on_stale,
            },
            mode: route.mode,
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
    let known: HashMap<&UpstreamName, &Arc<Upstream>> = running
        .iter()
        .flat_map(|plan| &plan.upstreams)
        .map(|upstream| (&upstream.options.name, upstream))
        .collect();
    Ok(Plan {
        routes: RouteTable::build(&entries)?,
        protected,
        upstreams: upstreams
            .into_iter()
            .map(|options| {
                let same = known.get(&options.name);
                let same = same.filter(|known| known.options == options);
                same.map_or_else(
                    || Arc::new(Upstream::new(options, metrics)),
                    |same| Arc::clone(same),
                )
            })
            .collect(),
        access_log,
        tracer,
    })
}

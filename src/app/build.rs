//! Settings → one edition of the plan.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::warn;

use crate::authorize::{Access, Issuer, IssuerSet};
use crate::base::names::{IssuerName, UpstreamName};
use crate::config::settings;
use crate::identity::ProtectedNames;
use crate::jwks::{KeyTable, RefreshGate};
use crate::listener;
use crate::plan::{Plan, Route};
use crate::policy::{Auth, Mode, Requirement};
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
    let mut sets = Sets::new(&by_name);
    let mut protections = Protections::default();
    let mut patterns = Vec::with_capacity(routes.len());
    for (position, route) in routes.into_iter().enumerate() {
        let set = sets.number(&route.issuers);
        let protection = protections.number(&route, set);
        if route.mode == Mode::Report {
            warn!(route = %route.name, "mode = \"report\": nothing is enforced on this route");
        }
        let built = Arc::new(Route {
            name: route.name,
            number: position + 1,
            access: Access {
                auth: route.auth,
                issuers: sets.made[set].clone(),
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

/// The issuers of each list of names, made once and numbered. Routes that name nobody have one list in common, which is
/// known by its place in memory: to read 5,000 names for each of 10,000 routes would take seconds.
struct Sets<'a> {
    by_name: &'a HashMap<&'a IssuerName, &'a Arc<Issuer>>,
    /// Holds the lists, so that no place is used twice.
    by_place: HashMap<*const IssuerName, (Arc<[IssuerName]>, usize)>,
    by_names: HashMap<Arc<[IssuerName]>, usize>,
    made: Vec<IssuerSet>,
}

impl<'a> Sets<'a> {
    fn new(by_name: &'a HashMap<&'a IssuerName, &'a Arc<Issuer>>) -> Self {
        Self {
            by_name,
            by_place: HashMap::new(),
            by_names: HashMap::new(),
            made: vec![],
        }
    }

    fn number(&mut self, names: &Arc<[IssuerName]>) -> usize {
        if let Some((same, number)) = self.by_place.get(&names.as_ptr())
            && same.len() == names.len()
        {
            return *number;
        }
        let number = *self.by_names.entry(Arc::clone(names)).or_insert_with(|| {
            let known = names.iter().filter_map(|name| self.by_name.get(name));
            self.made
                .push(known.map(|issuer| Arc::clone(issuer)).collect());
            self.made.len() - 1
        });
        self.by_place
            .insert(names.as_ptr(), (Arc::clone(names), number));
        number
    }
}

/// Numbers for what routes ask, equal where they ask the same.
#[derive(Debug, Default)]
struct Protections(HashMap<(Auth, Mode, usize, Requirement), u32>);

impl Protections {
    /// `set`: the number of the issuers.
    fn number(&mut self, route: &settings::Route, set: usize) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self
            .0
            .entry((route.auth, route.mode, set, route.requirement.clone()))
            .or_insert(next)
    }
}

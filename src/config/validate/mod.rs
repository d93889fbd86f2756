//! From raw to settings: every value judged, every default filled in, every fault noted with its cure. One file per
//! section; `check` holds what they share. Nothing stops at the first fault: what cannot be made is left out, and
//! `Check::finish` refuses the whole.

mod admin;
mod check;
mod client_tls;
mod cors;
mod headers;
mod issuers;
mod keys;
mod listeners;
mod otlp;
mod process;
mod redis;
mod routes;
mod telemetry;
#[cfg(test)]
pub(super) mod testing;
mod tls;
mod upstream_care;
mod upstreams;
mod url;

use super::raw::Root;
use super::settings::Settings;

pub(super) use check::Check;

/// The settings. They are whole only if `check` has noted no fault.
pub(super) fn settings(root: &Root, check: &mut Check<'_>) -> Settings {
    let listeners = listeners::listeners(root.listeners.as_ref(), root.issuers.as_ref(), check);
    let issuers = issuers::issuers(root.issuers.as_ref(), check);
    let mut upstreams = upstreams::upstreams(root.upstreams.as_ref(), check);
    let routes = routes::routes(root.routes.as_ref(), &issuers.names, &mut upstreams, check);
    let admin = admin::admin(root.admin.as_ref(), &listeners, &issuers.names, check);
    let process = process::process(root, check);
    Settings {
        workers: process.workers,
        listeners,
        issuers: issuers.made,
        upstreams: upstreams.into_options(),
        routes,
        token_cache_bytes: process.token_cache_bytes,
        jwks_cache: process.jwks_cache,
        dns_servers: process.dns_servers,
        denylist: process.denylist,
        admin,
        telemetry: telemetry::telemetry(root.telemetry.as_ref(), check),
        shutdown: process.shutdown,
    }
}

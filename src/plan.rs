//! One edition of everything that a request reads and an operator wrote. Built beside the running one and swapped whole.

use std::sync::Arc;
use std::time::Duration;

use crate::authorize::Access;
use crate::base::names::RouteName;
use crate::http::cors::Cors;
use crate::identity::ProtectedNames;
use crate::policy::Mode;
use crate::route::RouteTable;
use crate::telemetry::access;
use crate::telemetry::trace::Tracer;
use crate::upstream::Upstream;

/// One edition.
#[derive(Debug)]
pub struct Plan {
    /// Host, path, method → route.
    pub routes: RouteTable<Route>,
    /// Header names that no client may write, on any route.
    pub protected: ProtectedNames,
    /// Services; a route names one by its position.
    pub upstreams: Box<[Arc<Upstream>]>,
    /// None: requests get no access line.
    pub access_log: Option<access::Options>,
    /// None: no traces, and headers about them pass as they are.
    pub tracer: Option<Arc<Tracer>>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: RouteName,
    /// Its position in the file, from 1.
    pub number: usize,
    /// Who may pass.
    pub access: Access,
    /// What becomes of who may not.
    pub mode: Mode,
    /// Position in [`Plan::upstreams`].
    pub upstream: usize,
    /// What browsers are told.
    pub cors: Option<Cors>,
    /// From the end of the request's head to the head of the answer.
    pub timeout: Duration,
    /// Longest silence of the service in the middle of its answer, while the client sends nothing either.
    pub idle_timeout: Duration,
    /// Longest silence of both sides of a WebSocket.
    pub tunnel_idle_timeout: Duration,
    /// Whether an answer 2xx ends the request's session.
    pub logout: bool,
    /// Whether the service's `Jotgate-Revoke` is obeyed.
    pub trust_revoke_header: bool,
    /// Whether answers that are still on their way end with the token.
    pub end_at_expiry: bool,
}

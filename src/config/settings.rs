//! What the program believes: every value checked, every default filled in. Made only by
//! `validate`, read only by `app`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};

use crate::base::chance::Share;
use crate::base::names::{IssuerName, RouteName, UpstreamName};
use crate::base::secret::{Secret, same};
use crate::denylist::redis;
use crate::http::client_tls;
use crate::http::cors::Cors;
use crate::identity::HeaderMap;
use crate::listener;
use crate::listener::tls::Tls;
use crate::policy::{Auth, Mode, OnStale, Requirement};
use crate::route::{HostPattern, PathPattern};
use crate::telemetry::access;
use crate::telemetry::logs::Format;
use crate::telemetry::trace::Follow;
use crate::token::{Places, Rules};
use crate::upstream;

/// One whole configuration.
#[derive(Debug)]
pub struct Settings {
    /// Threads that serve requests; each has its own listener and upstream pool. Default: one per core.
    pub workers: NonZeroUsize,
    /// At least one.
    pub listeners: Vec<listener::Options>,
    /// Unique by name and by issuer.
    pub issuers: Vec<Issuer>,
    /// Unique by name; those written inline in a route included.
    pub upstreams: Vec<upstream::Options>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// Bound of the verified-token cache, in bytes. Default 64 MiB.
    pub token_cache_bytes: u64,
    /// Folder that keeps fetched key sets over a restart.
    pub jwks_cache: Option<PathBuf>,
    /// Who resolves names of services. Empty: those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// What is revoked.
    pub denylist: Denylist,
    /// None: no admin listener, so no metrics and no revocations.
    pub admin: Option<Admin>,
    /// Logs.
    pub telemetry: Telemetry,
    /// How the program ends.
    pub shutdown: Shutdown,
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// OpenID Connect Discovery 1.0: `{issuer}/.well-known/openid-configuration`, or the given URL.
    Discovery(Uri),
    /// A JWKS URL.
    Url(Uri),
    /// A JWKS file, watched.
    File(PathBuf),
    /// A JWKS written in the configuration: the JSON text.
    Inline(String),
    /// A PEM public key or certificate-less SPKI file, watched.
    PublicKeyFile(PathBuf),
    /// A shared secret for HS256/384/512, at least as long as the longest allowed hash (RFC 7518 section 3.2).
    Secret(Secret),
}

impl KeySource {
    /// Whether both lead to the same keys. Files are read again by themselves, so their paths tell.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Discovery(ours), Self::Discovery(theirs))
            | (Self::Url(ours), Self::Url(theirs)) => ours == theirs,
            (Self::File(ours), Self::File(theirs))
            | (Self::PublicKeyFile(ours), Self::PublicKeyFile(theirs)) => ours == theirs,
            (Self::Inline(ours), Self::Inline(theirs)) => ours == theirs,
            (Self::Secret(ours), Self::Secret(theirs)) => same(ours, theirs),
            (
                Self::Discovery(_)
                | Self::Url(_)
                | Self::File(_)
                | Self::Inline(_)
                | Self::PublicKeyFile(_)
                | Self::Secret(_),
                _,
            ) => false,
        }
    }
}

/// `[[issuers]]`
#[derive(Debug)]
pub struct Issuer {
    /// Unique.
    pub name: IssuerName,
    /// What its tokens must be. `rules.issuer` is unique.
    pub rules: Rules,
    /// Where the keys come from.
    pub keys: KeySource,
    /// Whom the fetch believes, and who we are there. Default: the system's authorities, nobody.
    pub tls: client_tls::Files,
    /// Whether `http://` to other hosts than this machine is allowed for the fetch. Default false.
    pub insecure_http: bool,
    /// How often keys are fetched. Default 5 min; 30 s to 24 h.
    pub refresh: Duration,
    /// An unknown `kid` starts at most one fetch in this time. Default 10 s.
    pub refresh_min_interval: Duration,
    /// One fetch may take this long. Default 5 s.
    pub fetch_timeout: Duration,
    /// Keys older than this, counted from the last good fetch, are no longer trusted (503). Default 24 h.
    pub stale_max: Duration,
    /// Claims that become request headers.
    pub headers: HeaderMap,
}

/// `[[routes]]`
#[derive(Debug)]
pub struct Route {
    /// Unique.
    pub name: RouteName,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// Prefix or exact.
    pub path: PathPattern,
    /// Empty: any method.
    pub methods: Vec<Method>,
    /// One of `Settings::upstreams`.
    pub upstream: UpstreamName,
    /// Default required.
    pub auth: Auth,
    /// Default enforce. Report only where something is asked.
    pub mode: Mode,
    /// Names of `Settings::issuers`; all of them unless the file says which. Empty only on public routes.
    pub issuers: Arc<[IssuerName]>,
    /// Where the token is.
    pub token: Places,
    /// Scopes and claims.
    pub requirement: Requirement,
    /// For the browser.
    pub cors: Option<Cors>,
    /// From the end of the request's head to the head of the answer. Default 60 s.
    pub timeout: Duration,
    /// Longest silence of the service in the middle of its answer, while the client sends nothing either. Default 5 min.
    pub idle_timeout: Duration,
    /// Longest silence of both sides of a WebSocket. Default 1 h.
    pub tunnel_idle_timeout: Duration,
    /// An answer 2xx of the service ends the request's session (else its token). Default false.
    pub logout: bool,
    /// Whether the service may end sessions by answering with `Jotgate-Revoke`. Default false.
    pub trust_revoke_header: bool,
    /// Whether WebSockets, event streams and downloads end when their token does. Default false.
    pub end_at_expiry: bool,
    /// Whether good tokens pass while the denylist may be too old. Default deny.
    pub on_stale: OnStale,
}

/// `[denylist]`
#[derive(Clone, Debug)]
pub struct Denylist {
    /// The log on disk; one gateway alone uses it. None: in memory only.
    pub path: Option<PathBuf>,
    /// Most rules; one more is refused. Default 1,000,000.
    pub max_entries: usize,
    /// How old the knowledge of a gateway in a fleet may be. Default 30 s; 2 s to 1 h.
    pub max_staleness: Duration,
    /// None: this gateway is alone.
    pub redis: Option<Redis>,
}

/// `[denylist.redis]`
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where it is, and how it is spoken to.
    pub options: Arc<redis::Options>,
    /// The fleet's, at least 32 bytes: who does not have it can add nothing.
    pub secret: Arc<Secret>,
    /// This gateway's in the fleet. Default: the host's name.
    pub name: Box<str>,
    /// A member that has said nothing for so long is no longer waited for, nor counted. Default 5 min.
    pub members_forgotten_after: Duration,
}

/// `[admin]`
#[derive(Debug)]
pub struct Admin {
    /// Loopback, unless there is TLS or the file says `insecure = true`.
    pub address: SocketAddr,
    /// None: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// By which names it is called, beside addresses and names that nobody can register. Default: none.
    pub hosts: Vec<HostPattern>,
    /// Where `/live`, `/ready` and `/metrics` are answered too, and nothing else. Any address.
    pub probes: Option<SocketAddr>,
    /// Who may call with a secret. Empty only if there is an issuer.
    pub tokens: Vec<AdminToken>,
    /// Whose tokens may call, too.
    pub issuer: Option<AdminIssuer>,
}

/// `admin.issuer` and `admin.scopes`
#[derive(Clone, Debug)]
pub struct AdminIssuer {
    /// One of the issuers.
    pub name: IssuerName,
    /// The scope that gives [`Role::Read`]. Default `jotgate:read`.
    pub read: Box<str>,
    /// The scope that gives [`Role::Revoke`]. Default `jotgate:revoke`.
    pub revoke: Box<str>,
    /// The scope that gives [`Role::Security`]. Default `jotgate:security`.
    pub security: Box<str>,
}

/// One caller of the admin API.
#[derive(Debug)]
pub struct AdminToken {
    /// For the audit line.
    pub name: Box<str>,
    /// At least 16 bytes.
    pub secret: Secret,
    /// What it may do.
    pub roles: Vec<Role>,
}

/// What a caller of the admin API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read rules and status.
    Read,
    /// Revoke tokens, sessions and users.
    Revoke,
    /// Revoke and block clients, keys and issuers; lift standing orders.
    Security,
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Text or JSON. Default text.
    pub format: Format,
    /// A filter such as `info` or `jotgate=debug`. Default `info`.
    pub level: Box<str>,
    /// One line per request. Default: as the log, for every request.
    pub access_log: Option<access::Options>,
    /// None: no traces.
    pub otlp: Option<Otlp>,
}

/// `[telemetry.otlp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Where traces are sent, the whole URL.
    pub endpoint: Uri,
    /// How many requests that continue no trace are recorded. Default: all.
    pub sample: Share,
    /// Whose word about that is followed. Default: that of trusted proxies.
    pub follow: Follow,
    /// Sent with each message; their values are secret, and marked so.
    pub headers: http::HeaderMap,
    /// For one message. Default 10 s.
    pub timeout: Duration,
    /// Whom we believe, and who we are. Default: the system's authorities, nobody.
    pub tls: client_tls::Files,
    /// Whether `http://` to other hosts than this machine is allowed. Default false.
    pub insecure_http: bool,
    /// By which name the gateway is known. Default `jotgate`.
    pub service_name: Box<str>,
}

/// `[shutdown]`
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// Not ready but still serving, so that load balancers look away. Default 0 s.
    pub drain_delay: Duration,
    /// Requests still running after this are cut. Default 30 s.
    pub drain_timeout: Duration,
}

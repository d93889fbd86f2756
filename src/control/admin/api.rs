//! The endpoints: path and method, then who calls, then what they ask.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, json_answer, text_answer};
use super::auth::Caller;
use super::problem::Problem;
use super::{Admin, Views, view};
use crate::base::json;
use crate::base::limits::TOKEN_BYTES_MAX;
use crate::config::settings::Role;
use crate::control::denylist::{
    Asked, FleetStatus, Order, Origin, Patience, Query, Receipt, Revocations, RuleId, Way,
};
use crate::denylist::Kind;

/// Largest body, in bytes: 10,000 rules with names of usual length, or a thousand raw tokens.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A body must be whole after this: 4 MiB over a line of 4 Mbit/s.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Longest body that is read at once, in bytes: one raw token, or a hundred rules. A tenth of a millisecond.
const INLINE_BYTES_MAX: usize = 8 * 1024;

/// Rules on one page of the list.
const PAGE_DEFAULT: usize = 100;

/// Most parameters of a query that are looked at. There are five, so that of more than that one is a fault whatever the rest
/// is; without a bound each would be compared with all before it.
const PARAMETERS_MAX: usize = 16;

/// Most rules on one page: about half a megabyte.
const PAGE_MAX: usize = 1000;

const JSON: &str = "application/json";

/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4";

/// `docs/admin-api.md` for programs. A test holds it against the endpoints and every answer of the other tests.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// Before a rule's identifier.
const RULE_PATH: &str = "/v1/revocations/";

/// What a path names.
#[derive(Clone, Copy)]
pub(super) enum Endpoint<'a> {
    Live,
    Ready,
    Metrics,
    OpenApi,
    Status,
    Rules,
    Rule(&'a str),
    Check,
}

impl<'a> Endpoint<'a> {
    /// Every path that stands for itself. One rule's, which does not, begins with [`RULE_PATH`].
    pub(super) const PATHS: [(&'static str, Endpoint<'static>); 7] = [
        ("/live", Endpoint::Live),
        ("/ready", Endpoint::Ready),
        ("/metrics", Endpoint::Metrics),
        ("/v1/openapi.json", Endpoint::OpenApi),
        ("/v1/status", Endpoint::Status),
        ("/v1/revocations", Endpoint::Rules),
        ("/v1/check", Endpoint::Check),
    ];

    pub(super) fn find(path: &'a str) -> Option<Self> {
        let known = Self::PATHS.into_iter().find(|(known, _)| *known == path);
        known
            .map(|(_, endpoint)| endpoint)
            .or_else(|| path.strip_prefix(RULE_PATH).map(Self::Rule))
    }

    pub(super) const fn allow(&self) -> &'static str {
        match self {
            Self::Live | Self::Ready | Self::Metrics | Self::OpenApi | Self::Status => "GET, HEAD",
            Self::Rules => "GET, HEAD, POST",
            Self::Rule(_) => "GET, HEAD, DELETE",
            Self::Check => "POST",
        }
    }

    /// Whether it needs no credential.
    const fn is_open(&self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Metrics => true,
            Self::OpenApi | Self::Status | Self::Rules | Self::Rule(_) | Self::Check => false,
        }
    }

    /// The method that counts, if it is allowed: `HEAD` is `GET` without the body.
    fn method<'m>(&self, method: &'m Method) -> Result<&'m Method, Problem> {
        const GET: &Method = &Method::GET;
        let method = if *method == Method::HEAD { GET } else { method };
        let mut allowed = self.allow().split(", ");
        if allowed.any(|allowed| allowed == method.as_str()) {
            Ok(method)
        } else {
            Err(Problem::method_not_allowed(self.allow()))
        }
    }
}

/// Answers one request to the listener of probes.
pub(super) fn probe(views: &Views, method: &Method, path: &str) -> Result<Answer, Problem> {
    let endpoint = Endpoint::find(path)
        .filter(Endpoint::is_open)
        .ok_or_else(Problem::not_found)?;
    endpoint.method(method)?;
    Ok(views.open(&endpoint))
}

/// Answers one request from `client`.
pub(super) async fn answer(
    admin: &Admin,
    client: IpAddr,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    admin.hosts.load().check(&head.uri, &head.headers)?;
    let path = head.uri.path();
    // Strangers do not learn which paths there are.
    let caller = if path.starts_with("/v1/") {
        let now = admin.clock.now();
        let callers = admin.callers.load_full();
        Some(callers.identify(&head.headers, client, now).await?)
    } else {
        None
    };
    let endpoint = Endpoint::find(path).ok_or_else(Problem::not_found)?;
    let method = endpoint.method(&head.method)?;
    let Some(caller) = caller else {
        return Ok(admin.views.open(&endpoint));
    };
    match endpoint {
        Endpoint::OpenApi => {
            caller.require(Role::Read)?;
            Ok(text_answer(StatusCode::OK, JSON, OPENAPI.to_owned()))
        }
        Endpoint::Status => {
            caller.require(Role::Read)?;
            Ok(ok(&admin.status()))
        }
        Endpoint::Rules if method == Method::POST => {
            admin.revoke(&caller, &head.headers, body).await
        }
        Endpoint::Rules => {
            caller.require(Role::Read)?;
            admin.list(head.uri.query().unwrap_or_default()).await
        }
        Endpoint::Rule(id) if method == Method::DELETE => {
            caller.require(Role::Security)?;
            admin.lift(&caller, id).await
        }
        Endpoint::Rule(id) => {
            caller.require(Role::Read)?;
            admin.rule(id).await
        }
        Endpoint::Check => {
            caller.require(Role::Read)?;
            admin.check(&head.headers, body).await
        }
        Endpoint::Live | Endpoint::Ready | Endpoint::Metrics => Ok(admin.views.open(&endpoint)),
    }
}

impl Views {
    /// What needs no credential.
    fn open(&self, endpoint: &Endpoint<'_>) -> Answer {
        match endpoint {
            Endpoint::Metrics => text_answer(StatusCode::OK, METRICS, (self.metrics)()),
            Endpoint::Ready => {
                let readiness = (self.readiness)();
                let conditions: Vec<Value> = readiness
                    .conditions
                    .iter()
                    .map(|condition| json!({"name": condition.name, "holds": condition.holds}))
                    .collect();
                let ready = readiness.holds();
                let status = if ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                let body = json!({"ready": ready, "conditions": conditions});
                json_answer(status, JSON, &body)
            }
            Endpoint::Live
            | Endpoint::OpenApi
            | Endpoint::Status
            | Endpoint::Rules
            | Endpoint::Rule(_)
            | Endpoint::Check => ok(&json!({"live": true})),
        }
    }
}

impl Admin {
    fn status(&self) -> Value {
        let index = self.revocations.index();
        let mut entries = Map::new();
        for kind in Kind::ALL {
            entries.insert(kind.as_str().into(), index.entries(kind).into());
        }
        let total: usize = Kind::ALL.iter().map(|&kind| index.entries(kind)).sum();
        let mut status = (self.views.status)();
        let mut denylist = json!({
            "entries": entries,
            "entries_total": total,
            "entries_max": self.revocations.entries_max(),
            "bytes": index.bytes(),
            "epoch": index.epoch(),
            "durable": self.revocations.log().is_some(),
        });
        if let Some(log) = self.revocations.log() {
            let last_sync_ms = log.last_sync().as_secs_f64() * 1000.0;
            denylist["log"] = json!({"bytes": log.bytes(), "last_sync_ms": last_sync_ms});
        }
        if let Some(fleet) = self.revocations.fleet() {
            let fleet = FleetStatus::of(fleet, &self.views.lease, &self.clock);
            let fleet = serde_json::to_value(fleet).expect("members have names, and nothing fails");
            status.insert("fleet".into(), fleet);
        }
        for (name, value) in [
            ("version", env!("CARGO_PKG_VERSION").into()),
            (
                "uptime_s",
                self.clock.now().since(self.started).as_secs().into(),
            ),
            ("ready", (self.views.readiness)().holds().into()),
            ("denylist", denylist),
        ] {
            status.insert(name.into(), value);
        }
        status.into()
    }

    async fn revoke(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        if !caller.has(Role::Security) {
            caller.require(Role::Revoke)?;
        }
        let body = read_body(headers, body).await?;
        let revocations = self.revocations.clone();
        let is_large = body.len() > INLINE_BYTES_MAX;
        let Asked { orders, patience } = aside(is_large, move || {
            let body = parse(&body)?;
            Ok::<_, Problem>(revocations.read(&body)?)
        })
        .await??;
        for order in &orders {
            caller.require(role_for(order))?;
        }
        let written = self.revocations.revoke(orders, origin(caller)).await?;
        let receipt = if written.outcomes.iter().all(|outcome| outcome.dry_run) {
            None
        } else {
            self.revocations.follow(written.sequence, patience).await
        };
        let durable = self.revocations.log().is_some();
        let status = reached(receipt.as_ref(), &self.revocations)?;
        aside(is_large, move || {
            let body = view::revoked(&written.outcomes, durable, receipt.as_ref());
            json_answer(status, JSON, &body)
        })
        .await
    }

    async fn list(&self, query: &str) -> Result<Answer, Problem> {
        let page = self.revocations.list(list_query(query)?).await?;
        Ok(ok(&view::page(&page)))
    }

    async fn rule(&self, id: &str) -> Result<Answer, Problem> {
        let id = RuleId::parse(id).ok_or_else(Problem::not_found)?;
        let found = self.revocations.record(id).await?;
        let found = found.ok_or_else(Problem::not_found)?;
        let around = self.revocations.look_around().await;
        Ok(ok(&view::record(&found, around.as_ref())))
    }

    async fn lift(&self, caller: &Caller, id: &str) -> Result<Answer, Problem> {
        let id = RuleId::parse(id).ok_or_else(Problem::not_found)?;
        let lifted = self.revocations.lift(id, origin(caller)).await?;
        let revocations = &self.revocations;
        let receipt = revocations
            .follow(lifted.sequence, Patience::default())
            .await;
        let status = reached(receipt.as_ref(), revocations)?;
        let body = view::lifted(id, lifted.rest.as_ref(), receipt.as_ref());
        Ok(json_answer(status, JSON, &body))
    }

    async fn check(&self, headers: &HeaderMap, body: Incoming) -> Result<Answer, Problem> {
        let body = parse(&read_body(headers, body).await?)?;
        let token = match &body {
            Value::Object(members) if members.len() == 1 => {
                members.get("token").and_then(Value::as_str)
            }
            _ => None,
        };
        let fault = |message: String| {
            Problem::invalid(
                "the body has faults",
                vec![json!({"pointer": "/token", "message": message})],
            )
        };
        let token = token
            .filter(|token| token.len() <= TOKEN_BYTES_MAX)
            .ok_or_else(|| {
                fault(format!(
                    "write {{\"token\": \"…\"}} with a token of at most {TOKEN_BYTES_MAX} bytes, and nothing else"
                ))
            })?;
        let keys = self
            .revocations
            .identify(token)
            .map_err(|cause| fault(cause.to_string()))?;
        let verdict = self.revocations.check(keys).await?;
        Ok(ok(&view::verdict(&verdict)))
    }
}

/// Large work is done aside: not on the thread that answers probes. Small work is not worth the way there.
async fn aside<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if !is_large {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the gateway failed; what was asked may or may not have happened, and asking again does no harm",
        )
    })
}

fn ok(body: &impl Serialize) -> Answer {
    json_answer(StatusCode::OK, JSON, body)
}

/// 200 when what was asked for was reached, 202 when it was not yet and what is durable goes on its way by itself. What would be lost
/// with the process is not acknowledged.
fn reached(receipt: Option<&Receipt>, revocations: &Revocations) -> Result<StatusCode, Problem> {
    match receipt {
        None => Ok(StatusCode::OK),
        receipt if !revocations.is_kept(receipt) => Err(Problem::not_relayed()),
        Some(receipt) if receipt.reached => Ok(StatusCode::OK),
        Some(_) => Ok(StatusCode::ACCEPTED),
    }
}

fn origin(caller: &Caller) -> Origin {
    Origin {
        by: caller.name.clone(),
        way: Way::AdminApi,
    }
}

/// A slip with a client, a key or an issuer is an outage.
const fn role_for(order: &Order) -> Role {
    match order.id.kind {
        Kind::Token | Kind::Session | Kind::User | Kind::Pin => Role::Revoke,
        Kind::Client | Kind::Key | Kind::Issuer => Role::Security,
    }
}

/// The query of the list: `limit`, `cursor`, `kind`, `iss`, `value`, each at most once.
fn list_query(query: &str) -> Result<Query, Problem> {
    let mut wanted = Query {
        limit: PAGE_DEFAULT,
        ..Query::default()
    };
    let mut faults = vec![];
    let mut seen = vec![];
    for (name, value) in form_urlencoded::parse(query.as_bytes()).take(PARAMETERS_MAX) {
        let message = if seen.contains(&name) {
            Some("is there twice; write it once")
        } else {
            match &*name {
                "limit" => match value.parse() {
                    Ok(limit @ 1..=PAGE_MAX) => {
                        wanted.limit = limit;
                        None
                    }
                    _ => Some("is no number of rules; write 1 to 1000"),
                },
                "cursor" => {
                    wanted.after = RuleId::parse(&value);
                    wanted
                        .after
                        .is_none()
                        .then_some("is no cursor; write the \"next\" of the page before")
                }
                "kind" => {
                    wanted.kind = Kind::parse(&value);
                    wanted.kind.is_none().then_some(
                        "is no kind; write token, session, user, client, key, issuer or pin",
                    )
                }
                "iss" => {
                    wanted.issuer = Some(value.into_owned());
                    None
                }
                "value" => {
                    wanted.value = Some(value.into_owned());
                    None
                }
                _ => Some("is unknown; known are limit, cursor, kind, iss, value"),
            }
        };
        if let Some(message) = message {
            faults.push(json!({"parameter": name, "message": message}));
        }
        seen.push(name);
    }
    if faults.is_empty() {
        Ok(wanted)
    } else {
        Err(Problem::invalid("the query has faults", faults))
    }
}

/// The whole body, if it says to be JSON.
async fn read_body(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Problem> {
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(JSON));
    if !is_json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "write JSON, and say so: Content-Type: application/json",
        ));
    }
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "a body has at most 4 MiB; send the rest after",
        )
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "body_incomplete",
            "the body ended early",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "the body did not come in time",
        )),
    }
}

fn parse(body: &[u8]) -> Result<Value, Problem> {
    json::parse(body).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            format!(
                "the body is no JSON, or names a member twice: line {}, column {}",
                error.line(),
                error.column()
            ),
        )
    })
}

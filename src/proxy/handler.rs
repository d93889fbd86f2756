//! One request from its head to the head of its answer.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, REFERER, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::answer::{Access, Details, Record, Traced};
use super::body::{BodyFault, RequestBody, ResponseBody};
use super::clock::Clock;
use super::edition::{Edition, Worker};
use super::failure::Failure;
use super::request::{self, Outgoing};
use super::revoke::{self, REVOKE_TIMEOUT};
use super::streams::{Admission, Ended, Terms};
use super::upgrade;
use crate::authorize::{Bearer, Decision, Denied, Pass, Presented, decide};
use crate::base::address::AddressBlock;
use crate::base::failures::Noted;
use crate::denylist::{WishRefused, Wisher};
use crate::http::cors::{Cors, is_preflight};
use crate::http::headers::drop_hop_by_hop;
use crate::http::respond::{Problem, is_grpc};
use crate::jwks::RefreshOutcome;
use crate::listener::{Connection, Front};
use crate::plan::Route;
use crate::policy::{self, Mode, OnStale, Requirement};
use crate::route::{Found, Host, NormalPath};
use crate::telemetry::access::Form;
use crate::telemetry::metrics::{Decided as Counted, Fate};
use crate::telemetry::trace::Context;
use crate::token::{self, Reject};
use crate::upstream::Sent;

/// Longest time that a request waits for a key that nobody knows yet.
const KEY_WAIT_MAX: Duration = Duration::from_secs(3);

impl Front for Worker {
    type Body = ResponseBody;

    fn answer(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> {
        let (mut parts, body) = request.into_parts();
        // What is captured is moved no more; a future has room for each of its arguments twice.
        async move {
            let edition = self.edition();
            let mut exchange = Exchange::new((&self, &edition, &connection), &parts, body);
            let outcome = exchange.outcome(&mut parts).await;
            exchange.conclude(outcome)
        }
    }
}

/// One request on its way.
struct Exchange<'w> {
    worker: &'w Worker,
    edition: &'w Edition,
    connection: &'w Rc<Connection>,
    record: Record,
    /// In its trace; none where there are no traces.
    place: Option<Context>,
    route: Option<&'w Arc<Route>>,
    method: Method,
    /// The client's.
    version: Version,
    /// A call of gRPC is refused in gRPC's words.
    is_grpc: bool,
    /// Kept for the answer's CORS headers, which depend on it.
    origin: Option<HeaderValue>,
    /// The client sends its body only when told to (100-continue), and reading it would tell.
    waits: bool,
    /// Until it is sent on.
    body: Option<Incoming>,
    /// Who was let in.
    bearer: Option<Arc<Bearer>>,
}

impl<'w> Exchange<'w> {
    fn new(
        (worker, edition, connection): (&'w Worker, &'w Edition, &'w Rc<Connection>),
        parts: &Parts,
        body: Incoming,
    ) -> Self {
        let place = worker.place(edition, connection, parts);
        let record = Record {
            busy: connection.begin(),
            start: Instant::now(),
            status: 0,
            code: "",
            decided: "",
            bytes: 0,
            complete: false,
            decision: Duration::ZERO,
            upstream: None,
            ended: Rc::clone(&worker.ended),
            details: worker.details(edition, place.as_ref(), connection, parts),
        };
        Self {
            worker,
            edition,
            connection,
            record,
            place,
            route: None,
            method: parts.method.clone(),
            version: parts.version,
            is_grpc: is_grpc(&parts.headers),
            origin: parts.headers.get(ORIGIN).cloned(),
            waits: parts.headers.contains_key(EXPECT),
            body: Some(body),
            bearer: None,
        }
    }

    /// From the head of the request to that of the service's answer, or to why there is none.
    async fn outcome(&mut self, parts: &mut Parts) -> Result<Outcome, Refusal> {
        self.admit()?;
        let head = self.read_head(parts)?;
        let mut outcome = self.authorized(parts, &head).await?;
        if let Outcome::Service(answered) = &mut outcome {
            answered.obeyed = self.obey(answered).await?;
        }
        Ok(outcome)
    }

    /// What the client gets.
    fn conclude(self, outcome: Result<Outcome, Refusal>) -> Response<ResponseBody> {
        match outcome {
            Ok(Outcome::Service(answered)) => self.pass_on(answered),
            Ok(Outcome::Own(response)) => self.own(response),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// Before any work is done.
    fn admit(&self) -> Result<(), Failure> {
        if self.record.busy.is_overload() {
            return Err(Failure::Overloaded);
        }
        Ok(())
    }

    /// Steps 2 to 5: the head has one reading, and a route.
    fn read_head(&mut self, parts: &Parts) -> Result<Head, Failure> {
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Failure::MethodNotAllowed(vec![]));
        }
        if parts.headers.len() > self.connection.max_headers {
            return Err(Failure::HeadTooLarge);
        }
        request::check_framing(parts)?;
        request::check_http2(parts)?;
        let authority = request::authority(parts)?;
        let host = request::host(authority.as_ref())?;
        let path = NormalPath::parse(parts.uri.path()).map_err(|_| Failure::PathAmbiguous)?;
        // A preflight asks about another method: that one's route answers.
        let preflight = is_preflight(&parts.method, &parts.headers)
            .then(|| Cors::requested_method(&parts.headers))
            .flatten();
        let routes = &self.edition.plan.routes;
        let found = |method: &Method| {
            routes
                .find(host.as_ref(), &path, method)
                .map_err(|_| Failure::PathAmbiguous)
        };
        let mut answered = Preflight::No;
        let mut route = None;
        if let Some(method) = &preflight
            && let Found::Route(asked) = found(method)?
            && let Some(cors) = &asked.cors
        {
            answered = if cors.pass_preflight {
                Preflight::Pass
            } else {
                Preflight::Answer
            };
            route = Some(asked);
        }
        let route = match route {
            Some(route) => route,
            None => match found(&parts.method)? {
                Found::Route(route) => route,
                Found::Nothing => return Err(Failure::NoRoute),
                Found::OtherMethods(methods) => {
                    return Err(Failure::MethodNotAllowed(methods));
                }
            },
        };
        self.route = Some(route);
        self.record.meet(route);
        let asked = (host.as_ref(), &path, parts.uri.query());
        request::check_overrides(&self.edition.plan, asked, route)?;
        Ok(Head {
            authority,
            path: path.rewritten(),
            preflight: answered,
        })
    }

    /// Steps 6 to 13: the decision, and what follows from it.
    async fn authorized(&mut self, parts: &mut Parts, head: &Head) -> Result<Outcome, Refusal> {
        let route = self.route.expect("the head was read");
        let pass = match head.preflight {
            Preflight::Answer => {
                let cors = route.cors.as_ref().expect("the route has CORS");
                self.count(route, None, Fate::Allow, "preflight");
                return Ok(Outcome::Own(cors.answer_preflight(&parts.headers)));
            }
            Preflight::Pass if self.is_bare(route, parts) => {
                self.count(route, None, Fate::Allow, "preflight");
                Pass::STRANGER
            }
            Preflight::Pass | Preflight::No => self
                .decide(route, parts, head)
                .await
                .map_err(Refusal::Denied)?,
        };
        self.bearer = pass.bearer.as_ref().map(|(bearer, _)| Arc::clone(bearer));
        let sent = self.send(route, parts, head, &pass).await;
        if let Err(Refusal::Failure(failure)) = &sent {
            self.count_failure(route, failure);
        }
        sent.map(Outcome::Service)
    }

    /// Whether the request has neither body nor token, like every preflight (Fetch Standard, CORS-preflight fetch). One
    /// that has would show the service a token that nobody has checked.
    fn is_bare(&self, route: &Route, parts: &Parts) -> bool {
        let places = &route.access.places;
        self.body.as_ref().is_none_or(Body::is_end_stream)
            && token::find(places, &parts.headers, parts.uri.query()) == token::Found::Nothing
    }

    fn count_failure(&self, route: &Route, failure: &Failure) {
        if failure.is_of_upstream() {
            let upstream = &self.edition.plan.upstreams[route.upstream];
            self.worker
                .shared
                .metrics
                .upstream_failures
                .with_label_values(&[upstream.options.name.as_str(), failure.code()])
                .inc();
        }
    }

    /// Steps 6 to 12. An unknown key is waited for once.
    async fn decide(
        &mut self,
        route: &Arc<Route>,
        parts: &Parts,
        head: &Head,
    ) -> Result<Pass, Denied> {
        let (plan, is_trusted) = (&self.edition.plan, self.connection.peer.trusted);
        let is_hidden =
            |name: &HeaderName| request::is_hidden(name, &parts.headers, plan, route, is_trusted);
        let has_expression = route.access.requirement.expression.is_some();
        let host = has_expression
            .then(|| request::host(head.authority.as_ref()).ok().flatten())
            .flatten();
        let seen = has_expression.then(|| policy::Request {
            method: parts.method.as_str(),
            path: head.path.as_deref().unwrap_or(parts.uri.path()),
            host: host.as_ref().map(Host::as_str),
            headers: &parts.headers,
            is_hidden: &is_hidden,
        });
        let shared = &self.worker.shared;
        // Where a trusted proxy does not say who the client is, nobody is counted: its own address stands for all of them.
        let client = self.connection.failures().and_then(|failures| {
            let client = self.connection.client(&parts.headers)?;
            Some((failures, AddressBlock::from(client)))
        });
        let mut presented = Presented {
            headers: &parts.headers,
            query: parts.uri.query(),
            request: seen.as_ref(),
            barred: client
                .and_then(|(failures, client)| failures.barred(client, shared.clock.now())),
            stale: self.is_stale(),
        };
        let mut decided = decide(&route.access, presented, &shared.tables, shared.clock.now());
        if let Decision::KeyUnknown(issuer) = &decided.decision {
            let outcome = issuer.refresh.ask(KEY_WAIT_MAX).await;
            decided = match outcome {
                RefreshOutcome::Refreshed => {
                    presented.stale = self.is_stale();
                    decide(&route.access, presented, &shared.tables, shared.clock.now())
                }
                RefreshOutcome::CoolingDown => decided,
                RefreshOutcome::Failed | RefreshOutcome::TimedOut | RefreshOutcome::TooMany => {
                    decided.decision = Decision::Deny(Denied::KeysUnavailable);
                    decided
                }
            };
        }
        match decided.cached {
            Some(true) => shared.metrics.cache_hits.inc(),
            Some(false) => shared.metrics.cache_misses.inc(),
            None => {}
        }
        let result = match decided.decision {
            Decision::Pass(pass) => Ok(pass),
            Decision::Deny(denied) => Err(denied),
            // The newest set does not have it either.
            Decision::KeyUnknown(_) => Err(Denied::Token(Reject::KeyUnknown)),
        };
        if let (Some((failures, client)), Err(Denied::Token(reject))) = (client, &result)
            && reject.is_never_right()
            && failures.note(client, shared.clock.now()) == Noted::NoRoom
        {
            shared.metrics.failures_not_noted.inc();
        }
        self.record
            .name_issuer(decided.issuer.map(|issuer| &issuer.name));
        let code = result
            .as_ref()
            .map_or_else(|denied| denied.code(), |_| "ok");
        let issuer = decided
            .issuer
            .map(|issuer| (issuer.id, issuer.name.as_str()));
        let fate = match (&result, route.mode) {
            (Ok(_), Mode::Enforce | Mode::Report) => Fate::Allow,
            (Err(_), Mode::Report) => Fate::Report,
            (Err(_), Mode::Enforce) => Fate::Deny,
        };
        self.count(route, issuer, fate, code);
        if fate == Fate::Report {
            // As a stranger: what a token says that would be refused is nobody's identity.
            return Ok(Pass::STRANGER);
        }
        if result.as_ref().is_ok_and(|pass| pass.stale) {
            let name = (route.number, route.name.as_str());
            self.edition.decisions.count_stale(name);
            shared.stale_notice.passed(&route.name, shared.clock.boot());
        }
        result
    }

    /// Whether the denylist may be too old.
    fn is_stale(&self) -> bool {
        let shared = &self.worker.shared;
        shared.tables.lease.is_over(&shared.clock)
    }

    fn count(
        &mut self,
        route: &Route,
        issuer: Option<(usize, &str)>,
        result: Fate,
        code: &'static str,
    ) {
        self.record.decision = self.record.start.elapsed();
        (self.record.code, self.record.decided) = (code, code);
        self.worker
            .shared
            .metrics
            .decision_seconds
            .observe(self.record.decision.as_secs_f64());
        self.edition.decisions.count(Counted {
            route: (route.number, route.name.as_str()),
            issuer: issuer.unwrap_or((0, "")),
            result,
            code,
        });
    }

    /// Step 13: the head anew, the body streamed, and the head of the answer in time.
    async fn send(
        &mut self,
        route: &Arc<Route>,
        parts: &mut Parts,
        head: &Head,
        pass: &Pass,
    ) -> Result<Answered, Refusal> {
        let service = &self.edition.services[route.upstream];
        let websocket = request::is_websocket(parts);
        let is_empty = self.body.as_ref().is_none_or(Body::is_end_stream);
        if websocket && !is_empty {
            return Err(Failure::HeadAmbiguous.into());
        }
        let bytes_max = self.connection.max_body_size;
        if let (Some(max), Some(length)) = (bytes_max, content_length(&parts.headers))
            && length > max
        {
            return Err(Failure::BodyTooLarge.into());
        }
        let upgrade = || parts.extensions.remove::<OnUpgrade>();
        let client = websocket.then(upgrade).flatten();
        request::rewrite(
            parts,
            &Outgoing {
                plan: &self.edition.plan,
                passed: &self.edition.passed,
                route,
                path: head.path.as_deref(),
                authority: head.authority.as_ref(),
                peer: &self.connection.peer,
                bearer: pass.bearer.as_ref(),
                websocket,
                http2: service.pool.options().http2,
                scheme: service.pool.options().scheme(),
                trace: self.place.as_ref(),
            },
        )?;
        // An upload may outlive its token before there is any answer, and go on after it.
        let watch = || self.admission().map(Admission::watch);
        let upload_watch = if is_empty { None } else { watch() };
        let watch = if is_empty { None } else { watch() };
        let deadline = self.worker.deadlines.deadline();
        let clock = Rc::new(Clock::new(deadline, route.timeout, route.idle_timeout));
        // Only a service that is known to speak HTTP/2 can be asked for streams of messages; from others it is a pretext.
        let stream = (self.is_grpc && service.pool.options().http2).then_some(route.idle_timeout);
        let body = match self.body.take() {
            Some(body) if !is_empty => RequestBody::new(
                body,
                (self.worker.drain.clone(), self.waits),
                (self.connection.expect_body(), upload_watch),
                self.worker.deadlines.deadline(),
                Rc::clone(&clock),
                stream,
                self.is_grpc
                    .then(|| (Arc::clone(&self.edition.plan), Arc::clone(route))),
            ),
            Some(_) | None => RequestBody::default(),
        };
        if !service.pool.options().http2 {
            request::announce(&mut parts.headers, &body);
        }
        let began = Instant::now();
        let mut sending = pin!(service.pool.send(take_request(parts, body)));
        let sent: Result<_, Refusal> = poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(sent.map_err(|error| {
                tracing::debug!(upstream = %service.pool.options().name, %error, source = ?std::error::Error::source(&error), "no answer");
                Refusal::Failure(Failure::from(&error))
            })),
            Poll::Pending => match watch.as_ref().map(|watch| watch.poll(cx)) {
                Some(Poll::Ready(ended)) => Poll::Ready(Err(Refusal::Ended(ended))),
                Some(Poll::Pending) | None => clock.poll(cx).map(|()| Err(Failure::UpstreamTimeout.into())),
            },
        })
        .await
        .map_err(|refusal| match (refusal, clock.fault()) {
            (Refusal::Failure(_), Some(BodyFault::TooLarge)) => Failure::BodyTooLarge.into(),
            (Refusal::Failure(_), Some(BodyFault::TooSlow)) => Failure::RequestTimeout.into(),
            (Refusal::Failure(_), Some(BodyFault::Broken)) => Failure::BodyBroken.into(),
            (Refusal::Failure(_), Some(BodyFault::Ended(ended))) => Refusal::Ended(ended),
            (refusal, _) => refusal,
        });
        drop(watch);
        let status = sent.as_ref().ok().map(|sent| sent.response.status());
        let took = self.record.called(service.pool.options(), began, status);
        let sent = sent?;
        self.still_allowed()?;
        service.seconds.observe(took.as_secs_f64());
        let switching = sent.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let switched = sent
            .response
            .headers()
            .get(UPGRADE)
            .is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if switching && !(client.is_some() && switched) {
            // A 101 that nobody asked for, or to another protocol.
            return Err(Failure::UpstreamFailed.into());
        }
        clock.head_came();
        Ok(Answered {
            sent,
            client,
            clock,
            obeyed: false,
        })
    }

    /// What a rule can cut short; None for strangers, and where nothing is enforced.
    fn admission(&self) -> Option<Admission> {
        let (bearer, route) = (self.bearer.as_ref()?, self.route?);
        if route.mode == Mode::Report {
            return None;
        }
        let leeway = route
            .access
            .issuers
            .find(&bearer.claims.issuer)?
            .rules
            .leeway;
        let expires = route
            .end_at_expiry
            .then(|| bearer.claims.expires.plus(leeway));
        let terms = Terms {
            expires,
            deny_when_stale: route.access.on_stale == OnStale::Deny,
        };
        Some(self.worker.streams.admit(bearer, terms))
    }

    /// A rule that came while the service was at work denies its answer too, and so does a denylist that has become too old.
    fn still_allowed(&self) -> Result<(), Refusal> {
        let (Some(bearer), Some(route)) = (&self.bearer, self.route) else {
            return Ok(());
        };
        if route.mode == Mode::Report {
            return Ok(());
        }
        let denylist = &self.worker.shared.tables.denylist;
        if let Some(kind) = denylist.is_denied_since(&bearer.revocation, &bearer.clean_at) {
            return Err(Refusal::Ended(Ended::Revoked(kind)));
        }
        if route.access.on_stale == OnStale::Deny && self.is_stale() {
            return Err(Refusal::Ended(Ended::Stale));
        }
        Ok(())
    }

    /// Carries out the revocation that an answer asks for, before the client sees the answer. Says whether it asks for one.
    async fn obey(&self, answered: &Answered) -> Result<bool, Failure> {
        let route = self.route.expect("a service has answered");
        let response = &answered.sent.response;
        let Some((scope, wisher)) =
            revoke::wish(route, &self.method, response.status(), response.headers())
                .map_err(|_| self.refuse_word(route))?
        else {
            return Ok(false);
        };
        let Some(bearer) = &self.bearer else {
            return match wisher {
                // A logout by somebody who was not logged in has nothing to end.
                Wisher::Logout => Ok(false),
                // The same, where whoever is let in may be nobody.
                Wisher::Service if route.mode == Mode::Report => Ok(false),
                Wisher::Service => Err(self.refuse_word(route)),
            };
        };
        let desk = &self.worker.shared.desk;
        let asked = desk.ask(
            scope,
            wisher,
            route.name.to_shared(),
            revoke::subject(bearer),
        );
        let answer = self.worker.deadlines.within(REVOKE_TIMEOUT, asked).await;
        let outcome = match answer.unwrap_or(Err(WishRefused::Away)) {
            Ok(()) => Ok(true),
            Err(WishRefused::Nothing) => return Err(self.refuse_word(route)),
            Err(refused @ (WishRefused::Failed | WishRefused::NotRelayed | WishRefused::Away)) => {
                tracing::error!(route = %route.name, %refused, "a revocation that an answer asked for was not made");
                Err(Failure::RevokeFailed)
            }
        };
        let result = if outcome.is_ok() { "ok" } else { "failed" };
        self.count_wish(wisher, result);
        outcome
    }

    /// The service's word cannot be carried out: it must know, and so must the operator.
    fn refuse_word(&self, route: &Route) -> Failure {
        tracing::error!(
            route = %route.name,
            "a service answered with a Jotgate-Revoke that cannot be carried out: an unknown word, or no token that says whom it is about"
        );
        self.count_wish(Wisher::Service, "invalid");
        self.count_failure(route, &Failure::RevokeInvalid);
        Failure::RevokeInvalid
    }

    fn count_wish(&self, wisher: Wisher, result: &str) {
        self.worker
            .shared
            .metrics
            .answer_revocations
            .with_label_values(&[wisher.as_str(), result])
            .inc();
    }

    /// Step 14.
    fn pass_on(mut self, answered: Answered) -> Response<ResponseBody> {
        let Answered {
            sent,
            client,
            clock,
            obeyed,
        } = answered;
        // The answer that ends a session is its last word: its own rule does not cut it short.
        let admission = if obeyed && client.is_none() {
            None
        } else {
            self.admission()
        };
        let Sent {
            mut response,
            lease,
        } = sent;
        self.record.status = response.status().as_u16();
        // The service's version is its own hop's. Passed on, 1.0 would leave the client without framing, and a cut answer
        // would look whole; to clients of 1.0 hyper answers in their version.
        *response.version_mut() = Version::HTTP_11;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if drop_hop_by_hop(response.headers_mut()).is_err() {
            return self.refuse(&Refusal::Failure(Failure::UpstreamFailed));
        }
        revoke::drop_own_words(response.headers_mut());
        self.write_cors(response.headers_mut());
        if let (true, Some(client)) = (switching, client) {
            let route = self.route.expect("a service has answered");
            let idle_timeout = route.tunnel_idle_timeout;
            self.record.busy.becomes_tunnel();
            upgrade::join(
                client,
                (&mut response, lease),
                self.record,
                admission.map(Admission::watch),
                (self.worker.deadlines.clone(), idle_timeout),
                (&self.worker.tasks, self.worker.leaving.clone()),
            );
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response
                .headers_mut()
                .insert(UPGRADE, HeaderValue::from_static("websocket"));
            return response.map(|_| ResponseBody::none());
        }
        let record = self.record;
        let kind = (self.version, self.is_grpc);
        response.map(|body| ResponseBody::service(body, (lease, clock), record, admission, kind))
    }

    fn refuse(mut self, refusal: &Refusal) -> Response<ResponseBody> {
        let problem = match refusal {
            Refusal::Failure(failure) => {
                if self.record.code.is_empty() {
                    let (number, name) = self
                        .route
                        .map_or((0, ""), |route| (route.number, route.name.as_str()));
                    self.record.decision = self.record.start.elapsed();
                    self.record.decided = failure.code();
                    self.edition.decisions.count(Counted {
                        route: (number, name),
                        issuer: (0, ""),
                        result: Fate::Deny,
                        code: failure.code(),
                    });
                }
                self.record.code = failure.code();
                failure.problem()
            }
            Refusal::Ended(ended) => {
                self.record.end(*ended);
                ended.denied().problem(&Requirement::default())
            }
            Refusal::Denied(denied) => {
                self.record.code = denied.code();
                let route = self.route.expect("a decision has a route");
                denied.problem(&route.access.requirement)
            }
        };
        let mut response = answer(&problem, self.is_grpc);
        if matches!(refusal, Refusal::Failure(failure) if failure.closes_connection()) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream())
            && !self.waits
        {
            self.worker.drain.leave(body, self.connection.expect_body());
        }
        self.write_cors(response.headers_mut());
        self.own(response)
    }

    /// What browsers are told, on routes that tell them anything.
    fn write_cors(&mut self, headers: &mut HeaderMap) {
        if let Some(cors) = self.route.and_then(|route| route.cors.as_ref()) {
            cors.write(&origin_only(self.origin.take()), headers);
        }
    }

    fn own(mut self, mut response: Response<Bytes>) -> Response<ResponseBody> {
        self.record.status = response.status().as_u16();
        // Its answer has no body, only the length of one.
        if self.method == Method::HEAD {
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
            response.body_mut().clear();
        }
        let record = self.record;
        response.map(|bytes| ResponseBody::own(bytes, record))
    }
}

/// A request's head, read.
struct Head {
    authority: Option<HeaderValue>,
    /// The path in normal form, where it differs from the one that was sent.
    path: Option<Box<str>>,
    preflight: Preflight,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Preflight {
    /// Not one, or the route has no CORS.
    No,
    /// Answered here.
    Answer,
    /// The service answers; nobody is asked for a token, because browsers send none.
    Pass,
}

enum Outcome {
    Service(Answered),
    Own(Response<Bytes>),
}

enum Refusal {
    Failure(Failure),
    Denied(Denied),
    /// A rule, the token's end or that of the lease came before the answer.
    Ended(Ended),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The head of the service's answer.
struct Answered {
    sent: Sent<RequestBody>,
    /// The client's side of a WebSocket.
    client: Option<OnUpgrade>,
    clock: Rc<Clock>,
    /// It asked for a revocation, which was made.
    obeyed: bool,
}

impl Worker {
    /// The place of a request in its trace, where there are traces.
    fn place(&self, edition: &Edition, connection: &Connection, parts: &Parts) -> Option<Context> {
        let tracer = edition.plan.tracer.as_ref()?;
        let is_trusted = connection.peer.trusted;
        Some(tracer.begin(&parts.headers, is_trusted, &mut self.chance.borrow_mut()))
    }

    /// What is written down of a request, as far as its head tells; none if nothing is.
    fn details(
        &self,
        edition: &Edition,
        place: Option<&Context>,
        connection: &Connection,
        parts: &Parts,
    ) -> Option<Box<Details>> {
        let header = |name| parts.headers.get(name).cloned();
        let access = edition.plan.access_log.map(|options| Access {
            form: options.form,
            is_chosen: self.chance.borrow_mut().happens(options.sample),
            words: match options.form {
                Form::Combined => [header(REFERER), header(USER_AGENT)],
                Form::Text | Form::Json | Form::Common => [None, None],
            },
            trace: place.map(|place| place.trace),
        });
        let recorded = place.filter(|place| place.is_sampled);
        let traced = recorded.zip(edition.plan.tracer.as_ref());
        let traced = traced.map(|(place, tracer)| Traced {
            tracer: Arc::clone(tracer),
            place: place.clone(),
            call: None,
        });
        if access.is_none() && traced.is_none() {
            return None;
        }
        Some(Box::new(Details {
            access,
            traced,
            began: self.shared.clock.since_1970(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: header(HOST),
            client: connection.client(&parts.headers),
            version: parts.version,
            route: None,
            issuer: None,
        }))
    }
}

fn answer(problem: &Problem, is_grpc: bool) -> Response<Bytes> {
    if is_grpc {
        problem.to_grpc()
    } else {
        problem.to_json()
    }
}

/// The request for the service, of what its head has become.
fn take_request(parts: &mut Parts, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = std::mem::take(&mut parts.method);
    *request.uri_mut() = std::mem::take(&mut parts.uri);
    *request.version_mut() = parts.version;
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    request
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn origin_only(origin: Option<HeaderValue>) -> HeaderMap {
    origin.map(|origin| (ORIGIN, origin)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::super::{Shared, StaleNotice};
    use super::*;
    use crate::authorize::{Access, IssuerSet, Tables};
    use crate::base::clock::Clock;
    use crate::base::deadline::Deadlines;
    use crate::base::names::RouteName;
    use crate::denylist::{Fingerprinter, Lease, index};
    use crate::identity::ProtectedNames;
    use crate::listener::{Address, ListenerMetrics, Options, bind};
    use crate::plan::Plan;
    use crate::policy::{Auth, Requirement};
    use crate::route::{Entry, PathPattern, RouteTable};
    use crate::telemetry::metrics::Metrics;
    use crate::token::{Places, TokenCache};
    use crate::upstream;

    /// A public route to a service on that port.
    fn plan(port: u16) -> Plan {
        let route = Route {
            name: RouteName::new("r"),
            number: 1,
            access: Access {
                auth: Auth::Public,
                issuers: IssuerSet::default(),
                places: Places {
                    authorization: true,
                    header: None,
                    cookie: None,
                    query: None,
                    forward: false,
                },
                requirement: Requirement::default(),
                on_stale: OnStale::Deny,
            },
            mode: Mode::Enforce,
            upstream: 0,
            cors: None,
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(5),
            tunnel_idle_timeout: Duration::from_hours(1),
            logout: false,
            trust_revoke_header: false,
            end_at_expiry: false,
        };
        let entry = Entry {
            hosts: &[],
            path: &PathPattern::prefix("/").unwrap(),
            methods: &[],
            protection: 0,
            route: Arc::new(route),
        };
        let options = upstream::Options::of(upstream::Server::Tcp {
            host: "127.0.0.1".into(),
            port,
        });
        Plan {
            routes: RouteTable::build(&[entry]).unwrap(),
            protected: ProtectedNames::new([]),
            upstreams: [Arc::new(upstream::Upstream::new(options, &Metrics::new()))].into(),
            access_log: None,
            tracer: None,
        }
    }

    /// A connection to a gateway in front of a service on that port.
    async fn gateway(port: u16) -> TcpStream {
        let metrics = Metrics::new();
        let options = Options {
            http2: false,
            ..Options::defaults()
        };
        let (Address::Tcp(address), mut acceptors) = bind(&options, 1).unwrap() else {
            panic!("an address of TCP was asked for");
        };
        let listening = ListenerMetrics {
            connections: metrics.connections.with_label_values(&["l"]),
            requests: metrics.requests.with_label_values(&["l"]),
            faults: metrics.connection_errors.clone(),
        };
        let tables = Tables {
            tokens: TokenCache::new(1024, |_| 0),
            denylist: index(1).0,
            fingerprinter: Fingerprinter::new(&[0; 16]),
            lease: Lease::unlimited(),
        };
        let shared = Arc::new(Shared {
            desk: crate::denylist::desk().0,
            stale_notice: StaleNotice::default(),
            plan: ArcSwap::from_pointee(plan(port)),
            tables: Arc::new(tables),
            clock: Clock::system(),
            metrics,
        });
        let (deadlines, tasks) = (Deadlines::new(), TaskTracker::new());
        spawn_local(deadlines.clone().sweep());
        let worker = Rc::new(Worker::new(shared, deadlines.clone(), tasks.clone()));
        spawn_local(Rc::clone(&worker).drain_bodies());
        spawn_local(acceptors.remove(0).run(
            Rc::new(options),
            worker,
            deadlines,
            tasks,
            CancellationToken::new(),
            listening,
        ));
        TcpStream::connect(address).await.unwrap()
    }

    async fn read(stream: &mut TcpStream) -> String {
        let mut bytes = vec![0; 4096];
        let n = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_after_its_answer() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        LocalSet::new()
            .run_until(async move {
                let mut client = gateway(port).await;
                let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
                client.write_all(head).await.unwrap();
                let (mut service, _) = service.accept().await.unwrap();
                assert!(read(&mut service).await.starts_with("POST"));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                service.write_all(answer).await.unwrap();
                assert!(read(&mut client).await.starts_with("HTTP/1.1 200"));
                client.write_all(b"def").await.unwrap();
                let more = timeout(Duration::from_secs(30), read(&mut client)).await;
                assert!(more.is_err(), "nobody asked for {more:?}");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_after_a_refusal() {
        LocalSet::new()
            .run_until(async move {
                let mut client = gateway(1).await;
                let head = b"TRACE / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
                client.write_all(head).await.unwrap();
                assert!(read(&mut client).await.starts_with("HTTP/1.1 405"));
                client.write_all(b"defghi").await.unwrap();
                let more = timeout(Duration::from_secs(30), read(&mut client)).await;
                assert!(more.is_err(), "nobody asked for {more:?}");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_cut_off() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        LocalSet::new()
            .run_until(async move {
                let mut client = gateway(port).await;
                let head = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
                client.write_all(head).await.unwrap();
                let (mut service, _) = service.accept().await.unwrap();
                assert!(read(&mut service).await.starts_with("GET"));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                service.write_all(answer).await.unwrap();
                let endless = async { while service.write_all(&[0; 4096]).await.is_ok() {} };
                let cut = timeout(Duration::from_mins(5), endless).await;
                assert!(cut.is_ok(), "the service still waits");
            })
            .await;
    }

    #[tokio::test]
    async fn the_body_of_a_get_reaches_the_service() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        LocalSet::new()
            .run_until(async move {
                let mut client = gateway(port).await;
                let request =
                    b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                client.write_all(request).await.unwrap();
                let (mut service, _) = service.accept().await.unwrap();
                let mut seen = String::new();
                while !seen.ends_with("3\r\nabc\r\n0\r\n\r\n") {
                    let more = timeout(Duration::from_secs(5), read(&mut service)).await;
                    seen += &more.expect("the body comes");
                    assert!(!seen.ends_with("\r\n\r\n") || seen.contains("chunked"), "{seen}");
                }
            })
            .await;
    }
}

//! The head of a request: read in one way only, then written anew for the service.

use std::collections::HashSet;
use std::sync::Arc;

use http::header::{
    self, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use http_body::Body;

use super::failure::Failure;
use crate::authorize::Bearer;
use crate::http::forwarded::{self, Peer, is_kept_from_trusted, is_told_by_proxies};
use crate::http::headers::{
    connection_options, has_token, is_alias, is_alias_of_framing, is_hop_by_hop, single,
};
use crate::plan::{Plan, Route};
use crate::route::{Found, Host, NormalPath};
use crate::telemetry::trace::Context;
use crate::token::{Spot, cookies_without, query_without};

/// The authority of a request as one text: from the only `Host`, or from the target. None on HTTP/1.0 without `Host`.
pub(super) fn authority(parts: &Parts) -> Result<Option<HeaderValue>, Failure> {
    let header = single(&parts.headers, &HOST).map_err(|_| Failure::HostInvalid)?;
    let target = parts.uri.authority().map(Authority::as_str);
    match (header, target) {
        // HTTP/2 has no reason for two words that differ (RFC 9113 section 8.3.1).
        (Some(header), Some(target))
            if parts.version == Version::HTTP_2 && header.as_bytes() != target.as_bytes() =>
        {
            Err(Failure::HostInvalid)
        }
        // HTTP/1.1: `Host` must be there and valid (RFC 9112 section 3.2), but the target wins, and is what the service
        // gets (section 3.2.2).
        (None, Some(_)) if parts.version == Version::HTTP_11 => Err(Failure::HostInvalid),
        // `://shop/` has an authority for the `http` crate, and a scheme without a letter.
        (_, Some(_)) if !is_http(parts.uri.scheme()) => Err(Failure::HostInvalid),
        (Some(header), Some(_)) if host(Some(header)).is_err() => Err(Failure::HostInvalid),
        (_, Some(target)) => HeaderValue::from_str(target)
            .map(Some)
            .map_err(|_| Failure::HostInvalid),
        (Some(header), None) => Ok(Some(header.clone())),
        (None, None) if parts.version == Version::HTTP_10 => Ok(None),
        (None, None) => Err(Failure::HostInvalid),
    }
}

fn is_http(scheme: Option<&Scheme>) -> bool {
    let is = |scheme: &Scheme, known| scheme.as_str().eq_ignore_ascii_case(known);
    scheme.is_some_and(|scheme| is(scheme, "http") || is(scheme, "https"))
}

/// The host of an authority.
pub(super) fn host(authority: Option<&HeaderValue>) -> Result<Option<Host<'_>>, Failure> {
    authority
        .map(|text| {
            let text = text.to_str().map_err(|_| Failure::HostInvalid)?;
            Host::parse(text).map_err(|_| Failure::HostInvalid)
        })
        .transpose()
}

/// Whether the route is also that of each other method which the query names for lenient services.
pub(crate) fn check_overrides(
    plan: &Plan,
    (host, path, query): (Option<&Host<'_>>, &NormalPath<'_>, Option<&str>),
    route: &Arc<Route>,
) -> Result<(), Failure> {
    for method in overrides(query) {
        match plan.routes.find(host, path, &method) {
            Ok(Found::Route(other)) if Arc::ptr_eq(other, route) => {}
            Ok(_) => return Err(Failure::MethodAmbiguous),
            Err(_) => return Err(Failure::PathAmbiguous),
        }
    }
    Ok(())
}

/// The methods that the query names for services which take `_method` instead of the request's own: Rails, Spring and
/// Symfony on POST, others whenever it is there.
fn overrides(query: Option<&str>) -> impl Iterator<Item = Method> + '_ {
    query
        .unwrap_or_default()
        .split(['&', ';'])
        // Most pairs end here.
        .filter(|pair| pair.starts_with(['_', '%', '+', ' ', '.', '[']))
        .filter_map(|pair| form_urlencoded::parse(pair.as_bytes()).next())
        // PHP drops blanks before a name, and makes an underscore of what no variable can be called.
        .filter(|(name, _)| name.trim_start().replace(['.', ' ', '['], "_") == "_method")
        .filter_map(|(_, value)| {
            Method::from_bytes(value.trim().to_ascii_uppercase().as_bytes()).ok()
        })
}

/// What would let the service, or a proxy before it, see other requests than we do.
pub(super) fn check_framing(parts: &Parts) -> Result<(), Failure> {
    let headers = &parts.headers;
    let lengths = single(headers, &CONTENT_LENGTH).map_err(|_| Failure::HeadAmbiguous)?;
    let codings = single(headers, &TRANSFER_ENCODING).map_err(|_| Failure::HeadAmbiguous)?;
    let codings_ok = codings.is_none_or(|coding| {
        coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            && parts.version == Version::HTTP_11
            && lengths.is_none()
    });
    let length_ok = lengths.is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit));
    if codings_ok && length_ok {
        Ok(())
    } else {
        Err(Failure::HeadAmbiguous)
    }
}

/// What HTTP/2 must not carry (RFC 9113 sections 8.2.1 and 8.3.1), and `h2` lets pass: values with blanks around them, which
/// HTTP/1 cuts off, and so would whoever gets the value from us; schemes that are not ours; a path that begins with its
/// query.
pub(super) fn check_http2(parts: &Parts) -> Result<(), Failure> {
    if parts.version != Version::HTTP_2 {
        return Ok(());
    }
    let mut values = parts.headers.values().map(HeaderValue::as_bytes);
    let values_ok = values.all(|value| value.trim_ascii().len() == value.len());
    let scheme = parts.uri.scheme();
    let scheme_ok = scheme.is_none() || is_http(scheme);
    if !(values_ok && scheme_ok) {
        return Err(Failure::HeadAmbiguous);
    }
    let path = parts.uri.path_and_query().map(PathAndQuery::as_str);
    if path.is_some_and(|path| path.starts_with('/')) {
        Ok(())
    } else {
        Err(Failure::PathAmbiguous)
    }
}

/// Whether the request asks for a WebSocket (RFC 6455 section 4.1).
pub(super) fn is_websocket(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && has_token(&parts.headers, &CONNECTION, "upgrade")
        && single(&parts.headers, &UPGRADE).is_ok_and(|upgrade| {
            upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
        })
}

/// Names of header lines.
pub(super) type Names = HashSet<HeaderName, foldhash::fast::RandomState>;

/// Names that most header lines of most requests have.
const USUAL: [HeaderName; 26] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DNT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::REFERER,
    header::UPGRADE_INSECURE_REQUESTS,
    header::USER_AGENT,
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];

/// The usual names that no route drops, so that their lines are told by one look instead of a dozen comparisons.
pub(super) fn passed(plan: &Plan) -> Names {
    let usual = USUAL.into_iter();
    usual
        .filter(|name| !is_never_passed(name, plan) && !is_told_by_proxies(name))
        .collect()
}

/// What the head for the service is made from.
pub(super) struct Outgoing<'a> {
    pub(super) plan: &'a Plan,
    /// Of [`passed`].
    pub(super) passed: &'a Names,
    pub(super) route: &'a Route,
    /// The path in normal form, where it differs from the one that was sent.
    pub(super) path: Option<&'a str>,
    pub(super) authority: Option<&'a HeaderValue>,
    pub(super) peer: &'a Peer,
    pub(super) bearer: Option<&'a (Arc<Bearer>, Spot)>,
    pub(super) websocket: bool,
    pub(super) http2: bool,
    /// Of the connection to the service.
    pub(super) scheme: Scheme,
    /// None: what the headers say of a trace is none of our business.
    pub(super) trace: Option<&'a Context>,
}

/// Writes the head anew: what is for one connection, forged, or a secret goes out; who it is goes in.
pub(super) fn rewrite(parts: &mut Parts, outgoing: &Outgoing<'_>) -> Result<(), Failure> {
    let headers = &mut parts.headers;
    let wants_trailers = headers.contains_key(TE) && has_token(headers, &TE, "trailers");
    let mut doomed = connection_options(headers).map_err(|_| Failure::HeadAmbiguous)?;
    doomed.extend(
        headers
            .keys()
            .filter(|name| is_dropped(name, outgoing))
            .cloned(),
    );
    for name in doomed {
        headers.remove(name);
    }
    let mut query = parts.uri.query().map(str::to_owned);
    if let Some((bearer, spot)) = outgoing.bearer {
        if !outgoing.route.access.places.forward {
            take_token(headers, &mut query, outgoing.route, *spot);
        }
        for (name, value) in bearer.headers.as_deref().unwrap_or_default() {
            headers.insert(name.clone(), value.clone());
        }
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if outgoing.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    for (name, value) in outgoing.peer.certificate() {
        headers.insert(name.clone(), value.clone());
    }
    forwarded::write(headers, outgoing.peer, outgoing.authority);
    if let Some(trace) = outgoing.trace {
        trace.write(headers);
    }
    parts.uri = target(parts, query.as_deref(), outgoing)?;
    let headers = &mut parts.headers;
    if outgoing.http2 {
        headers.remove(HOST);
    } else {
        join_cookies(headers);
        // HTTP/1.0 needs no host, but the HTTP/1.1 that we speak does: an empty one says that there was none
        // (RFC 9112 section 3.2).
        let none = HeaderValue::from_static("");
        headers.insert(HOST, outgoing.authority.cloned().unwrap_or(none));
    }
    parts.version = if outgoing.http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    parts.extensions.clear();
    Ok(())
}

fn is_dropped(name: &HeaderName, outgoing: &Outgoing<'_>) -> bool {
    let (plan, route) = (outgoing.plan, outgoing.route);
    is_alias_of_token(name, route)
        || (!outgoing.passed.contains(name) && is_kept_back(name, plan, outgoing.peer.trusted))
}

/// Whether the service will not see this header as it came, so that no expression may rest on it.
pub(crate) fn is_hidden(
    name: &HeaderName,
    headers: &HeaderMap,
    plan: &Plan,
    route: &Route,
    is_trusted: bool,
) -> bool {
    *name == HOST
        || is_alias_of_token(name, route)
        || is_kept_back(name, plan, is_trusted)
        || connection_options(headers).map_or(true, |options| options.contains(name))
}

/// On whichever route.
fn is_kept_back(name: &HeaderName, plan: &Plan, is_trusted: bool) -> bool {
    is_never_passed(name, plan)
        || (is_told_by_proxies(name) && !(is_trusted && is_kept_from_trusted(name)))
}

/// Whoever sends it, and to whichever route.
fn is_never_passed(name: &HeaderName, plan: &Plan) -> bool {
    is_hop_by_hop(name)
        // We answer it ourselves, when the service begins to read the body.
        || *name == EXPECT
        || is_alias_of_framing(name)
        || plan.protected.covers(name)
}

/// A service that reads `X_Token` for `X-Token` would see a token that nobody has checked.
fn is_alias_of_token(name: &HeaderName, route: &Route) -> bool {
    let place = &route.access.places.header;
    place.as_ref().is_some_and(|place| is_alias(name, place))
}

/// HTTP/2 sends cookies one by one; in HTTP/1.1 they stand in one line (RFC 9113 section 8.2.3), because services join
/// several lines with a comma.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let line = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
    if let Ok(line) = line {
        headers.insert(COOKIE, line);
    }
}

/// Says in HTTP/1.1 that a body of unknown length comes: hyper takes a GET for one without a body otherwise, and drops it.
pub(super) fn announce(headers: &mut HeaderMap, body: &impl Body) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Removes the token from where it was found.
fn take_token(headers: &mut HeaderMap, query: &mut Option<String>, route: &Route, spot: Spot) {
    let places = &route.access.places;
    match spot {
        Spot::Authorization => {
            headers.remove(AUTHORIZATION);
        }
        Spot::Header => {
            if let Some(name) = &places.header {
                headers.remove(name);
            }
        }
        Spot::Cookie => {
            let Some(name) = &places.cookie else { return };
            let lines: Vec<HeaderValue> = headers
                .get_all(COOKIE)
                .iter()
                .filter_map(|line| {
                    cookies_without(std::str::from_utf8(line.as_bytes()).ok()?, name)
                })
                .filter_map(|line| HeaderValue::try_from(line).ok())
                .collect();
            headers.remove(COOKIE);
            for line in lines {
                headers.append(COOKIE, line);
            }
        }
        Spot::Query => {
            if let (Some(name), Some(text)) = (&places.query, query.as_deref()) {
                *query = query_without(text, name);
            }
        }
    }
}

/// The target for the service: the very path that was matched.
fn target(parts: &Parts, query: Option<&str>, outgoing: &Outgoing<'_>) -> Result<Uri, Failure> {
    let unchanged = outgoing.path.is_none() && query == parts.uri.query();
    let path_and_query = match parts.uri.path_and_query() {
        Some(path_and_query) if unchanged => path_and_query.clone(),
        Some(_) | None => {
            let mut text = outgoing.path.unwrap_or(parts.uri.path()).to_owned();
            if let Some(query) = query {
                text.push('?');
                text.push_str(query);
            }
            PathAndQuery::try_from(text).map_err(|_| Failure::PathAmbiguous)?
        }
    };
    let mut target = http::uri::Parts::default();
    target.path_and_query = Some(path_and_query);
    if outgoing.http2 {
        let authority = outgoing
            .authority
            .and_then(|text| Authority::try_from(text.as_bytes()).ok());
        target.authority = Some(authority.unwrap_or(Authority::from_static("localhost")));
        target.scheme = Some(outgoing.scheme.clone());
    }
    Uri::from_parts(target).map_err(|_| Failure::PathAmbiguous)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::{BodyStream, Empty, Full, StreamBody};

    use super::*;
    use crate::authorize::{Access, IssuerSet};
    use crate::base::names::RouteName;
    use crate::identity::ProtectedNames;
    use crate::policy::{Auth, Mode, OnStale, Requirement};
    use crate::route::RouteTable;
    use crate::token::Places;

    /// What a service gets, over HTTP/1.1, on a route that takes its token from `X-Token` and passes it on.
    fn rewritten(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        rewritten_by("x-user-id", "x-token", lines)
    }

    /// The same, where jotgate writes the header `own`, and the token is in the header `place`.
    fn rewritten_by(
        own: &'static str,
        place: &'static str,
        lines: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let plan = Plan {
            routes: RouteTable::build(&[]).unwrap(),
            protected: ProtectedNames::new([&HeaderName::from_static(own)]),
            upstreams: [].into(),
            access_log: None,
            tracer: None,
        };
        let route = Route {
            name: RouteName::new("r"),
            number: 1,
            access: Access {
                auth: Auth::Optional,
                issuers: IssuerSet::default(),
                places: Places {
                    authorization: false,
                    header: Some(HeaderName::from_static(place)),
                    cookie: None,
                    query: None,
                    forward: true,
                },
                requirement: Requirement::default(),
                on_stale: OnStale::Deny,
            },
            mode: Mode::Enforce,
            upstream: 0,
            cors: None,
            timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_mins(5),
            tunnel_idle_timeout: Duration::from_hours(1),
            logout: false,
            trust_revoke_header: false,
            end_at_expiry: false,
        };
        let mut request = http::Request::get("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let outgoing = Outgoing {
            plan: &plan,
            passed: &passed(&plan),
            route: &route,
            path: None,
            authority: None,
            peer: &Peer::new(None, false),
            bearer: None,
            websocket: false,
            http2: false,
            scheme: Scheme::HTTP,
            trace: None,
        };
        rewrite(&mut parts, &outgoing).unwrap();
        parts.headers
    }

    #[test]
    fn only_the_token_that_was_checked_reaches_the_service() {
        let sent = rewritten(&[
            ("x-token", "checked"),
            ("x_token", "forged"),
            ("x.token", "forged"),
            ("x-user-id", "forged"),
            ("x_user_id", "forged"),
            ("transfer_encoding", "forged"),
            ("content.length", "forged"),
            ("x-tokens", "other"),
        ]);
        assert_eq!(sent["x-token"], "checked");
        assert_eq!(sent["x-tokens"], "other");
        assert!(!sent.values().any(|value| value == "forged"), "{sent:?}");
    }

    #[test]
    fn what_is_usual_is_dropped_where_it_would_be_forged() {
        let lines = [("user-agent", "forged"), ("accept", "text/html")];
        for (own, place) in [("user_agent", "x-token"), ("x-user-id", "user_agent")] {
            let sent = rewritten_by(own, place, &lines);
            assert!(!sent.contains_key("user-agent"), "{own} {place}");
            assert_eq!(sent["accept"], "text/html");
        }
        assert_eq!(rewritten(&lines)["user-agent"], "forged");
    }

    #[test]
    fn the_query_may_name_another_method() {
        let check = |query: &str, expected: &[&str]| {
            let found: Vec<Method> = overrides(Some(query)).collect();
            assert_eq!(found, expected, "{query}");
        };
        check("_method=DELETE", &["DELETE"]);
        check("a=1&_method=put", &["PUT"]);
        check("a=1;_method=%64elete+", &["DELETE"]);
        check("%5Fmethod=x&_%6dethod=y", &["X", "Y"]);
        check(
            "+_method=a&.method=b&%20%2Emethod=c&[method=d",
            &["A", "B", "C", "D"],
        );
        check("_method=&_method&method=DELETE&x_method=PUT&_a=b", &[]);
        assert_eq!(overrides(None).count(), 0);
    }

    #[test]
    fn cookies_stand_in_one_line() {
        let sent = rewritten(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        assert!(sent.get_all(COOKIE).iter().eq(["a=1; b=2; c=3"]));
    }

    #[test]
    fn a_body_of_unknown_length_is_announced() {
        let announced = |body: &dyn Fn(&mut HeaderMap)| {
            let mut headers = HeaderMap::new();
            body(&mut headers);
            headers.contains_key(TRANSFER_ENCODING)
        };
        let unknown = StreamBody::new(BodyStream::new(Full::new(Bytes::from("abc"))));
        assert!(announced(&|headers| announce(headers, &unknown)));
        let known = Full::new(Bytes::from("abc"));
        assert!(!announced(&|headers| announce(headers, &known)));
        let none = Empty::<Bytes>::new();
        assert!(!announced(&|headers| announce(headers, &none)));
    }
}

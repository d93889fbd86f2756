//! What was recorded as OTLP says it: spans by the semantic conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). No query and no header is among them.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::base::names::RouteName;
use crate::telemetry::trace::{Call, Finished, SpanId};

/// W3C: sampled.
const SAMPLED: u32 = 0x01;
/// It is known whether the parent is remote …
const KNOWS_REMOTE: u32 = 0x100;
/// … and it is.
const IS_REMOTE: u32 = 0x200;

/// Who says it.
pub(super) fn resource(service_name: &str, instance: &str) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", service_name),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", instance),
        ],
        ..Resource::default()
    }
}

/// One message about all of these.
pub(super) fn message(resource: &Resource, batch: &[Finished]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: batch.iter().flat_map(spans).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    }
}

fn spans(finished: &Finished) -> impl Iterator<Item = Span> {
    let call = finished.call.as_ref().map(|call| client(finished, call));
    [server(finished), decision(finished)]
        .into_iter()
        .chain(call)
}

/// The request, from the end of its head to the end of its answer.
fn server(finished: &Finished) -> Span {
    let (method, original) = method(&finished.method);
    let route = finished.route.as_ref().map(RouteName::as_str);
    let remote = if finished.context.parent.is_some() {
        IS_REMOTE
    } else {
        0
    };
    let (host, port) = host(&finished.host);
    let status = finished.status;
    let failed = status >= 500 || !finished.complete;
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.path", &finished.path),
        text("url.scheme", finished.scheme),
        text("network.protocol.version", version(finished.version)),
        text("jotgate.code", finished.code),
        number("http.response.body.size", finished.bytes),
    ];
    attributes.extend(original.map(|method| text("http.request.method_original", method)));
    attributes.extend(
        Some(host)
            .filter(|host| !host.is_empty())
            .map(|host| text("server.address", host)),
    );
    attributes.extend(port.map(|port| number("server.port", port.into())));
    attributes.extend(address("client.address", finished.client));
    attributes.extend(address("network.peer.address", finished.peer));
    attributes.extend(route.map(|route| text("jotgate.route", route)));
    attributes.extend(
        finished
            .issuer
            .as_ref()
            .map(|issuer| text("jotgate.issuer", issuer.as_str())),
    );
    // Without an answer there is no status: the client went away first.
    attributes.extend((status != 0).then(|| number("http.response.status_code", status.into())));
    if failed {
        attributes.push(match finished.code {
            // The service's own word, or its answer's end.
            "ok" if status >= 500 => text("error.type", &status.to_string()),
            "ok" => text("error.type", "incomplete"),
            code => text("error.type", code),
        });
    }
    Span {
        parent_span_id: finished
            .context
            .parent
            .map(|parent| parent.bytes().to_vec())
            .unwrap_or_default(),
        flags: SAMPLED | KNOWS_REMOTE | remote,
        name: match route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        },
        kind: SpanKind::Server.into(),
        attributes,
        status: error(failed),
        ..span(
            finished,
            finished.context.server,
            Duration::ZERO,
            finished.total,
        )
    }
}

/// From the end of the head to the decision.
fn decision(finished: &Finished) -> Span {
    let mut attributes = vec![text("jotgate.code", finished.decided)];
    attributes.extend(
        finished
            .issuer
            .as_ref()
            .map(|issuer| text("jotgate.issuer", issuer.as_str())),
    );
    Span {
        name: "decision".to_owned(),
        kind: SpanKind::Internal.into(),
        attributes,
        ..child(
            finished,
            finished.context.decision,
            Duration::ZERO,
            finished.decision,
        )
    }
}

/// From sending the request on to the head of the service's answer.
fn client(finished: &Finished, call: &Call) -> Span {
    let (method, _) = method(&finished.method);
    let failed = call.status.is_none_or(|status| status >= 400);
    let mut attributes = vec![
        text("http.request.method", method),
        text("jotgate.upstream", call.upstream.as_str()),
    ];
    match call.status {
        Some(status) => {
            attributes.push(number("http.response.status_code", status.into()));
            if failed {
                attributes.push(text("error.type", &status.to_string()));
            }
        }
        None => attributes.push(text("error.type", finished.code)),
    }
    Span {
        name: method.to_owned(),
        kind: SpanKind::Client.into(),
        attributes,
        status: error(failed),
        ..child(finished, finished.context.client, call.after, call.took)
    }
}

fn child(finished: &Finished, id: SpanId, after: Duration, took: Duration) -> Span {
    Span {
        parent_span_id: finished.context.server.bytes().to_vec(),
        flags: SAMPLED | KNOWS_REMOTE,
        ..span(finished, id, after, took)
    }
}

fn span(finished: &Finished, id: SpanId, after: Duration, took: Duration) -> Span {
    let state = finished.context.state.as_ref();
    let start = finished.began + after;
    Span {
        trace_id: finished.context.trace.bytes().to_vec(),
        span_id: id.bytes().to_vec(),
        trace_state: state
            .and_then(|state| state.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start + took),
        ..Span::default()
    }
}

fn nanos(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

fn error(failed: bool) -> Option<Status> {
    failed.then(|| Status {
        code: StatusCode::Error.into(),
        ..Status::default()
    })
}

/// A method that is known, or `_OTHER` and what it was: span names must be few.
fn method(method: &Method) -> (&str, Option<&str>) {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if known.contains(method) {
        (method.as_str(), None)
    } else {
        ("_OTHER", Some(method.as_str()))
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Host and port of an authority.
fn host(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        Some(_) | None => (authority, None),
    }
}

fn address(key: &str, address: Option<IpAddr>) -> Option<KeyValue> {
    address.map(|address| text(key, &address.to_string()))
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_methods_are_few() {
        assert_eq!(method(&Method::PATCH), ("PATCH", None));
        let small = Method::from_bytes(b"get").unwrap();
        assert_eq!(method(&small), ("_OTHER", Some("get")));
    }

    #[test]
    fn a_host_may_have_a_port() {
        assert_eq!(host("shop.example:8080"), ("shop.example", Some(8080)));
        assert_eq!(host("shop.example"), ("shop.example", None));
        assert_eq!(host("[::1]:80"), ("[::1]", Some(80)));
        assert_eq!(host("[2001:db8::1]"), ("[2001:db8::1]", None));
        assert_eq!(host(""), ("", None));
    }
}

//! `[telemetry.otlp]`

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::check::Check;
use super::client_tls::{SystemRoots, files};
use super::url;
use crate::base::chance::Share;
use crate::base::secret::ExposeSecret;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::Otlp;
use crate::http::client_tls::Files;
use crate::telemetry::trace::Follow;

/// For one message. OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where collectors take traces over HTTP, unless the file says another path (OTLP, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// Where traces go, and which.
pub(super) fn otlp(raw: &raw::Otlp, check: &mut Check<'_>) -> Option<Otlp> {
    let at = KeyPath::default().key("telemetry").key("otlp");
    let insecure_http = raw.insecure_http.unwrap_or(false);
    let endpoint = check
        .required(
            &at,
            "endpoint",
            raw.endpoint.as_ref(),
            "endpoint = \"http://127.0.0.1:4318\"",
        )
        .and_then(|text| check.parsed(&at.key("endpoint"), text, url::parse));
    if let Some(endpoint) = endpoint.as_ref().filter(|_| !insecure_http)
        && url::is_exposed(endpoint)
    {
        check.fault(
            &at.key("endpoint"),
            format!("what is sent to {endpoint}, secret headers included, can be read by anybody on the way; write https://, or insecure_http = true if the network is trusted"),
        );
    }
    let follow = raw.follow.as_ref().and_then(|text| {
        check.parsed(&at.key("follow"), text, |text| match text {
            "trusted_proxies" => Ok(Follow::TrustedProxies),
            "everybody" => Ok(Follow::Everybody),
            _ => Err("is unknown; write \"trusted_proxies\" or \"everybody\""),
        })
    });
    let headers = headers(raw, &at.key("headers"), check);
    let second = Duration::from_secs(1);
    let timeout = check.duration(
        &at.key("timeout"),
        raw.timeout,
        TIMEOUT,
        second / 10..=60 * second,
    );
    let tls = match (&raw.tls, &endpoint) {
        (None, _) => Some(Files::default()).filter(|_| !check.is_hole(&at.key("tls"))),
        (Some(_), Some(endpoint)) if endpoint.scheme() == Some(&Scheme::HTTP) => {
            check.fault(
                &at.key("tls"),
                "is for https://; write that as endpoint, or leave tls out",
            );
            None
        }
        (Some(tls), _) => {
            let tls = (&at.key("tls"), tls);
            files(tls, &at.key("endpoint"), &mut SystemRoots::default(), check)
        }
    };
    let service_name = raw.service_name.as_deref().unwrap_or("jotgate");
    let is_name = check.name(&at.key("service_name"), service_name);
    is_name.then_some(())?;
    Some(Otlp {
        endpoint: whole(endpoint?),
        sample: raw.sample.map_or(Share::ALL, |sample| sample.0),
        follow: follow.unwrap_or(Follow::TrustedProxies),
        headers,
        timeout,
        tls: tls?,
        insecure_http,
        service_name: service_name.into(),
    })
}

/// The URL of a collector, or of its traces.
fn whole(endpoint: Uri) -> Uri {
    if !matches!(endpoint.path(), "" | "/") || endpoint.query().is_some() {
        return endpoint;
    }
    let mut parts = endpoint.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(TRACES));
    Uri::from_parts(parts).expect("it had a path before")
}

/// What authenticates us to the collector.
fn headers(raw: &raw::Otlp, at: &KeyPath, check: &mut Check<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, reference) in raw.headers.iter().flat_map(raw::Table::iter) {
        let at = at.key(name);
        let Some(name) = check.parsed(&at, name, header) else {
            continue;
        };
        let Some(secret) = check.secret(&at, reference) else {
            continue;
        };
        let Ok(mut value) = HeaderValue::from_bytes(secret.expose_secret()) else {
            check.fault(
                &at,
                "has a secret that is no header's value: it must be one line of visible characters",
            );
            continue;
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    headers
}

fn header(text: &str) -> Result<HeaderName, &'static str> {
    let name: HeaderName = text.parse().map_err(|_| "is no header's name")?;
    if [
        CONNECTION,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        HOST,
        TRANSFER_ENCODING,
    ]
    .contains(&name)
    {
        return Err("is written by the gateway; write another header");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};
    use super::*;

    fn file(lines: &str) -> String {
        format!("{BASE}[telemetry.otlp]\n{lines}\n")
    }

    #[track_caller]
    fn otlp(lines: &str) -> Otlp {
        good(&file(lines)).telemetry.otlp.expect("traces")
    }

    #[test]
    fn a_collector_is_enough_and_the_rest_has_defaults() {
        assert_eq!(good(BASE).telemetry.otlp, None);
        let least = otlp("endpoint = \"http://127.0.0.1:4318\"");
        let expected = Otlp {
            endpoint: Uri::from_static("http://127.0.0.1:4318/v1/traces"),
            sample: Share::ALL,
            follow: Follow::TrustedProxies,
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(10),
            tls: Files::default(),
            insecure_http: false,
            service_name: "jotgate".into(),
        };
        assert_eq!(least, expected);
        let all = otlp(
            "endpoint = \"http://collector:4318/other?x=1\"\nsample = 0.5\nfollow = \"everybody\"\ntimeout = \"1s\"\n\
             insecure_http = true\nservice_name = \"edge\"\nheaders = { x-key = { env = \"SECRET_16\" } }",
        );
        assert_eq!(all.endpoint, "http://collector:4318/other?x=1");
        assert_eq!(all.sample, Share::of(0.5).unwrap());
        assert_eq!(all.follow, Follow::Everybody);
        assert_eq!(all.headers["x-key"], "s".repeat(16));
        assert_eq!((all.timeout.as_secs(), &*all.service_name), (1, "edge"));
        assert!(!format!("{all:?}").contains("ssss"), "{all:?}");
    }

    #[test]
    fn each_fault_has_its_cure() {
        let wrong = |lines: &str, key: &str, word: &str| {
            let lines = format!("endpoint = \"https://127.0.0.1:4318\"\n{lines}");
            check(&file(&lines), &format!("telemetry.otlp.{key}"), word);
        };
        check(&file(""), "telemetry.otlp.endpoint", "is missing");
        for (endpoint, word) in [
            ("collector:4317", "must begin with https://"),
            ("grpc://collector", "https://"),
            ("http://collector:4318", "insecure_http"),
            ("https://user:pass@collector", "user"),
        ] {
            let line = format!("endpoint = \"{endpoint}\"");
            check(&file(&line), "telemetry.otlp.endpoint", word);
        }
        wrong("sample = 2", "sample", "from 0 to 1");
        wrong("follow = \"all\"", "follow", "\"everybody\"");
        wrong("timeout = \"0s\"", "timeout", "out of bounds");
        wrong("timeout = \"2m\"", "timeout", "out of bounds");
        wrong("tls = { ca = \"nowhere.pem\" }", "tls.ca", "cannot be read");
        check(
            &file("endpoint = \"http://127.0.0.1:4318\"\ntls = { server_name = \"c\" }"),
            "telemetry.otlp.tls",
            "is for https://",
        );
        wrong("service_name = \"\"", "service_name", "is empty");
        let secret = "{ env = \"SECRET_16\" }";
        let header = |name: &str| format!("headers = {{ {name} = {secret} }}");
        wrong(&header("\"a b\""), "headers.\"a b\"", "is no header's name");
        wrong(
            &header("Content-Type"),
            "headers.Content-Type",
            "by the gateway",
        );
        wrong(
            "headers = { x-key = \"secret\" }",
            "headers.x-key",
            "must not stand here",
        );
        wrong(
            "headers = { x-key = { env = \"NOWHERE\" } }",
            "headers.x-key",
            "has no secret",
        );
    }
}

//! `routes.cors`

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::check::Check;
use super::headers::header_name;
use super::routes::method;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::http::cors::{Cors, CorsOrigins};

/// Longest that a preflight may hold: browsers cut at a day at most.
const MAX_AGE_MAX: Duration = Duration::from_hours(24);

/// What a route lets other origins do. `methods` are the route's own.
pub(super) fn cors(
    raw: &raw::Cors,
    methods: &[Method],
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Option<Cors> {
    let credentials = raw.credentials.unwrap_or(false);
    let origins = check
        .required(
            at,
            "origins",
            raw.origins.as_ref(),
            "origins = [\"https://shop.example.com\"]",
        )
        .and_then(|raw| origins(raw, &at.key("origins"), check));
    if credentials && origins == Some(CorsOrigins::Any) {
        check.fault(
            &at.key("credentials"),
            "would let every website act as its visitor, because origins is \"*\"; write out the origins",
        );
    }
    let methods_at = at.key("methods");
    let allowed = match &raw.methods {
        Some(raw) => raw
            .iter()
            .filter_map(|(n, text)| check.parsed(&methods_at.index(n), text, method))
            .collect(),
        None if methods.is_empty() => vec![Method::GET, Method::HEAD, Method::POST],
        None => methods.to_vec(),
    };
    let headers = raw.headers.as_ref().map_or_else(
        || vec![header::AUTHORIZATION, header::CONTENT_TYPE],
        |raw| names(raw, &at.key("headers"), check),
    );
    let expose = raw
        .expose
        .as_ref()
        .map_or_else(Vec::new, |raw| names(raw, &at.key("expose"), check));
    let max_age = check.duration(
        &at.key("max_age"),
        raw.max_age,
        Duration::from_mins(10),
        Duration::ZERO..=MAX_AGE_MAX,
    );
    Some(Cors {
        origins: origins?,
        methods: allowed,
        headers,
        expose,
        credentials,
        max_age,
        pass_preflight: raw.pass_preflight.unwrap_or(false),
    })
}

fn origins(raw: &raw::OneOrMany, path: &KeyPath, check: &mut Check<'_>) -> Option<CorsOrigins> {
    let raw::OneOrMany(texts) = raw;
    if texts.is_empty() && !check.has_holes(path) {
        check.fault(
            path,
            "is empty; write [\"https://shop.example.com\"], or leave cors out",
        );
    }
    if texts.iter().any(|(_, text)| text == "*") {
        if texts.len() > 1 {
            check.fault(
                path,
                "has origins beside \"*\", which is all of them; keep one or the other",
            );
        }
        return Some(CorsOrigins::Any);
    }
    let listed: Vec<HeaderValue> = texts
        .iter()
        .filter_map(|(n, text)| {
            let path = n.map_or_else(|| path.clone(), |n| path.index(n));
            check.parsed(&path, text, origin)
        })
        .collect();
    (listed.len() == texts.len()).then_some(CorsOrigins::Listed(listed))
}

/// An origin as browsers send it: scheme, host in lower case, port unless it is the default; nothing after.
fn origin(text: &str) -> Result<HeaderValue, &'static str> {
    let reason = "is no origin as browsers send it; write scheme, host and port in lower case and nothing else, such as \"https://shop.example.com\"";
    let url: Uri = text.parse().map_err(|_| reason)?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(reason);
    };
    let default_port = matches!(
        (scheme, url.port_u16()),
        ("http", Some(80)) | ("https", Some(443))
    );
    let plain = format!("{scheme}://{authority}");
    if plain != text
        || text.bytes().any(|b| b.is_ascii_uppercase())
        || authority.as_str().contains('@')
        || default_port
    {
        return Err(reason);
    }
    HeaderValue::from_str(text).map_err(|_| reason)
}

fn names(raw: &raw::List<String>, path: &KeyPath, check: &mut Check<'_>) -> Vec<HeaderName> {
    raw.iter()
        .filter_map(|(n, text)| check.parsed(&path.index(n), text, header_name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, good, route};
    use super::*;

    fn cors(lines: &str) -> String {
        route(&format!("[routes.cors]\n{lines}"))
    }

    #[test]
    fn methods_follow_the_route() {
        let made = |text: &str| good(text).routes.remove(0).cors.expect("cors");
        let plain = made(&cors("origins = \"*\""));
        assert_eq!(plain.origins, CorsOrigins::Any);
        assert_eq!(plain.methods, [Method::GET, Method::HEAD, Method::POST]);
        let narrow = made(&route(
            "methods = [\"PUT\"]\n[routes.cors]\norigins = [\"https://a\", \"http://b:8080\"]",
        ));
        assert_eq!(narrow.methods, [Method::PUT]);
        assert!(matches!(narrow.origins, CorsOrigins::Listed(listed) if listed.len() == 2));
        let own = made(&cors(
            "origins = \"https://a\"\nmethods = [\"DELETE\"]\nheaders = []\nexpose = [\"X-Total\"]",
        ));
        assert_eq!(own.methods, [Method::DELETE]);
        assert!(own.headers.is_empty());
        assert_eq!(own.expose, ["x-total"]);
    }

    #[test]
    fn every_website_gets_no_credentials() {
        check(
            &cors("origins = \"*\"\ncredentials = true"),
            "routes[0].cors.credentials",
            "every website",
        );
        check(
            &cors("origins = [\"*\"]\ncredentials = true"),
            "routes[0].cors.credentials",
            "every website",
        );
        good(&cors("origins = [\"https://a\"]\ncredentials = true"));
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for origin in [
            "null",
            "",
            "https://a/",
            "https://a/b",
            "https://A",
            "a",
            "https://a:443",
            "http://a:80",
            "https://u@a",
            "https://",
        ] {
            check(
                &cors(&format!("origins = [\"https://b\", \"{origin}\"]")),
                "routes[0].cors.origins[1]",
                "is no origin",
            );
        }
        check(&cors(""), "routes[0].cors.origins", "is missing");
        check(&cors("origins = []"), "routes[0].cors.origins", "is empty");
        check(
            &cors("origins = [\"*\", \"https://a\"]"),
            "routes[0].cors.origins",
            "keep one or the other",
        );
    }

    #[test]
    fn the_rest_is_judged_too() {
        check(
            &cors("origins = \"*\"\nmethods = [\"get\"]"),
            "routes[0].cors.methods[0]",
            "write \"GET\"",
        );
        check(
            &cors("origins = \"*\"\nheaders = [\"a b\"]"),
            "routes[0].cors.headers[0]",
            "is no header name",
        );
        check(
            &cors("origins = \"*\"\nexpose = [\"\"]"),
            "routes[0].cors.expose[0]",
            "is no header name",
        );
        check(
            &cors("origins = \"*\"\nmax_age = \"25h\""),
            "routes[0].cors.max_age",
            "is out of bounds",
        );
    }
}

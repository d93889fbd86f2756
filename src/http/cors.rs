//! Cross-origin resource sharing, by the Fetch standard (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// `routes.cors`
#[derive(Clone, Debug)]
pub struct Cors {
    /// Exact origins, or `*`.
    pub origins: CorsOrigins,
    /// Default: those of the route, else GET, HEAD, POST.
    pub methods: Vec<Method>,
    /// Allowed request headers. Default `authorization`, `content-type`.
    pub headers: Vec<HeaderName>,
    /// Response headers that scripts may read.
    pub expose: Vec<HeaderName>,
    /// Cookies and credentials; not together with `*`.
    pub credentials: bool,
    /// How long a preflight holds. Default 10 min.
    pub max_age: Duration,
    /// Whether a preflight is passed to the service instead of being answered here. Default false.
    pub pass_preflight: bool,
}

/// Which origins a route lets read its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// `*`
    Any,
    /// Compared byte by byte.
    Listed(Vec<HeaderValue>),
}

/// Whether a request is a preflight: `OPTIONS` with `Origin` and `Access-Control-Request-Method`. Any other `OPTIONS` is a
/// request like all others.
#[must_use]
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    /// The method that a preflight asks for.
    #[must_use]
    pub fn requested_method(headers: &HeaderMap) -> Option<Method> {
        Method::from_bytes(headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
    }

    /// Answers a preflight: 204 with what is allowed. Without CORS headers where the origin is not; the browser then says no.
    #[must_use]
    pub fn answer_preflight(&self, headers: &HeaderMap) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        self.write(headers, answer);
        if answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            answer.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
            for (name, value) in [
                (
                    ACCESS_CONTROL_ALLOW_METHODS,
                    join(self.methods.iter().map(Method::as_str)),
                ),
                (
                    ACCESS_CONTROL_ALLOW_HEADERS,
                    join(self.headers.iter().map(HeaderName::as_str)),
                ),
            ] {
                if let Some(value) = value {
                    answer.insert(name, value);
                }
            }
            answer.insert(
                ACCESS_CONTROL_MAX_AGE,
                HeaderValue::from(self.max_age.as_secs()),
            );
        }
        response
    }

    /// Adds what lets a script of the request's origin read an answer; removes what the service may have said of it.
    pub fn write(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            answer.remove(name);
        }
        let allowed = match &self.origins {
            CorsOrigins::Any => Some(HeaderValue::from_static("*")),
            CorsOrigins::Listed(origins) => {
                // The answer depends on the origin, so a cache must not hand it to another.
                answer.append(VARY, HeaderValue::from_static("Origin"));
                request
                    .get(ORIGIN)
                    .filter(|origin| origins.contains(origin))
                    .cloned()
            }
        };
        let Some(allowed) = allowed.filter(|_| request.contains_key(ORIGIN)) else {
            return;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            answer.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if let Some(names) = join(self.expose.iter().map(HeaderName::as_str)) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

fn join<'t>(items: impl Iterator<Item = &'t str>) -> Option<HeaderValue> {
    let list = items.collect::<Vec<_>>().join(", ");
    (!list.is_empty())
        .then(|| HeaderValue::try_from(list).expect("methods and header names are tokens"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors() -> Cors {
        Cors {
            origins: CorsOrigins::Listed(vec![HeaderValue::from_static(
                "https://shop.example.com",
            )]),
            methods: vec![Method::GET, Method::PUT],
            headers: vec![http::header::AUTHORIZATION],
            expose: vec![http::header::ETAG],
            credentials: true,
            max_age: Duration::from_mins(10),
            pass_preflight: false,
        }
    }

    fn from(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (ORIGIN, HeaderValue::from_static(origin)),
            (
                ACCESS_CONTROL_REQUEST_METHOD,
                HeaderValue::from_static("PUT"),
            ),
        ])
    }

    #[test]
    fn a_preflight_of_a_listed_origin_is_answered() {
        let request = from("https://shop.example.com");
        assert!(is_preflight(&Method::OPTIONS, &request));
        let answer = cors().answer_preflight(&request);
        assert_eq!(answer.status(), 204);
        assert_eq!(
            answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://shop.example.com"
        );
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET, PUT");
        assert_eq!(
            answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "authorization"
        );
        assert_eq!(answer.headers()[ACCESS_CONTROL_MAX_AGE], "600");
        assert_eq!(answer.headers()[VARY], "Origin");
    }

    #[test]
    fn another_origin_gets_nothing() {
        for origin in [
            "https://evil.example.com",
            "null",
            "https://shop.example.com.evil.com",
            "https://SHOP.example.com",
        ] {
            let answer = cors().answer_preflight(&from(origin));
            assert!(
                !answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN),
                "{origin}"
            );
            assert!(
                !answer.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS),
                "{origin}"
            );
        }
    }

    #[test]
    fn what_the_service_said_does_not_widen_it() {
        let mut answer =
            HeaderMap::from_iter([(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))]);
        cors().write(&from("https://evil.example.com"), &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn an_options_request_is_no_preflight_by_itself() {
        assert!(!is_preflight(&Method::OPTIONS, &HeaderMap::new()));
        assert!(!is_preflight(
            &Method::GET,
            &from("https://shop.example.com")
        ));
    }
}

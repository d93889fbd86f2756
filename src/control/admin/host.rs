//! By which names the admin API is called. A web page in an operator's browser can let a name of its own lead to this
//! machine (DNS rebinding), and then read what is open and guess what is not: the browser takes both for one site. But it
//! sends that name in `Host`, and a page's author needs a name that can be registered.

use std::net::Ipv4Addr;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Uri;

use super::problem::Problem;
use crate::http::headers::single;
use crate::route::{Host, HostPattern};

/// Ends of names that nobody can register: RFC 6761 (`localhost`, `test`), RFC 6762 (`local`, also Kubernetes'
/// `cluster.local`), RFC 8375 (`home.arpa`), ICANN resolution 2024.07.29.06 (`internal`), and `svc`, with which services of
/// Kubernetes are called.
const PRIVATE: [&str; 6] = [
    ".localhost",
    ".test",
    ".local",
    ".home.arpa",
    ".internal",
    ".svc",
];

/// The names that the operator gave.
#[derive(Debug)]
pub(super) struct Hosts(Vec<HostPattern>);

impl Hosts {
    pub(super) const fn new(named: Vec<HostPattern>) -> Self {
        Self(named)
    }

    /// Refuses a request for a name that may be a stranger's. One without any is no browser's (HTTP/1.0).
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let header = single(headers, &HOST).map_err(|_| Problem::host_unknown())?;
        let header = header
            .map(|value| value.to_str().map_err(|_| Problem::host_unknown()))
            .transpose()?;
        let target = uri.authority().map(http::uri::Authority::as_str);
        for authority in header.into_iter().chain(target) {
            let host = Host::parse(authority).map_err(|_| Problem::host_unknown())?;
            if !self.knows(&host) {
                return Err(Problem::host_unknown());
            }
        }
        Ok(())
    }

    fn knows(&self, host: &Host<'_>) -> bool {
        let name = host.as_str();
        // An address is nobody's name, and a name without a dot is no domain that a stranger could have.
        name.starts_with('[')
            || !name.contains('.')
            || name.parse::<Ipv4Addr>().is_ok()
            || PRIVATE.iter().any(|end| name.ends_with(end))
            || self.0.iter().any(|pattern| pattern.covers(host))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(target: &str, lines: &[&str], expected: bool) {
        let named = ["admin.example.com", "*.ops.example.com"];
        let named = named.map(|name| HostPattern::parse(name).unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HOST, HeaderValue::from_str(line).unwrap());
        }
        let found = Hosts::new(named.into()).check(&target.parse().unwrap(), &headers);
        assert_eq!(found.is_ok(), expected, "{target} {lines:?}");
    }

    #[test]
    fn addresses_private_names_and_those_of_the_operator_are_good() {
        for host in [
            "127.0.0.1:9901",
            "10.1.2.3",
            "[::1]:9901",
            "localhost",
            "LOCALHOST:9901",
            "admin",
            "jotgate.monitoring.svc:9901",
            "jotgate.monitoring.svc.cluster.local.",
            "gateway.corp.internal",
            "admin.example.com:9901",
            "a.ops.example.com",
        ] {
            check("/live", &[host], true);
        }
        check("/live", &[], true);
        check("http://127.0.0.1:9901/live", &["127.0.0.1:9901"], true);
    }

    #[test]
    fn names_that_a_stranger_may_have_are_not() {
        for host in [
            "evil.example",
            "example.com",
            "ops.example.com",
            "admin.example.com.evil.example",
            "127.0.0.1.evil.example",
            "evil.example.:9901",
            "1.2.3",
            "localhost@evil.example",
            "",
        ] {
            check("/live", &[host], false);
        }
        check("/live", &["localhost", "localhost"], false);
        check("http://evil.example/live", &["localhost"], false);
    }
}

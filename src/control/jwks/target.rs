//! Where a discovery document may send the gateway. The document says where the keys are, and whoever can change it could
//! otherwise make the gateway call services that only this machine can reach (server-side request forgery). A configured
//! URL is not asked: its author decides.

use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

use crate::http::client::is_loopback;

/// Whether the document from `from` may name the key set at `to`. Another host and another port are common (Google, or
/// Keycloak with a host of its own for servers), a private address as well. Not a weaker scheme than the document's own,
/// not this machine unless the document came from it, and no address that leads to nobody in particular or to what clouds
/// serve each machine (link-local, with the credentials of 169.254.169.254). Names are not resolved for it: over `https://`
/// only who has their certificate gets a request, and `http://` was the operator's choice.
pub(super) fn may_lead(from: &Uri, to: &Uri) -> bool {
    let Some(host) = to.host() else {
        return false;
    };
    let is_weaker = from.scheme() == Some(&Scheme::HTTPS) && to.scheme() != Some(&Scheme::HTTPS);
    let is_inward = is_this_machine(host) && !from.host().is_some_and(is_this_machine);
    !is_weaker && !is_inward && !is_odd(host)
}

fn is_this_machine(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let below = |domain: &str| {
        host.len()
            .checked_sub(domain.len())
            .and_then(|at| host.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(domain))
    };
    is_loopback(host)
        || below(".localhost")
        || address(host).is_some_and(|address| address.is_loopback())
}

/// An address that no provider has, or one in a spelling that the system's resolver takes and we do not (`127.1`,
/// `0x7f000001`).
fn is_odd(host: &str) -> bool {
    match address(host) {
        Some(IpAddr::V4(v4)) => {
            v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()
        }
        Some(IpAddr::V6(v6)) => {
            v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
        }
        None => {
            let host = host.strip_suffix('.').unwrap_or(host);
            // What ends in a number is an IPv4 address to some readers, never a name (URL Standard, host parsing).
            let last = host.rsplit('.').next().unwrap_or_default();
            last.bytes().all(|byte| byte.is_ascii_digit())
                || last
                    .get(..2)
                    .is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"))
        }
    }
}

/// An IPv4 address stays one when it is written as IPv6.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, to: &str, expected: bool) {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(may_lead(&from, &to), expected, "{from} to {to}");
    }

    #[test]
    fn another_host_is_allowed_and_a_weaker_scheme_is_not() {
        let from = "https://id.example.com/.well-known/openid-configuration";
        for to in [
            "https://id.example.com/keys",
            "https://id.example.com:8443/keys",
            "https://keys.example.net/keys?x=1",
            "https://10.0.0.7/keys",
            "https://[fd00::7]:8443/keys",
            "https://keycloak/keys",
            "https://3scale/keys",
            "https://keycloak.svc.cluster.local./keys",
        ] {
            check(from, to, true);
        }
        for to in [
            "http://id.example.com/keys",
            "ftp://id.example.com/",
            "/keys",
        ] {
            check(from, to, false);
        }
        check("http://keycloak:8080/", "http://keycloak:8080/keys", true);
        check("http://keycloak:8080/", "https://keycloak/keys", true);
    }

    #[test]
    fn a_document_does_not_lead_to_this_machine_or_a_link_local_address() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            check(
                "https://id.example.com/",
                &format!("https://{host}/"),
                false,
            );
            check("http://id.example.com/", &format!("http://{host}/"), false);
            check("http://127.0.0.1:8080/", &format!("http://{host}/"), true);
            check("http://localhost:8080/", &format!("http://{host}/"), true);
        }
        for host in [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "0.0.0.0",
            "[::]",
            "[::ffff:0.0.0.0]",
            "224.0.0.1",
            "255.255.255.255",
            "[ff02::1]",
            "2852039166",
            "0xa9fea9fe",
            "169.254.43518",
            "169.0376.169.254",
            "127.1",
            "127.0.0.1.",
        ] {
            check(
                "https://id.example.com/",
                &format!("https://{host}/"),
                false,
            );
            check("http://127.0.0.1:8080/", &format!("http://{host}/"), false);
        }
    }
}

//! `[[listeners]]`

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::check::{Check, Unique};
use super::tls;
use crate::base::failures::Budget;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::listener::{Address, Options};

/// Bounds of every timeout: below a millisecond nothing ever succeeds, above a day it is no timeout.
const TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_hours(24);

/// Least room for a request's head: hyper's smallest read buffer (`http1::Builder::max_buf_size` panics below).
const HEADER_SIZE_MIN: u64 = 8 * 1024;

/// Most room for a request's head. Every connection may fill it.
const HEADER_SIZE_MAX: u64 = 1024 * 1024;

/// Default least rate of a client, in bytes a second, in both directions: Kestrel's. A telephone on the edge of its cell
/// has ten times as much, and whoever is slower costs us a place for hours.
const MIN_RATE: u64 = 240;

/// Highest least rate: beyond it, honest clients are cut off whose line is shared or far away.
const MIN_RATE_MAX: u64 = 1024 * 1024;
/// Most connections and requests at once: each connection takes a file descriptor, of which Linux gives a process about a
/// billion at most and some ten million in practice.
const AT_ONCE_MAX: u32 = 10_000_000;

/// Most wrong tokens of one budget: beyond, there is hardly a limit.
const FAILURES_MAX: u32 = 10_000;

/// How long a budget lasts: the clock has whole seconds, and an address that is barred for a day is a matter for a firewall.
const FAILURES_PER: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_hours(1);

/// Longest path of a Unix socket, in bytes: `sun_path` of unix(7) has 108 with the final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// All listeners.
pub(super) fn listeners(
    raw: Option<&raw::List<raw::Listener>>,
    issuers: Option<&raw::List<raw::Issuer>>,
    check: &mut Check<'_>,
) -> Vec<Options> {
    let path = KeyPath::default().key("listeners");
    if raw.is_none_or(raw::List::is_empty) {
        check.fault(
            &path,
            "there is none; write [[listeners]] and address = \"0.0.0.0:8080\"",
        );
    }
    let mut addresses = Unique::new();
    raw.into_iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, listener)| {
            let at = path.index(n);
            let options = options(listener, &at, check);
            if let Some(tls) = &listener.tls {
                tls::distinct(tls, &at.key("tls"), issuers, check);
            }
            if let Some(options) = &options {
                let taken = match &options.address {
                    // The system chooses another port each time.
                    Address::Tcp(address) if address.port() == 0 => None,
                    Address::Tcp(address) => addresses.insert(address.to_string(), &at),
                    Address::Unix(path) => addresses.insert(path.display().to_string(), &at),
                };
                if let Some(other) = taken {
                    let other = check.whereabouts(other);
                    check.fault(
                        &at.key("address"),
                        format!("is the address of {other}; write another one"),
                    );
                }
            }
            options
        })
        .collect()
}

fn options(raw: &raw::Listener, at: &KeyPath, check: &mut Check<'_>) -> Option<Options> {
    let address = check
        .required(
            at,
            "address",
            raw.address.as_ref(),
            "address = \"0.0.0.0:8080\"",
        )
        .and_then(|text| address(&at.key("address"), text, check));
    let proxies = at.key("trusted_proxies");
    let trusted_proxies: Arc<[IpNet]> = raw
        .trusted_proxies
        .iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, text)| check.parsed(&proxies.index(n), text, network))
        .collect();
    let proxy_protocol = raw.proxy_protocol.unwrap_or(false);
    let nobody = raw.trusted_proxies.as_ref().is_none_or(raw::List::is_empty);
    if proxy_protocol && nobody && matches!(address, Some(Address::Tcp(_))) {
        check.fault(
            &at.key("proxy_protocol"),
            "lets in trusted_proxies alone, and there are none; write trusted_proxies = [\"10.0.0.0/8\"] with the addresses of the load balancers",
        );
    }
    let max_body_size = raw
        .max_body_size
        .map(|size| check.size(&at.key("max_body_size"), Some(size), 0, 1..=u64::MAX));
    let seconds = Duration::from_secs;
    let mut timeout = |key, value, default| check.duration(&at.key(key), value, default, TIMEOUT);
    let header_timeout = timeout("header_timeout", raw.header_timeout, seconds(10));
    let idle_timeout = timeout("idle_timeout", raw.idle_timeout, seconds(75));
    let body_timeout = timeout("body_timeout", raw.body_timeout, seconds(60));
    let mut rate = |key, value| check.size(&at.key(key), value, MIN_RATE, 0..=MIN_RATE_MAX);
    let body_min_rate = rate("body_min_rate", raw.body_min_rate);
    let answer_min_rate = rate("answer_min_rate", raw.answer_min_rate);
    let mut number =
        |key, value, default, most| check.number(&at.key(key), value, default, 1..=most);
    let max_connections = number("max_connections", raw.max_connections, 16_384, AT_ONCE_MAX);
    // Off by default: behind a load balancer that does not speak the PROXY protocol all clients have one address.
    let per_address = raw.max_connections_per_address.map(|max| {
        let key = "max_connections_per_address";
        number(key, Some(max), 1, AT_ONCE_MAX)
    });
    // HTTP/1 has one request on each connection, so the default bounds the streams of HTTP/2 alone.
    let max_requests = number(
        "max_requests",
        raw.max_requests,
        max_connections,
        AT_ONCE_MAX,
    );
    let max_headers = number("max_headers", raw.max_headers, 100, 10_000);
    let max_streams = number("max_streams", raw.max_streams, 128, 65_536);
    let max_header_size = check.size(
        &at.key("max_header_size"),
        raw.max_header_size,
        32 * 1024,
        HEADER_SIZE_MIN..=HEADER_SIZE_MAX,
    );
    let failure_limit = raw
        .failure_limit
        .as_ref()
        .and_then(|raw| budget(raw, &at.key("failure_limit"), check));
    let http2 = raw.http2.unwrap_or(true);
    let tls = raw.tls.as_ref();
    let tls = tls.map(|raw| tls::listener(raw, &at.key("tls"), http2, check));
    let has_no_addresses = matches!(address, Some(Address::Unix(_))) && !proxy_protocol;
    if has_no_addresses && per_address.is_some() {
        check.fault(
            &at.key("max_connections_per_address"),
            "means nothing where clients have no address; leave it out for a Unix socket",
        );
    }
    Some(Options {
        address: address?,
        // Never plain where the file says TLS.
        tls: match tls {
            None => None,
            Some(tls) => Some(tls?),
        },
        http2,
        proxy_protocol,
        trusted_proxies,
        max_connections: count(max_connections),
        max_connections_per_address: per_address.and_then(|max| NonZeroUsize::new(count(max))),
        max_requests: count(max_requests),
        failure_limit,
        header_timeout,
        idle_timeout,
        max_header_size: usize::try_from(max_header_size).unwrap_or(usize::MAX),
        max_headers: count(max_headers),
        max_body_size,
        body_timeout,
        body_min_rate,
        answer_min_rate,
        max_streams,
    })
}

/// How many wrong tokens in which time. Neither has a default: what is many depends on who is behind one address.
fn budget(raw: &raw::FailureLimit, at: &KeyPath, check: &mut Check<'_>) -> Option<Budget> {
    let failures = check.required(at, "failures", raw.failures.as_ref(), "failures = 20");
    let per = check.required(at, "per", raw.per.as_ref(), "per = \"1m\"");
    let (failures, per) = (failures.copied()?, per.copied()?);
    Some(Budget {
        failures: check.number(&at.key("failures"), Some(failures), 1, 1..=FAILURES_MAX),
        per: check.duration(&at.key("per"), Some(per), Duration::ZERO, FAILURES_PER),
    })
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn address(at: &KeyPath, text: &str, check: &mut Check<'_>) -> Option<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(at, path, check).map(Address::Unix);
    }
    check.parsed(at, text, |text| {
        text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
            "is no address; write one such as \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/jotgate.sock\""
        })
    })
}

/// The path of a Unix socket.
pub(super) fn socket(at: &KeyPath, text: &str, check: &mut Check<'_>) -> Option<PathBuf> {
    let path = check.resolve(at, text)?;
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        check.fault(
            at,
            format!(
                "the path is too long for a socket; write at most {SOCKET_PATH_BYTES_MAX} bytes"
            ),
        );
        return None;
    }
    Some(path)
}

/// `10.0.0.0/8`, or one address.
fn network(text: &str) -> Result<IpNet, &'static str> {
    let reason = "is no network; write one such as \"10.0.0.0/8\" or \"192.0.2.7\"";
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text
            .parse()
            .map(|address: std::net::IpAddr| IpNet::from(address))
            .map_err(|_| reason)?,
    };
    if network.addr() != network.network() {
        return Err(
            "has bits set beyond its prefix; write the network's own address, such as \"10.0.0.0/8\"",
        );
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good, listener};
    use super::*;

    #[test]
    fn there_must_be_a_listener() {
        let text = BASE.replace("[[listeners]]\naddress = \"127.0.0.1:0\"", "");
        check(&text, "listeners", "there is none");
        check(
            &format!("listeners = []\n{text}"),
            "listeners",
            "there is none",
        );
    }

    #[test]
    fn the_proxy_protocol_needs_somebody_who_may_speak_it() {
        let key = "listeners[0].proxy_protocol";
        let alone = listener("proxy_protocol = true");
        check(&alone, key, "lets in trusted_proxies alone");
        let empty = listener("proxy_protocol = true\ntrusted_proxies = []");
        check(&empty, key, "lets in trusted_proxies alone");
        good(&listener(
            "proxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]",
        ));
        // Whoever may open the socket's file may speak it, and then there are addresses.
        let socket = listener("proxy_protocol = true\nmax_connections_per_address = 1");
        good(&socket.replace("127.0.0.1:0", "unix:/run/jotgate.sock"));
    }

    #[test]
    fn addresses_are_numbers_or_sockets() {
        let address = |text: &str| BASE.replace("127.0.0.1:0", text);
        for text in ["0.0.0.0:8080", "[::1]:8080", "unix:/run/jotgate.sock"] {
            good(&address(text));
        }
        for text in [
            "",
            "8080",
            ":8080",
            "localhost:8080",
            "0.0.0.0",
            "0.0.0.0:99999",
            "::1:8080",
        ] {
            check(&address(text), "listeners[0].address", "is no address");
        }
        check(&address("unix:"), "listeners[0].address", "is no path");
        check(
            &address(&format!("unix:/{}", "a".repeat(107))),
            "listeners[0].address",
            "too long for a socket",
        );
        let missing = BASE.replace("address = \"127.0.0.1:0\"", "");
        check(
            &missing,
            "listeners[0].address",
            "is missing; write address = ",
        );
    }

    #[test]
    fn two_listeners_have_two_addresses() {
        let two = |first: &str, second: &str| {
            BASE.replace("127.0.0.1:0", first).replace(
                "\n\n[[issuers]]",
                &format!("\n\n[[listeners]]\naddress = \"{second}\"\n\n[[issuers]]"),
            )
        };
        good(&two("127.0.0.1:0", "127.0.0.1:0"));
        good(&two("127.0.0.1:1", "127.0.0.1:2"));
        check(
            &two("127.0.0.1:1", "127.0.0.1:1"),
            "listeners[1].address",
            "is the address of listeners[0] (line 2)",
        );
        check(
            &two("unix:/a", "unix:/a"),
            "listeners[1].address",
            "is the address of listeners[0]",
        );
    }

    #[test]
    fn proxies_are_networks() {
        let settings = good(&listener(
            "trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.7\", \"::1\"]",
        ));
        let networks: Vec<_> = settings.listeners[0]
            .trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
        check(
            &listener("trusted_proxies = [\"10.0.0.0/8\", \"ingress\"]"),
            "listeners[0].trusted_proxies[1]",
            "is no network",
        );
        check(
            &listener("trusted_proxies = [\"10.0.0.1/8\"]"),
            "listeners[0].trusted_proxies[0]",
            "bits set beyond",
        );
    }

    #[test]
    fn limits_have_bounds() {
        for (line, key) in [
            ("max_connections = 0", "max_connections"),
            (
                "max_connections_per_address = 0",
                "max_connections_per_address",
            ),
            ("max_requests = 0", "max_requests"),
            (
                "failure_limit = { failures = 0, per = \"1m\" }",
                "failure_limit.failures",
            ),
            (
                "failure_limit = { failures = 10001, per = \"1m\" }",
                "failure_limit.failures",
            ),
            (
                "failure_limit = { failures = 1, per = \"9s\" }",
                "failure_limit.per",
            ),
            (
                "failure_limit = { failures = 1, per = \"2h\" }",
                "failure_limit.per",
            ),
            ("header_timeout = \"0s\"", "header_timeout"),
            ("header_timeout = \"25h\"", "header_timeout"),
            ("idle_timeout = \"0s\"", "idle_timeout"),
            ("body_timeout = \"0s\"", "body_timeout"),
            ("body_min_rate = \"2MiB\"", "body_min_rate"),
            ("answer_min_rate = \"2MiB\"", "answer_min_rate"),
            ("max_header_size = \"8191\"", "max_header_size"),
            ("max_header_size = \"2MiB\"", "max_header_size"),
            ("max_headers = 0", "max_headers"),
            ("max_body_size = 0", "max_body_size"),
            ("max_streams = 0", "max_streams"),
            ("max_streams = 4294967297", "max_streams"),
        ] {
            check(
                &listener(line),
                &format!("listeners[0].{key}"),
                "is out of bounds; write a ",
            );
        }
        let settings = good(&listener(
            "max_header_size = \"8KiB\"\nmax_body_size = 1\nheader_timeout = \"1ms\"\nbody_min_rate = 0",
        ));
        let listener = &settings.listeners[0];
        assert_eq!(
            (listener.max_header_size, listener.max_body_size),
            (8192, Some(1))
        );
        assert_eq!(listener.header_timeout, Duration::from_millis(1));
        assert_eq!((listener.body_min_rate, listener.answer_min_rate), (0, 240));
    }

    #[test]
    fn limits_of_strangers_are_off_unless_written_and_whole_if_they_are() {
        let listener_of = |line: &str| good(&listener(line)).listeners.remove(0);
        let plain = listener_of("max_connections = 7");
        assert_eq!(plain.max_connections_per_address, None);
        assert_eq!(plain.max_requests, 7, "as many as connections");
        assert_eq!(plain.failure_limit, None);
        let limited = listener_of(
            "max_connections_per_address = 3\nmax_requests = 5\nfailure_limit = { failures = 20, per = \"1m\" }",
        );
        assert_eq!(limited.max_connections_per_address, NonZeroUsize::new(3));
        assert_eq!(limited.max_requests, 5);
        assert_eq!(
            limited.failure_limit,
            Some(Budget {
                failures: 20,
                per: Duration::from_mins(1)
            })
        );
        for (line, key) in [
            ("failure_limit = { failures = 20 }", "per"),
            ("failure_limit = { per = \"1m\" }", "failures"),
        ] {
            check(
                &listener(line),
                &format!("listeners[0].failure_limit.{key}"),
                "is missing",
            );
        }
        let socket = listener("max_connections_per_address = 3").replace("127.0.0.1:0", "unix:/a");
        check(
            &socket,
            "listeners[0].max_connections_per_address",
            "means nothing",
        );
    }
}

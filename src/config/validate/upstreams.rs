//! `[[upstreams]]`, and those that a route writes as a URL.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;

use super::check::{Check, Unique};
use super::client_tls::{SystemRoots, Trust};
use super::listeners::socket;
use super::upstream_care as care;
use super::url;
use crate::base::names::UpstreamName;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::upstream::{Balance, Options, Server};

/// Default time for a connection to stand. A service in the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Default life of an idle connection. Services commonly close after 60 s or more.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Default number of idle connections that one worker keeps for one server.
const MAX_IDLE: u32 = 128;

/// Default way to balance, as in HAProxy, Envoy and nginx.
const BALANCE: Balance = Balance::RoundRobin;

/// The upstreams so far.
#[derive(Debug)]
pub(super) struct Upstreams {
    made: Vec<Options>,
    /// Names of all, also of those that have a fault of their own: a route that names one has none.
    known: Vec<Box<str>>,
    /// The same to look in, and the servers that routes have written: there may be thousands of each.
    names: HashSet<Box<str>>,
    inline: HashSet<UpstreamName>,
    /// Whether a name could not be read.
    incomplete: bool,
    system_roots: SystemRoots,
}

/// All upstreams of the file.
pub(super) fn upstreams(
    raw: Option<&raw::List<raw::Upstream>>,
    check: &mut Check<'_>,
) -> Upstreams {
    let path = KeyPath::default().key("upstreams");
    let mut upstreams = Upstreams {
        made: vec![],
        known: vec![],
        names: HashSet::new(),
        inline: HashSet::new(),
        incomplete: check.is_hole(&path) || raw.is_some_and(raw::List::has_holes),
        system_roots: SystemRoots::default(),
    };
    let mut names = Unique::new();
    for (n, upstream) in raw.into_iter().flat_map(raw::List::iter) {
        let at = path.index(n);
        let name_at = at.key("name");
        let name = check.required(&at, "name", upstream.name.as_ref(), "name = \"orders\"");
        match name {
            Some(name) => {
                upstreams.known.push(name.as_str().into());
                upstreams.names.insert(name.as_str().into());
            }
            None => upstreams.incomplete = true,
        }
        let name = name.filter(|name| check.name(&name_at, name));
        if let Some(name) = name {
            if is_inline(name) {
                check.fault(
                    &name_at,
                    format!("{name:?} is a URL, not a name; write it in servers"),
                );
            }
            if let Some(other) = names.insert(name.clone(), &at) {
                let other = check.whereabouts(other);
                check.fault(
                    &name_at,
                    format!("{name:?} is the name of {other}; write another one"),
                );
            }
        }
        let system_roots = &mut upstreams.system_roots;
        let options = options(upstream, &at, name, system_roots, check);
        upstreams.made.extend(options);
    }
    upstreams
}

fn options(
    raw: &raw::Upstream,
    at: &KeyPath,
    name: Option<&String>,
    system_roots: &mut SystemRoots,
    check: &mut Check<'_>,
) -> Option<Options> {
    let servers_at = at.key("servers");
    let cure = "servers = [\"http://127.0.0.1:3000\"]";
    let listed = check.required(at, "servers", raw.servers.as_ref(), cure);
    if listed.is_some_and(raw::List::is_empty) {
        check.fault(&servers_at, format!("is empty; write {cure}"));
    }
    let written: Vec<(KeyPath, Written)> = listed
        .into_iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, text)| {
            let at = servers_at.index(n);
            let server = server(&at, text, check)?;
            Some((at, server))
        })
        .collect();
    let http2 = raw.http2.unwrap_or(false);
    let tls = (&at.key("tls"), raw.tls.as_ref());
    let servers = servers(written, tls, http2, system_roots, check);
    let day = Duration::from_hours(24);
    let least = Duration::from_millis(1);
    let connect_timeout = check.duration(
        &at.key("connect_timeout"),
        raw.connect_timeout,
        CONNECT_TIMEOUT,
        least..=day,
    );
    let idle_timeout = check.duration(
        &at.key("idle_timeout"),
        raw.idle_timeout,
        IDLE_TIMEOUT,
        least..=day,
    );
    let max_idle = check.number(&at.key("max_idle"), raw.max_idle, MAX_IDLE, 0..=65_536);
    let balance = match raw.balance.as_deref() {
        None => BALANCE,
        Some(text) => check
            .parsed(&at.key("balance"), text, balance)
            .unwrap_or(BALANCE),
    };
    let outlier = care::outlier(raw.outlier.as_ref(), &at.key("outlier"), check);
    let (health, retries) = (raw.health.as_ref(), raw.retries.as_ref());
    Some(Options {
        balance,
        outlier,
        health: health.and_then(|raw| care::health(raw, &at.key("health"), check)),
        retries: retries.map(|raw| care::retries(raw, &at.key("retries"), check)),
        max_requests: limit(&at.key("max_requests"), raw.max_requests, check),
        max_connections: limit(&at.key("max_connections"), raw.max_connections, check),
        http2,
        connect_timeout,
        idle_timeout,
        max_idle: usize::try_from(max_idle).unwrap_or(usize::MAX),
        ..plain(UpstreamName::new(name?), servers)
    })
}

/// Servers of which nothing else is said.
fn plain(name: UpstreamName, servers: Vec<Server>) -> Options {
    Options {
        name,
        servers,
        balance: BALANCE,
        outlier: care::OUTLIER,
        health: None,
        retries: None,
        max_requests: None,
        max_connections: None,
        http2: false,
        connect_timeout: CONNECT_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        max_idle: usize::try_from(MAX_IDLE).unwrap_or(usize::MAX),
    }
}

/// Most of something; no bound where nothing is said.
fn limit(at: &KeyPath, raw: Option<u64>, check: &mut Check<'_>) -> Option<usize> {
    raw?;
    let max = check.number(at, raw, 1, 1..=1_000_000);
    usize::try_from(max).ok()
}

fn balance(text: &str) -> Result<Balance, &'static str> {
    match text {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_requests" => Ok(Balance::LeastRequests),
        _ => Err("is no way to balance; write \"round_robin\" or \"least_requests\""),
    }
}

/// Whether a route's `upstream` is a server itself, not a name.
fn is_inline(text: &str) -> bool {
    text.contains("://") || text.starts_with("unix:")
}

/// A server as it is written.
enum Written {
    Plain(Server),
    /// `https://`
    Secured {
        host: Arc<str>,
        port: u16,
    },
}

/// The servers of one upstream, whose `tls` stands at the given place. One half without TLS would be as good as none.
fn servers(
    written: Vec<(KeyPath, Written)>,
    (tls_at, tls): (&KeyPath, Option<&raw::ClientTls>),
    http2: bool,
    system_roots: &mut SystemRoots,
    check: &mut Check<'_>,
) -> Vec<Server> {
    let secured = written
        .iter()
        .find(|(_, server)| matches!(server, Written::Secured { .. }));
    let Some((secured_at, _)) = secured else {
        if tls.is_some() && !written.is_empty() {
            check.fault(
                tls_at,
                "is for servers with https://; write that in servers, or leave tls out",
            );
        }
        let plain = written.into_iter().filter_map(|(_, server)| match server {
            Written::Plain(server) => Some(server),
            Written::Secured { .. } => None,
        });
        return plain.collect();
    };
    let trust = Trust::new((tls_at, tls), secured_at, http2, system_roots, check);
    let mut servers = vec![];
    for (at, server) in written {
        match server {
            Written::Plain(_) => check.fault(
                &at,
                "has no TLS, but others of this upstream have; write https://, or make two upstreams",
            ),
            Written::Secured { host, port } => {
                servers.extend(trust.as_ref().and_then(|trust| trust.server(&at, host, port, check)));
            }
        }
    }
    servers
}

/// `http://host:port`, `https://host:port` or `unix:/path`.
fn server(at: &KeyPath, text: &str, check: &mut Check<'_>) -> Option<Written> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(at, path, check).map(|path| Written::Plain(Server::Unix(path)));
    }
    check.parsed(at, text, tcp_server)
}

fn tcp_server(text: &str) -> Result<Written, String> {
    let cure = "write one such as \"http://127.0.0.1:3000\" or \"unix:/run/orders.sock\"";
    let url = url::parse(text).map_err(|_| format!("is no server; {cure}"))?;
    let is_secured = url.scheme() == Some(&Scheme::HTTPS);
    let host = url.host().ok_or_else(|| format!("is no server; {cure}"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        let authority = url.authority().map_or(host, http::uri::Authority::as_str);
        let scheme = if is_secured { "https" } else { "http" };
        return Err(format!(
            "has a path, but requests keep their own; write \"{scheme}://{authority}\""
        ));
    }
    let host = Arc::from(host.trim_start_matches('[').trim_end_matches(']'));
    let port = url.port_u16();
    Ok(if is_secured {
        let port = port.unwrap_or(443);
        Written::Secured { host, port }
    } else {
        let port = port.unwrap_or(80);
        Written::Plain(Server::Tcp { host, port })
    })
}

impl Upstreams {
    /// The upstream that a route means: one of the file's by name, or a server of its own.
    pub(super) fn of_route(
        &mut self,
        at: &KeyPath,
        text: &str,
        check: &mut Check<'_>,
    ) -> Option<UpstreamName> {
        if !is_inline(text) {
            let known = self.names.contains(text);
            if !known && !self.incomplete {
                let cure = if self.known.is_empty() {
                    "write a URL such as \"http://127.0.0.1:3000\", or [[upstreams]] with this name"
                        .to_owned()
                } else {
                    format!("write one of {:?}, or a URL", self.known)
                };
                check.fault(at, format!("{text:?} is no upstream; {cure}"));
            }
            return known.then(|| UpstreamName::new(text));
        }
        let name = UpstreamName::new(text);
        if self.inline.contains(&name) {
            return Some(name);
        }
        let written = server(at, text, check)?;
        let system_roots = &mut self.system_roots;
        let mut servers = servers(
            vec![(at.clone(), written)],
            (at, None),
            false,
            system_roots,
            check,
        );
        let server = servers.pop()?;
        let name = UpstreamName::new(text);
        self.inline.insert(name.clone());
        self.made.push(plain(name.clone(), vec![server]));
        Some(name)
    }

    /// Those of the file, then those of routes.
    pub(super) fn into_options(self) -> Vec<Options> {
        self.made
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};
    use super::*;

    /// A file with one more section, and a route that names it.
    fn upstream(lines: &str) -> String {
        let base = BASE.replace("http://127.0.0.1:3000", "orders");
        format!("{base}[[upstreams]]\n{lines}\n")
    }

    #[test]
    fn a_route_names_an_upstream_or_writes_its_server() {
        let settings = good(&upstream(
            "name = \"orders\"\nservers = [\"http://a:1\", \"http://[::1]\", \"unix:/run/o.sock\"]\nmax_idle = 0",
        ));
        assert_eq!(
            settings.upstreams[0].servers,
            [
                Server::Tcp {
                    host: "a".into(),
                    port: 1
                },
                Server::Tcp {
                    host: "::1".into(),
                    port: 80
                },
                Server::Unix("/run/o.sock".into()),
            ]
        );
        assert_eq!(settings.routes[0].upstream.as_str(), "orders");
        let inline = good(&format!(
            "{BASE}[[routes]]\npath = \"/a\"\nupstream = \"http://127.0.0.1:3000\"\n"
        ));
        assert_eq!(inline.upstreams.len(), 1);
        assert_eq!(inline.routes[1].upstream, inline.upstreams[0].name);
        check(
            &BASE.replace("http://127.0.0.1:3000", "orders"),
            "routes[0].upstream",
            "\"orders\" is no upstream; write a URL",
        );
        let other = upstream("name = \"order\"\nservers = [\"http://a\"]");
        check(
            &other,
            "routes[0].upstream",
            "\"orders\" is no upstream; write one of [\"order\"]",
        );
    }

    #[test]
    fn servers_are_urls_without_a_path_or_sockets() {
        for (server, word) in [
            ("https://a/api", "write \"https://a\""),
            ("http://a/api", "write \"http://a\""),
            ("http://a/?x=1", "has a path"),
            ("http://me@a", "is no server"),
            ("http://", "is no server"),
            ("ftp://a", "is no server"),
            ("unix:", "is no path"),
        ] {
            check(
                &BASE.replace("http://127.0.0.1:3000", server),
                "routes[0].upstream",
                word,
            );
        }
        check(
            &upstream("name = \"orders\"\nservers = [\"http://a\", \"a:80\"]"),
            "upstreams[0].servers[1]",
            "is no server",
        );
    }

    #[test]
    fn balance_is_one_of_two() {
        for (line, expected) in [
            ("", Balance::RoundRobin),
            ("balance = \"round_robin\"", Balance::RoundRobin),
            ("balance = \"least_requests\"", Balance::LeastRequests),
        ] {
            let text = format!("name = \"orders\"\nservers = [\"http://a\"]\n{line}");
            assert_eq!(good(&upstream(&text)).upstreams[0].balance, expected);
        }
        check(
            &upstream("name = \"orders\"\nservers = [\"http://a\"]\nbalance = \"random\""),
            "upstreams[0].balance",
            "\"random\" is no way to balance; write \"round_robin\"",
        );
    }

    #[test]
    fn an_upstream_has_a_name_and_servers() {
        check(
            &upstream("name = \"orders\""),
            "upstreams[0].servers",
            "is missing; write servers = ",
        );
        check(
            &upstream("name = \"orders\"\nservers = []"),
            "upstreams[0].servers",
            "is empty",
        );
        check(
            &upstream("servers = [\"http://a\"]"),
            "upstreams[0].name",
            "is missing",
        );
        check(
            &upstream(
                "name = \"orders\"\nservers = [\"http://a\"]\n[[upstreams]]\nname = \"http://a\"\nservers = [\"http://a\"]",
            ),
            "upstreams[1].name",
            "is a URL, not a name",
        );
        check(
            &upstream(
                "name = \"orders\"\nservers = [\"http://a\"]\n[[upstreams]]\nname = \"orders\"\nservers = [\"http://b\"]",
            ),
            "upstreams[1].name",
            "is the name of upstreams[0]",
        );
        for (line, key) in [
            ("connect_timeout = \"0s\"", "connect_timeout"),
            ("idle_timeout = \"0s\"", "idle_timeout"),
            ("max_idle = 65537", "max_idle"),
            ("max_requests = 0", "max_requests"),
            ("max_connections = 0", "max_connections"),
        ] {
            check(
                &upstream(&format!(
                    "name = \"orders\"\nservers = [\"http://a\"]\n{line}"
                )),
                &format!("upstreams[0].{key}"),
                "is out of bounds",
            );
        }
    }
}

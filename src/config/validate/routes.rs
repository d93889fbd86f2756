//! `[[routes]]`

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};

use super::check::{Check, Unique};
use super::cors::cors;
use super::headers::header_name;
use super::issuers::{Names, nonempty};
use super::upstreams::Upstreams;
use crate::base::names::{IssuerName, RouteName};
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::Route;
use crate::policy::{Auth, ClaimRequirement, Expression, Mode, OnStale, Requirement};
use crate::route::{self, Entry, HostPattern, PathPattern};
use crate::token::{ClaimPath, Places};

/// Default silence of a service in the middle of its answer: Envoy's. Event streams send a sign of life every 15 to 30 s.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Default silence of a WebSocket: HAProxy's advice. Browsers send no pings of their own, and who waits for a message a day
/// costs a place and little else.
const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// Bounds of a route's timeouts.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);

/// One route of the file on its way.
#[derive(Debug)]
struct Draft<'r> {
    raw: &'r raw::Route,
    at: KeyPath,
    matches: Option<Matches>,
}

/// What a route matches.
#[derive(Debug)]
struct Matches {
    hosts: Vec<HostPattern>,
    path: PathPattern,
    methods: Vec<Method>,
}

/// All routes.
pub(super) fn routes(
    raw: Option<&raw::List<raw::Route>>,
    issuers: &Names,
    upstreams: &mut Upstreams,
    check: &mut Check<'_>,
) -> Vec<Route> {
    let path = KeyPath::default().key("routes");
    if raw.is_none_or(raw::List::is_empty) {
        check.fault(
            &path,
            "there is none, so nothing would be served; write [[routes]], path = \"/\" and upstream = \"http://127.0.0.1:3000\"",
        );
    }
    let drafts: Vec<Draft<'_>> = raw
        .into_iter()
        .flat_map(raw::List::iter)
        .map(|(n, raw)| {
            let at = path.index(n);
            let matches = matches(raw, &at, check);
            Draft { raw, at, matches }
        })
        .collect();
    let conflicting = conflicts(&drafts, check);
    let names = names(&drafts, &conflicting, check);
    let believed = Believed::new(issuers);
    drafts
        .into_iter()
        .zip(names)
        .filter_map(|(draft, name)| route(draft, name, &believed, upstreams, check))
        .collect()
}

/// Whom routes may believe.
#[derive(Debug)]
struct Believed<'n> {
    /// All of the file, shared by the routes that name nobody: 10,000 routes with a list of 5,000 each would take a gigabyte.
    all: Arc<[IssuerName]>,
    by_name: HashMap<&'n str, &'n IssuerName>,
    incomplete: bool,
}

impl<'n> Believed<'n> {
    fn new(names: &'n Names) -> Self {
        Self {
            all: names.known.as_slice().into(),
            by_name: names
                .known
                .iter()
                .map(|name| (name.as_str(), name))
                .collect(),
            incomplete: names.incomplete,
        }
    }
}

fn route(
    draft: Draft<'_>,
    name: Option<RouteName>,
    issuers: &Believed<'_>,
    upstreams: &mut Upstreams,
    check: &mut Check<'_>,
) -> Option<Route> {
    let Draft { raw, at, matches } = draft;
    let cure = "upstream = \"http://127.0.0.1:3000\", or the name of one of [[upstreams]]";
    let upstream = check
        .required(&at, "upstream", raw.upstream.as_ref(), cure)
        .and_then(|text| upstreams.of_route(&at.key("upstream"), text, check));
    let auth_at = at.key("auth");
    let auth = match &raw.auth {
        None => (!check.is_hole(&auth_at)).then_some(Auth::Required),
        Some(text) => check.parsed(&auth_at, text, |text| match text {
            "required" => Ok(Auth::Required),
            "optional" => Ok(Auth::Optional),
            "public" => Ok(Auth::Public),
            _ => Err("is unknown; write \"required\", \"optional\" or \"public\""),
        }),
    };
    let mode = match &raw.mode {
        None => Some(Mode::Enforce),
        Some(text) => check.parsed(&at.key("mode"), text, |text| match text {
            "enforce" => Ok(Mode::Enforce),
            "report" => Ok(Mode::Report),
            _ => Err("is unknown; write \"enforce\" or \"report\""),
        }),
    };
    let on_stale = match &raw.on_stale {
        None => Some(OnStale::Deny),
        Some(text) => check.parsed(&at.key("on_stale"), text, |text| match text {
            "deny" => Ok(OnStale::Deny),
            "allow" => Ok(OnStale::Allow),
            _ => Err("is unknown; write \"deny\" or \"allow\""),
        }),
    };
    let requirement = requirement(raw, &at, check);
    let accepted = match auth {
        None => Arc::default(),
        Some(Auth::Public) => {
            never_asked(raw, &at, check);
            Arc::default()
        }
        Some(Auth::Required | Auth::Optional) => accepted(raw, issuers, &at, check),
    };
    let token = places(raw.token.as_ref(), &at.key("token"), check);
    let methods = matches.as_ref().map_or(&[][..], |matches| &matches.methods);
    let cors = raw
        .cors
        .as_ref()
        .and_then(|raw| cors(raw, methods, &at.key("cors"), check));
    let mut span = |key, value, default| check.duration(&at.key(key), value, default, TIMEOUT);
    let timeout = span("timeout", raw.timeout, Duration::from_mins(1));
    let idle_timeout = span("idle_timeout", raw.idle_timeout, IDLE_TIMEOUT);
    let tunnel_idle_timeout = span(
        "tunnel_idle_timeout",
        raw.tunnel_idle_timeout,
        TUNNEL_IDLE_TIMEOUT,
    );
    let matches = matches?;
    Some(Route {
        name: name?,
        hosts: matches.hosts,
        path: matches.path,
        methods: matches.methods,
        upstream: upstream?,
        auth: auth?,
        mode: mode?,
        issuers: accepted,
        token,
        requirement,
        cors,
        timeout,
        idle_timeout,
        tunnel_idle_timeout,
        logout: raw.logout.unwrap_or(false),
        trust_revoke_header: raw.trust_revoke_header.unwrap_or(false),
        end_at_expiry: raw.end_at_expiry.unwrap_or(false),
        on_stale: on_stale?,
    })
}

fn matches(raw: &raw::Route, at: &KeyPath, check: &mut Check<'_>) -> Option<Matches> {
    let hosts_at = at.key("hosts");
    // Every host or none at all: a route with fewer hosts would be another one, without any it would match all.
    let mut hosts = Some(vec![]);
    if let Some(raw) = &raw.hosts {
        if raw.is_empty() {
            check.fault(
                &hosts_at,
                "is empty; write a host, or leave it out for all of them",
            );
        }
        for (n, text) in raw.iter() {
            let host = check.parsed(&hosts_at.index(n), text, HostPattern::parse);
            hosts = hosts.zip(host).map(|(mut hosts, host)| {
                hosts.push(host);
                hosts
            });
        }
    }
    let path = match (&raw.path, &raw.path_exact) {
        (Some(path), None) => check.parsed(&at.key("path"), path, PathPattern::prefix),
        (None, Some(path)) => check.parsed(&at.key("path_exact"), path, PathPattern::exact),
        (Some(_), Some(_)) => {
            check.fault(
                &at.key("path_exact"),
                "stands beside path; keep path for everything below it, or path_exact for it alone",
            );
            None
        }
        (None, None) => {
            if !check.is_hole(&at.key("path_exact")) {
                check.fault(
                    &at.key("path"),
                    "is missing; write path = \"/\", or path_exact = \"/healthz\" for one path alone",
                );
            }
            None
        }
    };
    let methods_at = at.key("methods");
    let mut methods = vec![];
    if let Some(raw) = &raw.methods {
        if raw.is_empty() {
            check.fault(
                &methods_at,
                "is empty; write [\"GET\", \"HEAD\"], or leave it out for all",
            );
        }
        for (n, text) in raw.iter() {
            let parsed = check.parsed(&methods_at.index(n), text, method);
            methods.extend(parsed.filter(|method| !methods.contains(method)));
        }
    }
    Some(Matches {
        hosts: hosts?,
        path: path?,
        methods,
    })
}

/// A method. They are case-sensitive (RFC 9110 section 9.1).
pub(super) fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.as_bytes())
        .map_err(|_| "is no method; write one such as \"GET\"".to_owned())?;
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        return Err(format!(
            "would never match, because case counts; write \"{upper}\""
        ));
    }
    if matches!(method, Method::TRACE | Method::CONNECT) {
        return Err("is refused on every route; leave it out".to_owned());
    }
    Ok(method)
}

/// Routes that nobody could tell apart: positions of those that come second.
fn conflicts(drafts: &[Draft<'_>], check: &mut Check<'_>) -> BTreeSet<usize> {
    let (positions, entries): (Vec<usize>, Vec<Entry<'_, ()>>) = drafts
        .iter()
        .enumerate()
        .filter_map(|(n, draft)| {
            let matches = draft.matches.as_ref()?;
            Some((
                n,
                Entry {
                    hosts: &matches.hosts,
                    path: &matches.path,
                    methods: &matches.methods,
                    protection: 0,
                    route: Arc::new(()),
                },
            ))
        })
        .unzip();
    let mut conflicting = BTreeSet::new();
    for conflict in route::conflicts(&entries) {
        let (first, second) = (positions[conflict.first], positions[conflict.second]);
        let what = if first == second {
            "names the same host twice; write it once".to_owned()
        } else {
            let other = check.whereabouts(&drafts[first].at);
            let other = match &drafts[first].raw.name {
                Some(name) => format!("{name:?}, {other}"),
                None => other,
            };
            format!("matches the same host, path and method as {other}; change one of them")
        };
        check.fault(&drafts[second].at, what);
        conflicting.insert(second);
    }
    conflicting
}

/// The name of each route. By default host and path; methods are added where that is not enough.
fn names(
    drafts: &[Draft<'_>],
    conflicting: &BTreeSet<usize>,
    check: &mut Check<'_>,
) -> Vec<Option<RouteName>> {
    let defaults: Vec<Option<String>> = drafts
        .iter()
        .map(|draft| {
            let unnamed = draft.raw.name.is_none() && !check.is_hole(&draft.at.key("name"));
            draft.matches.as_ref().filter(|_| unnamed).map(place_name)
        })
        .collect();
    let mut sharers: HashMap<&str, usize> = HashMap::new();
    for place in defaults.iter().flatten() {
        *sharers.entry(place).or_default() += 1;
    }
    let mut taken = Unique::new();
    drafts
        .iter()
        .enumerate()
        .map(|(n, draft)| {
            let name_at = draft.at.key("name");
            let name = match (&draft.raw.name, &defaults[n], &draft.matches) {
                (Some(name), _, _) => {
                    if check.name(&name_at, name) {
                        name.clone()
                    } else {
                        return None;
                    }
                }
                (None, Some(place), Some(matches)) => {
                    if sharers[place.as_str()] > 1 && !matches.methods.is_empty() {
                        let methods: Vec<&str> =
                            matches.methods.iter().map(Method::as_str).collect();
                        format!("{} {place}", methods.join(","))
                    } else {
                        place.clone()
                    }
                }
                (None, _, _) => return None,
            };
            if !conflicting.contains(&n)
                && let Some(other) = taken.insert(name.clone(), &draft.at)
            {
                let other = check.whereabouts(other);
                check.fault(
                    &name_at,
                    format!("{name:?} is the name of {other}; write another one"),
                );
            }
            Some(RouteName::new(&name))
        })
        .collect()
}

/// `shop.example.com/orders/*`
fn place_name(matches: &Matches) -> String {
    let hosts: Vec<String> = matches.hosts.iter().map(ToString::to_string).collect();
    format!("{}{}", hosts.join(","), matches.path)
}

/// Whom a route believes: those it names, else all of the file.
fn accepted(
    raw: &raw::Route,
    issuers: &Believed<'_>,
    at: &KeyPath,
    check: &mut Check<'_>,
) -> Arc<[IssuerName]> {
    let path = at.key("issuers");
    let Some(raw) = &raw.issuers else {
        if issuers.all.is_empty() && !issuers.incomplete {
            check.fault(
                &path,
                "there is no issuer whose tokens could pass; write [[issuers]], or auth = \"public\"",
            );
        }
        return Arc::clone(&issuers.all);
    };
    if raw.is_empty() {
        check.fault(
            &path,
            "is empty, so no token could pass; name an issuer, leave it out for all, or write auth = \"public\"",
        );
    }
    let mut accepted: Vec<IssuerName> = vec![];
    let mut seen = BTreeSet::new();
    for (n, text) in raw.iter() {
        match issuers.by_name.get(text.as_str()) {
            Some(known) if !seen.insert(known.as_str()) => {}
            Some(known) => accepted.push(IssuerName::clone(known)),
            None if issuers.incomplete => {}
            None => {
                let known: Vec<&str> = issuers.all.iter().map(IssuerName::as_str).collect();
                check.fault(
                    &path.index(n),
                    format!("{text:?} is no issuer; write some of {known:?}"),
                );
            }
        }
    }
    accepted.into()
}

/// Keys that a public route would silently ignore. Somebody who wrote them believes that they protect.
fn never_asked(raw: &raw::Route, at: &KeyPath, check: &mut Check<'_>) {
    let asked = [
        ("mode", raw.mode.as_deref() == Some("report")),
        ("issuers", raw.issuers.is_some()),
        ("scopes", raw.scopes.is_some()),
        ("any_scope", raw.any_scope.is_some()),
        ("claims", raw.claims.is_some()),
        ("expression", raw.expression.is_some()),
        ("logout", raw.logout == Some(true)),
        ("trust_revoke_header", raw.trust_revoke_header == Some(true)),
        ("end_at_expiry", raw.end_at_expiry == Some(true)),
        ("on_stale", raw.on_stale.is_some()),
    ];
    for (key, _) in asked.into_iter().filter(|(_, is_set)| *is_set) {
        check.fault(
            &at.key(key),
            "would never be asked, because the route is public; leave it out, or write auth = \"required\"",
        );
    }
}

fn requirement(raw: &raw::Route, at: &KeyPath, check: &mut Check<'_>) -> Requirement {
    let scopes = scopes(raw.scopes.as_ref(), &at.key("scopes"), check);
    let any_scope = scopes_of_any(raw, at, check);
    let claims_at = at.key("claims");
    if raw.claims.as_ref().is_some_and(raw::Table::is_empty) {
        check.fault(
            &claims_at,
            "is empty; write a claim and its value, or leave it out",
        );
    }
    let claims = raw
        .claims
        .iter()
        .flat_map(raw::Table::iter)
        .filter_map(|(claim, values)| {
            let path = check.parsed(&claims_at.key(claim), claim, ClaimPath::parse)?;
            let raw::ClaimValues(any_of) = values;
            Some(ClaimRequirement {
                path,
                any_of: any_of.clone(),
            })
        })
        .collect();
    Requirement {
        scopes,
        any_scope,
        claims,
        expression: expression(raw, at, check),
    }
}

/// Its text stands in the file; what is wrong with it is told without repeating it.
fn expression(raw: &raw::Route, at: &KeyPath, check: &mut Check<'_>) -> Option<Expression> {
    Expression::parse(raw.expression.as_deref()?)
        .map_err(|fault| check.fault(&at.key("expression"), fault.to_string()))
        .ok()
}

/// An empty `any_scope` would read as "nothing is asked", which nobody means who writes it.
fn scopes_of_any(raw: &raw::Route, at: &KeyPath, check: &mut Check<'_>) -> Vec<Box<str>> {
    let path = at.key("any_scope");
    if raw.any_scope.as_ref().is_some_and(raw::List::is_empty) {
        check.fault(&path, "is empty; write a scope, or leave it out");
    }
    scopes(raw.any_scope.as_ref(), &path, check)
}

fn scopes(raw: Option<&raw::List<String>>, path: &KeyPath, check: &mut Check<'_>) -> Vec<Box<str>> {
    raw.into_iter()
        .flat_map(raw::List::iter)
        .filter_map(|(n, text)| check.parsed(&path.index(n), text, scope))
        .collect()
}

/// One scope token (RFC 6749 section 3.3). It stands in a quoted string of `WWW-Authenticate`.
pub(super) fn scope(text: &str) -> Result<Box<str>, &'static str> {
    let is_token = text
        .bytes()
        .all(|b| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E));
    if text.is_empty() || !is_token {
        return Err(
            "is no scope; write one without blanks, quotes and backslashes, each in its own quotes",
        );
    }
    Ok(text.into())
}

fn places(raw: Option<&raw::Token>, at: &KeyPath, check: &mut Check<'_>) -> Places {
    let none = raw::Token::default();
    let raw = raw.unwrap_or(&none);
    let header = raw.header.as_ref().and_then(|text| {
        let path = at.key("header");
        let name = check.parsed(&path, text, header_name)?;
        if name == header::AUTHORIZATION {
            check.fault(
                &path,
                "is where tokens are by default; write authorization = true",
            );
            return None;
        }
        if name == header::COOKIE {
            check.fault(&path, "holds many values; write cookie = \"name\"");
            return None;
        }
        if [header::REFERER, header::USER_AGENT].contains(&name) {
            check.fault(
                &path,
                "may be written to the access log; write another header",
            );
            return None;
        }
        Some(name)
    });
    let cookie = raw.cookie.as_ref().and_then(|text| {
        check.parsed(&at.key("cookie"), text, |text| {
            // RFC 6265 section 4.1.1: a token, as header names are.
            header_name(text)
                .map(|_| Box::from(text))
                .map_err(|_| "is no cookie's name; write one such as \"session\"")
        })
    });
    let query = raw
        .query
        .as_ref()
        .and_then(|text| nonempty(&at.key("query"), text, check))
        .map(Box::from);
    let elsewhere = raw.header.is_some() || raw.cookie.is_some() || raw.query.is_some();
    let authorization = raw.authorization.unwrap_or(!elsewhere);
    if !authorization && !elsewhere && !check.has_holes(at) {
        check.fault(
            &at.key("authorization"),
            "leaves no place to look for a token; write header, cookie or query, or leave it out",
        );
    }
    Places {
        authorization,
        header,
        cookie,
        query,
        forward: raw.forward.unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{BASE, check, faults, good, route};
    use super::*;

    /// A second route.
    fn second(lines: &str) -> String {
        route(&format!("[[routes]]\nupstream = \"http://b\"\n{lines}"))
    }

    #[test]
    fn there_must_be_a_route() {
        let (text, _) = BASE.split_once("[[routes]]").expect("routes");
        check(text, "routes", "there is none");
        check(&format!("routes = []\n{text}"), "routes", "there is none");
    }

    #[test]
    fn a_route_is_called_by_what_it_matches() {
        let names = |text: &str| -> Vec<String> {
            good(text)
                .routes
                .iter()
                .map(|route| route.name.to_string())
                .collect()
        };
        assert_eq!(names(BASE), ["/*"]);
        assert_eq!(
            names(&second("hosts = [\"a.b\", \"*.c\"]\npath_exact = \"/x\"")),
            ["/*", "a.b,*.c/x"]
        );
        assert_eq!(
            names(&second("path = \"/\"\nmethods = [\"GET\", \"HEAD\"]")),
            ["/*", "GET,HEAD /*"]
        );
        assert_eq!(
            names(&second("path = \"/\"\nhosts = [\"a\"]\nname = \"x\"")),
            ["/*", "x"]
        );
        check(
            &second("path = \"/a\"\nname = \"/*\""),
            "routes[1].name",
            "is the name of routes[0]",
        );
        check(
            &second("path = \"/a\"\nname = \"\""),
            "routes[1].name",
            "is empty",
        );
    }

    #[test]
    fn routes_that_nobody_could_tell_apart_are_both_named() {
        check(
            &second("path = \"/\""),
            "routes[1]",
            "matches the same host, path and method as routes[0] (line 9)",
        );
        check(
            &format!("{BASE}name = \"first\"\n[[routes]]\npath = \"/\"\nupstream = \"http://b\"\n"),
            "routes[1]",
            "as \"first\", routes[0]",
        );
        check(
            &second("path = \"/a\"\nhosts = [\"a\", \"A\"]"),
            "routes[1]",
            "names the same host twice",
        );
        let three = second("path = \"/\"\n[[routes]]\npath = \"/\"\nupstream = \"http://c\"");
        assert_eq!(faults(&three).len(), 2);
        good(&second("path = \"/\"\nmethods = [\"GET\"]"));
        good(&second("path_exact = \"/\""));
    }

    #[test]
    fn a_path_is_a_prefix_or_exact() {
        let path = |lines: &str| BASE.replace("path = \"/\"", lines);
        check(&path(""), "routes[0].path", "is missing");
        check(
            &path("path = \"/\"\npath_exact = \"/\""),
            "routes[0].path_exact",
            "stands beside path",
        );
        check(&path("path = \"orders\""), "routes[0].path", "is no path");
        check(
            &path("path_exact = \"/a//b\""),
            "routes[0].path_exact",
            "write \"/a/b\"",
        );
        check(
            &path("path_exact = 1"),
            "routes[0].path_exact",
            "does not fit here",
        );
    }

    #[test]
    fn hosts_and_methods_are_judged_one_by_one() {
        check(&route("hosts = []"), "routes[0].hosts", "is empty");
        check(
            &route("hosts = [\"a\", \"a:80\"]"),
            "routes[0].hosts[1]",
            "is no host",
        );
        check(&route("methods = []"), "routes[0].methods", "is empty");
        check(
            &route("methods = [\"GET\", \"post\"]"),
            "routes[0].methods[1]",
            "write \"POST\"",
        );
        check(
            &route("methods = [\"G T\"]"),
            "routes[0].methods[0]",
            "is no method",
        );
        check(
            &route("methods = [\"TRACE\"]"),
            "routes[0].methods[0]",
            "is refused on every route",
        );
        check(
            &route("methods = [\"CONNECT\"]"),
            "routes[0].methods[0]",
            "is refused on every route",
        );
    }

    #[test]
    fn a_route_has_an_upstream_and_timeouts() {
        check(
            &BASE.replace("upstream = \"http://127.0.0.1:3000\"", ""),
            "routes[0].upstream",
            "is missing",
        );
        for key in ["timeout", "idle_timeout", "tunnel_idle_timeout"] {
            for span in ["0s", "25h"] {
                check(
                    &route(&format!("{key} = \"{span}\"")),
                    &format!("routes[0].{key}"),
                    "is out of bounds",
                );
            }
        }
    }

    #[test]
    fn somebody_must_be_able_to_pass() {
        assert_eq!(
            *good(BASE).routes[0].issuers,
            [IssuerName::new("id.example.com")]
        );
        check(
            &route("auth = \"maybe\""),
            "routes[0].auth",
            "write \"required\", \"optional\" or \"public\"",
        );
        check(
            &route("issuers = []"),
            "routes[0].issuers",
            "no token could pass",
        );
        check(
            &route("issuers = [\"other\"]"),
            "routes[0].issuers[0]",
            "is no issuer; write some of [\"id.example.com\"]",
        );
        let without = format!(
            "{}{}",
            &BASE[..BASE.find("[[issuers]]").expect("issuers")],
            &BASE[BASE.find("[[routes]]").expect("routes")..]
        );
        check(&without, "routes[0].issuers", "there is no issuer");
        check(
            &format!("{without}auth = \"optional\"\n"),
            "routes[0].issuers",
            "there is no issuer",
        );
        let public = good(&format!("{without}auth = \"public\"\n"));
        assert!(public.routes[0].issuers.is_empty());
    }

    #[test]
    fn an_issuer_that_could_not_be_read_is_not_missed_twice() {
        check(
            &BASE.replace("issuer = \"https://id.example.com\"", "issuer = 1"),
            "issuers[0].issuer",
            "does not fit here",
        );
        check(
            &format!(
                "issuers = 1\n{}",
                BASE.replace(
                    "[[issuers]]\nissuer = \"https://id.example.com\"\naudiences = [\"orders\"]",
                    ""
                )
            ),
            "issuers",
            "does not fit here",
        );
    }

    #[test]
    fn a_route_enforces_unless_it_says_that_it_reports() {
        let mode = |line: &str| good(&route(line)).routes[0].mode;
        assert_eq!(mode(""), Mode::Enforce);
        assert_eq!(mode("mode = \"enforce\""), Mode::Enforce);
        assert_eq!(mode("mode = \"report\""), Mode::Report);
        check(&route("mode = \"off\""), "routes[0].mode", "is unknown");
    }

    #[test]
    fn a_route_denies_while_the_denylist_is_too_old_unless_it_says_otherwise() {
        let on_stale = |line: &str| good(&route(line)).routes[0].on_stale;
        assert_eq!(on_stale(""), OnStale::Deny);
        assert_eq!(on_stale("on_stale = \"deny\""), OnStale::Deny);
        assert_eq!(on_stale("on_stale = \"allow\""), OnStale::Allow);
        check(
            &route("on_stale = \"serve\""),
            "routes[0].on_stale",
            "is unknown",
        );
    }

    #[test]
    fn an_expression_is_compiled_and_its_faults_are_told_with_their_place() {
        let expression = |text: &str| route(&format!("expression = \"{text}\""));
        let settings = good(&expression("claims.a == 1"));
        let kept = settings.routes[0].requirement.expression.as_ref();
        assert_eq!(kept.map(Expression::as_str), Some("claims.a == 1"));
        let at = "routes[0].expression";
        check(&expression("claims.a =="), at, "at line 1, column");
        check(&expression("claims.a.all(x, x)"), at, "not allowed here");
        check(&expression(""), at, "is no expression");
    }

    #[test]
    fn a_public_route_asks_nothing() {
        for (key, value) in [
            ("mode", "\"report\""),
            ("issuers", "[\"id.example.com\"]"),
            ("scopes", "[\"a\"]"),
            ("any_scope", "[\"a\"]"),
            ("expression", "\"claims.a == 1\""),
            ("claims", "{ a = 1 }"),
            ("logout", "true"),
            ("trust_revoke_header", "true"),
            ("end_at_expiry", "true"),
            ("on_stale", "\"deny\""),
        ] {
            check(
                &route(&format!("auth = \"public\"\n{key} = {value}")),
                &format!("routes[0].{key}"),
                "would never be asked",
            );
        }
        assert_eq!(
            good(&route("auth = \"public\"")).routes[0].auth,
            Auth::Public
        );
    }

    #[test]
    fn requirements_are_kept_exactly() {
        let settings = good(&route(
            "scopes = [\"a\", \"b:c\"]\nany_scope = [\"d\"]\nclaims = { tenant = [\"x\", 1, true], \"a.b\" = -1 }",
        ));
        let requirement = &settings.routes[0].requirement;
        assert_eq!(requirement.scopes, ["a", "b:c"].map(Box::<str>::from));
        assert_eq!(requirement.any_scope, ["d"].map(Box::<str>::from));
        assert_eq!(requirement.claims[0].path.as_str(), "a.b");
        assert_eq!(requirement.claims[0].any_of, [json!(-1)]);
        assert_eq!(
            requirement.claims[1].any_of,
            [json!("x"), json!(1), json!(true)]
        );
        check(
            &route("scopes = [\"a b\"]"),
            "routes[0].scopes[0]",
            "is no scope",
        );
        check(
            &route("scopes = ['a\"']"),
            "routes[0].scopes[0]",
            "is no scope",
        );
        check(
            &route("scopes = [\"\"]"),
            "routes[0].scopes[0]",
            "is no scope",
        );
        check(&route("any_scope = []"), "routes[0].any_scope", "is empty");
        check(&route("claims = {}"), "routes[0].claims", "is empty");
        check(
            &route("claims = { a = [] }"),
            "routes[0].claims.a",
            "an empty list",
        );
        check(
            &route("claims = { a = [1, 1.5] }"),
            "routes[0].claims.a[1]",
            "does not fit here",
        );
        check(
            &route("claims = { \"a..b\" = 1 }"),
            "routes[0].claims.\"a..b\"",
            "is no claim",
        );
    }

    #[test]
    fn a_token_is_looked_for_somewhere() {
        let token = |members: &str| route(&format!("token = {{ {members} }}"));
        let places = |members: &str| good(&token(members)).routes.remove(0).token;
        assert!(good(BASE).routes[0].token.authorization);
        assert!(places("forward = true").authorization);
        let cookie = places("cookie = \"session\"");
        assert_eq!(
            (cookie.authorization, cookie.cookie.as_deref()),
            (false, Some("session"))
        );
        let both = places("authorization = true, header = \"X-Token\"");
        assert_eq!(
            (both.authorization, both.header),
            (true, Some(http::HeaderName::from_static("x-token")))
        );
        assert_eq!(
            places("query = \"access_token\"").query.as_deref(),
            Some("access_token")
        );
        check(
            &token("authorization = false"),
            "routes[0].token.authorization",
            "no place to look",
        );
        check(
            &token("header = \"Authorization\""),
            "routes[0].token.header",
            "write authorization = true",
        );
        check(
            &token("header = \"cookie\""),
            "routes[0].token.header",
            "write cookie = ",
        );
        for logged in ["referer", "User-Agent"] {
            check(
                &token(&format!("header = \"{logged}\"")),
                "routes[0].token.header",
                "access log",
            );
        }
        check(
            &token("header = \"a b\""),
            "routes[0].token.header",
            "is no header name",
        );
        check(
            &token("cookie = \"a=b\""),
            "routes[0].token.cookie",
            "is no cookie's name",
        );
        check(&token("query = \"\""), "routes[0].token.query", "is empty");
    }
}

//! What two versions of a configuration let through that differs: for the person who is about to put one in force, and for the
//! log when it is. Routes are not compared one by one, because taking one away lets another one catch its requests: requests
//! that tell all patterns of both versions apart are sent through both route tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::protections::Protections;
use super::settings::{self, Settings};
use crate::base::names::{IssuerName, UpstreamName};
use crate::policy::{Auth, Mode, OnStale, Requirement};
use crate::route::{Entry, Found, Host, HostPattern, NormalPath, PathPattern, RouteTable};
use crate::token::Rules;
use crate::upstream::Server;

/// What no configuration names: a host, a label of one, a segment of a path, a method.
const NOBODY: &str = "jotgate-probe";

/// What requests meet in one version of a configuration.
#[derive(Debug)]
pub struct Outline {
    table: RouteTable<Met>,
    routes: Vec<Pattern>,
    /// Identity headers, which clients cannot write.
    protected: Vec<HeaderName>,
    /// How old the knowledge of the fleet's revocations may be; none without a fleet.
    max_staleness: Option<Duration>,
}

/// What a route matches.
type Pattern = (Vec<HostPattern>, PathPattern, Vec<Method>);

/// A route with what it takes from its issuers and its upstream.
#[derive(Debug)]
struct Met {
    position: usize,
    auth: Auth,
    mode: Mode,
    requirement: Requirement,
    /// With their names. Routes that name the same ones share them.
    issuers: Arc<[(String, Rules)]>,
    upstream: String,
    servers: Vec<Server>,
    logout: bool,
    end_at_expiry: bool,
    /// None on public routes.
    on_stale: Option<OnStale>,
    trust_revoke_header: bool,
}

/// One difference, and whether more gets through, or is trusted, than before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Host, path and method, as patterns. Empty: every request.
    pub place: String,
    /// What is different.
    pub what: String,
    /// Whether protection was lost.
    pub is_weaker: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}: {}", self.place, self.what)
        }
    }
}

impl Outline {
    /// Of settings that were found good.
    ///
    /// # Panics
    ///
    /// Never: no two routes of such settings match the same requests.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let own: HashMap<&IssuerName, &Rules> = settings
            .issuers
            .iter()
            .map(|issuer| (&issuer.name, &issuer.rules))
            .collect();
        let servers: HashMap<&UpstreamName, &[Server]> = settings
            .upstreams
            .iter()
            .map(|upstream| (&upstream.name, &*upstream.servers))
            .collect();
        let mut lists: Vec<Arc<[(String, Rules)]>> = vec![];
        let mut protections = Protections::default();
        let mut entries = vec![];
        for (position, route) in settings.routes.iter().enumerate() {
            let (list, protection) = protections.number(route);
            if list == lists.len() {
                let named =
                    |name| Some((IssuerName::to_string(name), Rules::clone(own.get(name)?)));
                lists.push(route.issuers.iter().filter_map(named).collect());
            }
            let servers = servers.get(&route.upstream).copied().unwrap_or_default();
            entries.push(Entry {
                hosts: &route.hosts,
                path: &route.path,
                methods: &route.methods,
                protection,
                route: Met::of(position, route, Arc::clone(&lists[list]), servers).into(),
            });
        }
        let headers = settings.issuers.iter().flat_map(|issuer| {
            let claims = issuer.headers.claims.iter().map(|mapping| &mapping.header);
            claims.chain(&issuer.headers.payload).cloned()
        });
        Self {
            table: RouteTable::build(&entries).expect("no two routes match the same requests"),
            routes: settings
                .routes
                .iter()
                .map(|route| {
                    (
                        route.hosts.clone(),
                        route.path.clone(),
                        route.methods.clone(),
                    )
                })
                .collect(),
            protected: headers.collect(),
            max_staleness: settings
                .denylist
                .redis
                .as_ref()
                .map(|_| settings.denylist.max_staleness),
        }
    }

    /// What is different from `old`, what is weaker first.
    #[must_use]
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = old
            .protected
            .iter()
            .filter(|name| !self.protected.contains(name))
            .map(|name| Change {
                place: String::new(),
                what: format!("{name} is no identity header any more: clients can write it"),
                is_weaker: true,
            })
            .collect();
        let fleet = fleet(old.max_staleness, self.max_staleness);
        changes.extend(fleet.map(|(is_weaker, what)| Change {
            place: String::new(),
            what,
            is_weaker,
        }));
        for (place, before, after) in self.pairs(old) {
            for (is_weaker, what) in compare(before, after) {
                changes.push(Change {
                    place: place.clone(),
                    what,
                    is_weaker,
                });
            }
        }
        changes.sort_by(|a, b| b.is_weaker.cmp(&a.is_weaker).then_with(|| a.cmp(b)));
        changes.dedup();
        changes
    }

    /// Every pair of routes that some request meets, one before and one after, and the patterns of the first such request: a
    /// pair differs in the same way for all of them.
    fn pairs<'o>(&'o self, old: &'o Self) -> Vec<(String, Option<&'o Met>, Option<&'o Met>)> {
        let probes = Probes::of(old.routes.iter().chain(&self.routes));
        let mut pairs = BTreeMap::new();
        for (host, shown_host) in &probes.hosts {
            let Ok(host) = Host::parse(host) else {
                continue;
            };
            for (path, shown_path) in &probes.paths {
                let Ok(path) = NormalPath::parse(path) else {
                    continue;
                };
                for (method, shown_method) in &probes.methods {
                    let before = old.find(&host, &path, method);
                    let after = self.find(&host, &path, method);
                    if before.is_none() && after.is_none() {
                        continue;
                    }
                    let position = |met: Option<&Met>| met.map(|met| met.position);
                    let pair = (position(before), position(after));
                    pairs.entry(pair).or_insert_with(|| {
                        let mut place = shown_path.clone();
                        if !shown_host.is_empty() {
                            place.insert_str(0, shown_host);
                        }
                        if !shown_method.is_empty() {
                            place = format!("{shown_method} {place}");
                        }
                        (place, before, after)
                    });
                }
            }
        }
        pairs.into_values().collect()
    }

    /// The route of a request, or none if it is refused without one.
    fn find(&self, host: &Host, path: &NormalPath, method: &Method) -> Option<&Met> {
        match self.table.find(Some(host), path, method) {
            Ok(Found::Route(met)) => Some(met),
            Ok(Found::Nothing | Found::OtherMethods(_)) | Err(_) => None,
        }
    }
}

/// Requests that tell all patterns apart, each part with how it is shown. What nobody names comes first, and shows nothing.
struct Probes {
    hosts: Vec<(String, String)>,
    paths: Vec<(String, String)>,
    methods: Vec<(Method, String)>,
}

impl Probes {
    fn of<'r>(routes: impl Iterator<Item = &'r Pattern>) -> Self {
        let nobody = Method::from_bytes(NOBODY.as_bytes()).expect("a token");
        let mut probes = Self {
            hosts: vec![(NOBODY.to_owned(), String::new())],
            paths: vec![],
            methods: vec![(nobody, String::new())],
        };
        for (hosts, path, methods) in routes {
            for host in hosts {
                probes.hosts.push(match host {
                    HostPattern::Exact(name) => (name.to_string(), host.to_string()),
                    HostPattern::Below(suffix) => (format!("{NOBODY}{suffix}"), host.to_string()),
                });
            }
            match path {
                PathPattern::Exact(exact) => {
                    probes.paths.push((exact.to_string(), path.to_string()));
                }
                PathPattern::Prefix(prefix) => {
                    probes
                        .paths
                        .push((format!("{prefix}/{NOBODY}"), path.to_string()));
                    let itself = if prefix.is_empty() { "/" } else { &**prefix };
                    probes.paths.push((itself.to_owned(), itself.to_owned()));
                }
            }
            let methods = methods
                .iter()
                .map(|method| (method.clone(), method.to_string()));
            probes.methods.extend(methods);
        }
        dedup(&mut probes.hosts);
        dedup(&mut probes.paths);
        dedup(&mut probes.methods);
        probes
    }
}

/// Keeps the first of those that are alike.
fn dedup<T: Clone + Eq + std::hash::Hash>(probes: &mut Vec<(T, String)>) {
    let mut known = HashSet::new();
    probes.retain(|(probe, _)| known.insert(probe.clone()));
}

impl Met {
    fn of(
        position: usize,
        route: &settings::Route,
        issuers: Arc<[(String, Rules)]>,
        servers: &[Server],
    ) -> Self {
        Self {
            position,
            auth: route.auth,
            mode: route.mode,
            requirement: route.requirement.clone(),
            issuers,
            servers: servers.to_vec(),
            upstream: route.upstream.to_string(),
            logout: route.logout,
            end_at_expiry: route.end_at_expiry,
            on_stale: (route.auth != Auth::Public).then_some(route.on_stale),
            trust_revoke_header: route.trust_revoke_header,
        }
    }
}

/// What is different between two routes that the same request meets, each with whether it is weaker.
fn compare(before: Option<&Met>, after: Option<&Met>) -> Vec<(bool, String)> {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (None, Some(after)) => {
            let open = openness(after) > 0;
            return vec![(open, format!("is new, {}", word(after)))];
        }
        (Some(_), None) => return vec![(false, "is gone".to_owned())],
        (None, None) => return vec![],
    };
    let mut found = vec![];
    if openness(before) != openness(after) {
        let what = format!("becomes {}, was {}", word(after), word(before));
        found.push((openness(after) > openness(before), what));
    }
    if (&before.upstream, &before.servers) != (&after.upstream, &after.servers) {
        let what = if before.upstream == after.upstream {
            format!("the servers of {} change", after.upstream)
        } else {
            format!("goes to {}, went to {}", after.upstream, before.upstream)
        };
        found.push((false, what));
    }
    for (old, new, what) in [
        (before.logout, after.logout, "a logout ends the session"),
        (
            before.end_at_expiry,
            after.end_at_expiry,
            "streams end with their token",
        ),
        (
            // A route that becomes public loses more, and that is told already.
            before.on_stale == Some(OnStale::Deny) && after.on_stale.is_some(),
            after.on_stale == Some(OnStale::Deny),
            "tokens are refused while the denylist is too old",
        ),
        (
            after.trust_revoke_header,
            before.trust_revoke_header,
            "the service cannot end sessions",
        ),
    ] {
        if old && !new {
            found.push((true, format!("not any more: {what}")));
        }
    }
    // Where tokens are not looked at, nothing else can be lost; and what was not asked before cannot be, either.
    if before.auth != Auth::Public && after.auth != Auth::Public {
        let lost = lost(&before.requirement, &after.requirement);
        found.extend(lost.into_iter().map(|what| (true, what)));
        let (old, new) = (by_issuer(before), by_issuer(after));
        for (name, rules) in &*after.issuers {
            match old.get(&*rules.issuer) {
                None => found.push((true, format!("accepts issuer {name}"))),
                Some(known) => {
                    let lost = lost_rules(known, rules).into_iter();
                    found.extend(lost.map(|what| (true, format!("issuer {name}: {what}"))));
                }
            }
        }
        for (name, rules) in &*before.issuers {
            if !new.contains_key(&*rules.issuer) {
                found.push((false, format!("refuses issuer {name}")));
            }
        }
    }
    found
}

/// The route's issuers, as tokens name them.
fn by_issuer(route: &Met) -> HashMap<&str, &Rules> {
    let issuers = route.issuers.iter();
    issuers.map(|(_, rules)| (&*rules.issuer, rules)).collect()
}

/// What is different of the fleet, and whether that is weaker.
fn fleet(before: Option<Duration>, after: Option<Duration>) -> Option<(bool, String)> {
    match (before, after) {
        (None, None) => None,
        (None, Some(_)) => Some((false, "takes part in a fleet".to_owned())),
        (Some(_), None) => Some((
            true,
            "leaves its fleet: what others revoke does not hold here any more".to_owned(),
        )),
        (Some(before), Some(after)) => (after > before).then(|| {
            let [before, after] = [before, after].map(humantime::format_duration);
            (
                true,
                format!("knows what others revoke after {after} at the latest, was {before}"),
            )
        }),
    }
}

/// What a token had to have, and need not any more.
fn lost(before: &Requirement, after: &Requirement) -> Vec<String> {
    let mut lost: Vec<String> = before
        .scopes
        .iter()
        .filter(|scope| !after.scopes.contains(scope))
        .map(|scope| format!("loses scope {scope}"))
        .collect();
    let any = &before.any_scope;
    let still = after.scopes.iter().any(|scope| any.contains(scope))
        || !after.any_scope.is_empty() && after.any_scope.iter().all(|scope| any.contains(scope));
    if !any.is_empty() && !still {
        lost.push(format!(
            "asks no more for one of the scopes {}",
            any.join(" ")
        ));
    }
    match (&before.expression, &after.expression) {
        (Some(_), None) => lost.push("loses its expression".to_owned()),
        (Some(before), Some(after)) if before != after => {
            lost.push("has another expression, which may ask for less".to_owned());
        }
        (Some(_) | None, Some(_)) | (None, None) => {}
    }
    for claim in &before.claims {
        let mut same = after.claims.iter().filter(|asked| asked.path == claim.path);
        if !same.any(|asked| {
            asked
                .any_of
                .iter()
                .all(|value| claim.any_of.contains(value))
        }) {
            lost.push(format!("asks less of claim {}", claim.path));
        }
    }
    lost
}

/// What an issuer's tokens had to be, and need not any more.
fn lost_rules(before: &Rules, after: &Rules) -> Vec<String> {
    let mut lost = vec![];
    if !before.audiences.is_empty() {
        if after.audiences.is_empty() {
            lost.push("accepts any audience".to_owned());
        }
        let new = after
            .audiences
            .iter()
            .filter(|audience| !before.audiences.contains(audience));
        lost.extend(new.map(|audience| format!("accepts audience {audience}")));
    }
    let new = after
        .algorithms
        .iter()
        .filter(|algorithm| !before.algorithms.contains(algorithm));
    lost.extend(new.map(|algorithm| format!("accepts algorithm {algorithm}")));
    let new = after
        .types
        .named
        .iter()
        .filter(|typ| !before.types.named.contains(typ));
    lost.extend(new.map(|typ| format!("accepts token type {typ}")));
    if after.types.absent && !before.types.absent {
        lost.push("accepts tokens without type".to_owned());
    }
    let gone = before
        .require
        .iter()
        .filter(|claim| !after.require.contains(claim));
    lost.extend(gone.map(|claim| format!("does not require claim {claim} any more")));
    if after.leeway > before.leeway {
        lost.push("allows more leeway".to_owned());
    }
    if after.max_lifetime > before.max_lifetime {
        lost.push("allows a longer token lifetime".to_owned());
    }
    if after.allow_missing_iat && !before.allow_missing_iat {
        lost.push("allows tokens without iat".to_owned());
    }
    lost
}

/// Who passes more easily has more.
const fn openness(met: &Met) -> u8 {
    match (met.auth, met.mode) {
        (Auth::Required, Mode::Enforce) => 0,
        (Auth::Optional, Mode::Enforce) => 1,
        (Auth::Required | Auth::Optional, Mode::Report) => 2,
        (Auth::Public, _) => 3,
    }
}

/// As the configuration writes it; what is public is not to be overlooked.
const fn word(met: &Met) -> &'static str {
    match (met.auth, met.mode) {
        (Auth::Required, Mode::Enforce) => "required",
        (Auth::Optional, Mode::Enforce) => "optional",
        (Auth::Required | Auth::Optional, Mode::Report) => "NOT ENFORCED",
        (Auth::Public, _) => "PUBLIC",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    /// An issuer `a`, one `b`, and these routes; `more` belongs to issuer `a`.
    fn outline(more: &str, routes: &[&str]) -> Outline {
        let mut text = "[[listeners]]\naddress = \"127.0.0.1:1\"\n".to_owned();
        for (name, more) in [("a", more), ("b", "audiences = [\"o\"]")] {
            let issuer = format!("issuer = \"https://{name}.example\"");
            text += &[
                "[[issuers]]",
                &format!("name = \"{name}\""),
                &issuer,
                more,
                "",
            ]
            .join("\n");
        }
        for route in routes {
            text += &["[[routes]]", route, ""].join("\n");
            if !route.contains("upstream =") {
                text += "upstream = \"http://127.0.0.1:3\"\n";
            }
        }
        let settings =
            load_str("f", &text, &[]).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        Outline::of(&settings)
    }

    /// The differences, `!` before what is weaker.
    fn told(old: &Outline, new: &Outline) -> Vec<String> {
        let shown =
            |change: Change| format!("{}{change}", if change.is_weaker { "! " } else { "" });
        new.changes_since(old).into_iter().map(shown).collect()
    }

    const AUDIENCE: &str = "audiences = [\"o\"]";

    #[track_caller]
    fn check(old: &[&str], new: &[&str], expected: &[&str]) {
        let (old, new) = (outline(AUDIENCE, old), outline(AUDIENCE, new));
        assert_eq!(told(&old, &new), expected);
        assert!(told(&old, &old).is_empty() && told(&new, &new).is_empty());
    }

    #[test]
    fn what_is_lost_of_a_fleet_is_told() {
        let with = |staleness: &str| {
            let mut outline = outline(AUDIENCE, &["path = \"/x\""]);
            outline.max_staleness = humantime::parse_duration(staleness).ok();
            outline
        };
        let check = |old: &str, new: &str, expected: &[&str]| {
            assert_eq!(told(&with(old), &with(new)), expected, "{old} {new}");
        };
        check("30s", "30s", &[]);
        check("30s", "5s", &[]);
        check(
            "30s",
            "1m",
            &["! knows what others revoke after 1m at the latest, was 30s"],
        );
        check(
            "30s",
            "alone",
            &["! leaves its fleet: what others revoke does not hold here any more"],
        );
        check("alone", "30s", &["takes part in a fleet"]);
        check("alone", "alone", &[]);
    }

    #[test]
    fn the_outline_knows_of_the_fleet() {
        let text = format!(
            "{}[denylist]\nmax_staleness = \"7s\"\n[denylist.redis]\nurl = \"redis://a\"\nsecret = {{ env = \"SECRET_32\" }}",
            crate::config::validate::testing::BASE
        );
        let secret = [("SECRET_32".to_owned(), "s".repeat(32))];
        let settings = load_str("f", &text, &secret).expect("a good file");
        let outline = Outline::of(&settings);
        assert_eq!(outline.max_staleness, Some(Duration::from_secs(7)));
    }

    #[test]
    fn each_loss_of_a_route_is_told() {
        let route = |line: &str| format!("path = \"/x\"\n{line}");
        let check = |old: &str, new: &str, expected: &[&str]| {
            check(&[&route(old)], &[&route(new)], expected);
        };
        check(
            "",
            "auth = \"public\"",
            &["! /x/*: becomes PUBLIC, was required"],
        );
        check(
            "auth = \"optional\"",
            "auth = \"public\"",
            &["! /x/*: becomes PUBLIC, was optional"],
        );
        check(
            "",
            "auth = \"optional\"",
            &["! /x/*: becomes optional, was required"],
        );
        check(
            "auth = \"public\"",
            "",
            &["/x/*: becomes required, was PUBLIC"],
        );
        check(
            "",
            "mode = \"report\"",
            &["! /x/*: becomes NOT ENFORCED, was required"],
        );
        check(
            "mode = \"report\"",
            "",
            &["/x/*: becomes required, was NOT ENFORCED"],
        );
        check(
            "scopes = [\"r\", \"w\"]",
            "scopes = [\"r\"]",
            &["! /x/*: loses scope w"],
        );
        check("scopes = [\"r\"]", "scopes = [\"r\", \"w\"]", &[]);
        check(
            "any_scope = [\"r\", \"w\"]",
            "",
            &["! /x/*: asks no more for one of the scopes r w"],
        );
        check(
            "any_scope = [\"r\"]",
            "any_scope = [\"r\", \"w\"]",
            &["! /x/*: asks no more for one of the scopes r"],
        );
        check("any_scope = [\"r\", \"w\"]", "any_scope = [\"w\"]", &[]);
        check("any_scope = [\"r\", \"w\"]", "scopes = [\"w\"]", &[]);
        check(
            "claims = { t = \"1\" }",
            "",
            &["! /x/*: asks less of claim t"],
        );
        check(
            "claims = { t = \"1\" }",
            "claims = { t = [\"1\", \"2\"] }",
            &["! /x/*: asks less of claim t"],
        );
        check(
            "claims = { t = [\"1\", \"2\"] }",
            "claims = { t = \"1\" }",
            &[],
        );
        check(
            "expression = \"claims.a == 1\"",
            "",
            &["! /x/*: loses its expression"],
        );
        check(
            "expression = \"claims.a == 1\"",
            "expression = \"claims.a > 0\"",
            &["! /x/*: has another expression, which may ask for less"],
        );
        check("", "expression = \"claims.a == 1\"", &[]);
        check("issuers = [\"a\"]", "", &["! /x/*: accepts issuer b"]);
        check("", "issuers = [\"a\"]", &["/x/*: refuses issuer b"]);
        check(
            "logout = true",
            "",
            &["! /x/*: not any more: a logout ends the session"],
        );
        check(
            "end_at_expiry = true",
            "",
            &["! /x/*: not any more: streams end with their token"],
        );
        check(
            "",
            "on_stale = \"allow\"",
            &["! /x/*: not any more: tokens are refused while the denylist is too old"],
        );
        check("on_stale = \"allow\"", "on_stale = \"deny\"", &[]);
        check(
            "",
            "trust_revoke_header = true",
            &["! /x/*: not any more: the service cannot end sessions"],
        );
        check(
            "",
            "upstream = \"http://127.0.0.1:4\"",
            &["/x/*: goes to http://127.0.0.1:4, went to http://127.0.0.1:3"],
        );
    }

    #[test]
    fn a_route_that_is_gone_leaves_its_requests_to_another() {
        let admin = "path = \"/admin\"\nscopes = [\"root\"]";
        check(
            &["path = \"/\"", admin],
            &["path = \"/\""],
            &["! /admin/*: loses scope root"],
        );
        check(
            &["path = \"/\"", admin],
            &["path = \"/\"\nauth = \"public\"", admin],
            &["! /*: becomes PUBLIC, was required"],
        );
        check(
            &["path = \"/b\"", admin],
            &["path = \"/b\""],
            &["/admin/*: is gone"],
        );
        check(
            &["path = \"/b\""],
            &["path = \"/b\"", admin],
            &["/admin/*: is new, required"],
        );
        check(
            &["path = \"/b\""],
            &["path = \"/b\"", "path = \"/c\"\nauth = \"public\""],
            &["! /c/*: is new, PUBLIC"],
        );
    }

    #[test]
    fn a_narrower_route_opens_what_it_takes() {
        let all = "path = \"/\"";
        check(
            &[all],
            &[
                all,
                "path = \"/x\"\nhosts = [\"h.example\"]\nauth = \"public\"",
            ],
            &["! h.example/x/*: becomes PUBLIC, was required"],
        );
        check(
            &[all],
            &[
                all,
                "path = \"/\"\nhosts = [\"*.example\"]\nauth = \"public\"",
            ],
            &["! *.example/*: becomes PUBLIC, was required"],
        );
        check(
            &[all],
            &[
                all,
                "path_exact = \"/x\"\nmethods = [\"GET\"]\nauth = \"public\"",
            ],
            &["! GET /x: becomes PUBLIC, was required", "/x: is gone"],
        );
    }

    #[test]
    fn each_loss_of_an_issuer_is_told() {
        let route = "path = \"/\"\nissuers = [\"a\"]";
        let check = |old: &str, new: &str, expected: &[&str]| {
            let audience = |lines: &str| {
                if lines.contains("audiences") {
                    lines.to_owned()
                } else {
                    format!("{AUDIENCE}\n{lines}")
                }
            };
            let (old, new) = (
                outline(&audience(old), &[route]),
                outline(&audience(new), &[route]),
            );
            assert_eq!(told(&old, &new), expected);
        };
        check(
            "",
            "audiences = []",
            &["! /*: issuer a: accepts any audience"],
        );
        check(
            "",
            "audiences = [\"o\", \"p\"]",
            &["! /*: issuer a: accepts audience p"],
        );
        check(
            "algorithms = [\"ES256\"]",
            "algorithms = [\"ES256\", \"RS256\"]",
            &["! /*: issuer a: accepts algorithm RS256"],
        );
        check(
            "token_types = [\"at+jwt\"]",
            "token_types = [\"at+jwt\", \"jwt\", \"\"]",
            &[
                "! /*: issuer a: accepts token type jwt",
                "! /*: issuer a: accepts tokens without type",
            ],
        );
        check(
            "require = [\"jti\"]",
            "",
            &["! /*: issuer a: does not require claim jti any more"],
        );
        check(
            "leeway = \"1s\"",
            "",
            &["! /*: issuer a: allows more leeway"],
        );
        check(
            "max_token_lifetime = \"1h\"",
            "",
            &["! /*: issuer a: allows a longer token lifetime"],
        );
        check(
            "",
            "allow_missing_iat = true",
            &["! /*: issuer a: allows tokens without iat"],
        );
        check(
            "headers = { x-user = \"sub\" }",
            "",
            &["! x-user is no identity header any more: clients can write it"],
        );
        check(
            "",
            "max_token_lifetime = \"1h\"\nrequire = [\"jti\"]\nheaders = { x-user = \"sub\" }",
            &[],
        );
    }
}

//! Finds the route of a request: the most specific host, then the most specific path, then the method.
//! The cost depends on the depth of the configured paths, not on their number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::Method;

use super::host::Host;
use super::path::{NormalPath, fold};
use super::pattern::{HostPattern, PathPattern};

type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// The routes of one edition. `R` is what a route is for the reader.
#[derive(Debug)]
pub struct RouteTable<R> {
    exact: Hosts<R>,
    folded: Hosts<R>,
    /// Whether some path is written with capitals, so that every request needs the lenient reading too.
    capitals: bool,
}

/// One route to put in the table.
#[derive(Debug)]
pub struct Entry<'a, R> {
    /// Empty: any host.
    pub hosts: &'a [HostPattern],
    /// Its path.
    pub path: &'a PathPattern,
    /// Empty: any method.
    pub methods: &'a [Method],
    /// Routes with the same number ask the same of a request.
    pub protection: u32,
    /// What is found.
    pub route: Arc<R>,
}

/// Two entries, by their position, match the same host, path and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The earlier one.
    pub first: usize,
    /// The later one.
    pub second: usize,
}

/// What a request meets.
#[derive(Debug)]
pub enum Found<'a, R> {
    /// Its route.
    Route(&'a Arc<R>),
    /// No route, no service (404).
    Nothing,
    /// The path has routes, but none for this method (405); these are allowed.
    OtherMethods(Vec<Method>),
}

/// A service that ignores case or `;parameters` would see the path of a route with another protection (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path may be read as one of a route with another protection")]
pub struct Ambiguous;

#[derive(Debug)]
struct Hosts<R> {
    exact: Map<Paths<R>>,
    below: Map<Paths<R>>,
    any: Paths<R>,
}

#[derive(Debug)]
struct Paths<R> {
    exact: Map<Vec<Leaf<R>>>,
    prefix: Map<Vec<Leaf<R>>>,
    /// Segments of the deepest prefix.
    depth: usize,
}

#[derive(Debug)]
struct Leaf<R> {
    position: usize,
    methods: Box<[Method]>,
    protection: u32,
    route: Arc<R>,
}

/// Every entry that matches the same as an earlier one, or lists a host twice. Such a one is as if it were not there: no
/// later one is in conflict with it.
#[must_use]
pub fn conflicts<R>(entries: &[Entry<'_, R>]) -> Vec<Conflict> {
    let mut known: HashMap<(Option<&HostPattern>, &PathPattern), Vec<usize>> = HashMap::new();
    let mut found = vec![];
    for (second, entry) in entries.iter().enumerate() {
        let places = || {
            let any = entry.hosts.is_empty().then_some(None);
            let hosts = any.into_iter().chain(entry.hosts.iter().map(Some));
            hosts.map(|host| (host, entry.path))
        };
        let overlaps = |first: &usize| overlap(entries[*first].methods, entry.methods);
        let earlier = |place| known.get(&place)?.iter().copied().find(overlaps);
        let first = places().find_map(earlier).or_else(|| {
            let mut seen = HashSet::new();
            let is_doubled = !places().all(|place| seen.insert(place));
            is_doubled.then_some(second)
        });
        match first {
            Some(first) => found.push(Conflict { first, second }),
            None => places().for_each(|place| known.entry(place).or_default().push(second)),
        }
    }
    found
}

/// Whether one method has both of these lists; an empty one is beside each list that names some.
fn overlap(one: &[Method], other: &[Method]) -> bool {
    (one.is_empty() && other.is_empty()) || one.iter().any(|method| other.contains(method))
}

impl<R> RouteTable<R> {
    /// Builds the table, or says which two entries nobody could tell apart.
    pub fn build(entries: &[Entry<'_, R>]) -> Result<Self, Conflict> {
        if let Some(conflict) = conflicts(entries).first() {
            return Err(*conflict);
        }
        let mut table = Self {
            exact: Hosts::new(),
            folded: Hosts::new(),
            capitals: false,
        };
        for (position, entry) in entries.iter().enumerate() {
            let (PathPattern::Prefix(path) | PathPattern::Exact(path)) = entry.path;
            let folded = fold(path);
            table.capitals |= folded.is_some();
            let folded = folded.as_deref().unwrap_or(path);
            table.exact.insert(position, entry, path);
            // Paths that differ in case alone may share a place here: the first to be found is compared by protection.
            table.folded.insert(position, entry, folded);
        }
        Ok(table)
    }

    /// The route of a request. A request without a host meets only routes for any host.
    pub fn find(
        &self,
        host: Option<&Host<'_>>,
        path: &NormalPath<'_>,
        method: &Method,
    ) -> Result<Found<'_, R>, Ambiguous> {
        let leaves = self.exact.find(host, path.as_str());
        let folded = path.folded();
        if folded.is_some() || self.capitals {
            let lenient = self
                .folded
                .find(host, folded.as_deref().unwrap_or(path.as_str()));
            if !same_protection(leaves, lenient) {
                return Err(Ambiguous);
            }
        }
        let Some(leaves) = leaves else {
            return Ok(Found::Nothing);
        };
        Ok(leaves
            .iter()
            .find(|leaf| leaf.methods.contains(method))
            .or_else(|| leaves.iter().find(|leaf| leaf.methods.is_empty()))
            .map_or_else(
                || {
                    Found::OtherMethods(
                        leaves
                            .iter()
                            .flat_map(|leaf| leaf.methods.iter().cloned())
                            .collect(),
                    )
                },
                |leaf| Found::Route(&leaf.route),
            ))
    }
}

/// A lenient reading that finds nothing is harmless: the service is not reached by it. One that finds routes must
/// find only such as ask what the strict reading's routes ask.
fn same_protection<R>(strict: Option<&[Leaf<R>]>, lenient: Option<&[Leaf<R>]>) -> bool {
    match (strict, lenient) {
        (None, _) | (_, None) => true,
        (Some(strict), Some(lenient)) => {
            let first = strict[0].protection;
            std::ptr::eq(strict, lenient)
                || strict
                    .iter()
                    .map(|leaf| leaf.position)
                    .eq(lenient.iter().map(|leaf| leaf.position))
                || strict
                    .iter()
                    .chain(lenient)
                    .all(|leaf| leaf.protection == first)
        }
    }
}

impl<R> Hosts<R> {
    fn new() -> Self {
        Self {
            exact: Map::default(),
            below: Map::default(),
            any: Paths::new(),
        }
    }

    fn insert(&mut self, position: usize, entry: &Entry<'_, R>, path: &str) {
        if entry.hosts.is_empty() {
            self.any.insert(position, entry, path);
        }
        for host in entry.hosts {
            let paths = match host {
                HostPattern::Exact(host) => self.exact.entry(host.clone()),
                HostPattern::Below(suffix) => self.below.entry(suffix.clone()),
            };
            paths
                .or_insert_with(Paths::new)
                .insert(position, entry, path);
        }
    }

    /// A host without a match for the path leaves the request to a less specific host.
    fn find(&self, host: Option<&Host<'_>>, path: &str) -> Option<&[Leaf<R>]> {
        if let Some(host) = host {
            let host = host.as_str();
            if let Some(leaves) = self.exact.get(host).and_then(|paths| paths.find(path)) {
                return Some(leaves);
            }
            if !self.below.is_empty() {
                // The first dot is followed by the longest suffix.
                for (dot, _) in host.match_indices('.') {
                    let below = self.below.get(&host[dot..]);
                    if let Some(leaves) = below.and_then(|paths| paths.find(path)) {
                        return Some(leaves);
                    }
                }
            }
        }
        self.any.find(path)
    }
}

impl<R> Paths<R> {
    fn new() -> Self {
        Self {
            exact: Map::default(),
            prefix: Map::default(),
            depth: 0,
        }
    }

    fn insert(&mut self, position: usize, entry: &Entry<'_, R>, path: &str) {
        let leaves = match entry.path {
            PathPattern::Exact(_) => self.exact.entry(path.into()).or_default(),
            PathPattern::Prefix(_) => {
                self.depth = self.depth.max(path.matches('/').count());
                self.prefix.entry(path.into()).or_default()
            }
        };
        leaves.push(Leaf {
            position,
            methods: entry.methods.into(),
            protection: entry.protection,
            route: Arc::clone(&entry.route),
        });
    }

    fn find(&self, path: &str) -> Option<&[Leaf<R>]> {
        if let Some(leaves) = self.exact.get(path) {
            return Some(leaves);
        }
        if self.prefix.is_empty() {
            return None;
        }
        // Cut to the deepest configured prefix, then take one segment away at a time.
        let mut end = path
            .match_indices('/')
            .nth(self.depth)
            .map_or(path.len(), |(at, _)| at);
        loop {
            if let Some(leaves) = self.prefix.get(&path[..end]) {
                return Some(leaves);
            }
            end = path[..end].rfind('/')?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `host path methods protection`, one route a line; a path that ends with `*` is a prefix.
    fn table(lines: &[&'static str]) -> Result<RouteTable<&'static str>, Conflict> {
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let hosts: Vec<_> = (words[0] != "-")
                    .then(|| HostPattern::parse(words[0]).expect("a host"))
                    .into_iter()
                    .collect();
                let path = words[1]
                    .strip_suffix('*')
                    .map_or_else(|| PathPattern::exact(words[1]), PathPattern::prefix)
                    .expect("a path");
                let methods: Vec<_> = words[2]
                    .split(',')
                    .filter(|method| *method != "-")
                    .map(|method| method.parse::<Method>().expect("a method"))
                    .collect();
                (
                    hosts,
                    path,
                    methods,
                    words[3].parse().expect("a number"),
                    Arc::new(*line),
                )
            })
            .collect();
        let entries: Vec<_> = parsed
            .iter()
            .map(|(hosts, path, methods, protection, route)| Entry {
                hosts,
                path,
                methods,
                protection: *protection,
                route: Arc::clone(route),
            })
            .collect();
        RouteTable::build(&entries)
    }

    #[track_caller]
    fn check(table: &RouteTable<&'static str>, request: &str, expected: &str) {
        let words: Vec<_> = request.split(' ').collect();
        let host = (words[1] != "-").then(|| Host::parse(words[1]).expect("a host"));
        let path = NormalPath::parse(words[2]).expect("a path");
        let method = words[0].parse().expect("a method");
        let found = match table.find(host.as_ref(), &path, &method) {
            Ok(Found::Route(route)) => (**route).to_owned(),
            Ok(Found::Nothing) => "404".to_owned(),
            Ok(Found::OtherMethods(methods)) => format!("405 {methods:?}"),
            Err(Ambiguous) => "400".to_owned(),
        };
        assert_eq!(found, expected, "{request}");
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table(&[
            "- /* - 0",
            "- /api* - 0",
            "- /api/v1/admin* - 0",
            "- /api/v1/admin/login - 0",
            "- /api POST 0",
            "shop.example.com /* - 0",
            "*.example.com /* - 0",
            "*.eu.example.com /api* - 0",
        ])
        .expect("no conflict");
        check(&table, "GET - /", "- /* - 0");
        check(&table, "GET other /apis", "- /* - 0");
        check(&table, "GET other /api/x", "- /api* - 0");
        check(
            &table,
            "GET other /api/v1/admin/login",
            "- /api/v1/admin/login - 0",
        );
        check(
            &table,
            "GET other /api/v1/admin/login/",
            "- /api/v1/admin* - 0",
        );
        check(&table, "GET other /api/v1/admins", "- /api* - 0");
        check(
            &table,
            "GET shop.example.com /api",
            "shop.example.com /* - 0",
        );
        check(&table, "GET a.b.example.com /", "*.example.com /* - 0");
        check(
            &table,
            "GET a.eu.example.com /api/",
            "*.eu.example.com /api* - 0",
        );
        check(&table, "GET a.eu.example.com /", "*.example.com /* - 0");
        check(&table, "GET example.com /", "- /* - 0");
        check(&table, "GET other /api", "405 [POST]");
    }

    #[test]
    fn no_route_no_service() {
        let table = table(&[
            "shop.example.com /api* GET,HEAD 0",
            "shop.example.com /api* POST 1",
        ])
        .expect("no conflict");
        check(&table, "GET shop.example.com /", "404");
        check(&table, "GET other /api", "404");
        check(&table, "GET - /api", "404");
        check(
            &table,
            "POST shop.example.com /api",
            "shop.example.com /api* POST 1",
        );
        check(
            &table,
            "DELETE shop.example.com /api",
            "405 [GET, HEAD, POST]",
        );
    }

    #[test]
    fn a_lenient_reading_must_not_cross_a_protection() {
        let table = table(&["- /* - 0", "- /admin* - 1", "- /Shop* - 1", "- /same* - 0"])
            .expect("no conflict");
        for path in [
            "/ADMIN",
            "/Admin/x",
            "/admin;x/y",
            "/admin;x",
            "/x;a/y;b/..",
            "/shop",
            "/SHOP/x",
        ] {
            if NormalPath::parse(path).is_ok() {
                check(&table, &format!("GET - {path}"), "400");
            }
        }
        check(&table, "GET - /Shop/Cart", "- /Shop* - 1");
        check(&table, "GET - /admin/X;v=1", "- /admin* - 1");
        check(&table, "GET - /SAME", "- /* - 0");
        check(&table, "GET - /Other;x", "- /* - 0");
    }

    #[test]
    fn routes_that_nobody_could_tell_apart_are_refused() {
        let conflict = |lines: &[&'static str]| table(lines).err();
        assert_eq!(
            conflict(&["- /a* - 0", "- /a* - 0"]),
            Some(Conflict {
                first: 0,
                second: 1
            })
        );
        assert_eq!(
            conflict(&["- /a* GET 0", "- /a* GET,POST 0"]),
            Some(Conflict {
                first: 0,
                second: 1
            })
        );
        assert_eq!(conflict(&["- /a* GET 0", "- /a* - 0"]), None);
        assert_eq!(conflict(&["- /a* - 0", "- /a - 0", "x /a - 0"]), None);
    }

    #[test]
    fn every_conflict_is_found_and_none_with_what_is_left_out() {
        let hosts = ["a", "b", "c"].map(|host| HostPattern::parse(host).expect("a host"));
        let path = PathPattern::prefix("/x").expect("a path");
        let lists: [&[usize]; 6] = [&[0], &[0, 1], &[1], &[2, 2], &[2], &[0]];
        let lists = lists.map(|list| list.iter().map(|n| hosts[*n].clone()).collect::<Vec<_>>());
        let entries = lists.each_ref().map(|hosts| Entry {
            hosts,
            path: &path,
            methods: &[],
            protection: 0,
            route: Arc::new(()),
        });
        let found: Vec<_> = conflicts(&entries)
            .iter()
            .map(|conflict| (conflict.first, conflict.second))
            .collect();
        // The third would be in conflict with the second alone, and the fifth with the fourth.
        assert_eq!(found, [(0, 1), (3, 3), (0, 5)]);
    }
}

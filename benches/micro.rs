//! What the steps of a request cost, by the size of what an operator configures: none may grow worse than logarithmic.
//! The decision by path is in `denylist.rs`.
//!
//! `cargo bench --bench micro` measures; `cargo bench --bench micro -- --test` runs each once; `benches/scale` counts
//! instructions.

#![expect(clippy::unwrap_used, reason = "a bench fails like a test")]

#[expect(dead_code, reason = "each bench and test uses its part")]
mod scene;

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use http::{HeaderName, Method};
use jotgate::identity::{
    HeaderMap as ClaimHeaders, HeaderMapping, OnUnmappable, ProtectedNames, map_claims,
};
use jotgate::jwks::{Algorithm, KeySet, KeyTable};
use jotgate::route::{Entry, Found, Host, HostPattern, NormalPath, PathPattern, RouteTable};
use jotgate::telemetry::metrics::Metrics;
use jotgate::token::TokenCache;
use scene::{ISSUER, Scene, Verdict, bearer, filled, issuer, key, path, token, token_keys};
use serde_json::{Map, Value, json};

fn main() {
    divan::main();
}

/// What is counted by `benches/scale`, which knows it by this name.
#[inline(never)]
fn counted<T>(step: impl FnOnce() -> T) -> T {
    black_box(step())
}

const ROUTES: [usize; 3] = [10, 1_000, 10_000];

/// A route is its number.
struct Routes(Vec<(Vec<HostPattern>, PathPattern, Vec<Method>)>);

impl Routes {
    fn new(
        number: usize,
        make: impl Fn(usize) -> (Vec<HostPattern>, PathPattern, Vec<Method>),
    ) -> Self {
        Self((0..number).map(make).collect())
    }

    fn table(&self) -> RouteTable<usize> {
        let entries: Vec<_> = self
            .0
            .iter()
            .enumerate()
            .map(|(number, (hosts, path, methods))| Entry {
                hosts,
                path,
                methods,
                protection: 0,
                route: Arc::new(number),
            })
            .collect();
        RouteTable::build(&entries).unwrap()
    }
}

/// Reads host and path as each request does, and finds the route with that number.
fn find(
    bencher: Bencher<'_, '_>,
    table: &RouteTable<usize>,
    request: (&str, &str, &Method),
    expected: Option<usize>,
) {
    let look = || {
        let (host, path, method) = black_box(request);
        let host = Host::parse(host).unwrap();
        let path = NormalPath::parse(path).unwrap();
        match table.find(Some(&host), &path, method).unwrap() {
            Found::Route(route) => Some(**route),
            Found::Nothing => None,
            Found::OtherMethods(methods) => panic!("only {methods:?}"),
        }
    };
    assert_eq!(look(), expected);
    bencher.bench_local(|| counted(look));
}

/// Each route has a host of its own.
#[divan::bench(args = ROUTES)]
fn route_by_host(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        let host = HostPattern::parse(&format!("shop-{n}.example.com")).unwrap();
        (vec![host], PathPattern::prefix("/").unwrap(), vec![])
    });
    let last = number - 1;
    let host = format!("shop-{last}.example.com");
    let request = (host.as_str(), "/orders/17", &Method::GET);
    find(bencher, &routes.table(), request, Some(last));
}

/// Each route has all hosts below one of its own.
#[divan::bench(args = ROUTES)]
fn route_by_wildcard(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        let host = HostPattern::parse(&format!("*.shop-{n}.example.com")).unwrap();
        (vec![host], PathPattern::prefix("/").unwrap(), vec![])
    });
    let last = number - 1;
    let host = format!("eu.shop-{last}.example.com");
    let request = (host.as_str(), "/orders/17", &Method::GET);
    find(bencher, &routes.table(), request, Some(last));
}

/// Prefixes, of which the request's path lies two segments below one.
#[divan::bench(args = ROUTES)]
fn route_by_prefix(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        (
            vec![],
            PathPattern::prefix(&format!("/v1/service-{n}")).unwrap(),
            vec![],
        )
    });
    let last = number - 1;
    let path = format!("/v1/service-{last}/orders/17");
    let request = ("api.example.com", path.as_str(), &Method::GET);
    find(bencher, &routes.table(), request, Some(last));
}

#[divan::bench(args = ROUTES)]
fn route_by_exact_path(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        (
            vec![],
            PathPattern::exact(&format!("/v1/service-{n}")).unwrap(),
            vec![],
        )
    });
    let last = number - 1;
    let path = format!("/v1/service-{last}");
    let request = ("api.example.com", path.as_str(), &Method::GET);
    find(bencher, &routes.table(), request, Some(last));
}

/// Two routes for each path.
#[divan::bench(args = ROUTES)]
fn route_by_method(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        let method = if n % 2 == 0 {
            Method::GET
        } else {
            Method::DELETE
        };
        let path = format!("/v1/service-{}", n / 2);
        (vec![], PathPattern::prefix(&path).unwrap(), vec![method])
    });
    let last = number - 1;
    let path = format!("/v1/service-{}", last / 2);
    let request = ("api.example.com", path.as_str(), &Method::DELETE);
    find(bencher, &routes.table(), request, Some(last));
}

/// No route, no service.
#[divan::bench(args = ROUTES)]
fn route_none(bencher: Bencher<'_, '_>, number: usize) {
    let routes = Routes::new(number, |n| {
        (
            vec![],
            PathPattern::prefix(&format!("/v1/service-{n}")).unwrap(),
            vec![],
        )
    });
    let request = ("api.example.com", "/v2/service-7/orders/17", &Method::GET);
    find(bencher, &routes.table(), request, None);
}

/// So many claims become so many headers. A token in the cache has them ready; this is the first time.
#[divan::bench(args = [1, 5, 30])]
fn headers_from_claims(bencher: Bencher<'_, '_>, number: usize) {
    let map = ClaimHeaders {
        claims: (0..number)
            .map(|n| HeaderMapping {
                header: HeaderName::try_from(format!("x-claim-{n}")).unwrap(),
                claim: path(&format!("claim_{n}")),
            })
            .collect(),
        payload: None,
        on_unmappable: OnUnmappable::Reject,
        size_max: 8 * 1024,
    };
    let claims: Map<String, Value> = (0..number)
        .map(|n| (format!("claim_{n}"), json!(format!("value-{n}"))))
        .collect();
    let claims = Value::Object(claims);
    assert_eq!(map_claims(&map, &claims, "").unwrap().len(), number);
    bencher.bench_local(|| counted(|| map_claims(&map, black_box(&claims), "")));
}

/// The header lines of a browser's request, of which none is forged, by the number of names that a client must not send.
#[divan::bench(args = [1, 30, 300])]
fn protected_names(bencher: Bencher<'_, '_>, number: usize) {
    let names: Vec<_> = (0..number)
        .map(|n| HeaderName::try_from(format!("x-claim-{n}")).unwrap())
        .collect();
    let protected = ProtectedNames::new(&names);
    let lines = [
        "accept",
        "accept-encoding",
        "accept-language",
        "cookie",
        "host",
        "referer",
        "user-agent",
        "x-claims",
        "x-request-id",
    ]
    .map(HeaderName::from_static);
    let look = || {
        lines
            .iter()
            .filter(|line| protected.covers(black_box(line)))
            .count()
    };
    assert_eq!(look(), 0);
    assert!(protected.covers(&HeaderName::from_static("x_claim_0")));
    bencher.bench_local(|| counted(look));
}

/// Six look-ups for a token that nothing denies.
#[divan::bench(args = [0, 100_000, 10_000_000])]
fn denylist(bencher: Bencher<'_, '_>, entries: usize) {
    let entries = if is_test() {
        entries.min(1000)
    } else {
        entries
    };
    let (index, _writer) = filled(entries);
    let keys = token_keys(1);
    let look = || index.check(black_box(&keys));
    assert_eq!(look(), None);
    bencher.bench_local(|| counted(look));
}

/// A token of 500 bytes among so many in the cache.
#[divan::bench(args = [10, 1_000, 100_000])]
fn token_cache(bencher: Bencher<'_, '_>, number: usize) {
    let number = if is_test() { number.min(100) } else { number };
    let cache = TokenCache::new(1024 * 1024 * 1024, |(): &()| 0);
    let text = |n: usize| format!("{n:0500}");
    for n in 0..number {
        cache.remember(&text(n), Arc::new(()));
    }
    let last = text(number - 1);
    let look = || cache.find(black_box(&last)).is_some();
    assert!(look());
    bencher.bench_local(|| counted(look));
}

/// Taking a place for a request and giving it back, as `max_requests` is counted: by one number that all workers share. With
/// two, each change waits for the other processor; a request has one of these, and takes some 15 µs.
#[divan::bench(threads = [1, 2])]
fn place_of_a_request(bencher: Bencher<'_, '_>) {
    let requests = Metrics::new().requests.with_label_values(&["listener"]);
    bencher.bench(|| {
        requests.inc();
        let is_free = requests.get() <= black_box(16_384);
        requests.dec();
        assert!(is_free);
    });
}

/// `--test` shows that it runs; to make what is large takes some seconds.
fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// So many issuers on one route. The token's is found by name, and the key is not known: no signature is checked.
#[divan::bench(args = [1, 100, 5_000])]
fn issuer_choice(bencher: Bencher<'_, '_>, number: usize) {
    let mut scene = Scene::new(10);
    let (keys, _writer) = KeyTable::new();
    let others =
        (1..number).map(|n| issuer(&format!("https://id-{n}.example.com"), n + 1, keys.clone()));
    let ours = scene.access.issuers.find(ISSUER).unwrap().clone();
    scene.access.issuers = others.chain([ours]).collect();
    assert_eq!(scene.access.issuers.iter().count(), number);
    // A good one passes, so it is the issuer that is found.
    let good = token(Algorithm::RS256, 0);
    assert_eq!(scene.verdict(&bearer(&good.sign())), Ok(()));
    let request = bearer(&good.header("kid", "other").sign());
    assert_eq!(scene.verdict(&request), Err(Verdict::KeyUnknown));
    bencher.bench_local(|| counted(|| scene.verdict(black_box(&request))));
}

/// The keys that may have signed a token, by its `kid`, of so many in the set.
#[divan::bench(args = [1, 10, 100])]
fn key_choice(bencher: Bencher<'_, '_>, number: usize) {
    let kid = |n: usize| format!("key-{n}");
    let keys: Vec<Value> = (0..number)
        .map(|n| {
            let mut jwk = key(Algorithm::ES256, 0).jwk();
            jwk["kid"] = kid(n).into();
            jwk
        })
        .collect();
    let set = KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap();
    assert_eq!(set.keys().len(), number);
    let last = kid(number - 1);
    let look = || {
        set.candidates(Some(black_box(&last)), Algorithm::ES256)
            .next()
            .is_some()
    };
    assert!(look());
    bencher.bench_local(|| counted(look));
}

/// The decision on tokens that are all in the cache, by their number; each is asked about in turn, so that the
/// processor's own cache holds no more of them than in life.
#[divan::bench(args = [10, 10_000, 100_000])]
fn cached_tokens(bencher: Bencher<'_, '_>, number: usize) {
    let number = if is_test() { number.min(100) } else { number };
    let mut scene = Scene::new(10);
    // Room for all: some 3 KiB each.
    scene.tables.tokens = TokenCache::new(1024 * 1024 * 1024, jotgate::authorize::Bearer::weight);
    let requests: Vec<_> = (0..number as u64)
        .map(|n| bearer(&token(Algorithm::EdDSA, n).sign()))
        .collect();
    for request in &requests {
        assert_eq!(scene.verdict(request), Ok(()));
    }
    let mut next = requests.iter().cycle();
    bencher
        .with_inputs(|| next.next().unwrap())
        .bench_local_values(|request| {
            assert!(counted(|| scene.verdict(black_box(request))).is_ok());
        });
}

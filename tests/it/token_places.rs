//! Where a token is looked for, and that there is exactly one.

use crate::support::client::Request;
use crate::support::raw;
use crate::support::{Gateway, Issuer, Setup, Upstream};

struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    token: String,
    other: String,
}

async fn scene(token_table: &str) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream);
    let setup = if token_table.is_empty() {
        setup
    } else {
        setup.catch_all(format!("token = {{ {token_table} }}"))
    };
    Scene {
        gateway: setup.start().await,
        token: issuer.token("alice").sign(),
        other: issuer.token("bob").sign(),
        upstream,
    }
}

impl Scene {
    fn get(&self, target: &str) -> Request {
        self.gateway.get(target)
    }

    /// Sends the request; what passes must reach the service as alice's, what does not must not reach it.
    #[track_caller]
    fn expect(&self, request: Request, verdict: &'static str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let before = self.upstream.count();
            assert_eq!(request.await.verdict(), verdict, "{place}");
            let arrived = self.upstream.count() - before;
            if verdict == "200" {
                assert_eq!(arrived, 1, "{place}");
                let user = self.upstream.last().header("x-user-id");
                assert_eq!(user.as_deref(), Some("alice"), "{place}");
            } else {
                assert_eq!(arrived, 0, "{place}: it reached the service");
            }
        }
    }
}

#[tokio::test]
async fn the_authorization_header_holds_one_bearer_token() {
    let scene = scene("").await;
    let token = &scene.token;
    let with = |value: String| scene.get("/").header("authorization", value);
    scene.expect(with(format!("Bearer {token}")), "200").await;
    for scheme in ["bearer", "BEARER", "bEaReR"] {
        scene.expect(with(format!("{scheme} {token}")), "200").await;
    }
    // RFC 9110 section 11.4 allows more than one blank after the scheme.
    scene.expect(with(format!("Bearer   {token}")), "200").await;
    for (value, verdict) in [
        ("Bearer", "401 invalid_token"),
        ("Bearer ", "401 invalid_token"),
        ("Bearer null", "401 invalid_token"),
        ("Bearer undefined", "401 invalid_token"),
    ] {
        scene.expect(with(value.to_owned()), verdict).await;
    }
    for value in [
        "Basic YWxpY2U6eA==",
        "Digest username=\"alice\"",
        "Negotiate AAAA",
        "DPoP",
        "",
    ] {
        scene.expect(with(value.to_owned()), "401 no_token").await;
    }
    scene.expect(with(token.clone()), "401 no_token").await;
    scene
        .expect(with(format!("Bearer{token}")), "401 no_token")
        .await;
    scene
        .expect(with(format!("DPoP {token}")), "401 no_token")
        .await;
    scene
        .expect(with(format!("Token {token}")), "401 no_token")
        .await;
    for value in [
        format!("Bearer\t{token}"),
        format!("Bearer {token} {token}"),
        format!("Bearer {token},"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer \"{token}\""),
        format!("Bearer token={token}"),
        format!("Bearer Bearer {token}"),
    ] {
        let answer = with(value.clone()).await;
        assert_eq!(answer.status(), 401, "{value}: {answer:?}");
    }
    scene.expect(scene.get("/"), "401 no_token").await;
    assert_eq!(scene.upstream.count(), 5);
}

#[tokio::test]
async fn what_only_lenient_services_take_for_a_token_is_a_bad_one() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"optional\"")
        .start()
        .await;
    for value in [
        "Basic YTpi, Bearer x.y.z",
        "Basic YTpi,bearer x.y.z",
        "Basic YTpi; Bearer=x.y.z",
        "Negotiate\tBEARER\tx.y.z",
        ",Bearer x.y.z",
        "Bearer: x.y.z",
        "\"Bearer x.y.z\"",
        "Bearer\tx.y.z",
        "Basic caf\u{e9} Bearer x.y.z",
    ] {
        let answer = gateway.get("/").header("authorization", value).await;
        assert_eq!(answer.verdict(), "401 invalid_token", "{value}");
    }
    assert_eq!(upstream.count(), 0);
    let basic = gateway.get("/").header("authorization", "Basic YTpi").await;
    assert_eq!(
        (basic.status(), upstream.count()),
        (200, 1),
        "another scheme"
    );
}

#[tokio::test]
async fn two_authorization_headers_are_an_error() {
    let scene = scene("").await;
    let (token, other) = (&scene.token, &scene.other);
    let two = |first: &str, second: &str| {
        scene
            .get("/")
            .header("authorization", first)
            .header("authorization", second)
    };
    let (alice, bob) = (&format!("Bearer {token}"), &format!("Bearer {other}"));
    scene.expect(two(alice, bob), "400 token_ambiguous").await;
    scene.expect(two(alice, alice), "400 token_ambiguous").await;
    scene
        .expect(two(alice, "Basic YTpi"), "400 token_ambiguous")
        .await;
    scene
        .expect(two("Basic YTpi", alice), "400 token_ambiguous")
        .await;
    scene.expect(two("", alice), "400 token_ambiguous").await;
    scene
        .expect(two(alice, bob).h2(), "400 token_ambiguous")
        .await;
    let one = format!("authorization: {alice}\r\nAUTHORIZATION: {bob}\r\n");
    let bytes = format!("GET / HTTP/1.1\r\nhost: shop\r\n{one}connection: close\r\n\r\n");
    let answer = raw::exchange(scene.gateway.address(), bytes).await;
    assert_eq!(raw::status(&answer), 400, "{answer}");
    scene.expect(scene.get("/").bearer(token), "200").await;
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn another_header_holds_the_bare_token_or_a_bearer_token() {
    let scene = scene(r#"header = "x-token""#).await;
    let token = &scene.token;
    let with = |value: String| scene.get("/").header("x-token", value);
    scene.expect(with(token.clone()), "200").await;
    assert_eq!(
        scene.upstream.last().header("x-token"),
        None,
        "the service does not see it"
    );
    scene.expect(with(format!("Bearer {token}")), "200").await;
    scene.expect(with(format!("bearer {token}")), "200").await;
    scene.expect(with(String::new()), "401 invalid_token").await;
    scene
        .expect(with(format!("Basic {token}")), "401 invalid_token")
        .await;
    scene
        .expect(
            with(token.clone()).header("x-token", token),
            "400 token_ambiguous",
        )
        .await;
    // No longer looked at, because another place is named.
    scene
        .expect(scene.get("/").bearer(token), "401 no_token")
        .await;
    scene
        .expect(
            with(token.clone()).header("authorization", "Basic YTpi"),
            "200",
        )
        .await;
    let seen = scene.upstream.last();
    assert_eq!(
        seen.header("authorization").as_deref(),
        Some("Basic YTpi"),
        "it is no token of ours"
    );
}

#[tokio::test]
async fn a_cookie_holds_the_token() {
    let scene = scene(r#"cookie = "session""#).await;
    let (token, other) = (&scene.token, &scene.other);
    let with = |value: String| scene.get("/").header("cookie", value);
    scene.expect(with(format!("session={token}")), "200").await;
    assert_eq!(
        scene.upstream.last().header("cookie"),
        None,
        "nothing is left of it"
    );
    scene
        .expect(with(format!("a=1; session={token}; b=2")), "200")
        .await;
    let cookie = scene.upstream.last().header("cookie");
    assert_eq!(cookie.as_deref(), Some("a=1; b=2"), "the others arrive");
    scene
        .expect(with(format!("a=1;session={token}")), "200")
        .await;
    // Quotes belong to a cookie's value (RFC 6265 section 4.1.1), and to no token.
    scene
        .expect(with(format!("session=\"{token}\"")), "401 invalid_token")
        .await;
    // HTTP/2 may send each cookie on a line of its own (RFC 9113 section 8.2.3).
    let lines = |request: Request| {
        request
            .header("cookie", "a=1")
            .header("cookie", format!("session={token}"))
            .header("cookie", "b=2")
    };
    scene.expect(lines(scene.get("/").h2()), "200").await;
    assert!(!format!("{:?}", scene.upstream.last().headers).contains(&**token));
    scene.expect(lines(scene.get("/")), "200").await;
    for (first, second) in [(token, other), (token, token), (other, token)] {
        let twice = format!("session={first}; session={second}");
        scene.expect(with(twice), "400 token_ambiguous").await;
        let lines = with(format!("session={first}")).header("cookie", format!("session={second}"));
        scene.expect(lines, "400 token_ambiguous").await;
    }
    scene
        .expect(with("session=".to_owned()), "401 invalid_token")
        .await;
    scene
        .expect(with("session=x".to_owned()), "401 invalid_token")
        .await;
    for other in [
        "",
        "a=1",
        "session",
        "Session=x",
        "sessions=x",
        "xsession=x",
        "a=session=x",
    ] {
        scene.expect(with(other.to_owned()), "401 no_token").await;
    }
    assert_eq!(scene.upstream.count(), 5);
}

#[tokio::test]
async fn a_query_parameter_holds_the_token_and_never_arrives() {
    let scene = scene(r#"query = "access_token""#).await;
    let (token, other) = (&scene.token, &scene.other);
    for (query, left) in [
        (format!("access_token={token}"), "/orders"),
        (format!("a=1&access_token={token}"), "/orders?a=1"),
        (format!("access_token={token}&b=%20+&b"), "/orders?b=%20+&b"),
        (format!("a=1&access_token={token}&b=2"), "/orders?a=1&b=2"),
        (format!("access%5Ftoken={token}"), "/orders"),
    ] {
        scene
            .expect(scene.get(&format!("/orders?{query}")), "200")
            .await;
        assert_eq!(scene.upstream.last().target, left, "of {query}");
    }
    for query in [
        format!("access_token={token}&access_token={other}"),
        format!("access_token={token}&access_token={token}"),
        format!("access_token={token}&access%5ftoken={other}"),
    ] {
        scene
            .expect(
                scene.get(&format!("/orders?{query}")),
                "400 token_ambiguous",
            )
            .await;
    }
    scene
        .expect(scene.get("/orders?access_token="), "401 invalid_token")
        .await;
    scene
        .expect(scene.get("/orders?Access_token=x&token=y"), "401 no_token")
        .await;
    assert_eq!(scene.upstream.count(), 5);
}

#[tokio::test]
async fn a_token_in_two_places_is_an_error() {
    let scene =
        scene(r#"authorization = true, cookie = "session", query = "t", header = "x-token""#).await;
    let (token, other) = (&scene.token, &scene.other);
    let cookie = format!("session={token}");
    scene.expect(scene.get("/").bearer(token), "200").await;
    scene
        .expect(scene.get("/").header("cookie", &cookie), "200")
        .await;
    scene
        .expect(scene.get(&format!("/?t={token}")), "200")
        .await;
    scene
        .expect(scene.get("/").header("x-token", token), "200")
        .await;
    for request in [
        scene.get("/").bearer(token).header("cookie", &cookie),
        scene.get("/").bearer(other).header("cookie", &cookie),
        scene.get(&format!("/?t={token}")).bearer(other),
        scene.get(&format!("/?t={token}")).header("cookie", &cookie),
        scene.get("/").header("x-token", token).bearer(token),
        scene.get("/").bearer(token).header("cookie", "session=x"),
    ] {
        scene.expect(request, "400 token_ambiguous").await;
    }
    assert_eq!(scene.upstream.count(), 4);
}

#[tokio::test]
async fn the_service_sees_the_token_only_when_the_route_says_so() {
    let hidden = scene("").await;
    hidden
        .expect(hidden.get("/").bearer(&hidden.token), "200")
        .await;
    assert_eq!(hidden.upstream.last().header("authorization"), None);
    let shown = scene("authorization = true, query = \"t\", cookie = \"c\", forward = true").await;
    let token = &shown.token;
    shown.expect(shown.get("/").bearer(token), "200").await;
    let seen = shown.upstream.last().header("authorization");
    assert_eq!(seen, Some(format!("Bearer {token}")));
    shown
        .expect(shown.get(&format!("/?t={token}&u=1")), "200")
        .await;
    assert_eq!(shown.upstream.last().target, format!("/?t={token}&u=1"));
    shown
        .expect(shown.get("/").header("cookie", format!("c={token}")), "200")
        .await;
    assert_eq!(
        shown.upstream.last().header("cookie"),
        Some(format!("c={token}"))
    );
}

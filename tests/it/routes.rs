//! Host, path and method choose the route; the service gets the very path that was matched, and nothing without a route.

use jotgate::jwks::Algorithm;

use crate::support::keys::key;
use crate::support::raw;
use crate::support::{Gateway, Issuer, Setup, Upstream};

#[tokio::test]
async fn without_a_route_there_is_no_service() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .no_catch_all()
        .route("hosts = [\"shop.example\"]\npath = \"/api\"\nauth = \"public\"")
        .route("hosts = [\"shop.example\"]\npath_exact = \"/health\"\nauth = \"public\"")
        .start()
        .await;
    for (host, path, verdict) in [
        ("shop.example", "/api", "200"),
        ("shop.example", "/api/", "200"),
        ("shop.example", "/api/x?y", "200"),
        ("SHOP.Example:8443", "/api", "200"),
        ("shop.example.", "/api", "200"),
        ("shop.example", "/health", "200"),
        ("shop.example", "/health/", "404 no_route"),
        ("shop.example", "/health/x", "404 no_route"),
        ("shop.example", "/apis", "404 no_route"),
        ("shop.example", "/", "404 no_route"),
        ("other.example", "/api", "404 no_route"),
        ("x.shop.example", "/api", "404 no_route"),
        ("shop.example.evil.example", "/api", "404 no_route"),
    ] {
        for request in [gateway.get(path), gateway.get(path).h2()] {
            let before = upstream.count();
            assert_eq!(request.host(host).await.verdict(), verdict, "{host}{path}");
            let arrived = upstream.count() - before;
            assert_eq!(arrived, usize::from(verdict == "200"), "{host}{path}");
        }
    }
    assert_eq!(upstream.last().target, "/health");
}

#[tokio::test]
async fn the_most_specific_route_wins() {
    let (issuer, general) = (Issuer::start().await, Upstream::start().await);
    let special = Upstream::start().await;
    let route = |text: &str| {
        format!(
            "{text}\nupstream = \"{}\"\nauth = \"public\"",
            special.url()
        )
    };
    let gateway = Setup::new(&issuer, &general)
        .catch_all("auth = \"public\"")
        .route(route("path = \"/a/b\""))
        .route(route("path_exact = \"/exact\""))
        .route(route("hosts = [\"*.eu.example\"]\npath = \"/\""))
        .route(route("path = \"/posts\"\nmethods = [\"POST\"]"))
        .start()
        .await;
    for (method, host, path, is_special) in [
        ("GET", "x", "/a/b", true),
        ("GET", "x", "/a/b/c", true),
        ("GET", "x", "/a/bc", false),
        ("GET", "x", "/a", false),
        ("GET", "x", "/exact", true),
        ("GET", "x", "/exact/", false),
        ("GET", "shop.eu.example", "/z", true),
        ("GET", "a.b.eu.example", "/z", true),
        ("GET", "eu.example", "/z", false),
        ("POST", "x", "/posts", true),
    ] {
        let (before, other) = (special.count(), general.count());
        let answer = gateway.request(method, path).host(host).await;
        assert_eq!(answer.status(), 200, "{method} {host}{path}");
        let arrived = (special.count() - before, general.count() - other);
        let expected = if is_special { (1, 0) } else { (0, 1) };
        assert_eq!(arrived, expected, "{method} {host}{path}");
    }
}

#[tokio::test]
async fn another_method_is_told_which_are_allowed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .no_catch_all()
        .route("path = \"/orders\"\nmethods = [\"GET\", \"POST\"]")
        .start()
        .await;
    let answer = gateway.request("DELETE", "/orders").await;
    assert_eq!(answer.verdict(), "405 method_not_allowed");
    let mut allow: Vec<&str> = answer
        .header("allow")
        .expect("Allow")
        .split(',')
        .map(str::trim)
        .collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "POST"]);
    assert_eq!(
        gateway.request("get", "/orders").await.status(),
        405,
        "methods have a case"
    );
    let token = issuer.token("alice").sign();
    assert_eq!(gateway.post("/orders").bearer(&token).await.status(), 200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn trace_and_connect_never_pass() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    for head in [
        "TRACE / HTTP/1.1\r\nhost: shop",
        "CONNECT shop.example:443 HTTP/1.1\r\nhost: shop.example:443",
        "CONNECT / HTTP/1.1\r\nhost: shop",
    ] {
        let answer = raw::exchange(
            gateway.address(),
            format!("{head}\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert!(
            (400..600).contains(&raw::status(&answer)),
            "{head}: {answer}"
        );
    }
    assert_eq!(gateway.request("TRACE", "/").h2().await.status(), 405);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn the_service_gets_the_path_that_was_matched() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    for (sent, arrives) in [
        ("/a/b?c=d&e=%2F..%2f&%zz", "/a/b?c=d&e=%2F..%2f&%zz"),
        ("/a//b///c", "/a/b/c"),
        ("/%61%2d%7e", "/a-~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a/?", "/a/?"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a+b@c:d", "/a+b@c:d"),
    ] {
        for request in [gateway.get(sent), gateway.get(sent).h2()] {
            assert_eq!(request.await.status(), 200, "{sent}");
            assert_eq!(upstream.last().target, arrives, "{sent}");
        }
    }
    assert_eq!(upstream.count(), 14);
}

#[tokio::test]
async fn a_path_with_two_readings_is_refused() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    for path in [
        "/a/../b",
        "/a/..",
        "/./a",
        "/a/.",
        "/a/%2e%2e/b",
        "/a/%2E./b",
        "/a/..%2fb",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%00b",
        "/a%0ab",
        "/a%7fb",
        "/a%252e%252e/b",
        "/a%252fb",
        "/..;/a",
        "/a/..;x/b",
        "/a%",
        "/a%2",
        "/a%zz",
        "/%c0%ae%c0%ae/a",
        "/%ff",
        "/a\\b",
        "/a/%2e;/b",
    ] {
        let answer = raw::exchange(
            gateway.address(),
            format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(raw::status(&answer), 400, "{path}: {answer}");
    }
    for path in ["/a/../b", "/a%2fb", "/a%00b", "/a%252e%252e/b"] {
        for request in [gateway.get(path), gateway.get(path).h2()] {
            assert_eq!(request.await.verdict(), "400 path_ambiguous", "{path}");
        }
    }
    let long = format!("/{}", "a".repeat(9000));
    assert!((400..500).contains(&gateway.get(&long).await.status()));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_lenient_service_cannot_be_led_across_a_protection() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .route("path = \"/admin\"\nscopes = [\"admin\"]")
        .start()
        .await;
    for path in [
        "/Admin",
        "/ADMIN/users",
        "/admin;x/users",
        "/admin;x",
        "/%41dmin",
        "/admin%3bx",
        "/x/..;/admin",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.verdict(), "400 path_ambiguous", "{path}");
    }
    assert_eq!(gateway.get("/%61dmin").await.verdict(), "401 no_token");
    assert_eq!(gateway.get("//admin").await.verdict(), "401 no_token");
    let admin = issuer.token("alice").scope("admin").sign();
    assert_eq!(gateway.get("/%61dmin").bearer(&admin).await.status(), 200);
    assert_eq!((upstream.count(), &*upstream.last().target), (1, "/admin"));
}

#[tokio::test]
async fn there_is_exactly_one_valid_host() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    let send = async |line: &str, hosts: &str| {
        let bytes = format!("GET {line} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        raw::exchange(gateway.address(), bytes).await
    };
    for hosts in [
        "",
        "host: a\r\nhost: a\r\n",
        "host: a\r\nHost: b\r\n",
        "host: a b\r\n",
        "host: a,b\r\n",
        "host: user@a\r\n",
        "host: a/b\r\n",
        "host: a:x\r\n",
        "host: a:70000\r\n",
        "host: [::1\r\n",
        "host: a..b\r\n",
        "host: a%2eb\r\n",
        "host: caf\u{e9}\r\n",
        "host: a#b\r\n",
        "host:\r\n",
    ] {
        let answer = send("/", hosts).await;
        assert_eq!(raw::status(&answer), 400, "{hosts:?}: {answer}");
    }
    let answer = send("/", "host: a b\r\n").await;
    assert!(
        answer.contains("\"host_invalid\"") || answer.contains("\"bad_request\""),
        "{answer}"
    );
    assert_eq!(upstream.count(), 0);
    assert_eq!(raw::status(&send("/", "host: [::1]:80\r\n").await), 200);
    assert_eq!(
        raw::status(&send("http://shop.example/x?y", "host: other.example\r\n").await),
        200
    );
    let seen = upstream.last();
    assert_eq!(
        (&*seen.authority, &*seen.target),
        ("shop.example", "/x?y"),
        "absolute-form replaces Host"
    );
    assert_eq!(raw::status(&send("x", "host: a\r\n").await), 400);
    assert_eq!(raw::status(&send("*", "host: a\r\n").await), 400);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn over_http2_host_and_authority_must_agree() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .start()
        .await;
    let get = || gateway.get("/").h2().host("shop.example");
    assert_eq!(get().header("host", "shop.example").await.status(), 200);
    for other in ["evil.example", "shop.example, evil.example", ""] {
        assert_eq!(get().header("host", other).await.status(), 400, "{other:?}");
    }
    assert_eq!(
        (upstream.count(), &*upstream.last().authority),
        (1, "shop.example")
    );
}

#[tokio::test]
async fn a_route_takes_only_its_own_issuers() {
    let staff = Issuer::start().await;
    let customers = Issuer::with_key(key(Algorithm::ES256, 2)).await;
    let upstream = Upstream::start().await;
    let gateway = Setup::at(staff.url(), &upstream.url())
        .and_issuer("customers", customers.url())
        .route("path = \"/admin\"\nissuers = [\"main\"]")
        .route("path = \"/shop\"\nissuers = [\"customers\"]")
        .start()
        .await;
    let (by_staff, by_customers) = (staff.token("alice").sign(), customers.token("bob").sign());
    for (path, token, verdict) in [
        ("/", &by_staff, "200"),
        ("/", &by_customers, "200"),
        ("/admin", &by_staff, "200"),
        ("/admin", &by_customers, "401 invalid_token"),
        ("/shop", &by_staff, "401 invalid_token"),
        ("/shop", &by_customers, "200"),
        // Cached by now, and still not for this route.
        ("/admin", &by_customers, "401 invalid_token"),
    ] {
        assert_eq!(
            gateway.get(path).bearer(token).await.verdict(),
            verdict,
            "{path}"
        );
    }
    assert_eq!(upstream.count(), 4);
    // One issuer's key signs nothing for the other.
    let crossed = customers.token("eve").claim("iss", staff.url()).sign();
    let renamed = customers
        .token("eve")
        .claim("iss", staff.url())
        .header("kid", "ES256-1")
        .sign();
    for token in [crossed, renamed] {
        assert_eq!(
            gateway.get("/").bearer(&token).await.verdict(),
            "401 invalid_token"
        );
    }
    assert_eq!(upstream.count(), 4);
}

async fn with_requirement(line: &str) -> (Issuer, Upstream, Gateway) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream).catch_all(line).start().await;
    (issuer, upstream, gateway)
}

#[tokio::test]
async fn every_scope_is_asked() {
    let (issuer, upstream, gateway) =
        with_requirement("scopes = [\"orders:read\", \"orders:write\"]").await;
    for (scope, verdict) in [
        ("orders:read orders:write", "200"),
        ("x orders:write y orders:read", "200"),
        ("orders:read", "403 insufficient_scope"),
        ("orders:readorders:write", "403 insufficient_scope"),
        ("orders:read,orders:write", "403 insufficient_scope"),
        ("Orders:Read Orders:Write", "403 insufficient_scope"),
        ("", "403 insufficient_scope"),
    ] {
        let token = issuer.token("alice").scope(scope).sign();
        assert_eq!(
            gateway.get("/").bearer(&token).await.verdict(),
            verdict,
            "{scope}"
        );
    }
    let listed = issuer
        .token("alice")
        .claim("scp", vec!["orders:write", "orders:read"])
        .sign();
    assert_eq!(gateway.get("/").bearer(&listed).await.verdict(), "200");
    let none = issuer.token("alice").sign();
    assert_eq!(
        gateway.get("/").bearer(&none).await.verdict(),
        "403 insufficient_scope"
    );
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn one_scope_of_several_is_enough_where_the_route_says_so() {
    let (issuer, upstream, gateway) = with_requirement("any_scope = [\"a\", \"b\"]").await;
    for (scope, verdict) in [
        ("a", "200"),
        ("c b", "200"),
        ("c", "403 insufficient_scope"),
    ] {
        let token = issuer.token("alice").scope(scope).sign();
        assert_eq!(
            gateway.get("/").bearer(&token).await.verdict(),
            verdict,
            "{scope}"
        );
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn claims_are_compared_as_json() {
    let (issuer, upstream, gateway) = with_requirement(
        "claims = { \"realm_access.roles\" = [\"admin\", \"ops\"], level = 3, mfa = true }",
    )
    .await;
    let good = issuer
        .token("alice")
        .claim(
            "realm_access",
            serde_json::json!({"roles": ["user", "ops"]}),
        )
        .claim("level", 3)
        .claim("mfa", true);
    let roles = |value: serde_json::Value| {
        good.clone()
            .claim("realm_access", serde_json::json!({"roles": value}))
    };
    for (token, verdict) in [
        (good.clone(), "200"),
        (roles("admin".into()), "200"),
        (roles("user".into()), "403 insufficient_claims"),
        (roles("admin ops".into()), "403 insufficient_claims"),
        (
            roles(serde_json::json!([["admin"]])),
            "403 insufficient_claims",
        ),
        (
            good.clone().without("realm_access"),
            "403 insufficient_claims",
        ),
        (good.clone().claim("level", "3"), "403 insufficient_claims"),
        (good.clone().claim("level", 4), "403 insufficient_claims"),
        (good.clone().claim("mfa", "true"), "403 insufficient_claims"),
        (good.clone().claim("mfa", false), "403 insufficient_claims"),
        (good.clone().without("mfa"), "403 insufficient_claims"),
    ] {
        let answer = gateway.get("/").bearer(&token.sign()).await;
        assert_eq!(answer.verdict(), verdict, "{}", token.payload_text());
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_optional_route_takes_a_good_token_or_none() {
    let (issuer, upstream, gateway) = with_requirement("auth = \"optional\"").await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(upstream.last().header("x-user-id"), None);
    assert_eq!(
        gateway
            .get("/")
            .bearer(&issuer.token("alice").sign())
            .await
            .status(),
        200
    );
    assert_eq!(
        upstream.last().header("x-user-id").as_deref(),
        Some("alice")
    );
    assert_eq!(
        gateway.get("/").bearer("x.y.z").await.verdict(),
        "401 invalid_token"
    );
    let expired = issuer.token("alice").issued(1_700_000_000).sign();
    assert_eq!(
        gateway.get("/").bearer(&expired).await.verdict(),
        "401 token_expired"
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_public_route_does_not_look_at_tokens() {
    let (issuer, upstream, gateway) = with_requirement("auth = \"public\"").await;
    for request in [
        gateway.get("/"),
        gateway.get("/").bearer("x"),
        gateway.get("/").bearer(&issuer.token("alice").sign()),
    ] {
        assert_eq!(request.await.status(), 200);
        assert_eq!(upstream.last().header("x-user-id"), None);
    }
    assert_eq!(upstream.count(), 3);
}

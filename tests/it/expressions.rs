//! Expressions of routes: claims in comparison with each other and with the request.

use jotgate::base::clock::Clock;
use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::{Issuer, Setup, Upstream, process, raw};

const TENANT: &str =
    r#"expression = "claims.tenant == request.headers['x-tenant'] && 'admin' in claims.roles""#;

async fn scene(lines: &str) -> (Issuer, Upstream, Gateway) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream).claim_header("x-plan", "plan");
    let gateway = setup.catch_all(lines).start().await;
    (issuer, upstream, gateway)
}

fn token(issuer: &Issuer, tenant: &str) -> String {
    let roles = json!(["user", "admin"]);
    let token = issuer.token("alice").claim("tenant", tenant);
    token.claim("roles", roles).claim("plan", "gold").sign()
}

#[tokio::test]
async fn a_request_passes_when_claims_and_request_go_together() {
    let (issuer, upstream, gateway) = scene(TENANT).await;
    let token = token(&issuer, "shop");
    let get = || gateway.get("/orders").bearer(&token);
    // The second time the token is known, and asked all the same.
    for _ in 0..2 {
        let good = get().header("x-tenant", "shop").await;
        assert_eq!(good.verdict(), "200");
        let other = get().header("x-tenant", "bank").await;
        assert_eq!(other.verdict(), "403 insufficient_claims");
        assert_eq!(get().await.verdict(), "403 insufficient_claims");
    }
    let twice = get().header("x-tenant", "shop").header("x-tenant", "shop");
    assert_eq!(twice.await.verdict(), "403 insufficient_claims");
    let nobody = issuer.token("bob").claim("tenant", "shop").sign();
    let nobody = gateway.get("/").bearer(&nobody).header("x-tenant", "shop");
    assert_eq!(nobody.await.verdict(), "403 insufficient_claims");
    let counts = gateway.all_decisions().await;
    assert_eq!((counts["ok"], counts["expression_false"]), (2, 2));
    assert_eq!(counts["expression_failed"], 4);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn headers_that_the_service_does_not_see_are_not_there() {
    let (issuer, upstream, gateway) = scene(TENANT).await;
    let token = token(&issuer, "shop");
    let head = |more: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nX-Tenant: shop\r\n{more}\r\n"
        )
    };
    let hidden = "Connection: close, x-tenant\r\n";
    assert_eq!(
        raw::status(&raw::exchange(gateway.address(), head(hidden)).await),
        403
    );
    let plain = "Connection: close\r\n";
    assert_eq!(
        raw::status(&raw::exchange(gateway.address(), head(plain)).await),
        200
    );
    assert_eq!(upstream.last().header("x-tenant").as_deref(), Some("shop"));
    drop(gateway);

    // An identity header is the gateway's, whatever the client writes.
    let (issuer, upstream, gateway) =
        scene(r#"expression = "request.headers['x-plan'] == 'gold'""#).await;
    let forged = gateway
        .get("/")
        .bearer(&self::token(&issuer, "shop"))
        .header("x-plan", "gold");
    assert_eq!(forged.await.verdict(), "403 insufficient_claims");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn method_path_and_host_are_those_that_were_matched() {
    let (issuer, upstream, gateway) = scene(
        r#"expression = """
request.method == 'GET' && request.path.startsWith('/t/')
&& request.host == 'shop.example.com'""""#,
    )
    .await;
    let token = token(&issuer, "shop");
    let verdict = async |method: &str, path: &str, host: &str| {
        let request = gateway.request(method, path).bearer(&token).host(host);
        request.await.verdict()
    };
    assert_eq!(verdict("GET", "/%74/1", "Shop.Example.com:80").await, "200");
    let refused = "403 insufficient_claims";
    assert_eq!(verdict("POST", "/t/1", "shop.example.com").await, refused);
    assert_eq!(verdict("GET", "/u/1", "shop.example.com").await, refused);
    assert_eq!(verdict("GET", "/t/1", "other.example.com").await, refused);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn scopes_are_asked_first_and_strangers_of_an_optional_route_are_not_asked() {
    let lines = format!("auth = \"optional\"\nscopes = [\"orders\"]\n{TENANT}");
    let (issuer, upstream, gateway) = scene(&lines).await;
    assert_eq!(gateway.get("/").await.verdict(), "200", "a stranger");
    let token = token(&issuer, "shop");
    let bearer = gateway.get("/").bearer(&token).header("x-tenant", "shop");
    assert_eq!(bearer.await.verdict(), "403 insufficient_scope");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn check_shows_it_and_explain_tries_it_out() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream).catch_all(TENANT);
    let (_folder, file) = process::config_file(&setup.text());
    let run = async |args: &[&str]| {
        let args = [&args[..1], &["--config", process::text(&file)], &args[1..]].concat();
        let finished = process::run(&args, setup.environment()).await;
        (finished.status.code(), finished.stdout + &finished.stderr)
    };
    let (code, said) = run(&["check"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("if (claims.tenant == "), "{said}");
    let token = issuer.token("alice").issued(Clock::system().now().0);
    let token = token
        .claim("tenant", "shop")
        .claim("roles", json!(["admin"]))
        .sign();
    let explain = async |header: &str| {
        run(&[
            "explain",
            "--token",
            &token,
            "--request",
            "GET /",
            "--header",
            header,
        ])
        .await
    };
    let (code, said) = explain("X-Tenant: shop").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("claims.tenant == "), "{said}");
    let (code, said) = explain("X-Tenant: bank").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("403 expression_false"), "{said}");
    let (_, said) = explain("X-Other: shop").await;
    assert!(said.contains("403 expression_failed"), "{said}");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn explain_reads_a_request_as_the_gateway_does() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let route = |methods: &str, name: &str, expression: &str| {
        format!("name = \"{methods}\"\npath = \"/{name}\"\nmethods = [\"{methods}\"]\n{expression}")
    };
    let tells = |name: &str| format!("expression = \"request.headers['{name}'] == 'shop'\"");
    let setup = Setup::new(&issuer, &upstream)
        .catch_all(tells("x-tenant"))
        .route(format!(
            "name = \"proxied\"\npath = \"/proxied\"\n{}",
            tells("x-forwarded-for")
        ))
        .route(route("POST", "orders", ""))
        .route(route("DELETE", "orders", "auth = \"public\""));
    let (_folder, file) = process::config_file(&setup.text());
    let environment = setup.environment().to_vec();
    let gateway = setup.start().await;
    // Its clock is not the machine's.
    let sent = issuer.token("alice").sign();
    let token = issuer.token("alice").issued(Clock::system().now().0).sign();
    // The same request is asked about, and sent.
    let both = async |request: &str, headers: &[&str]| {
        let mut args = vec!["explain", "--config", process::text(&file)];
        args.extend(["--token", &*token, "--request", request]);
        args.extend(headers.iter().flat_map(|header| ["--header", header]));
        let explained = process::run(&args, &environment).await;
        let more: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {sent}\r\n{more}Connection: close\r\n\r\n"
        );
        let status = raw::status(&raw::exchange(gateway.address(), head).await);
        (explained.status.code(), explained.stdout, status)
    };
    let tenant = "X-Tenant: shop";
    for (request, headers, word, status) in [
        ("GET /", &[tenant][..], "passes", 200),
        (
            "GET /",
            &[tenant, "Connection: x-tenant"],
            "403 expression_failed",
            403,
        ),
        (
            "GET /proxied",
            &["X-Forwarded-For: shop"],
            "403 expression_failed",
            403,
        ),
        ("POST /orders", &[], "passes", 200),
        ("POST /orders?_method=post", &[], "passes", 200),
        ("POST /orders?_method=DELETE", &[], "400: ", 400),
    ] {
        let (code, said, got) = both(request, headers).await;
        assert!(said.contains(word), "{request} {headers:?}: {said}");
        let expected = (Some(i32::from(status != 200)), status);
        assert_eq!((code, got), expected, "{request} {headers:?}: {said}");
    }
    assert_eq!(upstream.count(), 3);
}

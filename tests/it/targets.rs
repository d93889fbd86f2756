//! A request's target, host and method have one reading, and the service gets the one that was matched: byte for byte.

use crate::support::raw;
use crate::support::{Gateway, Issuer, Setup, Upstream};

struct Scene {
    _issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
    token: String,
}

async fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: change(Setup::new(&issuer, &upstream)).start().await,
        token: issuer.token("alice").sign(),
        upstream,
        _issuer: issuer,
    }
}

impl Scene {
    /// Sends the head with these first bytes, and says the status and every byte that the service got.
    async fn send(&self, head: impl AsRef<[u8]>) -> (u16, String) {
        self.upstream.forget();
        let bytes = [head.as_ref(), b"connection: close\r\n\r\n"].concat();
        let answer = raw::exchange(self.gateway.address(), bytes).await;
        (raw::status(&answer), self.upstream.wire())
    }

    /// The target is refused, and nothing of it arrives.
    async fn refuses(&self, target: impl AsRef<[u8]>) {
        let target = target.as_ref();
        let head = [b"GET ", target, b" HTTP/1.1\r\nhost: shop\r\n"].concat();
        let (status, wire) = self.send(head).await;
        let shown = String::from_utf8_lossy(target);
        assert_eq!((status, &*wire), (400, ""), "{shown:?}");
    }

    /// The request passes, and the service reads this request line and this host.
    async fn passes(&self, head: &str, line: &str, host: &str) {
        let (status, wire) = self.send(head).await;
        assert_eq!(status, 200, "{head:?}");
        assert!(wire.starts_with(&format!("{line}\r\n")), "{head:?}: {wire}");
        let hosts: Vec<&str> = wire
            .lines()
            .filter(|line| line.to_lowercase().starts_with("host:"))
            .collect();
        assert_eq!(hosts, [format!("host: {host}")], "{head:?}: {wire}");
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_target_with_two_readings_is_refused() {
    let scene = scene(|setup| setup.catch_all("auth = \"public\"")).await;
    for target in [
        // Dot segments, in every dress.
        "/.",
        "/..",
        "/./a",
        "/a/.",
        "/a/..",
        "/a/../b",
        "/../a",
        "/a/./b",
        "//../a",
        "/a//../b",
        "/%2e",
        "/%2e%2e",
        "/a/%2e%2e/b",
        "/a/.%2e/b",
        "/a/%2E./b",
        "/a/%2e;x/b",
        "/..;/a",
        "/a/..;x/b",
        "/a/.;",
        "/a/..%3b/b",
        "/a/..%3Bx=1/b",
        "/a/..%3fb",
        "/a/..%23b",
        // Encoded delimiters, and those that show when somebody decodes once more.
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%5Cb",
        "/..%2fa",
        "/..%5ca",
        "/a%00b",
        "/a%00",
        "/a%0a",
        "/a%0d%0ab",
        "/a%09b",
        "/a%7f",
        "/%252e%252e/a",
        "/a%252fb",
        "/a%255cb",
        "/a%2500",
        "/a%253bb",
        "/a%253fb",
        "/a%2523b",
        "/a%25252fb",
        "/%25%32%65/a",
        "/a%250a",
        // No encoding, or of no text.
        "/%",
        "/%2",
        "/a%",
        "/%zz",
        "/%2g",
        "/%+2",
        "/% 2",
        "/%u002e",
        "/%u002f",
        "/%ff",
        "/%c0%ae%c0%ae/a",
        "/%c0%af",
        "/%e0%80%af",
        "/%ed%a0%80",
        "/%f8%80%80%80%af",
        // Characters that are none of a path.
        "/a\\b",
        "\\a",
        "/\\..\\a",
        "/a#b",
        "/#",
        "/a?b#c",
        "/a<b",
        "/a>b",
        "/a\u{e9}",
        "/caf\u{e9}/..",
        "/\u{ff0e}\u{ff0e}/a",
        // Other forms.
        "*",
        "a",
        "a/b",
        "shop:80",
        "shop",
        "?a",
        "http:/a",
        "http:a",
        "http://",
        "http:///a",
        "://a",
        "ftp://shop/a",
        "ws://shop/a",
        "file:///a",
        "x://shop/a",
        "//",
        "http://user@shop/a",
        "http://user:pw@shop/a",
        "http://shop:99999/a",
        "http://shop:x/a",
        "http://a..b/a",
        "http://[::1/a",
        "http://a%2eb/a",
        "http://shop/a/../b",
        "http://shop/a%2fb",
        "http://shop/#a",
        "http://shop\\a",
    ] {
        // Two slashes are merged into one: that is one reading.
        if target == "//" {
            continue;
        }
        scene.refuses(target).await;
    }
    for target in [
        &b"/a\xff"[..],
        b"/a\xc0\xae",
        b"/a\x80b",
        b"/a\x0bb",
        b"/a\x01",
        b"/?a\x01b",
    ] {
        scene.refuses(target).await;
    }
    for method in ["OPTIONS", "HEAD", "POST"] {
        let (status, wire) = scene
            .send(format!("{method} * HTTP/1.1\r\nhost: shop\r\n"))
            .await;
        assert_eq!((status, &*wire), (400, ""), "{method} *");
    }
}

#[tokio::test]
async fn the_service_reads_the_very_target_that_was_matched() {
    let scene = scene(|setup| setup.catch_all("auth = \"public\"")).await;
    for (target, arrives) in [
        ("/", "/"),
        ("//", "/"),
        ("//evil.example/a", "/evil.example/a"),
        ("/a//b///", "/a/b/"),
        ("/%61%2D%7e%5F", "/a-~_"),
        ("/a%2eb", "/a.b"),
        ("/a.", "/a."),
        ("/a./b", "/a./b"),
        ("/...", "/..."),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b%3d", "/a%20b%3D"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a%3bv", "/a%3Bv"),
        ("/100%2541", "/100%2541"),
        ("/a?", "/a?"),
        ("/a??b?c", "/a??b?c"),
        ("/a?b=/../%2f%00%zz\\", "/a?b=/../%2f%00%zz\\"),
        ("/a?http://evil.example/", "/a?http://evil.example/"),
        ("/a?caf\u{e9}=%e9", "/a?caf\u{e9}=%e9"),
        ("/a:80@b", "/a:80@b"),
        ("/a\"b|c^d{e}'f", "/a\"b|c^d{e}'f"),
        ("/http://evil.example/a", "/http:/evil.example/a"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: shop\r\n");
        scene
            .passes(&head, &format!("GET {arrives} HTTP/1.1"), "shop")
            .await;
    }
}

#[tokio::test]
async fn there_is_one_host_and_an_absolute_target_replaces_it() {
    let scene = scene(|setup| {
        setup
            .no_catch_all()
            .route("hosts = [\"shop.example\"]\npath = \"/\"\nauth = \"public\"")
            .route("hosts = [\"inner.example\"]\npath = \"/\"")
    })
    .await;
    for (target, host, line, arrives) in [
        ("/a", "shop.example", "GET /a HTTP/1.1", "shop.example"),
        (
            "/a",
            "SHOP.example.:80",
            "GET /a HTTP/1.1",
            "SHOP.example.:80",
        ),
        (
            "http://shop.example/a?b",
            "other.example",
            "GET /a?b HTTP/1.1",
            "shop.example",
        ),
        (
            "http://shop.example",
            "inner.example",
            "GET / HTTP/1.1",
            "shop.example",
        ),
        (
            "http://shop.example?b",
            "inner.example",
            "GET /?b HTTP/1.1",
            "shop.example",
        ),
        (
            "HTTP://Shop.Example:8080//a/",
            "x",
            "GET /a/ HTTP/1.1",
            "Shop.Example:8080",
        ),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n");
        scene.passes(&head, line, arrives).await;
    }
    for (target, lines, status) in [
        // The target's authority counts, whatever `Host` says.
        ("http://inner.example/a", "host: shop.example\r\n", 401),
        (
            "/a",
            "host: inner.example\r\nx-forwarded-host: shop.example\r\n",
            401,
        ),
        ("/a", "host: inner.example.\r\n", 401),
        ("/a", "host: INNER.example:443\r\n", 401),
        // None, two, or one that is none: whatever the target says.
        ("/a", "", 400),
        ("http://shop.example/a", "", 400),
        ("http://shop.example/a", "host: a b\r\n", 400),
        (
            "http://shop.example/a",
            "host: shop.example\r\nhost: shop.example\r\n",
            400,
        ),
        ("/a", "host: shop.example\r\nHost: shop.example\r\n", 400),
        ("/a", "host: shop.example\r\nhost: inner.example\r\n", 400),
        ("/a", "host: shop.example, inner.example\r\n", 400),
        ("/a", "host: shop.example@inner.example\r\n", 400),
        ("/a", "host: shop.example#inner.example\r\n", 400),
        ("/a", "host: shop.example/inner\r\n", 400),
        ("/a", "host: shop.example?inner\r\n", 400),
        ("/a", "host: shop.example\\inner\r\n", 400),
        ("/a", "host: shop.example%00\r\n", 400),
        ("/a", "host: shop.example%2e\r\n", 400),
        ("/a", "host: shop.example..\r\n", 400),
        ("/a", "host: shop.example:80:80\r\n", 400),
        ("/a", "host: shop.example:-80\r\n", 400),
        ("/a", "host: shop.example:65536\r\n", 400),
        ("/a", "host: \"shop.example\"\r\n", 400),
        ("/a", "host: http://shop.example\r\n", 400),
        ("/a", "host: [shop.example]\r\n", 400),
        ("/a", "host: shop\u{3002}example\r\n", 400),
        ("/a", "host:\r\n", 400),
        ("/a", "host: other.example\r\n", 404),
        ("/a", "host: shop.example.evil.example\r\n", 404),
        ("/a", "host: xshop.example\r\n", 404),
    ] {
        let (got, wire) = scene
            .send(format!("GET {target} HTTP/1.1\r\n{lines}"))
            .await;
        assert_eq!((got, &*wire), (status, ""), "{target} {lines:?}");
    }
    // HTTP/1.0 needs no host, and then meets no route of one.
    let (status, wire) = scene.send("GET /a HTTP/1.0\r\n").await;
    assert_eq!((status, &*wire), (404, ""));
}

#[tokio::test]
async fn no_spelling_leads_from_an_open_path_to_a_protected_one() {
    let scene = scene(|setup| {
        setup
            .catch_all("auth = \"public\"")
            .route("path = \"/admin\"\nscopes = [\"admin\"]")
            .route("path_exact = \"/metrics\"\nscopes = [\"admin\"]")
    })
    .await;
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "/%61dmin",
        "/admin//",
        "/metrics",
        "/admin/%2561",
    ] {
        let (status, wire) = scene
            .send(format!("GET {path} HTTP/1.1\r\nhost: shop\r\n"))
            .await;
        assert_eq!((status, &*wire), (401, ""), "{path}");
    }
    for path in [
        "/Admin",
        "/ADMIN/x",
        "/%41dmin",
        "/admin;",
        "/admin;x",
        "/admin;x/y",
        "/;/admin",
        "/;x=1/admin/y",
        "/admin%3b",
        "/admin%3Bx/y",
        "/%3bx/admin",
        "/%2561dmin",
        "/%25%36%31dmin",
        "/%2541dmin",
        "/admin.",
        "/admin./x",
        "/admin...",
        "/admin%20",
        "/admin%20/x",
        "/admin%3f",
        "/admin%3Fx/y",
        "/admin%23",
        "/admin%23x",
        "/metrics/",
        "/metrics//",
        "/metrics;/",
        "/metrics.",
        "/Metrics/",
        "/metrics%20",
    ] {
        scene.refuses(path).await;
    }
    for path in [
        "/administrator",
        "/x/admin",
        "/adm/in",
        "/admi",
        "/metrics/x",
        "/Other/;x",
        "/other./",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n");
        scene
            .passes(&head, &format!("GET {path} HTTP/1.1"), "shop")
            .await;
    }
}

#[tokio::test]
async fn neither_head_nor_another_word_for_a_method_widens_access() {
    let scene = scene(|setup| {
        setup
            .no_catch_all()
            .route("name = \"read\"\npath = \"/orders\"\nmethods = [\"GET\"]\nauth = \"public\"")
            .route("name = \"write\"\npath = \"/orders\"\nmethods = [\"POST\"]\nauth = \"public\"")
            .route("name = \"rest\"\npath = \"/orders\"")
            .route("name = \"get\"\npath = \"/only\"\nmethods = [\"GET\"]\nauth = \"public\"")
            .route("name = \"open\"\npath = \"/open\"\nauth = \"public\"")
    })
    .await;
    for (line, status) in [
        ("GET /orders", 200),
        ("POST /orders", 200),
        ("HEAD /orders", 401),
        ("DELETE /orders", 401),
        ("get /orders", 401),
        ("OPTIONS /orders", 401),
        ("GETX /orders", 401),
        ("GET /only", 200),
        ("HEAD /only", 405),
        ("OPTIONS /only", 405),
        ("Get /only", 405),
        ("TRACE /open", 405),
        ("CONNECT /open", 405),
        ("CONNECT shop:443", 405),
        // Another method in the query: only where it would meet the same route.
        ("POST /orders?_method=POST", 200),
        ("POST /orders?_method=delete", 400),
        ("POST /orders?a=1&_method=DELETE", 400),
        ("POST /orders?a=1;_method=DELETE", 400),
        ("POST /orders?%5fmethod=DELETE", 400),
        ("POST /orders?_%6dethod=%44ELETE", 400),
        ("POST /orders?_method=POST&_method=DELETE", 400),
        ("POST /orders?_method=GET", 400),
        ("GET /only?_method=DELETE", 400),
        ("GET /only?_method=HEAD", 400),
        ("GET /only?_method=&x_method=DELETE&method=DELETE", 200),
        ("POST /open?_method=DELETE", 200),
    ] {
        let (got, wire) = scene
            .send(format!("{line} HTTP/1.1\r\nhost: shop\r\n"))
            .await;
        assert_eq!(
            (got, wire.is_empty()),
            (status, status != 200),
            "{line}: {wire}"
        );
        assert!(
            status != 200 || wire.starts_with(&format!("{line} HTTP/1.1\r\n")),
            "{line}: {wire}"
        );
    }
    // Another method in a header never arrives, in no spelling.
    for name in [
        "X-HTTP-Method-Override",
        "x_http_method_override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X.Method.Override",
        "XMethodOverride",
        "X-Original-Method",
        "X-Forwarded-Method",
    ] {
        let (status, wire) = scene
            .send(format!(
                "POST /orders HTTP/1.1\r\nhost: shop\r\n{name}: DELETE\r\n{name}: PUT\r\n"
            ))
            .await;
        assert_eq!(status, 200, "{name}");
        assert!(wire.starts_with("POST /orders HTTP/1.1\r\n"), "{wire}");
        assert!(
            !wire.contains("DELETE") && !wire.contains("PUT"),
            "{name}: {wire}"
        );
    }
}

#[tokio::test]
async fn only_a_preflight_passes_as_one() {
    let scene = scene(|setup| {
        setup.no_catch_all().route(
            "path = \"/orders\"\nmethods = [\"GET\", \"OPTIONS\"]\ntoken = { authorization = true, cookie = \"session\", query = \"t\" }\n\
             cors = { origins = [\"https://shop.example\"], pass_preflight = true }",
        )
    })
    .await;
    let token = &scene.token;
    let (origin, asks) = (
        "origin: https://shop.example\r\n",
        "access-control-request-method: GET\r\n",
    );
    let preflight = format!("{origin}{asks}");
    let with = |line: &str| format!("{preflight}{line}\r\n");
    for (line, lines, status) in [
        ("OPTIONS /orders", preflight.clone(), 200),
        ("OPTIONS /orders", with("content-length: 0"), 200),
        ("OPTIONS /orders", with("cookie: other=1"), 200),
        (
            "OPTIONS /orders",
            with(&format!("authorization: Bearer {token}")),
            200,
        ),
        ("OPTIONS /orders", String::new(), 401),
        ("OPTIONS /orders", origin.to_owned(), 401),
        ("OPTIONS /orders", asks.to_owned(), 401),
        (
            "OPTIONS /orders",
            format!("{origin}access-control-request-method: G(T\r\n"),
            401,
        ),
        (
            "OPTIONS /orders",
            format!("{origin}access-control-request-method:\r\n"),
            401,
        ),
        (
            "OPTIONS /orders",
            format!("{origin}access_control_request_method: GET\r\n"),
            401,
        ),
        ("GET /orders", preflight.clone(), 401),
        ("options /orders", preflight.clone(), 405),
        // What no browser sends: the service would see a token that nobody has checked, or a body of nobody's.
        ("OPTIONS /orders", with("authorization: Bearer x.y.z"), 401),
        ("OPTIONS /orders", with("cookie: session=x.y.z"), 401),
        ("OPTIONS /orders?t=x.y.z", preflight.clone(), 401),
        ("OPTIONS /orders", with("content-length: 5"), 401),
        ("OPTIONS /orders", with("transfer-encoding: chunked"), 401),
        // Asks for a method that no route with CORS is for.
        (
            "OPTIONS /orders",
            format!("{origin}access-control-request-method: DELETE\r\n"),
            401,
        ),
    ] {
        let (got, wire) = scene
            .send(format!("{line} HTTP/1.1\r\nhost: shop\r\n{lines}"))
            .await;
        assert_eq!(
            (got, wire.is_empty()),
            (status, status != 200),
            "{line} {lines}: {wire}"
        );
        assert!(!wire.contains("x.y.z"), "{wire}");
    }
}

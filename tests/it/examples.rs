//! The examples of `config/`, as they stand: a token as each provider makes it, and what the service then reads. Only places
//! are others: ports, services, and the keys, which are given instead of fetched.

use std::net::SocketAddr;
use std::path::Path;

use jotgate::base::clock::{Clock, UnixSeconds};
use jotgate::config::{Settings, load_str};
use jotgate::jwks::Algorithm;
use jotgate::listener::Address;
use serde_json::{Value, json};

use crate::support::client::Request;
use crate::support::keys::key;
use crate::support::tokens::{NOW, Token};
use crate::support::{Upstream, process, within};

struct Scene {
    upstream: Upstream,
    /// Held for its threads.
    _gateway: jotgate::app::Gateway,
    address: SocketAddr,
}

/// The example at work.
async fn start(name: &str) -> Scene {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("an example");
    let upstream = Upstream::start().await;
    let mut env = vec![
        (
            "JOTGATE_ADMIN_TOKEN".to_owned(),
            "0123456789abcdef".to_owned(),
        ),
        ("JOTGATE__WORKERS".to_owned(), "1".to_owned()),
        set("LISTENERS__0__ADDRESS", "127.0.0.1:0"),
        set(
            "ISSUERS__0__JWKS",
            &json!({"keys": [signer().jwk()]}).to_string(),
        ),
    ];
    let file: toml::Table = text.parse().expect("TOML");
    let routes = file["routes"].as_array().expect("routes");
    for route in 0..routes.len() {
        env.push(set(&format!("ROUTES__{route}__UPSTREAM"), &upstream.url()));
    }
    for key in ["address", "probes_address"] {
        if file
            .get("admin")
            .is_some_and(|admin| admin.get(key).is_some())
        {
            env.push(set(
                &format!("ADMIN__{}", key.to_uppercase()),
                "127.0.0.1:0",
            ));
        }
    }
    let settings = load_str(name, &text, &env).unwrap_or_else(|faults| panic!("{faults}"));
    serve(settings, upstream).await
}

async fn serve(settings: Settings, upstream: Upstream) -> Scene {
    let (clock, _hand) = Clock::manual(UnixSeconds(NOW));
    let gateway = jotgate::app::Gateway::start(settings, clock)
        .await
        .expect("the gateway starts");
    within("getting ready", gateway.ready()).await;
    let address = match gateway.addresses().remove(0) {
        Address::Tcp(address) => address,
        Address::Unix(path) => panic!("{} is no address", path.display()),
    };
    Scene {
        upstream,
        _gateway: gateway,
        address,
    }
}

fn set(key: &str, value: &str) -> (String, String) {
    (format!("JOTGATE__{key}"), value.to_owned())
}

fn signer() -> std::sync::Arc<crate::support::keys::Key> {
    key(Algorithm::RS256, 1)
}

/// A token of these very claims, valid for an hour.
fn token(typ: &str, claims: &Value) -> Token {
    let text = |name: &str| claims[name].as_str().unwrap_or_default();
    let mut token = Token::new(signer(), text("iss"), "", text("sub"))
        .header("typ", typ)
        .claim("exp", NOW + 3600);
    for (name, value) in claims.as_object().expect("an object") {
        token = token.claim(name, value.clone());
    }
    token
}

impl Scene {
    async fn verdict(&self, method: &str, target: &str, host: &str, token: &Token) -> String {
        let request = Request::new(self.address, method, target).host(host);
        request.bearer(&token.sign()).await.verdict()
    }

    async fn get(&self, target: &str, token: &Token) -> String {
        self.verdict("GET", target, "localhost", token).await
    }

    /// What the service read last in a header.
    fn seen(&self, header: &str) -> Option<String> {
        self.upstream.last().header(header)
    }
}

#[tokio::test]
async fn the_quick_start_lets_in_who_has_a_token_for_it() {
    let scene = start("quickstart.toml").await;
    let claims = |audience: &str| json!({"iss": "https://id.example.com/realms/shop", "aud": audience, "sub": "alice"});
    assert_eq!(
        scene.get("/", &token("JWT", &claims("orders-api"))).await,
        "200"
    );
    assert_eq!(scene.seen("x-user-id").as_deref(), Some("alice"));
    let other = token("JWT", &claims("another-api"));
    assert_eq!(scene.get("/", &other).await, "401 invalid_token");
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test]
async fn the_sidecar_asks_another_scope_for_reading_than_for_writing() {
    let scene = start("sidecar.toml").await;
    let claims = json!({
        "iss": "https://id.example.com", "aud": "orders-api", "sub": "alice", "email": "alice@example.com",
        "scope": "orders:read",
    });
    let reader = token("at+jwt", &claims);
    assert_eq!(scene.get("/orders", &reader).await, "200");
    assert_eq!(
        scene.seen("x-user-email").as_deref(),
        Some("alice@example.com")
    );
    let write = scene.verdict("POST", "/orders", "localhost", &reader).await;
    assert_eq!(write, "403 insufficient_scope");
    let probe = Request::new(scene.address, "GET", "/healthz").await;
    assert_eq!(probe.status(), 200, "the kubelet has no token");
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn keycloak_says_realm_and_client_roles() {
    let scene = start("keycloak.toml").await;
    let claims = json!({
        "iss": "https://id.example.com/realms/shop", "aud": ["orders-api", "account"], "typ": "Bearer",
        "azp": "shop-web", "sub": "f3c7", "sid": "8d1c", "jti": "onrtac:1", "preferred_username": "alice",
        "email": "alice@example.com", "realm_access": {"roles": ["shop-admin", "offline_access"]},
        "resource_access": {"reports.example.com": {"roles": ["viewer"]}},
    });
    let alice = token("JWT", &claims);
    for path in ["/orders", "/admin", "/reports"] {
        assert_eq!(scene.get(path, &alice).await, "200", "{path}");
    }
    assert_eq!(scene.seen("x-user-name").as_deref(), Some("alice"));
    assert_eq!(
        scene.seen("x-user-roles").as_deref(),
        Some("shop-admin,offline_access")
    );
    let nobody = alice
        .clone()
        .without("realm_access")
        .without("resource_access");
    for path in ["/admin", "/reports"] {
        assert_eq!(
            scene.get(path, &nobody).await,
            "403 insufficient_claims",
            "{path}"
        );
    }
    assert_eq!(
        scene.get("/orders", &alice.without("sid")).await,
        "401 invalid_token"
    );
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn auth0_says_permissions_and_namespaced_roles() {
    let scene = start("auth0.toml").await;
    let claims = json!({
        "iss": "https://shop.eu.auth0.com/", "sub": "auth0|5f7c8e", "azp": "my_client",
        "aud": ["https://api.shop.example.com", "https://shop.eu.auth0.com/userinfo"],
        "scope": "openid profile", "https://shop.example.com/roles": ["clerk"], "permissions": ["write:refunds"],
    });
    let clerk = token("JWT", &claims);
    let host = "api.shop.example.com";
    for path in ["/orders", "/refunds"] {
        assert_eq!(
            scene.verdict("GET", path, host, &clerk).await,
            "200",
            "{path}"
        );
    }
    assert_eq!(scene.seen("x-user-id").as_deref(), Some("auth0|5f7c8e"));
    assert_eq!(scene.seen("x-user-roles").as_deref(), Some("clerk"));
    let other = clerk.claim("permissions", json!(["read:refunds"]));
    assert_eq!(
        scene.verdict("GET", "/refunds", host, &other).await,
        "403 insufficient_claims"
    );
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn entra_tells_users_from_applications() {
    let scene = start("entra.toml").await;
    let tenant = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
    let common = json!({
        "iss": format!("https://login.microsoftonline.com/{tenant}/v2.0"), "tid": tenant, "ver": "2.0",
        "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "azp": "75dbe77f-10a3-4e59-85fd-8c127544f17c", "azpacr": "0",
        "nbf": NOW, "uti": "fqiBqXLPj0eQa82S-IYFAA", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
        "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    });
    let user = token("JWT", &common)
        .claim("scp", "Orders.Read")
        .claim("preferred_username", "abeli@example.com")
        .claim("roles", json!(["Orders.Admin", "Orders.Import.All"]));
    for path in ["/orders", "/admin"] {
        assert_eq!(scene.get(path, &user).await, "200", "{path}");
    }
    for (header, value) in [
        ("x-user-id", "690222be-ff1a-4d56-abd1-7e4f7d38e474"),
        ("x-user-name", "abeli@example.com"),
        ("x-user-roles", "Orders.Admin,Orders.Import.All"),
        ("x-client-id", "75dbe77f-10a3-4e59-85fd-8c127544f17c"),
    ] {
        assert_eq!(scene.seen(header).as_deref(), Some(value));
    }
    assert_eq!(
        scene.get("/import", &user).await,
        "403 insufficient_claims",
        "a user is no application"
    );
    let app = token("JWT", &common)
        .claim("idtyp", "app")
        .claim("roles", json!(["Orders.Import.All"]));
    assert_eq!(scene.get("/import", &app).await, "200");
    assert_eq!(scene.get("/orders", &app).await, "403 insufficient_scope");
    let clerk = user.clone().without("roles");
    assert_eq!(scene.get("/admin", &clerk).await, "403 insufficient_claims");
    let stranger = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0";
    for wrong in [
        user.clone().claim("iss", stranger),
        user.clone().without("oid"),
        user.claim("exp", NOW + 7201),
    ] {
        assert_eq!(scene.get("/orders", &wrong).await, "401 invalid_token");
    }
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn zitadel_says_in_which_organization_a_role_is() {
    let scene = start("zitadel.toml").await;
    let roles = "urn:zitadel:iam:org:project:223281986649719041:roles";
    let claims = json!({
        "iss": "https://shop-k8s2df.zitadel.cloud", "sub": "223427827918176513", "azp": "69234237810729234",
        "aud": ["69234237810729234", "223281986649719041"], "jti": "69234237813329048", "nbf": NOW,
        "urn:zitadel:iam:user:resourceowner:id": "223281939119866113",
        roles: {"admin": {"223281939119866113": "shop.example.com"}},
    });
    let admin = token("JWT", &claims);
    for path in ["/orders", "/admin"] {
        assert_eq!(scene.get(path, &admin).await, "200", "{path}");
    }
    assert_eq!(
        scene.seen("x-user-id").as_deref(),
        Some("223427827918176513")
    );
    assert_eq!(
        scene.seen("x-client-id").as_deref(),
        Some("69234237810729234")
    );
    assert_eq!(
        scene.seen("x-user-org").as_deref(),
        Some("223281939119866113")
    );
    for other in [
        json!({"admin": {"223279178798072065": "shop.example.com"}}),
        json!({"clerk": {"223281939119866113": "shop.example.com"}}),
        json!({"admin": {"223281939119866113": "other.example.com"}}),
    ] {
        let wrong = admin.clone().claim(roles, other);
        assert_eq!(scene.get("/admin", &wrong).await, "403 insufficient_claims");
    }
    let client_alone = admin.claim("aud", json!(["69234237810729234"]));
    assert_eq!(
        scene.get("/orders", &client_alone).await,
        "401 invalid_token"
    );
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test]
async fn the_schema_that_is_printed_accepts_an_example_and_no_typing_error() {
    let printed = process::run(&["schema"], &[]).await;
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let schema: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    let text = include_str!("../../config/quickstart.toml");
    for (text, good) in [
        (text.to_owned(), true),
        (text.replace("upstream =", "upstrem ="), false),
        (format!("workers = \"two\"\n{text}"), false),
    ] {
        let file: toml::Table = text.parse().expect("TOML");
        let file = serde_json::to_value(file).expect("JSON");
        assert_eq!(jsonschema::is_valid(&schema, &file), good, "{text}");
    }
}

//! Revocations that the application itself causes: its logout, and its word in an answer.

use serde_json::Value;

use crate::support::{Gateway, Issuer, Reply, Setup, Upstream};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene(route: &str) -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let routes = format!(
        "path = \"/special\"\nupstream = \"{}\"\n{route}",
        upstream.url()
    );
    Scene {
        gateway: Setup::new(&issuer, &upstream).route(routes).start().await,
        issuer,
        upstream,
    }
}

impl Scene {
    fn token(&self, user: &str, sid: &str) -> String {
        self.issuer.token(user).sid(sid).sign()
    }

    async fn verdict(&self, token: &str) -> String {
        self.gateway.get("/").bearer(token).await.verdict()
    }

    async fn rules(&self) -> Vec<Value> {
        let answer = self.gateway.admin().request("GET", "/v1/revocations").await;
        answer.json()["rules"].as_array().expect("rules").clone()
    }
}

#[tokio::test]
async fn a_logout_that_the_service_confirms_ends_the_session() {
    let scene = scene("logout = true").await;
    let (phone, laptop) = (
        scene.token("alice", "phone"),
        scene.token("alice", "laptop"),
    );
    let newer = scene
        .issuer
        .token("alice")
        .sid("phone")
        .claim("jti", "newer")
        .sign();
    assert_eq!(scene.verdict(&newer).await, "200");
    scene.upstream.reply(Reply::status(204));
    let out = scene.gateway.post("/special").bearer(&phone).await;
    assert_eq!(out.status(), 204);
    for token in [&phone, &newer] {
        assert_eq!(scene.verdict(token).await, "401 revoked");
    }
    assert_eq!(scene.verdict(&laptop).await, "200");
    let rules = scene.rules().await;
    assert_eq!(
        (rules.len(), &rules[0]["kind"], &rules[0]["value"]),
        (1, &"session".into(), &"phone".into())
    );
}

#[tokio::test]
async fn a_logout_without_a_session_ends_the_token() {
    let scene = scene("logout = true").await;
    let (first, second) = (
        scene.issuer.token("alice").claim("jti", "1").sign(),
        scene.issuer.token("alice").claim("jti", "2").sign(),
    );
    assert_eq!(
        scene.gateway.get("/special").bearer(&first).await.status(),
        200
    );
    assert_eq!(scene.verdict(&first).await, "401 revoked");
    assert_eq!(scene.verdict(&second).await, "200");
}

#[tokio::test]
async fn a_logout_that_the_service_refuses_ends_nothing() {
    let scene = scene("logout = true").await;
    let token = scene.token("alice", "s1");
    for status in [302, 400, 500] {
        scene.upstream.reply(Reply::status(status));
        assert_eq!(
            scene.gateway.get("/special").bearer(&token).await.status(),
            status
        );
    }
    for method in ["HEAD", "OPTIONS"] {
        let asked = scene
            .gateway
            .request(method, "/special")
            .bearer(&token)
            .await;
        assert_eq!(asked.status(), 200, "{method}");
    }
    scene
        .upstream
        .reply(Reply::body("").with_header("grpc-status", "13"));
    assert_eq!(
        scene.gateway.post("/special").bearer(&token).await.status(),
        200
    );
    assert_eq!(
        scene.gateway.get("/special").bearer("x.y.z").await.status(),
        401
    );
    assert_eq!(scene.verdict(&token).await, "200");
    assert!(scene.rules().await.is_empty());
}

#[tokio::test]
async fn a_logout_that_cannot_be_kept_is_not_confirmed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let route = format!(
        "path = \"/special\"\nupstream = \"{}\"\nlogout = true",
        upstream.url()
    );
    let gateway = Setup::new(&issuer, &upstream)
        .route(route)
        .section("[denylist]\nmax_entries = 1")
        .start()
        .await;
    let out = async |sid: &str| {
        gateway
            .get("/special")
            .bearer(&issuer.token("alice").sid(sid).sign())
            .await
    };
    assert_eq!(out("s1").await.status(), 200);
    let full = out("s2").await;
    assert_eq!(full.verdict(), "503 revoke_failed");
    assert!(full.header("retry-after").is_some());
}

#[tokio::test]
async fn a_trusted_service_ends_a_session_or_a_user_by_its_answer() {
    for (word, other_session) in [("session", "200"), ("user", "401 revoked")] {
        let scene = scene("trust_revoke_header = true").await;
        let (here, there) = (scene.token("alice", "here"), scene.token("alice", "there"));
        scene
            .upstream
            .reply(Reply::body("done").with_header("Jotgate-Revoke", word));
        let answer = scene.gateway.post("/special").bearer(&here).await;
        assert_eq!(
            (answer.status(), answer.header("jotgate-revoke")),
            (200, None)
        );
        assert_eq!(scene.verdict(&here).await, "401 revoked", "{word}");
        assert_eq!(scene.verdict(&there).await, other_session, "{word}");
        assert_eq!(scene.verdict(&scene.token("bob", "x")).await, "200");
    }
}

#[tokio::test]
async fn a_word_in_an_answer_that_would_be_retried_is_obeyed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let gateway = Setup::new(&issuer, &upstream)
        .section(format!(
            "[[upstreams]]\nname = \"retried\"\nservers = [\"{}\"]\nretries = {{}}",
            upstream.url()
        ))
        .route("path = \"/special\"\nupstream = \"retried\"\ntrust_revoke_header = true")
        .start()
        .await;
    let token = issuer.token("alice").sid("s1").sign();
    let ask = async |reply| {
        upstream.reply(reply);
        gateway.get("/special").bearer(&token).await.verdict()
    };
    assert_eq!(ask(Reply::status(503)).await, "200");
    assert_eq!(upstream.count(), 2, "the second time it was well");
    let ends = Reply::status(503).with_header("Jotgate-Revoke", "session");
    assert_eq!(ask(ends).await, "503", "the service's own");
    assert_eq!(upstream.count(), 3);
    assert_eq!(ask(Reply::Fine).await, "401 revoked");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_trusted_service_ends_all_other_sessions_of_the_user() {
    let scene = scene("trust_revoke_header = true").await;
    let (here, there) = (scene.token("alice", "here"), scene.token("alice", "there"));
    let ask = async |token: &str| {
        scene
            .upstream
            .reply(Reply::body("welcome").with_header("Jotgate-Revoke", "others"));
        scene.gateway.post("/special").bearer(token).await
    };
    let answer = ask(&here).await;
    assert_eq!(
        (answer.status(), answer.header("jotgate-revoke")),
        (200, None)
    );
    assert_eq!(scene.verdict(&here).await, "200");
    assert_eq!(scene.verdict(&there).await, "401 revoked");
    assert_eq!(
        ask(&there).await.verdict(),
        "401 revoked",
        "too late to ask"
    );
    let rules = scene.rules().await;
    assert_eq!(rules.len(), 1);
    assert_eq!(
        (
            &rules[0]["kind"],
            &rules[0]["value"],
            &rules[0]["except_sid"]
        ),
        (&"pin".into(), &"alice".into(), &"here".into())
    );
    assert_eq!(
        (&rules[0]["standing"], &rules[0]["until"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(scene.verdict(&scene.token("bob", "there")).await, "200");
}

#[tokio::test]
async fn others_of_nobody_in_particular_is_the_services_fault() {
    let scene = scene("trust_revoke_header = true").await;
    let without_session = scene.issuer.token("alice").sign();
    let without_user = scene.issuer.token("alice").without("sub").sid("s1").sign();
    for token in [&without_session, &without_user] {
        scene
            .upstream
            .reply(Reply::body("welcome").with_header("Jotgate-Revoke", "others"));
        let answer = scene.gateway.get("/special").bearer(token).await;
        assert_eq!(answer.verdict(), "502 revoke_invalid");
    }
    assert!(scene.rules().await.is_empty());
}

#[tokio::test]
async fn a_service_that_is_not_trusted_ends_nothing() {
    let scene = scene("logout = false").await;
    let token = scene.token("alice", "s1");
    for path in ["/special", "/"] {
        scene
            .upstream
            .reply(Reply::body("done").with_header("Jotgate-Revoke", "user"));
        let answer = scene
            .gateway
            .post(path)
            .bearer(&token)
            .header("jotgate-revoke", "user")
            .await;
        assert_eq!(
            (answer.status(), answer.header("jotgate-revoke")),
            (200, None)
        );
        assert_eq!(
            scene.upstream.last().header("jotgate-revoke"),
            None,
            "a client's word does not arrive"
        );
    }
    assert_eq!(scene.verdict(&token).await, "200");
}

#[tokio::test]
async fn a_word_that_nobody_understands_is_the_services_fault() {
    let scene = scene("trust_revoke_header = true\nauth = \"optional\"").await;
    let token = scene.token("alice", "s1");
    for word in ["everything", "", "Session", "session, user"] {
        scene
            .upstream
            .reply(Reply::body("done").with_header("Jotgate-Revoke", word));
        let answer = scene.gateway.get("/special").bearer(&token).await;
        assert_eq!(answer.verdict(), "502 revoke_invalid", "{word:?}");
    }
    scene
        .upstream
        .reply(Reply::body("done").with_header("Jotgate-Revoke", "session"));
    assert_eq!(
        scene.gateway.get("/special").await.verdict(),
        "502 revoke_invalid",
        "nobody's session"
    );
    assert_eq!(scene.verdict(&token).await, "200");
}

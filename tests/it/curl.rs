//! A client that is not made of the libraries that the gateway is made of.

use tokio::process::Command;

use crate::support::certs::{Authority, Folder};
use crate::support::{Gateway, Issuer, Reply, Setup, Upstream, within};

struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    gateway: Gateway,
}

async fn scene() -> Scene {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    Scene {
        gateway: Gateway::start(&issuer, &upstream).await,
        issuer,
        upstream,
    }
}

impl Scene {
    /// Everything that curl prints with `-i`.
    async fn curl(&self, path: &str, args: &[&str]) -> String {
        let url = format!("http://{}{path}", self.gateway.address());
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--max-time", "20", "--noproxy", "*"])
            .args(args)
            .arg(url);
        let output = within("curl", curl.output())
            .await
            .expect("curl is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

const VERSIONS: [(&str, &str); 2] = [
    ("--http1.1", "HTTP/1.1"),
    ("--http2-prior-knowledge", "HTTP/2"),
];

#[tokio::test]
async fn curl_gets_through_with_a_token_alone() {
    let scene = scene().await;
    let bearer = format!(
        "Authorization: Bearer {}",
        scene.issuer.token("alice").sign()
    );
    for (n, (flag, version)) in VERSIONS.into_iter().enumerate() {
        let refused = scene.curl("/orders", &[flag]).await;
        assert!(refused.starts_with(&format!("{version} 401")), "{refused}");
        assert!(
            refused
                .to_lowercase()
                .contains("www-authenticate: bearer realm="),
            "{refused}"
        );
        assert!(refused.contains("\"no_token\""), "{refused}");
        let passed = scene
            .curl(
                "/orders?a=b",
                &[flag, "-H", &bearer, "-H", "X_User_Id: root"],
            )
            .await;
        assert!(
            passed.starts_with(&format!("{version} 200")) && passed.ends_with("fine"),
            "{passed}"
        );
        assert_eq!(scene.upstream.count(), n + 1);
        let seen = scene.upstream.last();
        assert_eq!(
            (&*seen.target, seen.aliases("x-user-id")),
            ("/orders?a=b", vec!["x-user-id: alice".to_owned()])
        );
    }
}

#[tokio::test]
async fn curl_sends_and_gets_large_bodies() {
    let scene = scene().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &body).unwrap();
    let bearer = format!(
        "Authorization: Bearer {}",
        scene.issuer.token("alice").sign()
    );
    let data = format!("@{}", file.display());
    let copy = folder.path().join("copy");
    for (flag, _) in VERSIONS {
        for chunked in ["Expect:", "Transfer-Encoding: chunked"] {
            if flag != "--http1.1" && chunked != "Expect:" {
                continue;
            }
            scene.upstream.reply(Reply::Echo);
            let copy_text = copy.to_str().unwrap();
            let args = [
                flag,
                "-H",
                &bearer,
                "-H",
                chunked,
                "--data-binary",
                &data,
                "-o",
                copy_text,
                "--no-include",
            ];
            scene.curl("/echo", &args).await;
            assert!(std::fs::read(&copy).unwrap() == body, "{flag} {chunked}");
        }
    }
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn curl_is_not_confused_by_an_early_refusal() {
    let scene = scene().await;
    let large = "x".repeat(100_000);
    for (flag, version) in VERSIONS {
        for expect in ["Expect:", "Expect: 100-continue"] {
            // curl 7.88 takes the RST_STREAM(NO_ERROR) after a complete answer (RFC 9113 section 8.1) for no answer.
            if flag != "--http1.1" && expect != "Expect:" {
                continue;
            }
            let refused = scene
                .curl("/", &[flag, "-H", expect, "--data-binary", &large])
                .await;
            assert!(refused.contains(&format!("{version} 401")), "{refused}");
        }
    }
    assert_eq!(scene.upstream.count(), 0);
}

#[tokio::test]
async fn curl_speaks_tls_and_refuses_another_authority() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (authority, folder) = (Authority::new(), Folder::new());
    let pair = folder.pair("server", &authority.server(&["localhost"]));
    let ca = folder.write("ca.pem", authority.pem());
    let other = folder.write("other.pem", Authority::new().pem());
    let gateway = Setup::new(&issuer, &upstream)
        .listener(format!("tls = {{ {pair} }}"))
        .start()
        .await;
    let bearer = format!("Authorization: Bearer {}", issuer.token("alice").sign());
    let url = format!("https://localhost:{}/orders", gateway.address().port());
    let curl = async |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "-4", "--max-time", "20", "--noproxy", "*"])
            .args(["-H", &bearer, &url])
            .args(args);
        within("curl", curl.output()).await.expect("curl is there")
    };
    let ca = ca.to_str().unwrap();
    for (flag, version) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        for tls in ["--tlsv1.3", "--tls-max=1.2"] {
            // curl wants the value apart.
            let tls: Vec<&str> = tls.split('=').collect();
            let output = curl(&[&["--cacert", ca, flag], &tls[..]].concat()).await;
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.starts_with(&format!("{version} 200")), "{output:?}");
            let seen = upstream.last();
            assert_eq!(
                seen.aliases("x-forwarded-proto"),
                ["x-forwarded-proto: https"]
            );
            assert_eq!(seen.aliases("x-user-id"), ["x-user-id: alice"]);
        }
    }
    let refused = curl(&["--cacert", other.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(60), "{refused:?}");
    assert_eq!(upstream.count(), 4);
}

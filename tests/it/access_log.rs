//! The access line, as whoever reads the log sees it.

use jotgate::base::clock::Clock;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::client::Request;
use crate::support::process::Process;
use crate::support::raw::exchange;
use crate::support::{Issuer, Reply, Setup, Upstream, eventually};

/// A gateway whose log holds nothing but access lines, in the form that `access_log` says.
struct Scene {
    issuer: Issuer,
    upstream: Upstream,
    process: Process,
    address: std::net::SocketAddr,
}

impl Scene {
    async fn start(access_log: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        let setup = Setup::new(&issuer, &upstream).section(format!(
            "[telemetry]\naccess_log = {access_log}\nlog.level = \"warn,jotgate::app=info,jotgate::access=info\""
        ));
        let process = Process::gateway(&change(setup));
        let address = process.address(&["listening"]).await;
        eventually("the gateway to be reachable", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Self {
            issuer,
            upstream,
            process,
            address,
        }
    }

    fn get(&self, target: &str) -> Request {
        Request::new(self.address, "GET", target)
    }

    /// A good token, whose keys are known.
    async fn token(&self) -> String {
        let token = self.issuer.token("alice");
        let token = token.issued(Clock::system().now().0).sign();
        eventually("the keys", async || {
            let answer = self.get("/warm-up").bearer(&token).await;
            (answer.status() == 200).then_some(())
        })
        .await;
        self.upstream.forget();
        token
    }

    /// The one line with all of these words, once it is written.
    async fn line(&self, words: &[&str]) -> String {
        let line = self.process.line(words).await;
        let said = self.process.said();
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        assert_eq!(said.lines().filter(all).count(), 1, "{words:?}: {said}");
        line
    }
}

#[tokio::test]
async fn a_client_cannot_forge_a_line() {
    for format in ["text", "json", "common", "combined"] {
        let access_log = format!("{{ format = \"{format}\" }}");
        let scene = Scene::start(&access_log, |setup| setup.catch_all("auth = \"public\"")).await;
        let before = scene.process.said().lines().count();
        let hostile: [&[u8]; 4] = [
            b"GET /\"quote\"/\\x22 HTTP/1.1\r\nhost: a\"b\r\n",
            b"GET /caf\xc3\xa9\xe2\x80\xa8\x7f HTTP/1.1\r\nhost: x\r\n",
            b"GET /a%0d%0aforged%1b[2J HTTP/1.1\r\nhost: x\r\nuser-agent: \"\t\xff\xc2\x85\\ - forged\r\nreferer: \"\\\xe2\x80\xae\r\n",
            b"G'|~!#$%&*+-.^_`T / HTTP/1.1\r\nhost: x\r\n",
        ];
        for head in hostile {
            let request = [head, b"connection: close\r\n\r\n"].concat();
            let answer = exchange(scene.address, request).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        }
        // The last line of all.
        let ended = scene.get("/the-end").await;
        assert_eq!(ended.status(), 200);
        scene.process.line(&["/the-end"]).await;
        let said = scene.process.said();
        let lines: Vec<&str> = said.lines().skip(before).collect();
        // What hyper refuses itself never becomes a request, and has no line.
        assert!((3..=5).contains(&lines.len()), "{format}: {said}");
        for line in lines {
            assert!(
                line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{format}: {line}"
            );
            match format {
                "text" => assert!(line.contains("  INFO jotgate::access: method="), "{line}"),
                "json" => {
                    let line: Value = serde_json::from_str(line).expect("one object a line");
                    assert_eq!(line["target"], "jotgate::access", "{line}");
                }
                _ => assert!(line.starts_with("127.0.0.1 - - ["), "{line}"),
            }
        }
        assert_eq!(scene.upstream.last().target, "/the-end");
    }
}

#[tokio::test]
async fn a_combined_line_has_no_query_and_no_token() {
    let scene = Scene::start("{ format = \"combined\" }", |setup| {
        setup.catch_all("token = { authorization = true, query = \"access_token\" }")
    })
    .await;
    let token = scene.token().await;
    let answer = scene
        .get(&format!("/orders?access_token={token}"))
        .header(
            "referer",
            format!("https://shop.example/page?access_token={token}"),
        )
        .header("user-agent", "curl/8.0 (\"x\")")
        .await;
    assert_eq!(answer.status(), 200);
    let line = scene.line(&["/orders"]).await;
    let (before, rest) = line.split_once("] ").expect("a time");
    assert!(before.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(before.ends_with(" +0000"), "{line}");
    let length = answer.body().len();
    assert_eq!(
        rest,
        format!(
            "\"GET /orders HTTP/1.1\" 200 {length} \"https://shop.example/page\" \"curl/8.0 (\\\"x\\\")\""
        )
    );
    for part in crate::support::tokens::split(&token) {
        assert!(!scene.process.said().contains(part), "{part}");
    }
    assert_eq!(scene.upstream.last().target, "/orders");
}

#[tokio::test]
async fn the_client_is_the_one_that_trusted_proxies_prove() {
    let scene = Scene::start("true", |setup| {
        setup
            .catch_all("auth = \"public\"")
            .listener("trusted_proxies = [\"127.0.0.2/32\"]")
    })
    .await;
    let told = "203.0.113.7, 198.51.100.9";
    for (from, path, client) in [
        ([127, 0, 0, 2], "/proxied", "client=198.51.100.9"),
        ([127, 0, 0, 3], "/direct", "client=127.0.0.3"),
    ] {
        let request = scene.get(path).from(from).header("x-forwarded-for", told);
        assert_eq!(request.await.status(), 200);
        let line = scene.line(&[path]).await;
        let peer = format!("peer=127.0.0.{} ", from[3]);
        assert!(line.contains(client) && line.contains(&peer), "{line}");
    }
    let nobody = scene.get("/nobody").from([127, 0, 0, 2]).await;
    assert_eq!(nobody.status(), 200);
    let line = scene.line(&["/nobody"]).await;
    assert!(
        line.contains("peer=127.0.0.2") && !line.contains("client="),
        "{line}"
    );
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test]
async fn a_sample_keeps_what_was_refused_or_failed() {
    let scene = Scene::start("{ format = \"json\", sample = 0 }", |setup| {
        setup.route("path = \"/reported\"\nmode = \"report\"")
    })
    .await;
    let token = scene.token().await;
    let get = |path: &str| scene.get(path).bearer(&token);
    assert_eq!(get("/good").await.status(), 200);
    scene.upstream.reply(Reply::status(404));
    assert_eq!(get("/not-there").await.status(), 404);
    assert_eq!(scene.get("/refused").await.status(), 401);
    scene.upstream.reply(Reply::status(503));
    assert_eq!(get("/failed").await.status(), 503);
    assert_eq!(scene.get("/reported").await.status(), 200);
    let (frames, reply) = Reply::stream();
    scene.upstream.reply(reply);
    let broken = get("/broken").open().await.unwrap();
    drop(broken);
    for path in ["/refused", "/failed", "/reported", "/broken"] {
        let line = scene.line(&[&format!("\"path\":\"{path}\"")]).await;
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
    let said = scene.process.said();
    for path in ["/good", "/not-there"] {
        assert!(!said.contains(path), "{said}");
    }
    drop(frames);
    assert_eq!(scene.upstream.count(), 5);
}

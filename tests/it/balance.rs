//! Several servers behind one name: who gets how much.

use crate::support::upstream::Refusing;
use crate::support::{Answer, Gateway, Reply, Setup, Upstream, eventually};

/// A public route to these servers, with lines of `[[upstreams]]`.
fn before(servers: &[&Upstream], lines: &str) -> Setup {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    before_urls(&urls, lines)
}

fn before_urls(urls: &[&str], lines: &str) -> Setup {
    Setup::bare("service")
        .catch_all("auth = \"public\"")
        .section(format!(
            "[[upstreams]]\nname = \"service\"\nservers = {urls:?}\n{lines}"
        ))
}

async fn ask(gateway: &Gateway, times: usize) {
    for _ in 0..times {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
}

#[tokio::test]
async fn servers_take_turns() {
    let servers = [
        Upstream::start().await,
        Upstream::start().await,
        Upstream::start().await,
    ];
    let [a, b, c] = &servers;
    let gateway = before(&[a, b, c], "").start().await;
    ask(&gateway, 9).await;
    assert_eq!([a.count(), b.count(), c.count()], [3; 3]);
}

#[tokio::test]
async fn a_busy_server_gets_less_until_its_answer_has_ended() {
    for http2 in [false, true] {
        let (a, b) = (Upstream::start().await, Upstream::start().await);
        let lines = format!("balance = \"least_requests\"\nhttp2 = {http2}");
        let gateway = before(&[&a, &b], &lines).start().await;
        let [to_a, to_b] = [&a, &b].map(|server| {
            let (frames, reply) = Reply::stream();
            server.reply(reply);
            frames
        });
        let first = gateway.get("/").open().await.unwrap();
        let first_is_a = a.count() == 1;
        let second = gateway.get("/").open().await.unwrap();
        assert_eq!((a.count(), b.count()), (1, 1), "the second goes elsewhere");
        let (from_a, from_b) = if first_is_a {
            (first, second)
        } else {
            (second, first)
        };
        drop(to_a);
        Answer::read(from_a).await.unwrap();
        ask(&gateway, 10).await;
        assert_eq!((a.count(), b.count()), (11, 1), "only the idle one");
        // A client that leaves has no request under way either.
        drop(from_b);
        eventually("a request at the other one", async || {
            ask(&gateway, 1).await;
            (b.count() > 1).then_some(())
        })
        .await;
        drop(to_b);
    }
}

fn servers_in(state: &str) -> String {
    format!("jotgate_upstream_servers{{state=\"{state}\",upstream=\"service\"}}")
}

fn ejections(url: &str) -> String {
    format!("jotgate_upstream_ejections_total{{server=\"{url}\",upstream=\"service\"}}")
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_ejected_and_comes_back() {
    for http2 in [false, true] {
        let (well, refusing) = (Upstream::start().await, Refusing::start());
        let lines = format!("outlier = {{ failures = 3, eject_for = \"3s\" }}\nhttp2 = {http2}");
        let url = refusing.url();
        let gateway = before_urls(&[&well.url(), &url], &lines).start().await;
        // Not safe, and yet: nothing was sent to the one that takes no connection.
        for _ in 0..4 {
            assert_eq!(gateway.post("/").body("x").await.status(), 200);
        }
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&ejections(&url)), None, "two failures");
        assert_eq!(metrics.value(&servers_in("available")), Some(2));
        ask(&gateway, 2).await;
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&ejections(&url)), Some(1));
        assert_eq!(metrics.value(&servers_in("ejected")), Some(1));
        assert_eq!(metrics.value(&servers_in("available")), Some(1));
        let back = refusing.revive();
        eventually("a request at the server that is back", async || {
            ask(&gateway, 1).await;
            (back.count() > 0).then_some(())
        })
        .await;
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&servers_in("available")), Some(2));
        assert!(well.count() > 6, "nobody failed");
    }
}

#[tokio::test]
async fn answers_eject_only_where_the_operator_says_so() {
    for count_5xx in [false, true] {
        for reply in [|| Reply::status(500), || Reply::Reset] {
            let (well, ill) = (Upstream::start().await, Upstream::start().await);
            let lines = format!(
                "outlier = {{ failures = 2, eject_for = \"1h\", count_5xx = {count_5xx} }}"
            );
            let gateway = before(&[&well, &ill], &lines).start().await;
            for _ in 0..10 {
                ill.reply(reply());
                gateway.post("/").body("x").await;
            }
            let seen = if count_5xx { 2 } else { 5 };
            assert_eq!((well.count(), ill.count()), (10 - seen, seen));
        }
    }
}

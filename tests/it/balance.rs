//! Several servers behind one name: who gets how much.

use crate::support::{Answer, Gateway, Reply, Setup, Upstream, eventually};

/// A public route to these servers, with lines of `[[upstreams]]`.
fn before(servers: &[&Upstream], lines: &str) -> Setup {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
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

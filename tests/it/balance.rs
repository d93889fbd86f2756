//! Several servers behind one name: who gets how much.

use crate::support::upstream::Refusing;
use crate::support::{Answer, Reply, Setup, Upstream, eventually, web_socket};

#[tokio::test]
async fn servers_take_turns() {
    let servers = [
        Upstream::start().await,
        Upstream::start().await,
        Upstream::start().await,
    ];
    let [a, b, c] = &servers;
    let gateway = Setup::before(&[a, b, c], "").start().await;
    gateway.serves(9).await;
    assert_eq!([a.count(), b.count(), c.count()], [3; 3]);
}

#[tokio::test]
async fn a_busy_server_gets_less_until_its_answer_has_ended() {
    for http2 in [false, true] {
        let (a, b) = (Upstream::start().await, Upstream::start().await);
        let lines = format!("balance = \"least_requests\"\nhttp2 = {http2}");
        let gateway = Setup::before(&[&a, &b], &lines).start().await;
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
        gateway.serves(10).await;
        assert_eq!((a.count(), b.count()), (11, 1), "only the idle one");
        // A client that leaves has no request under way either.
        drop(from_b);
        eventually("a request at the other one", async || {
            gateway.serves(1).await;
            (b.count() > 1).then_some(())
        })
        .await;
        drop(to_b);
    }
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
        let servers = [well.url(), url.clone()];
        let gateway = Setup::balanced(&servers, &lines).start().await;
        // Not safe, and yet: nothing was sent to the one that takes no connection.
        for _ in 0..4 {
            assert_eq!(gateway.post("/").body("x").await.status(), 200);
        }
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&ejections(&url)), None, "two failures");
        assert_eq!(metrics.servers("available"), Some(2));
        gateway.serves(2).await;
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&ejections(&url)), Some(1));
        assert_eq!(metrics.servers("ejected"), Some(1));
        assert_eq!(metrics.servers("available"), Some(1));
        let back = refusing.revive();
        eventually("a request at the server that is back", async || {
            gateway.serves(1).await;
            (back.count() > 0).then_some(())
        })
        .await;
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.servers("available"), Some(2));
        assert!(well.count() > 6, "nobody failed");
    }
}

#[tokio::test]
async fn answers_eject_only_where_the_operator_says_so() {
    let failure: fn() -> Reply = || Reply::status(500);
    let reset: fn() -> Reply = || Reply::Reset;
    for (reply, body, count_5xx, is_ejected) in [
        (failure, "", false, false),
        (failure, "", true, true),
        (failure, "x", true, true),
        (reset, "", false, false),
        (reset, "", true, true),
        // Its client may have broken off.
        (reset, "x", true, false),
    ] {
        let (well, ill) = (Upstream::start().await, Upstream::start().await);
        let lines =
            format!("outlier = {{ failures = 2, eject_for = \"1h\", count_5xx = {count_5xx} }}");
        let gateway = Setup::before(&[&well, &ill], &lines).start().await;
        for _ in 0..10 {
            ill.reply(reply());
            let request = gateway.post("/");
            if body.is_empty() {
                request.await;
            } else {
                request.body(body).await;
            }
        }
        let seen = if is_ejected { 2 } else { 5 };
        assert_eq!((well.count(), ill.count()), (10 - seen, seen), "{lines}");
    }
}

fn refusals(limit: &str) -> String {
    format!("jotgate_upstream_refusals_total{{limit=\"{limit}\",upstream=\"service\"}}")
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_at_once() {
    for http2 in [false, true] {
        let service = Upstream::start().await;
        let lines = format!("max_requests = 2\nhttp2 = {http2}");
        let gateway = Setup::before(&[&service], &lines).start().await;
        let mut open = vec![];
        for _ in 0..2 {
            let (frames, reply) = Reply::stream();
            service.reply(reply);
            open.push((gateway.get("/").open().await.unwrap(), frames));
        }
        let answer = gateway.get("/").await;
        assert_eq!(answer.verdict(), "503 upstream_overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&refusals("requests")), Some(1));
        let (answer, frames) = open.remove(0);
        drop(frames);
        Answer::read(answer).await.unwrap();
        gateway.serves(3).await;
        assert_eq!(service.count(), 5, "the refused one never came");
    }
}

#[tokio::test]
async fn a_websocket_is_under_way_to_its_end() {
    let service = Upstream::start().await;
    let gateway = Setup::before(&[&service], "max_requests = 1\nmax_connections = 1")
        .start()
        .await;
    service.reply(Reply::WebSocket);
    let socket = web_socket::open(&gateway, &[]).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.verdict(), "503 upstream_overloaded");
    drop(socket);
    eventually("a place", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(service.count(), 2);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_not_made() {
    let service = Upstream::start().await;
    let gateway = Setup::before(&[&service], "max_connections = 2")
        .start()
        .await;
    let mut open = vec![];
    for _ in 0..2 {
        let (frames, reply) = Reply::stream();
        service.reply(reply);
        open.push((gateway.get("/").open().await.unwrap(), frames));
    }
    let answer = gateway.get("/").await;
    assert_eq!(answer.verdict(), "503 upstream_overloaded");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(&refusals("connections")), Some(1));
    // Whoever leaves closes a connection, and another can be made.
    open.clear();
    eventually("a new connection", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    gateway.serves(5).await;
    assert_eq!(service.connections(), 3, "and then it is used again");
    assert_eq!(service.count(), 8);
}

#[tokio::test]
async fn a_server_without_a_place_leaves_its_requests_to_another() {
    for http2 in [false, true] {
        let (a, b) = (Upstream::start().await, Upstream::start().await);
        let lines = format!("max_connections = 1\nhttp2 = {http2}");
        let gateway = Setup::before(&[&a, &b], &lines).start().await;
        gateway.serves(6).await;
        assert_eq!(a.connections() + b.connections(), 1);
        assert_eq!(a.count() + b.count(), 6);
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(&refusals("connections")), None);
        let ejected = metrics.servers("ejected");
        assert_eq!(ejected, Some(0), "it did nothing wrong");
    }
}

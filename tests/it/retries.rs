//! Requests that are sent once more: which, when and how many.

use crate::support::service::RawService;
use crate::support::upstream::{RawUpstream, Refusing};
use crate::support::{Gateway, Reply, Setup, Upstream, eventually};

async fn two() -> (Upstream, Upstream) {
    (Upstream::start().await, Upstream::start().await)
}

async fn retries(gateway: &Gateway, result: &str) -> Option<u64> {
    let series =
        format!("jotgate_upstream_retries_total{{result=\"{result}\",upstream=\"service\"}}");
    gateway.metrics().await.value(&series)
}

#[tokio::test]
async fn a_server_that_dies_under_load_costs_no_request() {
    for lines in ["", "balance = \"least_requests\"", "http2 = true"] {
        let (a, b) = two().await;
        let c = Upstream::start().await;
        let gateway = Setup::before(&[&a, &b, &c], &format!("retries = {{}}\n{lines}"))
            .start()
            .await;
        let client = async || {
            for _ in 0..60 {
                // Its answer comes in one piece, so that it has begun or not.
                assert_eq!(gateway.request("HEAD", "/").await.status(), 200, "{lines}");
            }
        };
        let death = async {
            c.arrived(20).await;
            c.kill();
        };
        tokio::join!(client(), client(), client(), client(), death);
        assert!(a.count() + b.count() >= 240 - c.count());
    }
}

#[tokio::test]
async fn a_bad_answer_is_asked_for_again_elsewhere() {
    for http2 in [false, true] {
        for reply in [|| Reply::status(503), || Reply::Reset] {
            for (attempts, status) in [(1, false), (2, true)] {
                let (a, b) = two().await;
                let lines = format!("http2 = {http2}\nretries = {{ attempts = {attempts} }}");
                let gateway = Setup::before(&[&a, &b], &lines).start().await;
                a.reply(reply());
                b.reply(reply());
                let answer = gateway.get("/").await;
                assert_eq!(answer.status() == 200, status, "{answer:?}");
                assert_eq!(retries(&gateway, "sent").await, Some(attempts));
                assert!(a.count() >= 1 && b.count() >= 1, "first the other one");
                assert_eq!((a.count() + b.count()) as u64, 1 + attempts);
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_gave_no_answer() {
    for said in ["", "HTTP/1.1 200 O"] {
        let (dying, service) = (RawService::start().await, Upstream::start().await);
        let urls = [dying.url(), service.url()];
        let gateway = Setup::balanced(&urls, "retries = {}").start().await;
        let death = async {
            let (mut raw, _) = dying.request().await;
            raw.send(said).await;
            raw.reset();
        };
        tokio::join!(gateway.serves(2), death);
        assert_eq!(service.count(), 2, "{said:?}");
        assert_eq!(retries(&gateway, "sent").await, Some(1));
    }
}

#[tokio::test]
async fn an_answer_is_better_than_no_connection() {
    let (service, refusing) = (Upstream::start().await, Refusing::start());
    let urls = [service.url(), refusing.url()];
    let gateway = Setup::balanced(&urls, "outlier = { failures = 0 }\nretries = {}")
        .start()
        .await;
    for _ in 0..6 {
        service.reply(Reply::status(503));
        service.reply(Reply::status(503));
        let answer = gateway.get("/").await;
        assert_eq!(answer.verdict(), "503", "the service's own: {answer:?}");
    }
    assert!(service.count() >= 6);
}

#[tokio::test]
async fn what_cannot_be_done_twice_is_sent_once() {
    for (method, body, methods, sent) in [
        ("GET", "", "", 2),
        ("HEAD", "", "", 2),
        ("GET", "x", "", 1),
        ("POST", "", "", 1),
        ("POST", "x", "", 1),
        ("PATCH", "", "", 1),
        ("PUT", "", "", 1),
        ("DELETE", "", "", 1),
        ("PUT", "x", "methods = [\"PUT\"]", 1),
        ("PUT", "", "methods = [\"PUT\"]", 2),
        ("DELETE", "", "methods = [\"DELETE\"]", 2),
        ("GET", "", "methods = [\"DELETE\"]", 1),
    ] {
        for reply in [|| Reply::status(503), || Reply::Reset] {
            let (a, b) = two().await;
            let gateway = Setup::before(&[&a, &b], &format!("retries = {{ {methods} }}"))
                .start()
                .await;
            a.reply(reply());
            b.reply(reply());
            let request = gateway.request(method, "/");
            let request = if body.is_empty() {
                request
            } else {
                request.body(body)
            };
            assert!(request.await.status() > 500);
            assert_eq!(a.count() + b.count(), sent, "{method} {body} {methods}");
        }
    }
}

#[tokio::test]
async fn only_what_is_listed_is_a_reason() {
    for (on, reply, sent) in [
        ("503", Reply::status(503), 2),
        ("503", Reply::status(502), 1),
        ("503", Reply::Reset, 1),
        ("no_answer", Reply::status(503), 1),
        ("no_answer", Reply::Reset, 2),
        ("429", Reply::status(429), 2),
    ] {
        let service = Upstream::start().await;
        let what = format!("{reply:?} and {on}");
        service.reply(reply);
        let gateway = Setup::before(&[&service], &format!("retries = {{ on = [\"{on}\"] }}"))
            .start()
            .await;
        let answer = gateway.get("/").await;
        assert_eq!(answer.status() == 200, sent == 2, "{what}");
        assert_eq!(service.count(), sent, "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let service = RawUpstream::start(said, true).await;
        let gateway = Setup::balanced(&[service.url()], "retries = { attempts = 5 }")
            .start()
            .await;
        if let Ok(answer) = gateway.get("/").try_send().await {
            assert_eq!(answer.verdict(), "502 upstream_failed");
        }
        assert_eq!(service.heads().len(), 1, "{said:?}");
    }
}

#[tokio::test]
async fn the_budget_bounds_retries() {
    let service = Upstream::start().await;
    let lines = "retries = { budget = { percent = 20, min_per_second = 0 } }";
    let gateway = Setup::before(&[&service], lines).start().await;
    let mut statuses = vec![];
    for _ in 0..4 {
        service.reply(Reply::status(503));
        statuses.push(gateway.get("/").await.status());
    }
    assert_eq!(statuses, [503; 4], "of four requests none");
    assert_eq!(retries(&gateway, "over_budget").await, Some(4));
    assert_eq!(retries(&gateway, "sent").await, None);
    service.reply(Reply::status(503));
    assert_eq!(gateway.get("/").await.status(), 200, "of five one");
    service.reply(Reply::status(503));
    assert_eq!(gateway.get("/").await.status(), 503);
    assert_eq!(retries(&gateway, "sent").await, Some(1));
    assert_eq!(service.count(), 7);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    for http2 in [false, true] {
        let (a, b) = two().await;
        let lines =
            format!("http2 = {http2}\nretries = {{ attempts = 2, per_try_timeout = \"100ms\" }}");
        let gateway = Setup::before(&[&a, &b], &lines).start().await;
        a.reply(Reply::Hang);
        b.reply(Reply::Hang);
        assert_eq!(gateway.get("/").await.status(), 200);
        assert_eq!(retries(&gateway, "sent").await, Some(2));
        assert_eq!(a.count() + b.count(), 3);
        if !http2 {
            eventually("an end of what was given up", async || {
                (a.open() + b.open() == 1).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_try_that_the_budget_lets_nobody_repeat_goes_on() {
    let service = Upstream::start().await;
    let lines =
        "retries = { per_try_timeout = \"100ms\", budget = { percent = 0, min_per_second = 0 } }";
    let gateway = Setup::before(&[&service], lines).start().await;
    let (go, reply) = Reply::late("at last");
    service.reply(reply);
    let answer = tokio::spawn(gateway.get("/").into_future());
    eventually("the end of its time", async || {
        retries(&gateway, "over_budget").await
    })
    .await;
    go.send(()).unwrap();
    assert_eq!(answer.await.unwrap().text(), "at last");
    assert_eq!(service.count(), 1);
}

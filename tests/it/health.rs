//! Servers that say whether they are well, and what becomes of those that are not.

use crate::support::authority::{Authority, H2, HTTP_11, quoted};
use crate::support::upstream::{CHECK, Refusing};
use crate::support::{Setup, Upstream, eventually};

fn checks(lines: &str) -> String {
    format!("health = {{ path = \"{CHECK}\", interval = \"100ms\"{lines} }}")
}

/// Two servers of an upstream with these lines, one of which falls ill and is well again.
async fn falls_ill(servers: &[Upstream; 2], urls: &[String], lines: &str) {
    let [well, ill] = servers;
    let gateway = Setup::balanced(urls, lines).start().await;
    gateway.serves(4).await;
    assert_eq!((well.count(), ill.count()), (2, 2));
    ill.answer_checks(503);
    gateway.comes_to_servers("unhealthy", 1).await;
    gateway.serves(6).await;
    assert_eq!((well.count(), ill.count()), (8, 2), "{lines}");
    ill.answer_checks(200);
    gateway.comes_to_servers("available", 2).await;
    gateway.serves(4).await;
    assert_eq!((well.count(), ill.count()), (10, 4), "{lines}");
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_no_requests() {
    for http2 in [false, true] {
        let servers = [Upstream::start().await, Upstream::start().await];
        let urls = servers.each_ref().map(Upstream::url);
        let lines = format!("http2 = {http2}\n{}", checks(""));
        falls_ill(&servers, &urls, &lines).await;
    }
}

#[tokio::test]
async fn checks_go_over_tls_as_requests_do() {
    let ca = Authority::new();
    for http2 in [false, true] {
        let alpn = if http2 { H2 } else { HTTP_11 };
        let server = || Upstream::over_tls(ca.issue("orders.test").server(alpn));
        let servers = [server().await, server().await];
        let urls = servers
            .each_ref()
            .map(|server| format!("https://{}", server.address()));
        let tls = format!(
            "tls = {{ ca = {}, server_name = \"orders.test\" }}",
            quoted(&ca.file())
        );
        let lines = format!("http2 = {http2}\n{tls}\n{}", checks(""));
        falls_ill(&servers, &urls, &lines).await;
    }
}

#[tokio::test]
async fn no_healthy_server_is_503() {
    let service = Upstream::start().await;
    service.answer_checks(500);
    let refusing = Refusing::start();
    let urls = [service.url(), refusing.url()];
    let gateway = Setup::balanced(&urls, &checks("")).start().await;
    gateway.comes_to_servers("unhealthy", 2).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.verdict(), "503 upstream_unhealthy");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(service.count(), 0);
    let series = format!(
        "jotgate_upstream_health_checks_total{{result=\"failed\",server=\"{}\",upstream=\"service\"}}",
        service.url()
    );
    let failed = gateway.metrics().await.value(&series);
    assert!(failed >= Some(1), "{failed:?}");
}

#[tokio::test]
async fn a_check_without_an_answer_is_a_bad_one() {
    let service = Upstream::start().await;
    let gateway = Setup::balanced(&[service.url()], &checks(", timeout = \"100ms\""))
        .start()
        .await;
    service.answer_checks(1);
    gateway.comes_to_servers("unhealthy", 1).await;
    service.answer_checks(200);
    gateway.comes_to_servers("available", 1).await;
    gateway.serves(1).await;
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn only_the_statuses_that_are_named_are_good() {
    let service = Upstream::start().await;
    let gateway = Setup::balanced(&[service.url()], &checks(", status = \"404\""))
        .start()
        .await;
    gateway.comes_to_servers("unhealthy", 1).await;
    service.answer_checks(404);
    gateway.comes_to_servers("available", 1).await;
    gateway.serves(1).await;
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn a_reload_ends_checks_begins_others_and_leaves_the_rest() {
    let (service, kept) = (Upstream::start().await, Upstream::start().await);
    service.answer_checks(500);
    kept.answer_checks(500);
    let other = format!(
        "[[upstreams]]\nname = \"kept\"\nservers = [\"{}\"]\n{}\n[[routes]]\nauth = \"public\"\npath = \"/kept\"\nupstream = \"kept\"",
        kept.url(),
        checks("")
    );
    let with = |lines: &str| Setup::balanced(&[service.url()], lines).section(&other);
    let mut gateway = with(&checks("")).start().await;
    gateway.comes_to_servers("unhealthy", 1).await;
    assert!(gateway.reload(&with("")).await);
    gateway.serves(1).await;
    let answer = gateway.get("/kept").await;
    assert_eq!(answer.verdict(), "503 upstream_unhealthy", "as before");
    // One may have been on its way.
    let (ended, going) = (service.checks(), kept.checks());
    eventually("some more checks of the other", async || {
        (kept.checks() > going + 5).then_some(())
    })
    .await;
    assert!(service.checks() <= ended + 1, "nobody asks any more");
    assert!(gateway.reload(&with(&checks(""))).await);
    gateway.comes_to_servers("unhealthy", 1).await;
    assert_eq!((service.count(), kept.count()), (1, 0));
}

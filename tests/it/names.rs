//! Services that are known by a name: each address is a server, and requests never wait for the DNS.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use crate::support::dns::{Dns, NXDOMAIN, SERVFAIL, Zone};
use crate::support::{Gateway, Setup, Upstream, eventually};

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Two services on one port of two addresses of this machine.
async fn pods() -> (Upstream, Upstream, u16) {
    loop {
        let first = Upstream::start().await;
        let port = first.address().port();
        // Another test may have it on that address.
        if let Ok(listener) = TcpListener::bind((SECOND, port)).await {
            return (first, Upstream::on(listener), port);
        }
    }
}

async fn gateway(dns: &Dns, port: u16, lines: &str) -> Gateway {
    setup(dns, port, lines).start().await
}

fn setup(dns: &Dns, port: u16, lines: &str) -> Setup {
    Setup::balanced(&[format!("http://pods.test:{port}")], lines)
        .section(format!("[dns]\nservers = [\"{}\"]", dns.address()))
}

#[tokio::test]
async fn each_address_of_a_name_is_a_server_and_they_come_and_go() {
    let (first, second, port) = pods().await;
    let dns = Dns::start(Zone::Addresses(vec![FIRST, SECOND], 1)).await;
    let gateway = gateway(&dns, port, "").await;
    gateway.serves(6).await;
    assert_eq!((first.count(), second.count()), (3, 3));
    assert_eq!(first.last().authority, gateway.address().to_string());
    dns.now(Zone::Addresses(vec![SECOND], 1));
    gateway.comes_to_servers("available", 1).await;
    gateway.serves(4).await;
    assert_eq!((first.count(), second.count()), (3, 7));
    let status = gateway.admin().request("GET", "/v1/status").await.json();
    let servers = &status["upstreams"][0]["servers"];
    assert_eq!(servers.as_array().map(Vec::len), Some(1));
    assert_eq!(servers[0]["address"], SECOND.to_string());
    let kept = second.connections();
    dns.now(Zone::Addresses(vec![FIRST, SECOND], 1));
    gateway.comes_to_servers("available", 2).await;
    gateway.serves(4).await;
    assert_eq!((first.count(), second.count()), (5, 9));
    assert_eq!(
        second.connections(),
        kept,
        "whoever stays keeps connections"
    );
}

#[tokio::test]
async fn the_connections_to_an_address_that_is_gone_are_closed() {
    let (first, second, port) = pods().await;
    let dns = Dns::start(Zone::Addresses(vec![FIRST, SECOND], 1)).await;
    let gateway = gateway(&dns, port, "").await;
    gateway.serves(2).await;
    assert_eq!((first.open(), second.open()), (1, 1));
    dns.now(Zone::Addresses(vec![SECOND], 1));
    gateway.comes_to_servers("available", 1).await;
    gateway.serves(1).await;
    eventually("the end of its connection", async || {
        (first.open() == 0).then_some(())
    })
    .await;
    assert_eq!((first.count(), second.count()), (1, 2));
}

#[tokio::test]
async fn the_last_addresses_stay_while_the_dns_fails() {
    let (first, second, port) = pods().await;
    let dns = Dns::start(Zone::Addresses(vec![FIRST, SECOND], 1)).await;
    let gateway = gateway(&dns, port, "").await;
    dns.now(Zone::Error(SERVFAIL));
    let failed = format!(
        "jotgate_upstream_resolutions_total{{result=\"failed\",server=\"http://pods.test:{port}\",upstream=\"service\"}}"
    );
    eventually("some failures", async || {
        (gateway.metrics().await.value(&failed)? >= 2).then_some(())
    })
    .await;
    gateway.serves(6).await;
    assert_eq!((first.count(), second.count()), (3, 3));
}

#[tokio::test]
async fn a_name_that_has_no_address_is_503_and_not_the_client_s_fault() {
    let (first, second, port) = pods().await;
    let dns = Dns::start(Zone::Error(NXDOMAIN)).await;
    let gateway = gateway(&dns, port, "").await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.verdict(), "503 upstream_unhealthy");
    assert_eq!(first.count() + second.count(), 0);
    dns.now(Zone::Addresses(vec![FIRST], 1));
    gateway.comes_to_servers("available", 1).await;
    gateway.serves(1).await;
    assert_eq!(first.count(), 1);
}

#[tokio::test]
async fn requests_do_not_ask_the_dns() {
    let (first, _second, port) = pods().await;
    let dns = Dns::start(Zone::Addresses(vec![FIRST], 300)).await;
    let gateway = gateway(&dns, port, "max_idle = 0").await;
    let asked = dns.asked();
    assert!(asked > 0);
    gateway.serves(20).await;
    assert_eq!(first.connections(), 20);
    assert_eq!(dns.asked(), asked);
}

#[tokio::test]
async fn a_reload_waits_for_new_names() {
    let (first, _second, port) = pods().await;
    let dns = Dns::start(Zone::Addresses(vec![FIRST], 1)).await;
    let mut gateway = gateway(&dns, port, "").await;
    gateway.serves(1).await;
    assert!(gateway.reload(&setup(&dns, port, "max_idle = 1")).await);
    gateway.serves(1).await;
    let address = [first.url()];
    let bare =
        Setup::balanced(&address, "").section(format!("[dns]\nservers = [\"{}\"]", dns.address()));
    assert!(gateway.reload(&bare).await);
    gateway.serves(1).await;
    assert_eq!(first.count(), 3);
}

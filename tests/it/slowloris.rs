//! Ten thousand connections that do nothing, or nearly nothing, and the others who want to be served meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::client::{Connection, Request};
use crate::support::process::Process;
use crate::support::{Setup, Upstream, eventually, within};

/// As many as the issue names, or as many as this system lets one process open.
const CONNECTIONS_MAX: usize = 10_000;

/// Files that both processes need besides.
const OTHER_FILES: usize = 500;

/// What one held connection may cost the gateway, its socket in the kernel not counted. A build without optimisation keeps
/// large futures; a connection that has begun a head has a read buffer.
const BYTES_PER_CONNECTION: usize = 32 * 1024;

/// Raises this process's limit of open files, which the gateway inherits, and says how many connections fit.
fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised to the hard one");
    let files = limit.maximum.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    // Each fifth one has a connection to the service, too.
    CONNECTIONS_MAX.min(files.saturating_sub(OTHER_FILES) / 6 * 5)
}

/// What a client sends that holds a connection, and never goes on.
const BEGINNINGS: [&str; 5] = [
    "",
    "G",
    "GET / HTTP/1.1\r\nhost: shop\r\nx-slow: ",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 1000000\r\n\r\n",
];

async fn hold(address: SocketAddr, from: usize, to: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(to - from);
    for n in from..to {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let beginning = BEGINNINGS[n % BEGINNINGS.len()].as_bytes();
        assert_eq!(stream.try_write(beginning).expect("room"), beginning.len());
        held.push(stream);
    }
    held
}

/// One more byte on each of them that has begun a line or a body. Says how many took it.
fn trickle(held: &[TcpStream]) -> usize {
    held.iter()
        .enumerate()
        .filter(|(n, _)| matches!(n % BEGINNINGS.len(), 2 | 4))
        .filter(|(_, stream)| stream.try_write(b"x").is_ok())
        .count()
}

fn resident_bytes(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("resident memory");
    let kibibytes: usize = line
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kibibytes * 1024
}

/// The median of some requests, each on a connection of its own.
async fn usual(address: SocketAddr) -> Duration {
    let mut took = vec![];
    for n in 0..31 {
        let request = Request::new(address, "GET", "/");
        let request = if n % 2 == 0 { request } else { request.h2() };
        let began = Instant::now();
        assert_eq!(request.await.status(), 200);
        took.push(began.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_and_trickling_connections_stop_nobody() {
    let connections = connections();
    assert!(connections >= 2000, "the limit of open files is too low");
    let upstream = Upstream::start().await;
    let setup = Setup::bare(&upstream.url())
        .catch_all("auth = \"public\"")
        .listener("header_timeout = \"5s\"\nidle_timeout = \"5s\"\nbody_timeout = \"5s\"")
        .section("[telemetry]\naccess_log = false");
    let process = Process::gateway(&setup);
    let address = process.address(&["listening"]).await;
    eventually("the gateway to serve", async || {
        let answer = Request::new(address, "GET", "/").try_send().await;
        answer
            .is_ok_and(|answer| answer.status() == 200)
            .then_some(())
    })
    .await;
    let before = usual(address).await;
    let bytes_before = resident_bytes(&process);
    let mut regular = Connection::open(address, http::Version::HTTP_11).await;

    let mut holding = JoinSet::new();
    for part in 0..10 {
        let (from, to) = (part * connections / 10, (part + 1) * connections / 10);
        holding.spawn(hold(address, from, to));
    }
    let held: Vec<TcpStream> = within("the connections", holding.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(held.len(), connections);
    let began = Instant::now();
    let mut rounds = 0;
    let mut bytes_most = 0;
    let mut worst = Duration::ZERO;
    // Until the deadlines have ended even those who send a byte now and then.
    within("the deadlines", async {
        loop {
            let alive = trickle(&held);
            bytes_most = bytes_most.max(resident_bytes(&process));
            worst = worst.max(usual(address).await);
            let answer = regular.send(Request::new(address, "GET", "/regular")).await;
            assert_eq!(answer.status(), 200);
            rounds += 1;
            if alive == 0 {
                return;
            }
        }
    })
    .await;
    assert!(
        worst < 20 * before + Duration::from_millis(20),
        "{worst:?} instead of {before:?}"
    );
    let cost = bytes_most.saturating_sub(bytes_before) / connections;
    assert!(
        cost < BYTES_PER_CONNECTION,
        "{cost} bytes for each connection"
    );
    assert!(
        rounds > 1 && began.elapsed() > Duration::from_secs(4),
        "{rounds}"
    );
    // Their places are free again.
    let again = within("new connections", hold(address, 0, 100)).await;
    assert_eq!(
        (again.len(), usual(address).await < worst * 20),
        (100, true)
    );
    let large = upstream
        .seen()
        .iter()
        .filter(|seen| seen.method == "POST" && seen.complete)
        .count();
    assert_eq!(large, 0, "no body that stopped was taken for a whole one");
}

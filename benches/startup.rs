//! How long the gateway takes to start, by what the operator configures: routes and issuers. Twice as much may take twice as
//! long, not four times.
//!
//! `cargo bench --bench startup` measures; `cargo bench --bench startup -- --test` runs it once, small. Linux only: it reads
//! `/proc`.

#![expect(clippy::unwrap_used, reason = "a bench fails like a test")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What routes say of issuers.
#[derive(Clone, Copy, Debug)]
enum Believe {
    /// Nothing: all pass.
    All,
    /// Each names one.
    Own,
}

const SIZES: [(usize, usize); 6] = [
    (10, 1),
    (1_000, 1),
    (10_000, 1),
    (10, 5_000),
    (10_000, 100),
    (10_000, 5_000),
];

/// Small enough for an unoptimised program, and more than one of each.
const TRIAL: [(usize, usize); 1] = [(50, 20)];

/// Each route has a host and a scope of its own, each issuer an audience of its own; nothing is fetched.
fn config(routes: usize, issuers: usize, believe: Believe) -> String {
    let mut text = String::from(
        "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[telemetry.log]\nformat = \"json\"\n\
        [[upstreams]]\nname = \"service\"\nservers = [\"http://127.0.0.1:9\"]\n",
    );
    for n in 0..issuers {
        write!(
            text,
            "[[issuers]]\nissuer = \"https://id-{n}.example.com\"\naudiences = [\"tenant-{n}\"]\n\
            secret = {{ env = \"ISSUER_SECRET\" }}\nheaders = {{ x-user-id = \"sub\" }}\n"
        )
        .unwrap();
    }
    for n in 0..routes {
        write!(
            text,
            "[[routes]]\nhosts = [\"shop-{n}.example.com\"]\npath = \"/orders\"\nupstream = \"service\"\nscopes = [\"orders-{n}\"]\n"
        )
        .unwrap();
        match believe {
            Believe::All => {}
            Believe::Own => {
                writeln!(text, "issuers = [\"id-{}.example.com\"]", n % issuers).unwrap();
            }
        }
    }
    text
}

/// Killed when it is dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Start {
    listens: Duration,
    wall: Duration,
    processor: Duration,
    resident_kib: u64,
}

/// Starts it, and asks the last route without a token: it must be there, and guarded.
fn start(text: &str, routes: usize) -> Start {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    let begun = Instant::now();
    let process = Command::new(env!("CARGO_BIN_EXE_jotgate"))
        .args(["run", "--config"])
        .arg(&path)
        .env("ISSUER_SECRET", "0123456789abcdef0123456789abcdef")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut gateway = Gateway(process);
    let lines = BufReader::new(gateway.0.stdout.take().unwrap()).lines();
    let address = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(|line| line["message"] == "listening")
        .map(|line| line["address"].as_str().unwrap().to_owned())
        .expect("it listens before it ends");
    let listens = begun.elapsed();
    let mut stream = TcpStream::connect(address).unwrap();
    let last = routes - 1;
    write!(
        stream,
        "GET /orders/7 HTTP/1.1\r\nhost: shop-{last}.example.com\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let wall = begun.elapsed();
    let of =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", gateway.0.id())).unwrap();
    let processor = std::fs::read_dir(format!("/proc/{}/task", gateway.0.id()))
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())
        .map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    let status = of("status");
    let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
    let resident = resident.unwrap().split_whitespace().nth(1).unwrap();
    Start {
        listens,
        wall,
        processor: Duration::from_nanos(processor),
        resident_kib: resident.parse().unwrap(),
    }
}

fn main() {
    let is_trial = std::env::args().any(|argument| argument == "--test");
    let (sizes, runs) = if is_trial {
        (&TRIAL[..], 1)
    } else {
        (&SIZES[..], 3)
    };
    println!(
        "| routes | issuers | a route believes | listens after | first answer after | processor time | resident |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &(routes, issuers) in sizes {
        for believe in [Believe::All, Believe::Own] {
            let text = config(routes, issuers, believe);
            let mut starts: Vec<Start> = (0..runs).map(|_| start(&text, routes)).collect();
            starts.sort_by_key(|start| start.processor);
            let middle = &starts[starts.len() / 2];
            let (least, most) = (starts[0].processor, starts[starts.len() - 1].processor);
            println!(
                "| {routes} | {issuers} | {believe:?} | {:.1} ms | {} ms | {} ms ({} – {}) | {} MiB |",
                middle.listens.as_secs_f64() * 1e3,
                middle.wall.as_millis(),
                middle.processor.as_millis(),
                least.as_millis(),
                most.as_millis(),
                middle.resident_kib / 1024,
            );
        }
    }
}

//! What strangers' bytes cost: processor time of the gateway for each KiB of a flood, beside an ordinary request's. No input
//! should cost more than a hundred times what its size suggests.
//!
//! `cargo bench --bench attacks` measures everything, `cargo bench --bench attacks -- ping reset` what has these words in its
//! name, and `-- --test` runs all of it once, small. Linux only: it reads `/proc`.

#![expect(clippy::unwrap_used, reason = "a bench fails like a test")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people have three digits"
)]

#[expect(dead_code, reason = "each bench and test uses its part")]
#[path = "../tests/it/support/h2.rs"]
mod h2;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, INITIAL_WINDOW_SIZE, MARK, PING,
    PRIORITY, field, frame, head, indexed, kept_field, request, rst_stream, settings,
    window_update,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// For the client that the scenarios use, too.
async fn within<F: Future>(what: &'static str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_mins(1), future)
        .await
        .unwrap_or_else(|_| panic!("{what} took too long"))
}

/// The program with one worker, in front of a service. Killed when it is dropped.
struct Gateway {
    process: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(folder: &std::path::Path, service: SocketAddr) -> Self {
        let config = format!(
            r#"
workers = 1

[[listeners]]
address = "127.0.0.1:0"

[[issuers]]
issuer = "https://id.example.com"
audiences = ["orders"]
algorithms = ["HS256"]
secret = {{ env = "ISSUER_SECRET" }}

[[routes]]
path = "/"
upstream = "http://{service}"

[[routes]]
path = "/public"
upstream = "http://{service}"
auth = "public"

[telemetry]
access_log = false

[telemetry.log]
format = "json"
"#
        );
        let path = folder.join("gateway.toml");
        std::fs::write(&path, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_jotgate"))
            .args(["run", "--config"])
            .arg(&path)
            .env("ISSUER_SECRET", "0123456789abcdef0123456789abcdef")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["message"] == "listening" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, address }
    }

    /// Processor time of all its threads.
    fn processor_time(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.process.id());
        let nanos = std::fs::read_dir(tasks)
            .unwrap()
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())
            .map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap());
        Duration::from_nanos(nanos.sum())
    }

    /// A figure of `/proc/PID/status`, in KiB.
    fn kib(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Forgets the highest resident memory so far.
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers every head at once: 1 KiB, or 1 MiB below `/public/large`, or never below `/public/hang`.
async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let answer = |size: usize| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; size]].concat()
    };
    let (small, large) = (answer(1024), answer(1024 * 1024));
    let mut begun = vec![];
    loop {
        if stream.read_buf(&mut begun).await.ok()? == 0 {
            return None;
        }
        while let Some(end) = begun.windows(4).position(|four| four == b"\r\n\r\n") {
            let target = begun.split(|byte| *byte == b' ').nth(1).unwrap().to_vec();
            begun.drain(..end + 4);
            match target.as_slice() {
                b"/public/hang" => {}
                b"/public/large" => stream.write_all(&large).await.ok()?,
                _ => stream.write_all(&small).await.ok()?,
            }
        }
    }
}

/// One kind of input.
struct Input {
    name: &'static str,
    /// Frames after the preface.
    hello: Vec<u8>,
    /// What one connection sends: so many of these, unless it is closed before.
    rounds: u32,
    round: Box<dyn Fn(u32) -> Vec<u8>>,
}

fn input(name: &'static str, rounds: u32, round: impl Fn(u32) -> Vec<u8> + 'static) -> Input {
    let windows = [
        settings(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]),
        window_update(0, (1 << 30) - 1),
    ];
    Input {
        name,
        hello: windows.concat(),
        rounds,
        round: Box::new(round),
    }
}

fn nth(n: u32) -> u32 {
    2 * n + 1
}

/// A hundred of these, and a PING to know that they were read.
fn hundred(bytes: &[u8]) -> impl Fn(u32) -> Vec<u8> + 'static {
    let bytes = [&bytes.repeat(100), MARK].concat();
    move |_| bytes.clone()
}

/// Ten requests at once, with what else `make` sends on their streams.
fn ten(make: impl Fn(u32) -> Vec<u8> + 'static) -> impl Fn(u32) -> Vec<u8> + 'static {
    move |round| {
        let mut bytes: Vec<u8> = (0..10).flat_map(|n| make(nth(round * 10 + n))).collect();
        bytes.extend(MARK);
        bytes
    }
}

/// The first ones are what the others are compared with: the headers that a browser sends, and a token that nobody signed.
fn inputs() -> Vec<Input> {
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let token = format!("Bearer {}", "a".repeat(300));
    let ordinary = move |path: &'static str| {
        let token = token.clone();
        ten(move |stream| {
            let lines = [
                ("user-agent", agent),
                ("accept", "*/*"),
                ("accept-encoding", "gzip, deflate, br"),
                ("authorization", &token),
            ];
            request(stream, "GET", path, &lines)
        })
    };
    let get = |stream| request(stream, "GET", "/public", &[]);
    let hang = |stream| request(stream, "GET", "/public/hang", &[]);
    let unfinished = frame(HEADERS, END_STREAM, 1, head("GET", "/public", &[]));
    let open = frame(HEADERS, END_HEADERS, 1, head("POST", "/public/hang", &[]));
    let mut bomb = head("GET", "/public", &[]);
    bomb.extend(kept_field("x", "y".repeat(4000)));
    let on_itself = |stream: u32| {
        let payload = [&stream.to_be_bytes()[..], &[16]].concat();
        frame(PRIORITY, 0, stream, payload)
    };
    let streams =
        |make: fn(u32) -> Vec<u8>| (0..128).flat_map(|n| make(nth(n))).collect::<Vec<u8>>();
    let mut inputs = vec![
        input("ordinary requests, passed on", 50, ordinary("/public")),
        input("ordinary requests, refused", 50, ordinary("/")),
        input("the smallest requests, passed on", 50, ten(get)),
        input("PING", 200, hundred(&frame(PING, 0, 0, [7; 8]))),
        input("SETTINGS, empty", 200, hundred(&settings(&[]))),
        input(
            "priorities",
            200,
            hundred(&frame(PRIORITY, 0, 1, [0, 0, 0, 3, 16])),
        ),
        input("window updates", 200, hundred(&window_update(0, 1))),
        input("unknown frames", 200, hundred(&frame(0xfa, 0, 0, ""))),
        input("empty DATA", 200, move |round| {
            let data = frame(DATA, 0, 1, "").repeat(10);
            let open = if round == 0 { open.clone() } else { vec![] };
            [&open, &data, MARK].concat()
        }),
        input("CONTINUATION without end", 1, move |_| {
            [
                unfinished.clone(),
                frame(CONTINUATION, 0, 1, field("x", "y".repeat(1000))).repeat(8),
            ]
            .concat()
        }),
        input(
            "rapid reset, in one segment",
            100,
            ten(move |stream| [hang(stream), rst_stream(stream, 8)].concat()),
        ),
        input("rapid reset, of begun requests", 1000, move |round| {
            let reset = if round == 0 {
                vec![]
            } else {
                rst_stream(nth(round - 1), 8)
            };
            [&reset, &hang(nth(round)), MARK].concat()
        }),
        input(
            "MadeYouReset, windows that overflow",
            200,
            ten(move |stream| [hang(stream), window_update(stream, (1 << 31) - 1)].concat()),
        ),
        input("MadeYouReset, of begun requests", 1000, move |round| {
            let provoke = if round == 0 {
                vec![]
            } else {
                on_itself(nth(round - 1))
            };
            [&provoke, &hang(nth(round)), MARK].concat()
        }),
        input("streams beyond the limit", 200, move |round| {
            if round == 0 {
                return [
                    &streams(|stream| request(stream, "GET", "/public/hang", &[])),
                    MARK,
                ]
                .concat();
            }
            ten(hang)(round + 12)
        }),
        input(
            "SETTINGS of a window, with 128 streams",
            200,
            move |round| {
                let held = (0..128).flat_map(|n| request(nth(n), "GET", "/public/hang", &[]));
                let held: Vec<u8> = if round == 0 { held.collect() } else { vec![] };
                let there_and_back = [
                    settings(&[(INITIAL_WINDOW_SIZE, 1)]),
                    settings(&[(INITIAL_WINDOW_SIZE, 2)]),
                ];
                [&held, &there_and_back.concat().repeat(50), MARK].concat()
            },
        ),
        input("HPACK bomb below the bound", 50, move |round| {
            let mut fields = if round == 0 {
                bomb.clone()
            } else {
                head("GET", "/public", &[])
            };
            fields.extend(indexed(62).repeat(7));
            [
                &frame(HEADERS, END_STREAM | END_HEADERS, nth(round), fields),
                MARK,
            ]
            .concat()
        }),
        input("HPACK bomb above it", 50, move |round| {
            let mut fields = head("GET", "/public", &[]);
            if round == 0 {
                fields.extend(kept_field("x", "y".repeat(4000)));
            }
            fields.extend(indexed(62).repeat(30));
            [
                &frame(HEADERS, END_STREAM | END_HEADERS, nth(round), fields),
                MARK,
            ]
            .concat()
        }),
    ];
    let tiny = |round: u32| {
        let large = request(1, "GET", "/public/large", &[]);
        let begin = if round == 0 { large } else { vec![] };
        [&begin, &window_update(1, 1).repeat(10), MARK].concat()
    };
    inputs.push(Input {
        hello: settings(&[(INITIAL_WINDOW_SIZE, 1)]),
        ..input("windows of one byte", 500, tiny)
    });
    inputs.push(Input {
        hello: settings(&[(INITIAL_WINDOW_SIZE, 0)]),
        ..input("128 large answers behind a closed window", 1, |_| {
            let asked = (0..128).flat_map(|n| request(nth(n), "GET", "/public/large", &[]));
            let mut bytes: Vec<u8> = asked.collect();
            bytes.extend(MARK);
            bytes
        })
    });
    inputs
}

struct Cost {
    bytes: usize,
    connections: usize,
    /// Connections that the gateway closed.
    cut: usize,
    time: Duration,
    peak_kib: u64,
}

impl Cost {
    fn micros_per_kib(&self) -> f64 {
        self.time.as_secs_f64() * 1e6 * 1024.0 / self.bytes as f64
    }
}

async fn measure(gateway: &Gateway, input: &Input, connections: usize) -> Cost {
    gateway.forget_peak();
    let before = gateway.processor_time();
    let (mut bytes, mut cut) = (0, 0);
    for _ in 0..connections {
        let mut h2 = H2::connect_with(gateway.address, &input.hello).await;
        bytes += h2::PREFACE.len() + settings(&[(0, 0)]).len() + input.hello.len();
        for round in 0..input.rounds {
            let round = (input.round)(round);
            bytes += round.len();
            if !h2.pour(&round).await {
                cut += 1;
                break;
            }
        }
    }
    // What it does after the last connection has ended, too.
    tokio::time::sleep(Duration::from_millis(50)).await;
    Cost {
        bytes,
        connections,
        cut,
        time: gateway.processor_time().saturating_sub(before),
        peak_kib: gateway.kib("VmHWM"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_trial = arguments.iter().any(|argument| argument == "--test");
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let (connections, runs) = if is_trial { (1, 1) } else { (20, 3) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    println!("| input | µs a KiB | to ordinary | bytes a connection | cut off | peak memory |");
    println!("|---|---|---|---|---|---|");
    runtime.block_on(async {
        let service = service().await;
        let gateway = Gateway::start(folder.path(), service);
        let inputs = inputs();
        measure(&gateway, &inputs[0], connections).await;
        let mut ordinary = None;
        for (nth, input) in inputs.iter().enumerate() {
            let is_wanted = words.is_empty() || words.iter().any(|word| input.name.contains(*word));
            if nth > 0 && !is_wanted {
                continue;
            }
            let mut costs = vec![];
            for _ in 0..runs {
                costs.push(measure(&gateway, input, connections).await);
            }
            costs.sort_by(|a, b| a.micros_per_kib().total_cmp(&b.micros_per_kib()));
            let median = &costs[costs.len() / 2];
            let (least, most) = (&costs[0], &costs[costs.len() - 1]);
            let base = *ordinary.get_or_insert_with(|| median.micros_per_kib());
            println!(
                "| {} | {:.1} ({:.1} – {:.1}) | {:.2} | {} | {} of {} | {} MiB |",
                input.name,
                median.micros_per_kib(),
                least.micros_per_kib(),
                most.micros_per_kib(),
                median.micros_per_kib() / base,
                median.bytes / median.connections,
                median.cut,
                median.connections,
                most.peak_kib / 1024,
            );
        }
    });
}

//! The whole program, as it is built: how long it takes to start with ten million rules, to acknowledge one on disk, to
//! take a million at once and what requests notice of that; what it holds in memory; and a million rounds of the race.
//!
//! `cargo bench --bench revocation` measures everything, `cargo bench --bench revocation -- start burst` some of it, and
//! `-- --test` runs all of it once, small. Linux only: it reads `/proc`.

#![expect(clippy::unwrap_used, reason = "a bench fails like a test")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people have three digits"
)]

#[expect(dead_code, reason = "each bench and test uses its part")]
mod scene;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jotgate::base::clock::Clock;
use jotgate::denylist::Kind;
use jotgate::jwks::Algorithm;
use scene::log_file::LogFile;
use scene::race::{READERS, race};
use scene::{ISSUER, Token, hmac_key};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ADMIN_SECRET: &str = "0123456789abcdef";

/// How much of everything is done.
#[derive(Clone, Copy)]
struct Size {
    race_rounds: usize,
    rules_at_start: u32,
    acknowledgements: usize,
    /// Requests of 10,000 rules each.
    burst_requests: usize,
    /// How long the requests run that the burst is compared with.
    before: Duration,
    idle_connections: usize,
    body_bytes: usize,
    runs: usize,
}

const FULL: Size = Size {
    race_rounds: 1_000_000,
    rules_at_start: 10_000_000,
    acknowledgements: 10_000,
    burst_requests: 100,
    before: Duration::from_secs(5),
    idle_connections: 10_000,
    body_bytes: 1024 * 1024 * 1024,
    runs: 3,
};

const TRIAL: Size = Size {
    race_rounds: 1000,
    rules_at_start: 10_000,
    acknowledgements: 100,
    burst_requests: 2,
    before: Duration::from_millis(200),
    idle_connections: 100,
    body_bytes: 8 * 1024 * 1024,
    runs: 1,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_trial = arguments.iter().any(|argument| argument == "--test");
    let size = if is_trial { TRIAL } else { FULL };
    let chosen: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let wanted = |name: &str| chosen.is_empty() || chosen.contains(&name);
    if wanted("acknowledge") {
        for _ in 0..size.runs {
            runtime.block_on(acknowledge(size));
        }
    }
    if wanted("burst") {
        for _ in 0..size.runs {
            runtime.block_on(burst(size));
        }
    }
    if wanted("memory") {
        runtime.block_on(idle(size));
    }
    if wanted("bodies") {
        runtime.block_on(bodies(size));
    }
    if wanted("start") {
        runtime.block_on(start(size));
    }
    if wanted("race") {
        let begin = Instant::now();
        let outcome = race(size.race_rounds);
        println!(
            "race: {} tokens revoked under {READERS} readers in {:.1?}: {outcome:?}",
            size.race_rounds,
            begin.elapsed()
        );
    }
}

/// The program, running. Killed when it is dropped.
struct Gateway {
    process: Child,
    admin: SocketAddr,
    listener: SocketAddr,
    /// From the start of the process until the admin API answered.
    started_in: Duration,
    /// Audit lines so far.
    audited: Arc<AtomicUsize>,
}

impl Gateway {
    fn start(folder: &Path, upstream: SocketAddr, with_log: bool) -> Self {
        let denylist = if with_log {
            format!("path = '{}'", folder.join("denylist.log").display())
        } else {
            String::new()
        };
        let config = format!(
            r#"
[[listeners]]
address = "127.0.0.1:0"

[[issuers]]
issuer = "{ISSUER}"
audiences = ["orders"]
algorithms = ["HS256"]
secret = {{ env = "ISSUER_SECRET" }}

[[routes]]
path = "/"
upstream = "http://{upstream}"

[[routes]]
path = "/public"
upstream = "http://{upstream}"
auth = "public"

[denylist]
max_entries = 20000000
{denylist}

[admin]
address = "127.0.0.1:0"
tokens = [{{ name = "ops", secret = {{ env = "ADMIN_SECRET" }}, roles = ["read", "revoke", "security"] }}]

[telemetry]
access_log = false

[telemetry.log]
format = "json"
"#
        );
        let path = folder.join("gateway.toml");
        std::fs::write(&path, config).unwrap();
        let begin = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_jotgate"))
            .args(["run", "--config"])
            .arg(&path)
            .env("ISSUER_SECRET", SECRET)
            .env("ADMIN_SECRET", ADMIN_SECRET)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let audited = Arc::new(AtomicUsize::new(0));
        let audit_lines = Arc::clone(&audited);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nearly all are audit lines. They are counted, and taken away as a log collector would do.
                if line.contains("\"jotgate::audit\"") {
                    audit_lines.fetch_add(1, Ordering::Release);
                } else if line.contains("\"address\"") {
                    let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
                }
            }
        });
        let (mut admin, mut listener) = (None, None);
        let mut started_in = Duration::ZERO;
        while admin.is_none() || listener.is_none() {
            let line: Value = lines.recv().expect("the gateway starts");
            let address = || line["address"].as_str().map(|text| text.parse().unwrap());
            match line["message"].as_str() {
                Some("the admin API answers") => admin = address(),
                Some("listening") => listener = address(),
                _ => {}
            }
            started_in = begin.elapsed();
        }
        Self {
            process,
            admin: admin.unwrap(),
            listener: listener.unwrap(),
            started_in,
            audited,
        }
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

    /// Time of processors used so far; the kernel counts in hundredths of a second.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One connection, kept.
struct Client {
    stream: tokio::io::BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Client {
    async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: tokio::io::BufReader::with_capacity(1024, stream),
            body: vec![],
        }
    }

    /// Sends these bytes, and reads the answer's status and body.
    async fn send(&mut self, request: &[u8]) -> u16 {
        self.stream.get_mut().write_all(request).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> u16 {
        let (status, length) = self.head().await;
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).await.unwrap();
        status
    }

    async fn head(&mut self) -> (u16, usize) {
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            assert!(
                self.stream.read_line(&mut line).await.unwrap() > 0,
                "the gateway closed"
            );
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return (status, length);
            }
            if line.starts_with("http/1.1 ") {
                status = line[9..12].parse().unwrap();
            }
            if let Some(bytes) = line.strip_prefix("content-length: ") {
                length = bytes.parse().unwrap();
            }
        }
    }
}

fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\n\r\n").into()
}

fn revoke(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST /v1/revocations HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_SECRET}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// A token that the gateway accepts, of that user.
fn token(user: &str) -> String {
    let key = hmac_key(Algorithm::HS256, SECRET.as_bytes());
    Token::new(key, ISSUER, "orders", user)
        .issued(Clock::system().now().0 - 60)
        .claim("sid", format!("session-{user}"))
        .claim("exp", Clock::system().now().0 + 3600)
        .sign()
}

/// A service that reads bodies to their end and answers 1 KiB; below `/down` as many bytes as the path says.
async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                // A connection that breaks off is the gateway's to tell.
                let _ = serve(stream).await;
            });
        }
    });
    address
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = tokio::io::BufReader::with_capacity(64 * 1024, stream);
    let chunk = vec![b'x'; 64 * 1024];
    loop {
        let (mut target, mut length, mut line) = (String::new(), 0_usize, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if target.is_empty() {
                target = text.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(bytes) = text.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = bytes.parse().unwrap();
            }
        }
        while length > 0 {
            let read = stream.fill_buf().await?.len().min(length);
            if read == 0 {
                return Ok(());
            }
            stream.consume(read);
            length -= read;
        }
        let mut left = match target.rsplit_once("/down/") {
            Some((_, bytes)) => bytes.parse().unwrap(),
            None => 1024_usize,
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n");
        let stream = stream.get_mut();
        if left <= chunk.len() {
            let mut whole = head.into_bytes();
            whole.extend_from_slice(&chunk[..left]);
            stream.write_all(&whole).await?;
            continue;
        }
        stream.write_all(head.as_bytes()).await?;
        while left > 0 {
            let part = left.min(chunk.len());
            stream.write_all(&chunk[..part]).await?;
            left -= part;
        }
    }
}

/// The value below which that part of the sorted times lies.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[place]
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!(
        "p50 {:.2?}, p99 {:.2?}, most {:.2?} of {}",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0),
        times.len()
    )
}

/// One revocation after the other, on disk; then from 16 callers at once. Beside it what the disk itself takes.
async fn acknowledge(size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let mut bare = vec![];
    let mut file = File::create(folder.path().join("bare")).unwrap();
    for _ in 0..size.acknowledgements {
        let begin = Instant::now();
        file.write_all(&[b'x'; 100]).unwrap();
        file.sync_data().unwrap();
        bare.push(begin.elapsed());
    }
    println!(
        "acknowledge: write of 100 bytes and fdatasync alone: {}",
        summary(bare)
    );
    let gateway = Gateway::start(folder.path(), service().await, true);
    for callers in [1, 16] {
        let mut tasks = JoinSet::new();
        let (each, admin) = (size.acknowledgements / callers, gateway.admin);
        let begin = Instant::now();
        for caller in 0..callers {
            tasks.spawn(async move {
                let mut client = Client::connect(admin).await;
                let mut times = Vec::with_capacity(each);
                for number in 0..each {
                    let user = format!("{callers}-{caller}-{number}");
                    let request = revoke(&json!({"iss": ISSUER, "sub": user}));
                    let begin = Instant::now();
                    assert_eq!(client.send(&request).await, 200);
                    times.push(begin.elapsed());
                }
                times
            });
        }
        let times: Vec<Duration> = tasks.join_all().await.concat();
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        println!(
            "acknowledge: {callers} callers, {rate:.0} a second: {}",
            summary(times)
        );
    }
}

/// Callers of the requests beside the burst, and the pause between two requests of one of them: 1,000 requests a second.
const CALLERS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(16);

/// Requests at a fixed rate until told to stop. A late answer counts from when its request was due.
async fn load(
    gateway: SocketAddr,
    token: &str,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Vec<Duration> {
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let (request, stop) = (get("/", token), stop.clone());
        tasks.spawn(async move {
            let mut client = Client::connect(gateway).await;
            tokio::time::sleep(PAUSE / CALLERS * caller).await;
            let mut due = Instant::now();
            let mut times = vec![];
            while !*stop.borrow() {
                let mut begin = Instant::now();
                if begin < due {
                    tokio::time::sleep_until(due.into()).await;
                    begin = Instant::now();
                } else {
                    begin = due;
                }
                assert_eq!(client.send(&request).await, 200);
                times.push(begin.elapsed());
                due += PAUSE;
            }
            times
        });
    }
    tasks.join_all().await.concat()
}

/// A million rules through the admin API, while requests go on.
async fn burst(size: Size) {
    const RULES: usize = 10_000;
    /// Connections that the rules come over.
    const SENDERS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), service().await, true);
    let requests: Vec<Vec<u8>> = (0..size.burst_requests)
        .map(|request| {
            let rules: Vec<Value> = (0..RULES)
                .map(|number| json!({"iss": ISSUER, "sub": format!("user-{request}-{number}")}))
                .collect();
            revoke(&json!({"rules": rules}))
        })
        .collect();
    let last = get(
        "/",
        &token(&format!("user-{}-{}", size.burst_requests - 1, RULES - 1)),
    );
    let mut victim = Client::connect(gateway.listener).await;
    assert_eq!(victim.send(&last).await, 200, "not revoked yet");
    let good = token("alice");

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (times, ()) = tokio::join!(load(gateway.listener, &good, stopped), async {
        tokio::time::sleep(size.before).await;
        stop.send(true).unwrap();
    });
    println!("burst: requests before: {}", summary(times));

    let before = (gateway.kib("VmRSS"), gateway.processor_time());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    // The sender has a thread of its own, so that its work is not taken for the gateway's delay.
    let admin = gateway.admin;
    let sending = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let begin = Instant::now();
            let mut senders = JoinSet::new();
            for part in requests.chunks(requests.len().div_ceil(SENDERS)) {
                let part = part.to_vec();
                senders.spawn(async move {
                    let mut client = Client::connect(admin).await;
                    for request in &part {
                        assert_eq!(client.send(request).await, 200);
                    }
                });
            }
            senders.join_all().await;
            let took = begin.elapsed();
            stop.send(true).unwrap();
            took
        })
    });
    let times = load(gateway.listener, &good, stopped).await;
    let took = sending.join().unwrap();
    assert_eq!(
        victim.send(&last).await,
        401,
        "enforced when the last answer came"
    );
    let rules = size.burst_requests * RULES;
    let told = async {
        while gateway.audited.load(Ordering::Acquire) < rules {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .expect("every rule has its audit line");
    println!("burst: requests during: {}", summary(times));
    println!(
        "burst: {rules} rules enforced after {took:.2?}; {:.2?} of processor time a rule; resident memory {} bytes a rule",
        gateway.processor_time().saturating_sub(before.1) / u32::try_from(rules).unwrap(),
        gateway.kib("VmRSS").saturating_sub(before.0) * 1024 / rules as u64,
    );
}

/// Resident memory at rest, and with many connections that did one request each and then nothing.
async fn idle(size: Size) {
    // Each end of each connection takes a descriptor: here, and in the gateway, which inherits the bound.
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=20000:"])
        .status();
    if !raised.is_ok_and(|status| status.success()) {
        println!("memory: cannot raise the bound of open files; fewer connections");
    }
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), service().await, true);
    println!(
        "memory: at rest after the start {} KiB",
        gateway.kib("VmRSS")
    );
    let request = get("/", &token("alice"));
    let mut warm = Client::connect(gateway.listener).await;
    for _ in 0..1000 {
        assert_eq!(warm.send(&request).await, 200);
    }
    let before = gateway.kib("VmRSS");
    let mut clients = vec![];
    for _ in 0..size.idle_connections {
        let mut client = Client::connect(gateway.listener).await;
        assert_eq!(client.send(&request).await, 200);
        clients.push(client);
    }
    let after = gateway.kib("VmRSS");
    println!(
        "memory: {before} KiB after 1,000 requests; {after} KiB with {} idle connections, {:.1} KiB each",
        clients.len(),
        (after - before) as f64 / clients.len() as f64
    );
}

/// One large body in each direction.
async fn bodies(size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), service().await, true);
    let token = token("alice");
    let mut client = Client::connect(gateway.listener).await;
    assert_eq!(client.send(&get("/", &token)).await, 200);
    let chunk = vec![b'x'; 64 * 1024];

    gateway.forget_peak();
    let before = (gateway.kib("VmRSS"), gateway.processor_time());
    let head = format!(
        "POST / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        size.body_bytes
    );
    let begin = Instant::now();
    let stream = client.stream.get_mut();
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..size.body_bytes / chunk.len() {
        stream.write_all(&chunk).await.unwrap();
    }
    assert_eq!(client.answer().await, 200);
    let tell = |direction: &str, before: (u64, Duration), begin: Instant| {
        println!(
            "bodies: {} MiB {direction} in {:.2?}, {:.2?} of processor time: resident memory {} KiB before, {} at most, {} after",
            size.body_bytes / 1024 / 1024,
            begin.elapsed(),
            gateway.processor_time().saturating_sub(before.1),
            before.0,
            gateway.kib("VmHWM"),
            gateway.kib("VmRSS"),
        );
    };
    tell("up", before, begin);

    gateway.forget_peak();
    let before = (gateway.kib("VmRSS"), gateway.processor_time());
    let begin = Instant::now();
    let request = get(&format!("/down/{}", size.body_bytes), &token);
    client.stream.get_mut().write_all(&request).await.unwrap();
    let (status, mut length) = client.head().await;
    assert_eq!((status, length), (200, size.body_bytes));
    let mut buffer = vec![0; 64 * 1024];
    while length > 0 {
        let read = client.stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the body is whole");
        length -= read;
    }
    tell("down", before, begin);
}

/// The log of a gateway with many rules: how long until it is ready, and what a rule takes in memory.
async fn start(size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let upstream = service().await;
    let empty = Gateway::start(folder.path(), upstream, true);
    let (rest, quick) = (empty.kib("VmRSS"), empty.started_in);
    drop(empty);
    let path = folder.path().join("denylist.log");
    let now = u32::try_from(Clock::system().now().0).unwrap();
    let mut log = LogFile::create(&path).unwrap();
    for number in 0..size.rules_at_start {
        let kind = [Kind::Token, Kind::Session, Kind::User][number as usize % 3];
        let value = format!("5f0c2c1e-{number:08x}");
        log.rule(kind, (ISSUER, &value), (now, now + 86_400))
            .unwrap();
    }
    let bytes = log.finish().unwrap();
    println!(
        "start: without rules after {quick:.2?}; a log of {} rules and {bytes} bytes",
        size.rules_at_start
    );
    for cold in [false, false, false, true] {
        if cold {
            // Drops this one file from the kernel's memory.
            let mut input = std::ffi::OsString::from("if=");
            input.push(&path);
            let dropped = Command::new("dd")
                .arg(input)
                .args(["iflag=nocache", "count=0"])
                .stderr(Stdio::null())
                .status();
            assert!(dropped.unwrap().success());
        }
        let gateway = Gateway::start(folder.path(), upstream, true);
        let mut client = Client::connect(gateway.admin).await;
        let ready = b"GET /ready HTTP/1.1\r\nhost: admin\r\n\r\n";
        assert_eq!(client.send(ready).await, 200);
        let victim = get("/", &token("5f0c2c1e-00000002"));
        let mut request = Client::connect(gateway.listener).await;
        assert_eq!(request.send(&victim).await, 401, "a rule of the log holds");
        println!(
            "start: {} after {:.2?}, {:.2?} of processor time, {} KiB resident, {:.1} bytes a rule; at most {} KiB",
            if cold {
                "file not in memory,"
            } else {
                "file in memory,"
            },
            gateway.started_in,
            gateway.processor_time(),
            gateway.kib("VmRSS"),
            (gateway.kib("VmRSS") - rest) as f64 * 1024.0 / f64::from(size.rules_at_start),
            gateway.kib("VmHWM"),
        );
    }
}

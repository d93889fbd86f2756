//! What was acknowledged is there after `kill -9`, and nothing is acknowledged that a bad disk did not take: the real
//! program, killed in the middle of a stream of revocations or of a rewrite of its log, on a disk that is full, and on
//! one whose syncs fail.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../benches/scene/log_file.rs"]
mod log_file;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jotgate::base::clock::Clock;
use jotgate::denylist::Kind;
use log_file::{LogFile, no_bounds};
use serde_json::{Value, json};

/// Kills. `JOTGATE_CRASH_ROUNDS` asks for more.
const ROUNDS: usize = 10;

/// Callers that revoke at the same time, so that groups have several changes.
const CALLERS: usize = 4;

const ISSUER: &str = "https://id.example.com";

fn config(folder: &Path) -> String {
    let log = folder.join("denylist.log");
    let log = log.display();
    format!(
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
upstream = "http://127.0.0.1:9"

[denylist]
path = "{log}"

[admin]
address = "127.0.0.1:0"
tokens = [{{ name = "ops", secret = {{ env = "ADMIN_SECRET" }}, roles = ["read", "revoke", "security"] }}]

[telemetry.log]
format = "json"
"#
    )
}

/// Longer than a gateway takes that ends in order.
const END_MAX: Duration = Duration::from_mins(1);

/// What the start says that the tests need.
enum Said {
    Admin(SocketAddr),
    Rules(u64),
}

/// A gateway that is killed when it is dropped.
struct Gateway {
    process: Child,
    admin: SocketAddr,
    /// Rules that the log held at the start.
    rules: u64,
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jotgate"));
    run(&mut command, folder);
    command
}

/// Makes `command`, which is the program or runs it, run the gateway of this folder.
fn run(command: &mut Command, folder: &Path) {
    let path = folder.join("gateway.toml");
    std::fs::write(&path, config(folder)).unwrap();
    command
        .args(["run", "--config"])
        .arg(path)
        .env("ISSUER_SECRET", "0123456789abcdef0123456789abcdef")
        .env("ADMIN_SECRET", "0123456789abcdef");
}

impl Gateway {
    fn start(folder: &Path) -> Self {
        Self::spawn(command(folder))
    }

    fn spawn(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, admin) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(process.stdout.take().unwrap()),
            Box::new(process.stderr.take().unwrap()),
        ];
        for stream in streams {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let Ok(line) = serde_json::from_str::<Value>(&line) else {
                        eprintln!("{line}");
                        continue;
                    };
                    let what = match line["message"].as_str() {
                        Some("the admin API answers") => {
                            Said::Admin(line["address"].as_str().unwrap().parse().unwrap())
                        }
                        Some("the denylist's log is open") => {
                            Said::Rules(line["rules"].as_u64().unwrap())
                        }
                        _ => continue,
                    };
                    said.send(what).unwrap();
                }
            });
        }
        drop(said);
        let (mut rules, mut address) = (None, None);
        while address.is_none() || rules.is_none() {
            match admin.recv().expect("the gateway starts") {
                Said::Rules(number) => rules = Some(number),
                Said::Admin(admin) => address = Some(admin),
            }
        }
        Self {
            process,
            admin: address.unwrap(),
            rules: rules.unwrap(),
        }
    }

    /// Waits until it ends by itself.
    fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < END_MAX, "the gateway does not end");
            std::thread::yield_now();
        }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request on a connection of its own. None if the gateway died over it.
fn call(admin: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(admin).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer 0123456789abcdef\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// Revokes users until the gateway dies. Sends the name and the rule of each that was acknowledged.
fn revoke(
    admin: SocketAddr,
    caller: &str,
    dead: &AtomicBool,
    acknowledged: &mpsc::Sender<(String, Value)>,
) {
    for number in 0.. {
        let name = format!("{caller}-{number}");
        let body = json!({"iss": ISSUER, "sub": name}).to_string();
        match call(admin, "POST", "/v1/revocations", &body) {
            Some((200, mut answer)) => {
                let rule = answer["rules"][0].take();
                assert_eq!(rule["durable"], true);
                acknowledged.send((name, rule)).unwrap();
            }
            Some((status, answer)) => panic!("{status} {answer}"),
            None if dead.load(Ordering::SeqCst) => return,
            None => {}
        }
    }
}

/// A token of that user, issued before the test. What revokes does not need its signature.
fn token(user: &str) -> String {
    let issued = Clock::system().now().0 - 600;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.{}",
        part(json!({"alg": "HS256", "typ": "JWT"})),
        part(
            json!({"iss": ISSUER, "sub": user, "aud": "orders", "iat": issued, "exp": issued + 900})
        ),
        URL_SAFE_NO_PAD.encode([7; 32]),
    )
}

#[test]
fn no_acknowledged_rule_is_missing_after_a_kill() {
    let rounds =
        std::env::var("JOTGATE_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut all: Vec<(String, Value)> = vec![];
    for round in 0..rounds {
        let gateway = Gateway::start(folder.path());
        let admin = gateway.admin;
        let (sender, receiver) = mpsc::channel();
        let dead = AtomicBool::new(false);
        let before = all.len();
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (sender, dead) = (sender.clone(), &dead);
                scope.spawn(move || revoke(admin, &format!("{round}-{caller}"), dead, &sender));
            }
            drop(sender);
            // Another point of the stream in each round, with requests of the other callers under way.
            let enough = 1 + round * 37 % 200;
            all.extend(receiver.iter().take(enough));
            gateway.kill();
            dead.store(true, Ordering::SeqCst);
            all.extend(receiver.iter());
        });
        assert!(
            all.len() > before,
            "a round without revocations shows nothing"
        );

        let gateway = Gateway::start(folder.path());
        let missing = |what: &str, name: &str| format!("round {round}: {what} {name} is missing");
        let since = if round + 1 == rounds { 0 } else { before };
        for (name, rule) in &all[since..] {
            let id = rule["id"].as_str().unwrap();
            let path = format!("/v1/revocations/{id}");
            let (status, found) = call(gateway.admin, "GET", &path, "").unwrap();
            assert_eq!(status, 200, "{}", missing("rule", name));
            for member in ["id", "kind", "iss", "value", "cutoff", "until", "standing"] {
                assert_eq!(found[member], rule[member], "{member} of {name}");
            }
            assert_eq!(
                (&found["value"], &found["by"]),
                (&json!(name), &json!("ops"))
            );
        }
        for (name, _) in &all[before..] {
            let body = json!({"token": token(name)}).to_string();
            let (status, verdict) = call(gateway.admin, "POST", "/v1/check", &body).unwrap();
            assert_eq!(
                (status, &verdict["denied"]),
                (200, &json!(true)),
                "{}",
                missing("denial", name)
            );
        }
        let body = json!({"token": token("nobody")}).to_string();
        let (_, verdict) = call(gateway.admin, "POST", "/v1/check", &body).unwrap();
        assert_eq!(verdict["denied"], false, "others come in");
        gateway.kill();
    }
}

#[test]
fn a_second_gateway_does_not_start_on_the_same_log() {
    let folder = tempfile::tempdir().unwrap();
    let _gateway = Gateway::start(folder.path());
    let second = command(folder.path()).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(error.contains("is used by another process"), "{error}");
}

#[test]
fn a_damaged_log_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    for user in ["a", "b"] {
        let body = json!({"iss": ISSUER, "sub": user}).to_string();
        assert_eq!(
            call(gateway.admin, "POST", "/v1/revocations", &body)
                .unwrap()
                .0,
            200
        );
    }
    gateway.kill();
    let path = folder.path().join("denylist.log");
    let mut log = std::fs::read(&path).unwrap();
    log[60] ^= 1;
    std::fs::write(&path, log).unwrap();
    let output = command(folder.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("is damaged at byte 40"), "{error}");
    assert!(
        error.contains("Put a copy of the file in its place"),
        "{error}"
    );
}

/// Rules of the log that is rewritten which live, and records of it which are dead.
const LIVING: u32 = 20_000;
const DEAD: u32 = 150_000;

/// A log that the gateway rewrites as soon as it can: it is long, and most of it is over.
fn dead_log(path: &Path) {
    let now = u32::try_from(Clock::system().now().0).unwrap();
    let mut log = LogFile::create(path).unwrap();
    for number in 0..DEAD {
        let name = format!("gone-{number}");
        log.rule(Kind::User, (ISSUER, &name), (1, now - 86_400))
            .unwrap();
        if number % (DEAD / LIVING) == 0 && number / (DEAD / LIVING) < LIVING {
            let name = format!("old-{}", number / (DEAD / LIVING));
            log.rule(Kind::User, (ISSUER, &name), (now, now + 86_400))
                .unwrap();
        }
    }
    assert!(log.finish().unwrap() > 8 * 1024 * 1024, "it pays");
}

#[test]
fn a_kill_during_a_rewrite_of_the_log_loses_nothing() {
    let rounds =
        std::env::var("JOTGATE_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let prepared = tempfile::tempdir().unwrap();
    let prepared = prepared.path().join("denylist.log");
    dead_log(&prepared);
    let (mut unfinished, mut finished) = (0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denylist.log");
        let draft = folder.path().join("denylist.log.new");
        std::fs::copy(&prepared, &path).unwrap();
        no_bounds(&path).unwrap();
        let gateway = Gateway::start(folder.path());
        assert_eq!(gateway.rules, u64::from(LIVING));
        let admin = gateway.admin;
        let long = std::fs::metadata(&path).unwrap().len();
        let (sender, receiver) = mpsc::channel();
        let dead = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (sender, dead) = (sender.clone(), &dead);
                scope.spawn(move || revoke(admin, &format!("{round}-{caller}"), dead, &sender));
            }
            drop(sender);
            let is_rewritten = || std::fs::metadata(&path).unwrap().len() < long;
            while !draft.exists() && !is_rewritten() {
                std::hint::spin_loop();
            }
            // Every round a little later: at first in the middle of it, then at its end, then after it.
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(5 * (round as u64 % 20)) {
                std::hint::spin_loop();
            }
            gateway.kill();
            dead.store(true, Ordering::SeqCst);
        });
        if draft.exists() {
            unfinished += 1;
        } else {
            finished += 1;
        }
        let acknowledged: Vec<_> = receiver.iter().collect();
        let gateway = Gateway::start(folder.path());
        let all = u64::from(LIVING) + acknowledged.len() as u64;
        // What was under way for each caller may be there or not.
        assert!(
            (all..=all + CALLERS as u64).contains(&gateway.rules),
            "round {round}: {} rules instead of {all}",
            gateway.rules
        );
        let old = ["old-0".to_owned(), format!("old-{}", LIVING - 1)];
        let names = acknowledged.iter().map(|(name, _)| name).chain(&old);
        for name in names {
            let body = json!({"token": token(name)}).to_string();
            let (status, verdict) = call(gateway.admin, "POST", "/v1/check", &body).unwrap();
            assert_eq!(
                (status, &verdict["denied"]),
                (200, &json!(true)),
                "round {round}: {name} is missing"
            );
        }
    }
    println!("killed {unfinished} times during the rewrite, {finished} times after it");
    assert!(unfinished > 0, "no kill met a rewrite");
}

/// Compiles the library that makes `fdatasync` and `fsync` fail as long as a file exists.
fn failing_sync(folder: &Path) -> PathBuf {
    let library = folder.join("failing_sync.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/support/failing_sync.c"
        ))
        .arg("-ldl")
        .output()
        .expect("a C compiler: aws-lc-rs needs one, too");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    library
}

fn revoked(admin: SocketAddr, user: &str) -> Option<(u16, Value)> {
    let body = json!({"iss": ISSUER, "sub": user}).to_string();
    call(admin, "POST", "/v1/revocations", &body)
}

#[track_caller]
fn check(admin: SocketAddr, user: &str, denied: bool) {
    let body = json!({"token": token(user)}).to_string();
    let (status, verdict) = call(admin, "POST", "/v1/check", &body).unwrap();
    assert_eq!(
        (status, &verdict["denied"]),
        (200, &json!(denied)),
        "{user}"
    );
}

#[test]
fn a_sync_that_fails_is_never_acknowledged_and_ends_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let library = failing_sync(folder.path());
    let switch = folder.path().join("disk-is-broken");
    let mut command = command(folder.path());
    command
        .env("LD_PRELOAD", library)
        .env("FAILING_SYNC_SWITCH", &switch);
    let mut gateway = Gateway::spawn(command);
    assert_eq!(revoked(gateway.admin, "before").unwrap().0, 200);
    std::fs::write(&switch, "").unwrap();
    // It must not say 200; and it may end before it could say anything.
    if let Some((status, answer)) = revoked(gateway.admin, "during") {
        assert_eq!((status, &answer["code"]), (503, &json!("denylist_failed")));
    }
    // The next sync would succeed. What it would say of the one before is worth nothing.
    std::fs::remove_file(&switch).unwrap();
    if let Some((status, _)) = revoked(gateway.admin, "after") {
        assert_eq!(status, 503, "nothing is acknowledged any more");
    }
    assert_eq!(gateway.end(), Some(1), "and the process ends as failed");
    let gateway = Gateway::start(folder.path());
    check(gateway.admin, "before", true);
    check(gateway.admin, "after", false);
}

/// Like a disk that is full, and needs no root: the longest file that the process may write, in bytes.
fn limit_files(process: &Child, bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.id().to_string()])
        .arg(format!("--fsize={bytes}:unlimited"))
        .status()
        .expect("prlimit, of util-linux");
    assert!(status.success());
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    // The signal of a file that grows too long is ignored, so that the gateway gets an error, as from a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_jotgate"));
    run(&mut command, folder.path());
    let gateway = Gateway::spawn(command);
    assert_eq!(revoked(gateway.admin, "early").unwrap().0, 200);
    let path = folder.path().join("denylist.log");
    let length = || std::fs::metadata(&path).unwrap().len();
    // Room for a few, and for a part of one more.
    limit_files(&gateway.process, &(length() + 500).to_string());
    let mut acknowledged = vec!["early".to_owned()];
    let refused = loop {
        let user = format!("user-{}", acknowledged.len());
        let (status, answer) = revoked(gateway.admin, &user).unwrap();
        if status != 200 {
            assert_eq!((status, &answer["code"]), (507, &json!("disk_full")));
            break user;
        }
        acknowledged.push(user);
        assert!(acknowledged.len() < 20, "the limit is kept");
    };
    assert!(acknowledged.len() > 1);
    let full = length();
    assert_eq!(revoked(gateway.admin, &refused).unwrap().0, 507, "again");
    assert_eq!(length(), full, "nothing half is left behind");
    check(gateway.admin, &refused, false);
    for user in &acknowledged {
        check(gateway.admin, user, true);
    }

    limit_files(&gateway.process, "unlimited");
    assert_eq!(revoked(gateway.admin, &refused).unwrap().0, 200);
    acknowledged.push(refused);
    gateway.kill();
    let gateway = Gateway::start(folder.path());
    assert_eq!(gateway.rules, acknowledged.len() as u64);
    for user in &acknowledged {
        check(gateway.admin, user, true);
    }
}

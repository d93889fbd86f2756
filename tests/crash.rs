//! What was acknowledged is there after `kill -9`: the real program, killed in the middle of a stream of revocations.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jotgate::base::clock::Clock;
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

/// A gateway that is killed when it is dropped.
struct Gateway {
    process: Child,
    admin: SocketAddr,
}

fn command(folder: &Path) -> Command {
    let path = folder.join("gateway.toml");
    std::fs::write(&path, config(folder)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jotgate"));
    command
        .args(["run", "--config"])
        .arg(path)
        .env("ISSUER_SECRET", "0123456789abcdef0123456789abcdef")
        .env("ADMIN_SECRET", "0123456789abcdef");
    command
}

impl Gateway {
    fn start(folder: &Path) -> Self {
        let mut process = command(folder)
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
                    if line["message"] == "the admin API answers" {
                        let address = line["address"].as_str().unwrap();
                        said.send(address.parse().unwrap()).unwrap();
                    }
                }
            });
        }
        drop(said);
        let admin = admin.recv().expect("the gateway starts");
        Self { process, admin }
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

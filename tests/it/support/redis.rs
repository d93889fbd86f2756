//! Real Redis servers, each with a folder and ports of its own: primaries, replicas, sentinels, nodes of a cluster. They are killed when the
//! scenario drops them.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::eventually;

/// A server. Its Unix socket is for the scenario's own questions; gateways come over TCP.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

/// A port that was free a moment ago. A server cannot say which one it took, so somebody may be faster; then it ends, and another port is tried.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server starts; install it, on Debian with: apt-get install redis-server")
}

impl Redis {
    /// Without persistence.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more options, such as `["--appendonly", "yes"]`.
    pub(crate) async fn with(options: &[&str]) -> Self {
        Self::on(|port| vec!["--port".into(), port.to_string()], options).await
    }

    /// Over TLS alone.
    pub(crate) async fn with_tls(options: &[&str]) -> Self {
        let ports = |port: u16| {
            ["--port", "0", "--tls-port", &port.to_string()]
                .map(Into::into)
                .into()
        };
        Self::on(ports, options).await
    }

    /// A replica that has caught up.
    pub(crate) async fn replica_of(primary: &Self, options: &[&str]) -> Self {
        let port = primary.port.to_string();
        let all = [&["--replicaof", "127.0.0.1", &port], options].concat();
        let replica = Self::with(&all).await;
        replica
            .says("INFO replication", "master_link_status:up")
            .await;
        // The primary waits for its word (`WAIT`, `min-replicas-to-write`).
        primary.says("INFO replication", "state=online").await;
        replica
    }

    /// A sentinel that knows `primary` as `service`.
    pub(crate) async fn sentinel(primary: &Self, service: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sentinel.conf");
        let port = primary.port;
        let text = format!("sentinel monitor {service} 127.0.0.1 {port} 1\n");
        std::fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let ports = |port: u16| {
            vec![
                file.clone(),
                "--sentinel".into(),
                "--port".into(),
                port.to_string(),
            ]
        };
        let sentinel = Self::on(ports, &[]).await;
        // It has read its file, and writes to it no more than it has to.
        drop(folder);
        sentinel
    }

    async fn on(ports: impl Fn(u16) -> Vec<String>, options: &[&str]) -> Self {
        for _ in 0..10 {
            let folder = tempfile::tempdir().expect("a folder");
            let port = free_port();
            let socket = folder.path().join("r.sock");
            let own = [
                ("--bind", "127.0.0.1"),
                ("--save", ""),
                ("--appendfsync", "always"),
                ("--dir", folder.path().to_str().expect("UTF-8")),
                ("--unixsocket", socket.to_str().expect("UTF-8")),
                ("--repl-diskless-sync-delay", "0"),
                ("--repl-ping-replica-period", "1"),
            ];
            let mut arguments = ports(port);
            let is_sentinel = arguments.iter().any(|option| option == "--sentinel");
            for (name, value) in own {
                let is_known = matches!(name, "--bind" | "--dir" | "--unixsocket");
                if is_known || !is_sentinel {
                    arguments.extend([name.to_owned(), value.to_owned()]);
                }
            }
            arguments.extend(options.iter().map(|&option| option.to_owned()));
            let mut redis = Self {
                child: spawn(&arguments),
                port,
                arguments,
                folder,
            };
            if redis.answers().await {
                return redis;
            }
        }
        panic!("redis-server ends at once, ten times: try its options by hand");
    }

    /// Whether it lives. False: it has ended.
    async fn answers(&mut self) -> bool {
        let socket = self.socket();
        eventually("a server that answers", async || {
            if self.child.try_wait().expect("a child").is_some() {
                return Some(false);
            }
            let answer = ask(&socket, &["PING"]).await;
            // Whoever wants to know who is asking, lives.
            (answer.contains("PONG") || answer.contains("NOAUTH")).then_some(true)
        })
        .await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("r.sock")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The answer to one command, as `redis-cli` shows it. Words are parted by blanks.
    pub(crate) async fn ask(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        ask(&self.socket(), &words).await
    }

    /// Waits until the answer to a command has this word.
    pub(crate) async fn says(&self, command: &str, word: &str) {
        eventually("what a server says", async || {
            self.ask(command).await.contains(word).then_some(())
        })
        .await;
    }

    /// Ends it as a power failure does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("a child");
    }

    /// Starts it again where it was, with what it has on disk.
    pub(crate) async fn restart(&mut self) {
        let _ = self.child.kill().await;
        self.child = spawn(&self.arguments);
        assert!(self.answers().await, "it ends at once");
    }

    /// Starts it again, and all that it had is lost.
    pub(crate) async fn restart_empty(&mut self) {
        let _ = self.child.kill().await;
        for name in ["dump.rdb", "appendonlydir"] {
            let path = self.folder.path().join(name);
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(&path);
        }
        self.restart().await;
    }

    /// Stands still (SIGSTOP), connections open.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// A replica becomes a primary.
    pub(crate) async fn promote(&self) {
        assert_eq!(self.ask("REPLICAOF NO ONE").await, "OK");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let status = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .expect("kill(1)");
        assert!(status.success(), "kill -s {name} {id}");
    }
}

async fn ask(socket: &std::path::Path, words: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .arg("-s")
        .arg(socket)
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("redis-cli starts; install it, on Debian with: apt-get install redis-server");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

//! The real program, as people start it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::gateway::Setup;
use super::{eventually, within};

/// A running program. It is killed when the scenario drops it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Holds its configuration file, if it has one; removed from the disk when dropped.
    folder: Option<tempfile::TempDir>,
}

/// What a program said that ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jotgate"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub(crate) async fn run(args: &[&str], env: &[(String, String)]) -> Finished {
    let mut command = command(args);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    let output = within("the program", command.output())
        .await
        .expect("the program starts");
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Writes `text` as a configuration file in a folder of its own.
pub(crate) fn config_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jotgate.toml");
    std::fs::write(&file, text).expect("a file");
    (folder, file)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Process {
    pub(crate) fn start(args: &[&str], env: &[(String, String)]) -> Self {
        Self::spawn(command(args), env)
    }

    fn spawn(mut command: Command, env: &[(String, String)]) -> Self {
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().expect("the program starts");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        record(child.stdout.take().expect("piped"), Arc::clone(&lines));
        record(child.stderr.take().expect("piped"), Arc::clone(&lines));
        Self {
            child,
            lines,
            folder: None,
        }
    }

    /// `jotgate run` with this configuration, as systemd starts it: `socket` is its descriptor 3.
    pub(crate) fn activated(setup: &Setup, socket: OwnedFd) -> Self {
        let (folder, file) = config_file(&setup.text());
        let script =
            "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" run --config \"$1\" 3<&0 </dev/null";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_jotgate"), text(&file)])
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = Self::spawn(command, setup.environment());
        process.folder = Some(folder);
        process
    }

    /// `jotgate run` with this configuration.
    pub(crate) fn gateway(setup: &Setup) -> Self {
        let (folder, file) = config_file(&setup.text());
        let mut process = Self::start(&["run", "--config", text(&file)], setup.environment());
        process.folder = Some(folder);
        process
    }

    /// Puts another configuration in the place of its file, as a careful editor does: written aside, then renamed.
    pub(crate) fn rewrite(&self, text: &str) {
        let folder = self
            .folder
            .as_ref()
            .expect("its file is in a folder")
            .path();
        let aside = folder.join("aside.toml");
        std::fs::write(&aside, text).expect("a file");
        std::fs::rename(aside, folder.join("jotgate.toml")).expect("renamed");
    }

    /// How many lines it has said with this in them.
    pub(crate) fn count(&self, word: &str) -> usize {
        let lines = self.lines.lock().expect("no holder panics");
        lines.iter().filter(|line| line.contains(word)).count()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Everything that it has said.
    pub(crate) fn said(&self) -> String {
        self.lines.lock().expect("no holder panics").join("\n")
    }

    /// Waits for a line with every one of these words.
    pub(crate) async fn line(&self, words: &[&str]) -> String {
        eventually("a line of the program", async || {
            let lines = self.lines.lock().expect("no holder panics");
            let line = lines
                .iter()
                .find(|line| words.iter().all(|word| line.contains(word)))?;
            Some(line.clone())
        })
        .await
    }

    /// Waits for a line with every one of these words and a loopback address, and returns the address.
    pub(crate) async fn address(&self, words: &[&str]) -> SocketAddr {
        let words = [words, &["127.0.0.1:"]].concat();
        let line = self.line(&words).await;
        address_in(&line).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Sends a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let status = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .expect("kill(1)");
        assert!(status.success(), "kill -s {name} {id}");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        within("the program's end", self.child.wait())
            .await
            .expect("a status")
    }
}

fn record(pipe: impl AsyncRead + Unpin + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            lines.lock().expect("no holder panics").push(line);
        }
    });
}

/// The first `127.0.0.1:port` of a line.
fn address_in(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let port = &line[start + "127.0.0.1:".len()..];
    let digits = port
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(port.len());
    format!("127.0.0.1:{}", &port[..digits]).parse().ok()
}

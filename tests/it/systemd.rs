//! The program under systemd: what it tells of its life, and sockets that were open before it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixDatagram, UnixStream};

use crate::support::client::Request;
use crate::support::issuer::Mode;
use crate::support::process::{self, Process};
use crate::support::raw::{self, Raw};
use crate::support::{Issuer, Reply, Setup, Upstream, eventually, within};

/// systemd, as far as it listens to what a service tells.
struct Systemd {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { socket, folder }
    }

    fn over(&self, setup: Setup) -> Setup {
        let path = self.folder.path().join("notify");
        setup.env("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
    }

    /// The next words, one a line.
    async fn hears(&self) -> Vec<String> {
        let mut words = [0; 1024];
        let length = within("a word to systemd", self.socket.recv(&mut words))
            .await
            .expect("a datagram");
        let words = std::str::from_utf8(&words[..length]).expect("UTF-8");
        words.lines().map(str::to_owned).collect()
    }

    /// Whether nothing was said that is not heard yet.
    fn hears_nothing(&self) -> bool {
        self.socket.try_recv(&mut [0; 1024]).is_err()
    }
}

#[tokio::test]
async fn it_is_told_when_the_gateway_is_ready_reloads_and_ends() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let systemd = Systemd::new();
    let setup = systemd.over(Setup::new(&issuer, &upstream));
    let setup = setup.section("[shutdown]\ndrain_timeout = \"20m\"");
    issuer.behave(Mode::Hang);
    let mut process = Process::gateway(&setup);
    process.line(&["listening"]).await;
    eventually("a fetch of keys", async || {
        (issuer.fetches() > 0).then_some(())
    })
    .await;
    assert!(systemd.hears_nothing(), "tokens cannot be checked yet");
    issuer.behave(Mode::Serve);
    assert_eq!(systemd.hears().await, ["READY=1", "STATUS=serving"]);

    process.signal("HUP");
    let told = systemd.hears().await;
    assert_eq!(told[0], "RELOADING=1");
    let since = told[1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    assert_eq!(systemd.hears().await, ["READY=1", "STATUS=serving"]);

    process.rewrite("workers = \"many\"");
    process.signal("HUP");
    assert_eq!(systemd.hears().await[0], "RELOADING=1");
    let told = systemd.hears().await;
    assert_eq!(told[0], "READY=1", "the old configuration serves on");
    assert!(told[1].contains("refused"), "{told:?}");

    process.signal("TERM");
    let told = systemd.hears().await;
    assert_eq!(told, ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1205000000"]);
    assert_eq!(process.ended().await.code(), Some(0));
    assert!(systemd.hears_nothing());
}

#[tokio::test]
async fn it_hears_that_the_gateway_lives_if_it_asks() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let systemd = Systemd::new();
    let setup = systemd.over(Setup::new(&issuer, &upstream));
    let process = Process::gateway(&setup.env("WATCHDOG_USEC", "200000"));
    for _ in 0..3 {
        eventually("a sign of life", async || {
            (systemd.hears().await == ["WATCHDOG=1"]).then_some(())
        })
        .await;
    }
    drop(process);
}

#[tokio::test]
async fn a_gateway_that_cannot_tell_serves_all_the_same() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream).catch_all("auth = \"public\"");
    let process = Process::gateway(&setup.env("NOTIFY_SOCKET", "/nowhere/notify"));
    let address = process.address(&["listening"]).await;
    process.line(&["WARN", "systemd could not be told"]).await;
    assert_eq!(Request::new(address, "GET", "/").await.status(), 200);
    assert_eq!(upstream.count(), 1);
}

/// A socket as a `.socket` unit opens it, and its address.
fn passed() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    (socket, address)
}

fn descriptor(socket: &TcpListener) -> OwnedFd {
    socket.try_clone().expect("a descriptor").into()
}

#[tokio::test]
async fn connections_wait_in_a_passed_socket_while_the_gateway_restarts() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let (socket, address) = passed();
    let setup = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .env("JOTGATE__WORKERS", "2")
        .env("JOTGATE__LISTENERS__0__ADDRESS", &address);
    let mut first = Process::activated(&setup, descriptor(&socket));
    let address = socket.local_addr().unwrap();
    assert_eq!(first.address(&["listening"]).await, address);
    // Idle connections of one client are spread: both threads serve.
    let mut open = vec![];
    for _ in 0..8 {
        let mut raw = Raw::connect(address).await;
        raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(raw::status(&raw.read_head().await), 200);
        open.push(raw);
    }
    drop(open);
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(0));

    let mut waiting = Raw::connect(address).await;
    waiting.send("GET /late HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let _second = Process::activated(&setup, descriptor(&socket));
    assert_eq!(raw::status(&waiting.read_head().await), 200);
    assert_eq!(upstream.last().target, "/late");
    assert_eq!(upstream.count(), 9);
}

#[tokio::test]
async fn a_passed_socket_of_a_path_serves() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jotgate.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let setup = Setup::new(&issuer, &upstream)
        .catch_all("auth = \"public\"")
        .env(
            "JOTGATE__LISTENERS__0__ADDRESS",
            &format!("unix:{}", path.display()),
        );
    let process = Process::activated(&setup, socket.try_clone().unwrap().into());
    process.line(&["listening", "jotgate.sock"]).await;
    upstream.reply(Reply::body("served"));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("the answer", read).await.unwrap();
    assert_eq!(raw::status(&answer), 200);
    assert!(answer.contains("served"), "{answer}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_passed_socket_that_nothing_serves_refuses_the_start() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let setup = Setup::new(&issuer, &upstream);
    let (stray, address) = passed();
    let mut refused = Process::activated(&setup, descriptor(&stray));
    assert_eq!(refused.ended().await.code(), Some(1));
    refused.line(&["systemd passed a socket", &address]).await;

    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut refused = Process::activated(&setup, datagrams.into());
    assert_eq!(refused.ended().await.code(), Some(1));
    let cure = "only ListenStream= is for jotgate";
    refused
        .line(&["file descriptor 3 of LISTEN_FDS", cure])
        .await;

    let name = format!("jotgate-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let pathless = UnixListener::bind_addr(&address).unwrap();
    let mut refused = Process::activated(&setup, pathless.into());
    assert_eq!(refused.ended().await.code(), Some(1));
    refused
        .line(&["file descriptor 3", "has no path; write ListenStream=/"])
        .await;

    // With `Accept=yes` systemd passes one connection.
    let (socket, _) = passed();
    let connection = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    let mut refused = Process::activated(&setup, connection.into());
    assert_eq!(refused.ended().await.code(), Some(1));
    refused
        .line(&["file descriptor 3", "does not listen; write Accept=no"])
        .await;
}

/// The values of a key in a unit.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines()
        .filter_map(|line| line.split_once('='))
        .filter_map(|(known, value)| (known == key).then_some(value))
        .collect()
}

#[tokio::test]
async fn the_units_fit_the_program() {
    let service = include_str!("../../deploy/systemd/jotgate.service");
    for (key, value) in [
        ("Type", "notify"),
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
    ] {
        assert_eq!(values(service, key), [value], "{key}");
    }
    let [command] = values(service, "ExecStart")[..] else {
        panic!("one command starts it");
    };
    let words: Vec<&str> = command.split(' ').collect();
    let ["/usr/bin/jotgate", args @ .., file] = &words[..] else {
        panic!("{command}");
    };
    assert_eq!(*file, "/etc/jotgate/gateway.toml");
    let finished = process::run(&[args, &["/nowhere/gateway.toml"]].concat(), &[]).await;
    assert!(
        finished
            .stderr
            .contains("/nowhere/gateway.toml: cannot be read"),
        "the arguments are understood: {finished:?}"
    );

    let socket = include_str!("../../deploy/systemd/jotgate.socket");
    let addresses = values(socket, "ListenStream");
    assert!(!addresses.is_empty());
    for address in addresses {
        let text = format!(
            "[[listeners]]\naddress = \"{address}\"\n\
            [[routes]]\npath = \"/\"\nauth = \"public\"\nupstream = \"http://127.0.0.1:1\""
        );
        let settings = jotgate::config::load_str("unit.toml", &text, &[]).expect("a good file");
        assert_eq!(settings.listeners[0].address.to_string(), address);
    }
}

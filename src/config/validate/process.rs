//! The keys about the process as a whole: `workers`, `token_cache`, `jwks_cache`, `dns`, `denylist` and `shutdown`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Check;
use super::redis;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::{Denylist, Shutdown};

/// Most workers: each is a thread with a runtime and pools of its own.
const WORKERS_MAX: u32 = 1024;

/// Default bound of the verified-token cache, in bytes: some 50,000 tokens of 1 KiB.
const TOKEN_CACHE: u64 = 64 * 1024 * 1024;

/// Most bytes of that cache.
const TOKEN_CACHE_MAX: u64 = 1024 * 1024 * 1024 * 1024;

/// Default bound of the denylist: some 31 MB when full.
const DENYLIST: u32 = 1_000_000;

/// Most rules that a denylist may be told to hold: 31 bytes each.
const DENYLIST_MAX: u32 = 100_000_000;

/// RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

/// What the sections of this file say.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) workers: NonZeroUsize,
    pub(super) token_cache_bytes: u64,
    pub(super) jwks_cache: Option<PathBuf>,
    pub(super) dns_servers: Vec<SocketAddr>,
    pub(super) denylist: Denylist,
    pub(super) shutdown: Shutdown,
}

/// All of them.
pub(super) fn process(raw: &raw::Root, check: &mut Check<'_>) -> Process {
    let top = KeyPath::default();
    let workers = raw.workers.map(|workers| {
        let workers = check.number(&top.key("workers"), Some(workers), 1, 1..=WORKERS_MAX);
        usize::try_from(workers).unwrap_or(1)
    });
    let workers = workers.and_then(NonZeroUsize::new).unwrap_or_else(|| {
        // Fails where the system hides its processors; one worker then serves everything.
        std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    });
    let token_cache_bytes = check.size(
        &top.key("token_cache").key("max_size"),
        raw.token_cache.as_ref().and_then(|raw| raw.max_size),
        TOKEN_CACHE,
        0..=TOKEN_CACHE_MAX,
    );
    let jwks_cache = raw
        .jwks_cache
        .as_ref()
        .and_then(|text| folder(&top.key("jwks_cache"), text, check));
    let max_entries = check.number(
        &top.key("denylist").key("max_entries"),
        raw.denylist.as_ref().and_then(|raw| raw.max_entries),
        DENYLIST,
        1..=DENYLIST_MAX,
    );
    let path = raw.denylist.as_ref().and_then(|raw| raw.path.as_ref());
    let path = path.and_then(|text| log(&top.key("denylist").key("path"), text, check));
    let at = top.key("denylist");
    let max_staleness = check.duration(
        &at.key("max_staleness"),
        raw.denylist.as_ref().and_then(|raw| raw.max_staleness),
        Duration::from_secs(30),
        Duration::from_secs(2)..=Duration::from_hours(1),
    );
    let redis = raw.denylist.as_ref().and_then(|raw| raw.redis.as_ref());
    Process {
        workers,
        token_cache_bytes,
        jwks_cache,
        dns_servers: dns_servers(raw.dns.as_ref(), check),
        denylist: Denylist {
            path,
            max_entries: usize::try_from(max_entries).unwrap_or(usize::MAX),
            max_staleness,
            redis: redis.and_then(|raw| redis::redis(&at.key("redis"), raw, max_staleness, check)),
        },
        shutdown: shutdown(raw.shutdown.as_ref(), check),
    }
}

fn dns_servers(raw: Option<&raw::Dns>, check: &mut Check<'_>) -> Vec<SocketAddr> {
    let at = KeyPath::default().key("dns").key("servers");
    let listed = raw.and_then(|raw| raw.servers.as_ref());
    if listed.is_some_and(raw::List::is_empty) {
        check.fault(
            &at,
            "is empty; write addresses, or leave it out for the system's",
        );
    }
    let listed = listed.into_iter().flat_map(raw::List::iter);
    let servers = listed.filter_map(|(n, text)| check.parsed(&at.index(n), text, dns_server));
    servers.collect()
}

/// An address, with a port or without.
fn dns_server(text: &str) -> Result<SocketAddr, &'static str> {
    let whole = text.parse().ok();
    let bare = || text.parse().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
    whole
        .or_else(bare)
        .ok_or("is no address; write one such as \"10.0.0.53\" or \"127.0.0.1:8600\"")
}

fn shutdown(raw: Option<&raw::Shutdown>, check: &mut Check<'_>) -> Shutdown {
    let at = KeyPath::default().key("shutdown");
    let hour = Duration::from_hours(1);
    Shutdown {
        drain_delay: check.duration(
            &at.key("drain_delay"),
            raw.and_then(|raw| raw.drain_delay),
            Duration::ZERO,
            Duration::ZERO..=hour,
        ),
        drain_timeout: check.duration(
            &at.key("drain_timeout"),
            raw.and_then(|raw| raw.drain_timeout),
            Duration::from_secs(30),
            Duration::from_millis(1)..=24 * hour,
        ),
    }
}

/// A folder that is there, or that can be made later.
fn folder(path: &KeyPath, text: &str, check: &mut Check<'_>) -> Option<PathBuf> {
    let folder = check.resolve(path, text)?;
    if folder.exists() && !folder.is_dir() {
        check.fault(
            path,
            format!("{} is no folder; write one", folder.display()),
        );
        return None;
    }
    Some(folder)
}

/// A file that is there, or that can be made in a folder that is there.
fn log(path: &KeyPath, text: &str, check: &mut Check<'_>) -> Option<PathBuf> {
    let log = check.resolve(path, text)?;
    // A bare name is in the current folder, whose name is empty.
    let is_there = |folder: &Path| folder.as_os_str().is_empty() || folder.is_dir();
    let folder = log.parent().is_none_or(is_there);
    if folder && !log.is_dir() {
        return Some(log);
    }
    check.fault(
        path,
        format!(
            "{} is no file in a folder that is there; write one, and make the folder",
            log.display()
        ),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};

    fn top(lines: &str) -> String {
        format!("{lines}\n{BASE}")
    }

    #[test]
    fn dns_servers_are_addresses() {
        let file = |servers: &str| format!("{BASE}[dns]\nservers = {servers}\n");
        let servers = r#"["10.0.0.53", "127.0.0.1:8600", "::1", "[::1]:54"]"#;
        let expected = ["10.0.0.53:53", "127.0.0.1:8600", "[::1]:53", "[::1]:54"];
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(good(&file(servers)).dns_servers, expected);
        assert_eq!(good(BASE).dns_servers, []);
        check(&file("[]"), "dns.servers", "is empty");
        for wrong in ["dns.example.com", "10.0.0.1:", ""] {
            let servers = format!("[\"{wrong}\"]");
            check(&file(&servers), "dns.servers[0]", "is no address");
        }
    }

    #[test]
    fn numbers_and_times_have_bounds() {
        for (line, path) in [
            ("workers = 0", "workers"),
            ("workers = 1025", "workers"),
            ("token_cache.max_size = \"2TiB\"", "token_cache.max_size"),
            ("denylist.max_entries = 0", "denylist.max_entries"),
            ("denylist.max_entries = 100000001", "denylist.max_entries"),
            ("denylist.max_staleness = \"1s\"", "denylist.max_staleness"),
            ("denylist.max_staleness = \"61m\"", "denylist.max_staleness"),
            ("shutdown.drain_delay = \"2h\"", "shutdown.drain_delay"),
            ("shutdown.drain_timeout = \"0s\"", "shutdown.drain_timeout"),
            ("shutdown.drain_timeout = \"25h\"", "shutdown.drain_timeout"),
        ] {
            check(&top(line), path, "is out of bounds");
        }
        let settings = good(&top(
            "workers = 3\ntoken_cache.max_size = 0\ndenylist.max_entries = 7",
        ));
        assert_eq!(settings.workers.get(), 3);
        assert_eq!(settings.token_cache_bytes, 0);
        assert_eq!(settings.denylist.max_entries, 7);
    }

    #[test]
    fn the_folder_of_keys_may_come_later_but_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let line =
            |path: &std::path::Path| format!("jwks_cache = {:?}", path.display().to_string());
        let settings = good(&top(&line(&folder.path().join("later"))));
        assert_eq!(settings.jwks_cache, Some(folder.path().join("later")));
        good(&top(&line(folder.path())));
        let file = folder.path().join("file");
        std::fs::write(&file, "x").expect("a file");
        check(&top(&line(&file)), "jwks_cache", "is no folder");
        check(&top("jwks_cache = \"\""), "jwks_cache", "is no path");
    }

    #[test]
    fn the_log_may_come_later_and_its_folder_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let line =
            |path: &std::path::Path| format!("denylist.path = {:?}", path.display().to_string());
        let log = folder.path().join("denylist.log");
        assert_eq!(good(&top("")).denylist.path, None);
        assert_eq!(good(&top(&line(&log))).denylist.path, Some(log.clone()));
        std::fs::write(&log, "x").expect("a file");
        good(&top(&line(&log)));
        // In the current folder.
        let bare = std::path::Path::new("denylist.log");
        assert_eq!(good(&top(&line(bare))).denylist.path.as_deref(), Some(bare));
        for wrong in [
            folder.path().to_owned(),
            log.join("x"),
            folder.path().join("no/x"),
        ] {
            check(
                &top(&line(&wrong)),
                "denylist.path",
                "is no file in a folder",
            );
        }
        check(&top("denylist.path = \"\""), "denylist.path", "is no path");
    }
}

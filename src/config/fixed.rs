//! What cannot change while the gateway runs: sockets, threads, bounds of tables that are built once, the log on disk. A
//! reload that wants another value is refused whole, with the key, its line, and the way back, so that what runs is always
//! what some version of the file says (`docs/adr/0008-a-reload-is-whole-or-nothing.md`).

use serde_json::Value;

use super::place::KeyPath;
use super::validate::Check;

/// The keys, by their path; everything below one of them is fixed too.
const KEYS: [&[&str]; 10] = [
    &["workers"],
    &["jwks_cache"],
    &["token_cache"],
    &["listeners"],
    &["dns"],
    &["denylist"],
    &["admin", "address"],
    &["admin", "probes_address"],
    &["admin", "tls"],
    &["telemetry", "log"],
];

/// The values that the running gateway was started with, as file and environment said them.
#[derive(Clone, Debug)]
pub struct Fixed([Option<Value>; KEYS.len()]);

impl Fixed {
    /// Those of a merged document.
    pub(super) fn of(merged: &Value) -> Self {
        Self(KEYS.map(|key| key.iter().try_fold(merged, |at, key| at.get(key)).cloned()))
    }

    /// Notes every value that is another one than that of `running`.
    pub(super) fn compare(&self, running: &Self, check: &mut Check<'_>) {
        for ((key, new), old) in KEYS.iter().zip(&self.0).zip(&running.0) {
            let path = key
                .iter()
                .fold(KeyPath::default(), |path, key| path.key(key));
            differ(&path, old.as_ref(), new.as_ref(), check);
        }
    }
}

/// Goes down to the smallest values that differ.
fn differ(path: &KeyPath, old: Option<&Value>, new: Option<&Value>, check: &mut Check<'_>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key));
            for key in new.keys().chain(gone) {
                differ(&path.key(key), old.get(key), new.get(key), check);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for at in 0..old.len().max(new.len()) {
                differ(&path.index(at), old.get(at), new.get(at), check);
            }
        }
        (old, _) => {
            let back = match old {
                Some(Value::Object(_) | Value::Array(_)) => "bring it back".to_owned(),
                Some(value) => format!("write {value} again"),
                None => "take it out".to_owned(),
            };
            check.fault(
                path,
                format!("cannot change while the gateway runs; restart it, or {back}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load::{load_str_beside, load_str_fixed};

    const FILE: &str = r#"
workers = 2
[[listeners]]
address = "127.0.0.1:1"
[[listeners]]
address = "127.0.0.1:2"
max_headers = 50
[[routes]]
path = "/"
auth = "public"
upstream = "http://127.0.0.1:3000"
[denylist]
max_entries = 10
[telemetry]
access_log = true
[admin]
address = "127.0.0.1:9901"
tokens = [{ name = "ops", secret = { env = "T" }, roles = ["read"] }]
"#;

    fn env(more: &[(&str, &str)]) -> Vec<(String, String)> {
        [("T", "0123456789abcdef")]
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// The faults of a new version, as `line: key: what`.
    fn faults(new: &str, more: &[(&str, &str)]) -> Vec<String> {
        let (_, running) = load_str_fixed("f", FILE, &env(&[])).expect("a good file");
        match load_str_beside("f", new, &env(more), &running) {
            Ok(_) => vec![],
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[track_caller]
    fn check(from: &str, to: &str, expected: &[&str]) {
        assert!(FILE.contains(from), "{from}");
        let told = faults(&FILE.replacen(from, to, 1), &[]);
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told} / {expected}");
            assert!(told.contains("restart it, or "), "{told}");
        }
    }

    #[test]
    fn each_fixed_key_is_named_with_its_line_and_the_way_back() {
        check(
            "workers = 2",
            "workers = 3",
            &["f:2: workers: cannot change while the gateway runs; restart it, or write 2 again"],
        );
        check("workers = 2", "", &["f: workers: "]);
        check(
            "workers = 2",
            "workers = 2\njwks_cache = \"x\"",
            &["f:3: jwks_cache: cannot change while the gateway runs; restart it, or take it out"],
        );
        check(
            "workers = 2",
            "workers = 2\ntoken_cache.max_size = 0",
            &["f:3: token_cache: "],
        );
        check(
            "workers = 2",
            "workers = 2\ndns.servers = [\"127.0.0.1:53\"]",
            &["f:3: dns: "],
        );
        check(
            "127.0.0.1:2",
            "127.0.0.1:4",
            &["f:6: listeners[1].address: "],
        );
        check("max_headers = 50", "", &["f:5: listeners[1].max_headers: "]);
        check(
            "[[listeners]]\naddress = \"127.0.0.1:2\"\nmax_headers = 50",
            "",
            &["f:3: listeners[1]: "],
        );
        check(
            "max_entries = 10",
            "max_entries = 11",
            &["f:13: denylist.max_entries: "],
        );
        check(
            "127.0.0.1:9901",
            "127.0.0.1:9902",
            &["f:17: admin.address: "],
        );
        check(
            "[admin]",
            "[admin]\nprobes_address = \"127.0.0.1:9\"",
            &["f:17: admin.probes_address: "],
        );
        // The files are never read: that they are others is told beside it.
        let tls = "[admin]\ntls = { certificate = \"c\", key = \"k\" }";
        let told = faults(&FILE.replacen("[admin]", tls, 1), &[]);
        assert!(
            told.iter()
                .any(|told| told.starts_with("f:17: admin.tls: cannot change")),
            "{told:#?}"
        );
        check(
            "access_log = true",
            "log.level = \"warn\"",
            &["f:15: telemetry.log: "],
        );
    }

    #[test]
    fn all_else_may_change() {
        check("access_log = true", "access_log = false", &[]);
        check(
            "auth = \"public\"",
            "auth = \"public\"\ntimeout = \"5s\"",
            &[],
        );
        check("name = \"ops\"", "name = \"night\"", &[]);
        check(
            "[telemetry]",
            "[shutdown]\ndrain_delay = \"1s\"\n[telemetry]",
            &[],
        );
    }

    #[test]
    fn the_environment_cannot_change_them_either() {
        let told = faults(FILE, &[("JOTGATE__WORKERS", "5")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("JOTGATE__WORKERS: workers: "),
            "{told:?}"
        );
    }

    #[test]
    fn they_are_told_together_with_all_other_faults_and_a_wrong_form_once() {
        let text = FILE
            .replace("workers = 2", "workers = \"many\"")
            .replace("max_headers = 50", "max_headers = 51")
            .replace("path = \"/\"", "path = \"x\"");
        let told = faults(&text, &[]);
        assert_eq!(told.len(), 3, "{told:#?}");
        for (told, start) in told.iter().zip([
            "f:2: workers: ",
            "f:7: listeners[1].max_headers: cannot change",
            "f:9: routes[0].path: ",
        ]) {
            assert!(told.starts_with(start), "{told}");
        }
    }
}

//! For the tests of every section: a good file, and checks that one change to it makes one fault.

use crate::config::{Settings, load_str};

/// A good file that ends inside of its route.
pub(in crate::config) const BASE: &str = r#"
[[listeners]]
address = "127.0.0.1:0"

[[issuers]]
issuer = "https://id.example.com"
audiences = ["orders"]

[[routes]]
path = "/"
upstream = "http://127.0.0.1:3000"
"#;

/// `BASE` with `line` in its `[[listeners]]`.
pub(super) fn listener(line: &str) -> String {
    BASE.replace("\n\n[[issuers]]", &format!("\n{line}\n\n[[issuers]]"))
}

/// `BASE` with `line` in its `[[issuers]]`.
pub(super) fn issuer(line: &str) -> String {
    BASE.replace("\n\n[[routes]]", &format!("\n{line}\n\n[[routes]]"))
}

/// `BASE` with `line` at its end, which is in its `[[routes]]`.
pub(super) fn route(line: &str) -> String {
    format!("{BASE}{line}\n")
}

/// The settings of a good file.
#[track_caller]
pub(super) fn good(text: &str) -> Settings {
    match load_str("test.toml", text, &secrets()) {
        Ok(settings) => settings,
        Err(faults) => panic!("{faults}\n{text}"),
    }
}

/// Secrets for references: their number is their length in bytes.
fn secrets() -> Vec<(String, String)> {
    [15, 16, 31, 32, 47, 48, 63, 64]
        .into_iter()
        .map(|len| (format!("SECRET_{len}"), "s".repeat(len)))
        .collect()
}

/// Every fault, as a line.
#[track_caller]
pub(in crate::config) fn faults(text: &str) -> Vec<String> {
    faults_with(text, &[])
}

/// The same with an environment.
#[track_caller]
pub(in crate::config) fn faults_with(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let mut secrets = secrets();
    secrets.extend(
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    match load_str("test.toml", text, &secrets) {
        Ok(_) => panic!("no fault in\n{text}"),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// That the file has one fault alone, of this key and with this word.
#[track_caller]
pub(in crate::config) fn check(text: &str, path: &str, word: &str) {
    let faults = load_str("test.toml", text, &secrets()).expect_err("a fault");
    let faults: Vec<_> = faults.iter().collect();
    let [fault] = faults[..] else {
        panic!("not one fault but {faults:#?}\nin\n{text}");
    };
    assert_eq!(fault.path, path, "{fault}");
    assert!(fault.what.contains(word), "{fault} has no {word:?}");
}

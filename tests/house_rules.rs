//! The rules of the house that a machine can check: the floors of ARCHITECTURE.md, a word at the top of each file, a
//! reason for each dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A folder imports only from floors below its own; neighbours never import each other.
const FLOORS: [&[&str]; 10] = [
    &["base"],
    &["jwks", "route", "http", "telemetry"],
    &["token", "upstream", "listener"],
    &["denylist", "policy", "identity"],
    &["authorize", "config", "issuer"],
    &["plan"],
    &["proxy", "decision", "control"],
    &["app"],
    &["cli"],
    &["main"],
];

/// Folders of the plan that are not built yet.
const PLANNED: [&str; 2] = ["issuer", "decision"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below `src`.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(&root().join("src"), &mut found);
    found.sort();
    assert!(found.len() > 30, "only {} files were found", found.len());
    found
}

/// The first name below `src`: `token` for `src/token/claims.rs`, `plan` for `src/plan.rs`.
fn folder(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("below src");
    let first = below.components().next().expect("a name").as_os_str();
    let first = first.to_str().expect("UTF-8");
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|folders| folders.contains(&name))
}

/// Code without `//` comments, whose links may point anywhere. Cuts `"https://…"` too: no path follows on that line.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that begin with `crate::`, those in `crate::{a::b, c}` included.
fn imports(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let is_start = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if !is_start {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => drop(names.insert(first_name(rest))),
            Some(group) => names.extend(group_names(group)),
        }
    }
    names.remove("");
    names
}

fn first_name(text: &str) -> String {
    let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
    text.trim_start().chars().take_while(is_name).collect()
}

/// The first name of each path in a group, up to its closing brace; inner groups are skipped.
fn group_names(text: &str) -> Vec<String> {
    let mut names = vec![first_name(text)];
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(&text[at + 1..])),
            _ => {}
        }
    }
    names
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::B;\nuse crate::{b::{C, d::e}, f,\n  g::H};\nfn x() -> crate::i::J {}\n\
                use crate::token;\npub(in crate::k) fn y() {}\nlet z = mycrate::no;\n";
    let expected = ["a", "b", "f", "g", "i", "k", "token"];
    assert_eq!(imports(text, "crate::"), expected.map(str::to_owned).into());
    assert_eq!(
        code("a // crate::b\n/// [`crate::c`]\nd").trim_end(),
        "a \n\nd"
    );
}

#[test]
fn no_folder_imports_from_its_own_floor_or_above() {
    let mut wrong = vec![];
    let mut seen = 0;
    for path in sources() {
        let own = folder(&path);
        if own == "lib" {
            continue;
        }
        let own_floor =
            floor(&own).unwrap_or_else(|| panic!("{own} has no floor: {}", path.display()));
        let prefix = if own == "main" {
            "jotgate::"
        } else {
            "crate::"
        };
        for name in imports(&code(&read(&path)), prefix) {
            seen += 1;
            let below = floor(&name).is_some_and(|floor| floor < own_floor);
            if name != own && !below {
                wrong.push(format!("{}: {own} imports {name}", path.display()));
            }
        }
    }
    assert!(seen > 20, "only {seen} imports were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_folder_stands_on_one_floor() {
    let there: BTreeSet<String> = sources().iter().map(|path| folder(path)).collect();
    let mut floors: BTreeMap<&str, usize> = BTreeMap::new();
    for name in FLOORS.iter().flat_map(|folders| folders.iter()) {
        *floors.entry(name).or_default() += 1;
    }
    for (name, count) in floors {
        assert_eq!(count, 1, "{name} stands on {count} floors");
        let planned = PLANNED.contains(&name);
        assert_ne!(there.contains(name), planned, "{name} is there, or planned");
    }
}

#[test]
fn every_file_opens_with_what_it_is() {
    for path in sources() {
        assert!(read(&path).starts_with("//! "), "{}", path.display());
    }
}

#[test]
fn the_architecture_shows_every_folder() {
    let text = read(&root().join("ARCHITECTURE.md"));
    for name in sources().iter().map(|path| folder(path)) {
        if name != "lib" {
            assert!(text.contains(&format!("| `{name}")), "{name} has no row");
        }
    }
}

#[test]
fn every_dependency_has_a_reason_and_every_reason_a_dependency() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("TOML");
    let mut named = BTreeSet::new();
    for section in ["dependencies", "dev-dependencies"] {
        let section = manifest[section].as_table().expect("a table");
        assert!(!section.is_empty());
        named.extend(section.keys().cloned());
    }
    let text = read(&root().join("docs/adr/dependencies.md"));
    let explained: BTreeSet<String> = text
        .lines()
        .filter_map(|line| {
            let (name, reason) = line.strip_prefix("| `")?.split_once("` | ")?;
            (reason.len() > "| |".len()).then(|| name.to_owned())
        })
        .collect();
    assert!(!explained.is_empty());
    assert_eq!(named, explained);
}

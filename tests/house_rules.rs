//! The rules of the house that a machine can check: the floors of ARCHITECTURE.md, a word at the top of each file, a
//! reason for each dependency, the tests that docs/threats.md names, the metrics that docs/metrics.md explains.

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
    &["cli", "laws"],
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

/// Whoever takes a secret out of its box must not print it, and compares it by `base::secret::equal`.
#[test]
fn secrets_are_exposed_in_these_files_alone_and_compared_in_constant_time() {
    let known = [
        "app/denylist.rs",
        "base/secret.rs",
        "cli/admin_client.rs",
        "cli/keys.rs",
        "cli/signing.rs",
        "config/secret.rs",
        "config/validate/admin.rs",
        "config/validate/issuers.rs",
        "config/validate/otlp.rs",
        "config/validate/redis.rs",
        "control/admin/auth.rs",
        "control/denylist/relay/redis/wire.rs",
        "http/client_tls.rs",
        "jwks/key.rs",
        "jwks/material.rs",
        "listener/tls/files.rs",
        "listener/tls/pair.rs",
    ];
    let mut exposing = vec![];
    for path in sources() {
        let text = read(&path);
        let code = code(text.split("#[cfg(test)]\nmod tests").next().unwrap_or(""));
        if !code.contains(".expose_secret()") {
            continue;
        }
        for operator in ["==", "!="] {
            let right = code.contains(&format!("expose_secret() {operator}"));
            let left = code.lines().any(|line| {
                line.split_once(operator)
                    .is_some_and(|(_, right)| right.contains("expose_secret()"))
            });
            assert!(!right && !left, "{}: {operator}", path.display());
        }
        let below = path.strip_prefix(root().join("src")).expect("below src");
        exposing.push(below.display().to_string());
    }
    assert_eq!(exposing, known);
    let equal = read(&root().join("src/base/secret.rs"));
    assert!(equal.contains("left.ct_eq(right)"));
}

#[test]
fn unsafe_code_is_forbidden_and_dependencies_are_locked() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("TOML");
    let level = manifest["lints"]["rust"]["unsafe_code"].as_str();
    assert_eq!(level, Some("forbid"), "`deny` could be allowed again");
    let mut commands = 0;
    for script in [
        ".ci/run",
        "scripts/test",
        "scripts/audit",
        "scripts/sbom",
        "scripts/pgo",
        "fuzz/run",
        "Dockerfile",
    ] {
        for line in read(&root().join(script)).lines() {
            let line = line.split('#').next().unwrap_or_default();
            if line.contains("--version") {
                continue;
            }
            let builds = [
                "clippy",
                "nextest run",
                "test",
                "doc",
                "build",
                "install",
                "deny",
            ];
            if builds
                .iter()
                .any(|it| line.contains(&format!("cargo {it} ")))
            {
                commands += 1;
                assert!(line.contains("--locked"), "{script}: {line}");
            }
        }
    }
    assert!(commands >= 8, "only {commands} commands were found");
}

/// The cells of each row of the tables in a Markdown text, without the rows of headings and dashes.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let mut rows: Vec<Vec<&str>> = vec![];
    for line in text.lines() {
        let Some(row) = line
            .strip_prefix("| ")
            .and_then(|row| row.strip_suffix('|'))
        else {
            if line.starts_with("|---") {
                // What stands above the dashes is the heading.
                rows.pop();
            }
            continue;
        };
        rows.push(row.split('|').map(str::trim).collect());
    }
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The files in which `module::tests::name` (beside the code) or `file::name` (a scenario, or a module of tests) may stand, and
/// the name.
fn places(test: &str) -> (Vec<PathBuf>, &str) {
    let (module, name) = test.rsplit_once("::").expect("a module and a name");
    let Some(module) = module.strip_suffix("::tests") else {
        // The last is a module that is nothing but tests.
        let path = module.replace("::", "/");
        let places = ["tests/it", "tests", "src"];
        let places = places.map(|folder| root().join(format!("{folder}/{path}.rs")));
        return (places.to_vec(), name);
    };
    let folder = root().join("src").join(module.replace("::", "/"));
    let places = vec![
        folder.with_extension("rs"),
        folder.join("mod.rs"),
        folder.join("tests.rs"),
    ];
    (places, name)
}

/// Whether `text` has a function `name` that is run as a test: under `#[test]` or the like, other attributes and
/// comments in between.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let is_head = |line: &&str| {
        line.strip_prefix("async ")
            .unwrap_or(line)
            .starts_with(&head)
    };
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| is_head(line))
        .any(|(at, _)| {
            lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
                .any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
        })
}

#[test]
fn tests_and_tables_are_found_in_every_form() {
    let text = "#[test]\nfn a() {}\n#[tokio::test(x)]\n// why\nasync fn b() {}\nfn c() {}\n    #[test]\n    fn d(x in 0..1) {}\n";
    for (name, there) in [
        ("a", true),
        ("b", true),
        ("c", false),
        ("d", true),
        ("e", false),
    ] {
        assert_eq!(has_test(text, name), there, "{name}");
    }
    let table = "| x | y |\n|---|---|\n| `a` and `b` | |\ntext | `c` |\n";
    assert_eq!(rows(table), [["`a` and `b`", ""]]);
    assert_eq!(quoted("`a` and `b`").collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn every_known_attack_names_files_and_tests_that_exist() {
    let text = read(&root().join("docs/threats.md"));
    let mut tests = BTreeSet::new();
    let mut wrong = vec![];
    for row in rows(&text) {
        let [attack, measure, last] = row[..] else {
            panic!("a row has not three cells: {row:?}");
        };
        let files = quoted(measure).filter(|word| {
            std::path::Path::new(word)
                .extension()
                .is_some_and(|end| end == "rs")
        });
        for file in files.filter(|file| !root().join("src").join(file).is_file()) {
            wrong.push(format!("{attack}: there is no file {file}"));
        }
        let mut named = 0;
        for test in quoted(last) {
            named += 1;
            let (places, name) = places(test);
            let found = places
                .iter()
                .filter(|place| place.is_file())
                .any(|place| has_test(&read(place), name));
            if !found {
                wrong.push(format!("{attack}: there is no test {test}"));
            }
            tests.insert(test);
        }
        // Honest where nothing is shown.
        let is_open = last.starts_with("no test") || last == "not yet";
        assert_eq!(named == 0, is_open, "{attack}: {last}");
    }
    assert!(tests.len() >= 60, "only {} tests are named", tests.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Name, type and labels of each metric that is registered, as the documentation writes them.
fn registered(code: &str) -> BTreeSet<(String, &'static str, String)> {
    const MAKERS: [(&str, &str); 6] = [
        ("counters(", "counter"),
        ("IntCounter::new(", "counter"),
        ("gauges(", "gauge"),
        ("gauge(", "gauge"),
        ("HistogramOpts::new(", "histogram"),
        ("fn ", "nothing"),
    ];
    let is_name = |text: &&str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let starts: Vec<usize> = code.match_indices("\"jotgate_").map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([code.len()]);
    let mut found = BTreeSet::new();
    for (start, end) in starts.iter().copied().zip(ends) {
        let Some(name) = code[start + 1..].split('"').next().filter(is_name) else {
            continue;
        };
        let maker = MAKERS
            .into_iter()
            .filter_map(|(maker, kind)| Some((code[..start].rfind(maker)?, kind)))
            .max();
        let kind = maker.expect("a maker stands before the name").1;
        // The labels, where there are any, stand before the statement's end.
        let statement = code[start..end].split(";\n").next().unwrap_or_default();
        let labels: Vec<String> = statement
            .split_once("&[\"")
            .and_then(|(_, labels)| labels.split(']').next())
            .into_iter()
            .flat_map(|labels| labels.split(','))
            .map(|label| format!("`{}`", label.trim().trim_matches('"')))
            .collect();
        assert!(
            found.insert((name.to_owned(), kind, labels.join(" "))),
            "{name} is registered twice"
        );
    }
    found
}

#[test]
fn every_metric_is_explained_and_every_explanation_has_a_metric() {
    let source = read(&root().join("src/telemetry/metrics.rs"));
    let (code, _tests) = source.split_once("#[cfg(test)]").expect("tests at the end");
    let registered = registered(code);
    assert!(registered.len() > 10, "only {registered:?}");
    let text = read(&root().join("docs/metrics.md"));
    let mut explained = BTreeSet::new();
    for row in rows(&text) {
        let Some(name) = quoted(row[0]).find(|name| name.starts_with("jotgate_")) else {
            continue;
        };
        let kind = ["counter", "gauge", "histogram"]
            .into_iter()
            .find(|kind| *kind == row[1]);
        let kind = kind.unwrap_or_else(|| panic!("{name}: {} is no type", row[1]));
        let entry = (name.to_owned(), kind, row[2].to_owned());
        assert!(explained.insert(entry), "{name} is explained twice");
    }
    assert_eq!(registered, explained);
}

//! Law: a file is read in one way, its faults have places in it, a key that nobody knows is a fault wherever it stands, and
//! no secret is repeated.

use toml::{Table, Value};

use super::{Faults, Settings, load_str};

/// What `secret = { env = "SECRET" }` refers to.
const SECRET: &str = "6b1f9c0de7a24835-6b1f9c0de7a24835-6b1f9c0de7a24835-6b1f9c0de7a24835";

/// No later version will know it.
const UNKNOWN: &str = "zzz_unknown";

/// Panics where the law is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let repeats = |shown: &str| shown.contains(SECRET) && !text.contains(SECRET);
    match read(text) {
        Err(faults) => {
            let lines = 1..=text.lines().count() + 1;
            let has_place = |line: Option<usize>| line.is_none_or(|line| lines.contains(&line));
            assert!(faults.iter().all(|fault| has_place(fault.line)), "{faults}");
            assert_ne!(faults.iter().count(), 0);
            assert!(!repeats(&faults.to_string()), "{faults}");
        }
        Ok(settings) => {
            let shown = format!("{settings:?}");
            assert!(!repeats(&shown), "{shown}");
            let again = read(text).map(|settings| format!("{settings:?}"));
            assert_eq!(again.ok(), Some(shown));
            let table: Table = text.parse().expect("TOML, because it was accepted");
            for place in 0.. {
                let mut with = Value::Table(table.clone());
                if !insert(&mut with, "", &mut { place }) {
                    break;
                }
                let with = toml::to_string(&with).expect("TOML");
                let faults = read(&with).err();
                let is_named = |faults: &Faults| faults.iter().any(|it| it.path.contains(UNKNOWN));
                assert!(faults.as_ref().is_some_and(is_named), "{with}");
            }
        }
    }
}

fn read(text: &str) -> Result<Settings, Faults> {
    let env = [("SECRET".to_owned(), SECRET.to_owned())];
    load_str("law.toml", text, &env)
}

/// Puts the key into table number `left`, not counting those whose keys the operator chooses.
fn insert(value: &mut Value, path: &str, left: &mut usize) -> bool {
    let is_chosen = ["issuers.headers", "issuers.jwks", "routes.claims"].contains(&path);
    match value {
        Value::Table(_) if is_chosen => false,
        Value::Table(members) => {
            if *left == 0 {
                members.insert(UNKNOWN.to_owned(), true.into());
                return true;
            }
            *left -= 1;
            members.iter_mut().any(|(name, member)| {
                let path = format!("{path}.{name}");
                insert(member, path.trim_start_matches('.'), left)
            })
        }
        Value::Array(elements) => elements.iter_mut().any(|it| insert(it, path, left)),
        _ => false,
    }
}

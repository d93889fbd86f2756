//! Laws that hold for any bytes, whoever wrote them. Each stands beside the code that it is about; this is the list of
//! them, for the fuzzer (`fuzz/README.md`) and for the tests, which try the seeds and what is like them.
//!
//! Compiled for these two alone (`cfg(test)`, `cfg(fuzzing)`): nothing of it is in the program, or in the library as others
//! use it.

use crate::{base, config, control, identity, jwks, listener, route, token};

/// Panics where it is broken.
pub type Law = fn(&[u8]);

/// Each law by the name of its folder in `fuzz/seeds`.
pub const LAWS: [(&str, Law); 10] = [
    ("config", config::law::holds),
    ("framing", listener::framing_law::holds),
    ("headers", identity::law::holds),
    ("host", route::host_law::holds),
    ("json", base::json::law::holds),
    ("jwks", jwks::key_set_law::holds),
    ("jws", token::parse_law::holds),
    ("log", control::denylist::log_law::holds),
    ("path", route::path_law::holds),
    ("proxy_protocol", listener::proxy_protocol_law::holds),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut paths: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
        paths.sort();
        paths
    }

    fn seeds(law: &str) -> Vec<Vec<u8>> {
        let files = entries(&folder().join(law));
        assert!(files.len() >= 5, "{law} has few seeds");
        let read = |file: &PathBuf| std::fs::read(file).expect("a seed");
        files.iter().map(read).collect()
    }

    #[test]
    fn every_law_has_seeds_and_holds_for_them() {
        let folders: BTreeSet<String> = entries(&folder())
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        let names: BTreeSet<String> = LAWS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(folders, names);
        for (name, holds) in LAWS {
            for seed in seeds(name) {
                holds(&seed);
            }
        }
    }

    /// Changes a text here and there, as a fuzzer does that cannot see.
    #[derive(Clone, Debug)]
    enum Edit {
        Set(Index, u8),
        Remove(Index, usize),
        Copy(Index, Index, usize),
        Splice(Index, Index, Index, usize),
    }

    impl Edit {
        fn apply(&self, text: &mut Vec<u8>, seeds: &[Vec<u8>]) {
            let part = |from: &[u8], at: &Index, length: usize| {
                let start = at.index(from.len() + 1);
                from[start..from.len().min(start + length)].to_vec()
            };
            let at = |text: &[u8], at: &Index| at.index(text.len() + 1);
            match self {
                Self::Set(place, byte) => {
                    let place = at(text, place);
                    text.splice(place..text.len().min(place + 1), [*byte]);
                }
                Self::Remove(place, length) => {
                    let place = at(text, place);
                    text.drain(place..text.len().min(place + length));
                }
                Self::Copy(from, to, length) => {
                    let (copied, to) = (part(text, from, *length), at(text, to));
                    text.splice(to..to, copied);
                }
                Self::Splice(seed, from, to, length) => {
                    let copied = part(seed.get::<Vec<u8>>(seeds), from, *length);
                    let to = at(text, to);
                    text.splice(to..to, copied);
                }
            }
        }
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
            (any::<Index>(), 1..9_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
            (any::<Index>(), any::<Index>(), 1..40_usize)
                .prop_map(|(from, to, length)| Edit::Copy(from, to, length)),
            (any::<Index>(), any::<Index>(), any::<Index>(), 1..40_usize)
                .prop_map(|(seed, from, to, length)| Edit::Splice(seed, from, to, length)),
        ]
    }

    #[test]
    fn every_law_holds_for_what_is_like_its_seeds() {
        for (name, holds) in LAWS {
            let seeds = seeds(name);
            proptest!(|(seed: Index, edits in prop::collection::vec(edit(), 1..6))| {
                let mut text = seed.get(&seeds).clone();
                for edit in edits {
                    edit.apply(&mut text, &seeds);
                }
                holds(&text);
            });
        }
    }
}

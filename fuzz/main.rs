//! libFuzzer, and one law of jotgate that it tries to break: `fuzz/run` says which, in the environment variable `LAW`.
//!
//! Without `cfg(fuzzing)`, which `fuzz/run` sets, the laws are not in the library, and this is a program that says so.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use std::sync::OnceLock;

    use jotgate::laws::{LAWS, Law};
    use libfuzzer_sys::fuzz_target;

    static LAW: OnceLock<Law> = OnceLock::new();

    fn chosen() -> Law {
        let name = std::env::var("LAW").unwrap_or_default();
        let law = LAWS.iter().find(|(known, _)| *known == name);
        let Some((_, law)) = law else {
            let known = LAWS.map(|(name, _)| name).join(", ");
            eprintln!("LAW={name:?} is none of: {known}");
            std::process::exit(2);
        };
        *law
    }

    fuzz_target!(|bytes: &[u8]| LAW.get_or_init(chosen)(bytes));
}

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("please start it by fuzz/run, which compiles the laws in and counts what they reach");
    std::process::exit(2);
}

//! How an upstream is treated whose servers fail: `outlier`.

use std::time::Duration;

use super::check::Check;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::upstream::Outlier;

/// What holds where nothing is said. Failures and time are Envoy's: one or two failures happen when a server restarts, which
/// takes seconds. Half of the servers carry the load of a service that has one to spare. Strangers cause answers 5xx.
pub(super) const OUTLIER: Outlier = Outlier {
    failures: 5,
    eject_for: Duration::from_secs(30),
    max_ejected: 50,
    count_5xx: false,
};

/// `outlier` of one upstream.
pub(super) fn outlier(raw: Option<&raw::Outlier>, at: &KeyPath, check: &mut Check<'_>) -> Outlier {
    let Some(raw) = raw else {
        return OUTLIER;
    };
    let (failures, eject_for, max_ejected) = (
        &at.key("failures"),
        &at.key("eject_for"),
        &at.key("max_ejected"),
    );
    let hour = Duration::from_secs(1)..=Duration::from_hours(1);
    Outlier {
        failures: check.number(failures, raw.failures, OUTLIER.failures, 0..=1000),
        eject_for: check.duration(eject_for, raw.eject_for, OUTLIER.eject_for, hour),
        max_ejected: check.number(max_ejected, raw.max_ejected, OUTLIER.max_ejected, 1..=100),
        count_5xx: raw.count_5xx.unwrap_or(OUTLIER.count_5xx),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, good};
    use super::*;
    use crate::upstream::Options;

    /// A file with an upstream that has these lines, and a route that names it.
    fn file(lines: &str) -> String {
        let base = BASE.replace("http://127.0.0.1:3000", "orders");
        format!("{base}[[upstreams]]\nname = \"orders\"\nservers = [\"http://a\"]\n{lines}\n")
    }

    fn upstream(lines: &str) -> Options {
        good(&file(lines)).upstreams.swap_remove(0)
    }

    /// Each line is out of bounds.
    #[track_caller]
    fn out_of_bounds(table: &str, lines: &[&str]) {
        for line in lines {
            let key = line.split(' ').next().expect("a key");
            check(
                &file(&format!("{table} = {{ {line} }}")),
                &format!("upstreams[0].{table}.{key}"),
                "is out of bounds",
            );
        }
    }

    #[test]
    fn an_ejection_has_bounds() {
        let said =
            "outlier = { failures = 0, eject_for = \"1m\", max_ejected = 10, count_5xx = true }";
        assert_eq!(
            upstream(said).outlier,
            Outlier {
                failures: 0,
                eject_for: Duration::from_mins(1),
                max_ejected: 10,
                count_5xx: true,
            }
        );
        let unsaid = upstream("").outlier;
        assert_eq!((unsaid.failures, unsaid.max_ejected), (5, 50));
        assert!(!unsaid.count_5xx);
        out_of_bounds(
            "outlier",
            &[
                "failures = 1001",
                "eject_for = \"999ms\"",
                "eject_for = \"2h\"",
                "max_ejected = 0",
                "max_ejected = 101",
            ],
        );
    }
}

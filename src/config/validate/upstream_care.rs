//! How an upstream is treated whose servers fail: `outlier` and `retries`.

use std::time::Duration;

use http::{Method, StatusCode};

use super::check::Check;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::upstream::{Budget, Outlier, Retries};

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

/// Default number of times that a request is sent once more: what failed twice fails at once.
const ATTEMPTS: u32 = 1;

/// Default budget. The share is Finagle's and linkerd's; the rest is for services with few requests.
const BUDGET: Budget = Budget {
    percent: 20,
    min_per_second: 3,
};

/// Methods that may be listed (RFC 9110 section 9.2.2), those that are safe first.
const IDEMPOTENT: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PUT,
    Method::DELETE,
];

/// Statuses by which services, and proxies before them, say that they did not do it.
const STATUSES: [StatusCode; 3] = [
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// `retries` of one upstream.
pub(super) fn retries(raw: &raw::Retries, at: &KeyPath, check: &mut Check<'_>) -> Retries {
    let tries = Duration::from_millis(100)..=Duration::from_hours(1);
    let mut retries = Retries {
        attempts: check.number(&at.key("attempts"), raw.attempts, ATTEMPTS, 1..=5),
        methods: IDEMPOTENT[..3].to_vec(),
        on_no_answer: true,
        on_status: STATUSES.to_vec(),
        per_try_timeout: raw.per_try_timeout.map(|span| {
            let at = at.key("per_try_timeout");
            check.duration(&at, Some(span), *tries.start(), tries.clone())
        }),
        budget: budget(raw.budget.as_ref(), &at.key("budget"), check),
    };
    if let Some(listed) = &raw.methods {
        let at = at.key("methods");
        retries.methods = listed
            .iter()
            .filter_map(|(n, text)| check.parsed(&at.index(n), text, method))
            .collect();
        if listed.is_empty() {
            check.fault(&at, "is empty; write methods, or leave retries out");
        }
    }
    if let Some(listed) = &raw.on {
        let at = at.key("on");
        let events = listed
            .iter()
            .filter_map(|(n, text)| check.parsed(&at.index(n), text, event));
        let events: Vec<_> = events.collect();
        retries.on_no_answer = events.contains(&None);
        retries.on_status = events.into_iter().flatten().collect();
    }
    retries
}

fn method(text: &str) -> Result<Method, &'static str> {
    let known = IDEMPOTENT.into_iter().find(|known| known.as_str() == text);
    known.ok_or("does more when it is done twice; write some of GET, HEAD, OPTIONS, PUT, DELETE")
}

/// None: no answer.
fn event(text: &str) -> Result<Option<StatusCode>, &'static str> {
    if text == "no_answer" {
        return Ok(None);
    }
    let status = text.parse().ok();
    let status = status.filter(|status: &StatusCode| {
        status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
    });
    let cure = "is nothing to try again for; write \"no_answer\", \"429\", or a status from \"500\" to \"599\"";
    status.map(Some).ok_or(cure)
}

fn budget(raw: Option<&raw::RetryBudget>, at: &KeyPath, check: &mut Check<'_>) -> Budget {
    let Some(raw) = raw else {
        return BUDGET;
    };
    let (percent, least) = (&at.key("percent"), &at.key("min_per_second"));
    Budget {
        percent: check.number(percent, raw.percent, BUDGET.percent, 0..=100),
        min_per_second: check.number(least, raw.min_per_second, BUDGET.min_per_second, 0..=1000),
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

    #[test]
    fn nothing_is_sent_again_unless_the_file_says_so() {
        assert_eq!(upstream("").retries, None);
        assert_eq!(
            upstream("retries = {}").retries,
            Some(Retries {
                attempts: 1,
                methods: vec![Method::GET, Method::HEAD, Method::OPTIONS],
                on_no_answer: true,
                on_status: STATUSES.to_vec(),
                per_try_timeout: None,
                budget: BUDGET,
            })
        );
        let said = "retries = { attempts = 3, methods = [\"PUT\"], on = [\"500\"], per_try_timeout = \"1s\", budget = { percent = 5, min_per_second = 0 } }";
        assert_eq!(
            upstream(said).retries,
            Some(Retries {
                attempts: 3,
                methods: vec![Method::PUT],
                on_no_answer: false,
                on_status: vec![StatusCode::INTERNAL_SERVER_ERROR],
                per_try_timeout: Some(Duration::from_secs(1)),
                budget: Budget {
                    percent: 5,
                    min_per_second: 0,
                },
            })
        );
    }

    #[test]
    fn only_what_can_be_done_twice_is() {
        for method in ["POST", "PATCH", "get", "TRACE"] {
            check(
                &file(&format!(
                    "retries = {{ methods = [\"GET\", \"{method}\"] }}"
                )),
                "upstreams[0].retries.methods[1]",
                "does more when it is done twice",
            );
        }
        for on in ["200", "404", "600", "5xx", ""] {
            check(
                &file(&format!("retries = {{ on = [\"{on}\"] }}")),
                "upstreams[0].retries.on[0]",
                "is nothing to try again for",
            );
        }
        check(
            &file("retries = { methods = [] }"),
            "upstreams[0].retries.methods",
            "is empty",
        );
        out_of_bounds(
            "retries",
            &["attempts = 0", "attempts = 6", "per_try_timeout = \"99ms\""],
        );
        out_of_bounds(
            "retries.budget",
            &["percent = 101", "min_per_second = 1001"],
        );
    }
}

//! How an upstream is treated whose servers fail: `outlier`, `health` and `retries`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{Method, StatusCode};

use super::check::Check;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::upstream::{Budget, Health, Outlier, Retries};

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

/// Default time between two checks of a server, and for one of them. A server that dies is found out by requests at once; this
/// is for those that answer, and badly.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Default numbers of checks in a row: HAProxy's.
const HEALTHY_AFTER: u32 = 2;
const UNHEALTHY_AFTER: u32 = 3;

/// `health` of one upstream.
pub(super) fn health(raw: &raw::Health, at: &KeyPath, check: &mut Check<'_>) -> Option<Health> {
    let path = check.required(at, "path", raw.path.as_ref(), "path = \"/healthz\"");
    let path = path.and_then(|text| check.parsed(&at.key("path"), text, health_path));
    let (least, hour) = (Duration::from_millis(100), Duration::from_hours(1));
    let interval_at = at.key("interval");
    let interval = check.duration(&interval_at, raw.interval, HEALTH_INTERVAL, least..=hour);
    // Where nothing is said, it is within the interval.
    let default = HEALTH_TIMEOUT.min(interval);
    let timeout = check.duration(&at.key("timeout"), raw.timeout, default, least..=hour);
    if timeout > interval {
        check.fault(
            &at.key("timeout"),
            "is longer than interval; write a shorter one",
        );
    }
    let (up, down) = (&at.key("healthy_after"), &at.key("unhealthy_after"));
    let status = match &raw.status {
        None => Some(200..=299),
        Some(text) => check.parsed(&at.key("status"), text, statuses),
    };
    Some(Health {
        interval,
        timeout,
        healthy_after: check.number(up, raw.healthy_after, HEALTHY_AFTER, 1..=100),
        unhealthy_after: check.number(down, raw.unhealthy_after, UNHEALTHY_AFTER, 1..=100),
        path: path?,
        status: status?,
    })
}

fn health_path(text: &str) -> Result<Box<str>, &'static str> {
    let is_path = text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok();
    if is_path && !text.contains('#') {
        Ok(text.into())
    } else {
        Err("is no path; write one such as \"/healthz\"")
    }
}

/// `200`, or `200-299`.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let status = StatusCode::from_bytes(text.as_bytes()).ok();
        status.map(|status| status.as_u16()).filter(|n| *n < 600)
    };
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_) | None, _) => Err("is no status; write one such as \"200\", or \"200-299\""),
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
    fn a_health_check_has_a_path_and_bounds() {
        assert_eq!(upstream("").health, None);
        assert_eq!(
            upstream("health = { path = \"/healthz?full=1\" }").health,
            Some(Health {
                path: "/healthz?full=1".into(),
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(2),
                healthy_after: 2,
                unhealthy_after: 3,
                status: 200..=299,
            })
        );
        let said = "health = { path = \"/\", interval = \"1s\", healthy_after = 1, unhealthy_after = 4, status = \"404\" }";
        let health = upstream(said).health.unwrap();
        assert_eq!(health.timeout, Duration::from_secs(1), "not longer");
        assert_eq!((health.healthy_after, health.unhealthy_after), (1, 4));
        assert_eq!(health.status, 404..=404);
        for (lines, key, word) in [
            ("", "path", "is missing; write path = \"/healthz\""),
            ("path = \"healthz\"", "path", "is no path"),
            ("path = \"\"", "path", "is no path"),
            ("path = \"/a b\"", "path", "is no path"),
            ("path = \"/a#b\"", "path", "is no path"),
            (
                "path = \"/\", timeout = \"6s\"",
                "timeout",
                "is longer than interval",
            ),
            ("path = \"/\", status = \"2xx\"", "status", "is no status"),
            (
                "path = \"/\", status = \"299-200\"",
                "status",
                "is no status",
            ),
            ("path = \"/\", status = \"200-\"", "status", "is no status"),
            ("path = \"/\", status = \"600\"", "status", "is no status"),
        ] {
            let file = file(&format!("health = {{ {lines} }}"));
            check(&file, &format!("upstreams[0].health.{key}"), word);
        }
        out_of_bounds(
            "health",
            &[
                "interval = \"99ms\", path = \"/\"",
                "timeout = \"99ms\", path = \"/\"",
                "healthy_after = 0, path = \"/\"",
                "unhealthy_after = 101, path = \"/\"",
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

//! The dashboard and the alert rules of `deploy/`: every metric, label and word in them is one that docs/metrics.md explains,
//! which `tests/house_rules.rs` compares with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// Labels that Prometheus adds to what it asks.
const ADDED: [&str; 2] = ["instance", "job"];

/// Labels whose words are a closed set.
const CLOSED: [&str; 5] = ["code", "kind", "reason", "result", "way"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is explained of one metric.
#[derive(Debug)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    /// Whether somebody should be called for it.
    has_alert: bool,
}

/// The metrics that docs/metrics.md explains, and every word that it quotes.
struct Explained {
    metrics: BTreeMap<String, Metric>,
    words: BTreeSet<String>,
}

impl Explained {
    fn read() -> Self {
        let text = read("docs/metrics.md");
        let quoted = |text: &str| -> Vec<String> {
            let words = text.split('`').skip(1).step_by(2);
            words.map(str::to_owned).collect()
        };
        let mut metrics = BTreeMap::new();
        for row in text.lines().filter(|line| line.starts_with("| `jotgate_")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, _unit, _meaning, alert] = cells[..] else {
                panic!("{row} has not six cells");
            };
            let metric = Metric {
                kind: kind.to_owned(),
                labels: quoted(labels).into_iter().collect(),
                has_alert: !alert.is_empty(),
            };
            metrics.insert(quoted(name).remove(0), metric);
        }
        assert!(metrics.len() > 20, "only {metrics:?}");
        let words = text.lines().flat_map(quoted).collect();
        Self { metrics, words }
    }

    /// The metric that a series is of, and what Prometheus adds to a histogram's labels.
    fn find(&self, series: &str) -> Option<(&str, &Metric, Option<&'static str>)> {
        let of_histogram = [("_bucket", Some("le")), ("_sum", None), ("_count", None)];
        let known = |name: &str| self.metrics.get_key_value(name);
        for (end, label) in of_histogram {
            let histogram = series.strip_suffix(end).and_then(known);
            if let Some((name, metric)) = histogram.filter(|(_, metric)| metric.kind == "histogram")
            {
                return Some((name, metric, label));
            }
        }
        let (name, metric) = known(series)?;
        (metric.kind != "histogram").then_some((name, metric, None))
    }

    /// Looks at every series of an expression. Yields the metrics.
    fn check(&self, place: &str, expression: &str) -> BTreeSet<String> {
        let mut metrics = BTreeSet::new();
        let mut grouped: BTreeSet<String> = ADDED.map(str::to_owned).into();
        for (at, _) in expression.match_indices("jotgate_") {
            let rest = &expression[at..];
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let series = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
            let Some((name, metric, added)) = self.find(series) else {
                panic!("{place}: {series} is not explained");
            };
            let mut labels = metric.labels.clone();
            labels.extend(added.map(str::to_owned));
            labels.extend(ADDED.map(str::to_owned));
            for (label, value) in matchers(&rest[series.len()..]) {
                assert!(labels.contains(&label), "{place}: {name} has no {label}");
                for word in value.split('|').filter(|word| !word.is_empty()) {
                    let known = !CLOSED.contains(&&*label) || self.words.contains(word);
                    assert!(known, "{place}: {label} is never {word}");
                }
            }
            grouped.extend(labels);
            metrics.insert(name.to_owned());
        }
        assert!(!metrics.is_empty(), "{place}: {expression} is of no metric");
        for label in groups(expression) {
            assert!(grouped.contains(&label), "{place}: nothing has {label}");
        }
        let count = |c| expression.matches(c).count();
        assert_eq!(count('('), count(')'), "{place}: {expression}");
        metrics
    }
}

/// Label and value of each matcher in the braces that follow a name, if any do.
fn matchers(rest: &str) -> Vec<(String, String)> {
    let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return vec![];
    };
    let mut found = vec![];
    for matcher in inside.split(',') {
        let (label, value) = matcher.split_once('=').expect("label and value");
        let label = label.trim_end_matches('!').trim();
        let value = value.trim_start_matches('~').trim();
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        found.push((label.to_owned(), value.expect("a quoted value").to_owned()));
    }
    assert!(!found.is_empty());
    found
}

/// The labels of every `by (…)`.
fn groups(expression: &str) -> Vec<String> {
    let lists = expression.split(" by (").skip(1);
    lists
        .flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','))
        .map(|label| label.trim().to_owned())
        .collect()
}

#[test]
fn every_series_of_the_dashboard_is_explained_and_every_metric_shown() {
    let explained = Explained::read();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/jotgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().expect("panels");
    let (rows, graphs): (Vec<&Value>, Vec<&Value>) =
        panels.iter().partition(|panel| panel["type"] == "row");
    assert!(rows.len() > 5 && graphs.len() > 20, "{}", panels.len());
    let ids: BTreeSet<u64> = panels
        .iter()
        .filter_map(|panel| panel["id"].as_u64())
        .collect();
    assert_eq!(
        ids.len(),
        panels.len(),
        "each panel has a number of its own"
    );
    let mut shown = BTreeSet::new();
    for panel in graphs {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!title.is_empty() && !targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(
                expression.contains("$instance"),
                "{title}: of chosen instances"
            );
            shown.extend(explained.check(title, &expression.replace("$instance", "")));
        }
    }
    let all: BTreeSet<String> = explained.metrics.keys().cloned().collect();
    assert_eq!(shown, all);
    let queries: Vec<&Value> = ["templating", "annotations"]
        .iter()
        .flat_map(|of| dashboard[of]["list"].as_array().expect("a list"))
        .flat_map(|entry| [&entry["definition"], &entry["expr"]])
        .filter(|query| query.is_string())
        .collect();
    assert_eq!(queries.len(), 2);
    for query in queries {
        explained.check("a query", query.as_str().expect("text"));
    }
}

#[test]
fn every_alert_is_of_explained_series_and_says_what_to_do() {
    let explained = Explained::read();
    let rules: Value = serde_saphyr::from_str(&read("deploy/prometheus/alerts.yaml")).unwrap();
    let groups = rules["groups"].as_array().expect("groups");
    assert!(groups.len() > 3);
    let (mut names, mut alarmed) = (BTreeSet::new(), BTreeSet::new());
    for rule in groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"))
    {
        let name = rule["alert"].as_str().expect("a name");
        assert!(name.starts_with("Jotgate"), "{name}");
        assert!(names.insert(name), "{name} stands twice");
        let expression = rule["expr"].as_str().expect("an expression");
        let compares = [" > ", " < ", " == "]
            .iter()
            .any(|sign| expression.contains(sign));
        assert!(compares, "{name}: {expression} is always true");
        alarmed.extend(explained.check(name, expression));
        let wait = rule["for"].as_str().expect("a duration");
        assert!(
            wait.parse::<humantime::Duration>().is_ok(),
            "{name}: {wait}"
        );
        let severity = rule["labels"]["severity"].as_str();
        let known = ["critical", "warning", "info"].map(Some);
        assert!(known.contains(&severity), "{name}: {severity:?}");
        for text in ["summary", "runbook"] {
            let text = rule["annotations"][text].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name}: {text:?} says nothing");
            for label in text.split("$labels.").skip(1) {
                let label: String = label.chars().take_while(char::is_ascii_lowercase).collect();
                let there = self::groups(expression).contains(&label);
                assert!(there, "{name}: its result has no {label}");
            }
        }
    }
    assert!(names.len() > 20);
    let called: BTreeSet<String> = explained
        .metrics
        .iter()
        .filter(|(_, metric)| metric.has_alert)
        .map(|(name, _)| name.clone())
        .collect();
    let missing: Vec<_> = called.difference(&alarmed).collect();
    assert!(missing.is_empty(), "no alert is of {missing:?}");
}

#[test]
fn series_are_found_in_every_form() {
    let explained = Explained::read();
    let expression = "sum by (le, upstream) (rate(jotgate_upstream_duration_seconds_bucket{le=\"1\", instance=~\"a|b\"}[5m])) > 0 \
                      and jotgate_panics_total";
    assert_eq!(
        explained.check("here", expression),
        ["jotgate_panics_total", "jotgate_upstream_duration_seconds"]
            .map(str::to_owned)
            .into()
    );
    assert_eq!(groups(expression), ["le", "upstream"]);
    for wrong in [
        "jotgate_unknown_total > 0",
        "jotgate_upstream_duration_seconds > 0",
        "jotgate_panics_total{code=\"x\"} > 0",
        "jotgate_decisions_total{code=\"unheard_of\"} > 0",
        "sum by (reason) (jotgate_decisions_total) > 0",
        "jotgate_decisions_total{le=\"1\"}",
        "sum(jotgate_panics_total",
        "up == 0",
    ] {
        let outcome = std::panic::catch_unwind(|| explained.check("here", wrong));
        assert!(outcome.is_err(), "{wrong}");
    }
}

//! `[telemetry]`

use super::check::Check;
use super::otlp::otlp;
use crate::base::chance::Share;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::Telemetry;
use crate::telemetry::access::{self, Form};
use crate::telemetry::logs::Format;

/// What is logged unless the file says otherwise.
const LEVEL: &str = "info";

/// Logs, access lines, traces.
pub(super) fn telemetry(raw: Option<&raw::Telemetry>, check: &mut Check<'_>) -> Telemetry {
    let at = KeyPath::default().key("telemetry").key("log");
    let log = raw.and_then(|raw| raw.log.as_ref());
    let format = log
        .and_then(|log| log.format.as_ref())
        .and_then(|text| {
            check.parsed(&at.key("format"), text, |text| match text {
                "text" => Ok(Format::Text),
                "json" => Ok(Format::Json),
                _ => Err("is unknown; write \"text\" or \"json\""),
            })
        })
        .unwrap_or(Format::Text);
    let level = log
        .and_then(|log| log.level.as_ref())
        .and_then(|text| check.parsed(&at.key("level"), text, filter))
        .unwrap_or_else(|| LEVEL.into());
    Telemetry {
        format,
        level,
        access_log: access_log(raw.and_then(|raw| raw.access_log.as_ref()), format, check),
        otlp: raw
            .and_then(|raw| raw.otlp.as_ref())
            .and_then(|raw| otlp(raw, check)),
    }
}

/// Access lines look like the log unless the file says otherwise.
fn access_log(
    raw: Option<&raw::AccessLog>,
    log: Format,
    check: &mut Check<'_>,
) -> Option<access::Options> {
    let mut options = access::Options {
        form: match log {
            Format::Text => Form::Text,
            Format::Json => Form::Json,
        },
        sample: Share::ALL,
    };
    let table = match raw {
        None | Some(raw::AccessLog::Is(true)) => return Some(options),
        Some(raw::AccessLog::Is(false)) => return None,
        Some(raw::AccessLog::As(table)) => table,
    };
    let at = KeyPath::default().key("telemetry").key("access_log");
    if let Some(text) = &table.format
        && let Some(form) = check.parsed(&at.key("format"), text, |text| match text {
            "text" => Ok(Form::Text),
            "json" => Ok(Form::Json),
            "common" => Ok(Form::Common),
            "combined" => Ok(Form::Combined),
            _ => Err("is unknown; write \"text\", \"json\", \"common\" or \"combined\""),
        })
    {
        options.form = form;
    }
    if let Some(sample) = table.sample {
        options.sample = sample.0;
    }
    Some(options)
}

/// A filter: levels, and levels of targets. `tracing` would take a level with a typing error for a target, and then
/// log nothing else.
fn filter(text: &str) -> Result<Box<str>, &'static str> {
    let is_level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| level.eq_ignore_ascii_case(text))
    };
    let is_target = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
    };
    let is_filter = text.split(',').all(|part| match part.split_once('=') {
        None => is_level(part),
        Some((target, level)) => is_target(target) && is_level(level),
    });
    if is_filter {
        Ok(text.into())
    } else {
        Err(
            "is no filter; write \"info\", or one such as \"info,jotgate=debug\", of the levels off, error, warn, info, debug, trace",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BASE, check, faults_with, good};
    use super::*;

    #[test]
    fn logs_are_text_or_json() {
        let settings = good(&format!(
            "{BASE}[telemetry]\naccess_log = false\nlog.format = \"json\"\n"
        ));
        assert_eq!(settings.telemetry.format, Format::Json);
        assert_eq!(settings.telemetry.access_log, None);
        check(
            &format!("{BASE}[telemetry.log]\nformat = \"xml\"\n"),
            "telemetry.log.format",
            "write \"text\" or \"json\"",
        );
        check(
            &format!("{BASE}[telemetry.log]\nlevel = \"inof\"\n"),
            "telemetry.log.level",
            "is no filter",
        );
    }

    #[test]
    fn access_lines_look_like_the_log_unless_the_file_says_otherwise() {
        #[track_caller]
        fn is(lines: &str, form: Form, sample: f64) {
            let settings = good(&format!("{BASE}[telemetry]\n{lines}\n"));
            let sample = Share::of(sample).unwrap();
            let expected = Some(access::Options { form, sample });
            assert_eq!(settings.telemetry.access_log, expected, "{lines}");
        }
        is("", Form::Text, 1.0);
        is("access_log = true", Form::Text, 1.0);
        is("log.format = \"json\"", Form::Json, 1.0);
        is("access_log = {}\nlog.format = \"json\"", Form::Json, 1.0);
        is("access_log.format = \"combined\"", Form::Combined, 1.0);
        is(
            "access_log = { format = \"common\", sample = 0.01 }",
            Form::Common,
            0.01,
        );
        is("access_log.sample = 0", Form::Text, 0.0);
        let wrong = |lines: &str, path, word| {
            check(&format!("{BASE}[telemetry]\n{lines}\n"), path, word);
        };
        wrong(
            "access_log.format = \"apache\"",
            "telemetry.access_log.format",
            "\"combined\"",
        );
        for number in ["1.5", "-0.1", "2", "-1", "\"all\"", "nan"] {
            let line = format!("access_log.sample = {number}");
            wrong(&line, "telemetry.access_log.sample", "from 0 to 1");
        }
        wrong("access_log = \"json\"", "telemetry.access_log", "a table");
        wrong("access_log.form = 1", "telemetry.access_log.form", "format");
        let faults = faults_with(BASE, &[("JOTGATE__TELEMETRY__ACCESS_LOG__SAMPLE", "7")]);
        assert!(faults[0].contains("from 0 to 1"), "{faults:?}");
    }

    #[test]
    fn a_level_with_a_typing_error_is_no_filter() {
        for good in [
            "info",
            "WARN",
            "jotgate=debug",
            "info,jotgate::control=trace,hyper=off",
        ] {
            assert!(filter(good).is_ok(), "{good}");
            assert!(
                good.parse::<tracing_subscriber::EnvFilter>().is_ok(),
                "{good}"
            );
        }
        for wrong in [
            "", "inof", "jotgate", "info,", "=info", "jotgate=", "a b=info", "a=info=b",
        ] {
            assert!(filter(wrong).is_err(), "{wrong:?}");
        }
    }
}

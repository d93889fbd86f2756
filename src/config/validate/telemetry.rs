//! `[telemetry]`

use super::check::Check;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::config::settings::Telemetry;
use crate::telemetry::logs::Format;

/// What is logged unless the file says otherwise.
const LEVEL: &str = "info";

/// Logs.
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
        access_log: raw.and_then(|raw| raw.access_log).unwrap_or(true),
    }
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
    use super::super::testing::{BASE, check, good};
    use super::*;

    #[test]
    fn logs_are_text_or_json() {
        let settings = good(&format!(
            "{BASE}[telemetry]\naccess_log = false\nlog.format = \"json\"\n"
        ));
        assert_eq!(settings.telemetry.format, Format::Json);
        assert!(!settings.telemetry.access_log);
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

//! Instants as people write and read them.

use std::cmp::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use crate::base::clock::UnixSeconds;

/// `2026-11-23T17:10:00Z`. What lies beyond the year 9999 stays a number.
pub(super) fn date(at: UnixSeconds) -> String {
    if at > UnixSeconds::MAX {
        return at.0.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at.0)).to_string()
}

/// `in 4m 30s`, `2h ago`, `now`.
pub(super) fn relative(at: UnixSeconds, now: UnixSeconds) -> String {
    match at.cmp(&now) {
        Ordering::Equal => "now".to_owned(),
        Ordering::Greater => format!("in {}", humantime::format_duration(at.since(now))),
        Ordering::Less => format!("{} ago", humantime::format_duration(now.since(at))),
    }
}

/// Reads an instant: Unix seconds, or a date such as `2026-11-23T17:10:00Z`.
pub(super) fn parse(text: &str) -> Result<UnixSeconds, InstantError> {
    let seconds = text.parse::<u64>().ok().or_else(|| {
        let date = humantime::parse_rfc3339(text).ok()?;
        Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
    });
    seconds
        .map(UnixSeconds)
        .filter(|at| *at <= UnixSeconds::MAX)
        .ok_or(InstantError)
}

/// The text is no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write Unix seconds such as 1795417570, or a date such as 2026-11-23T17:10:00Z")]
pub(super) struct InstantError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read() {
        let at = UnixSeconds(1_795_417_570);
        assert_eq!(parse(&date(at)), Ok(at));
        assert_eq!(parse("1795417570"), Ok(at));
        for wrong in ["", "yesterday", "-1", "99999999999999", "2026-11-23"] {
            assert_eq!(parse(wrong), Err(InstantError), "{wrong}");
        }
    }

    #[test]
    fn an_absurd_date_is_a_number() {
        assert_eq!(date(UnixSeconds(u64::MAX)), u64::MAX.to_string());
        assert_eq!(date(UnixSeconds::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn distances_have_a_direction() {
        let now = UnixSeconds(1000);
        assert_eq!(relative(UnixSeconds(1270), now), "in 4m 30s");
        assert_eq!(relative(UnixSeconds(940), now), "1m ago");
        assert_eq!(relative(now, now), "now");
    }
}

//! What servers answer, read with suspicion: every shape is checked, and a wrong one is a fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerError, Value, from_redis_value};
use bytes::Bytes;

use super::{Entry, EntryId, FIELD, LinkFault, Sight};
use crate::base::clock;
use crate::control::denylist::relay::link::Run;

/// What one command of several came to.
pub(super) type Truth = Result<Value, LinkFault>;

/// Longest word of a server that is repeated, in characters: it stands in logs and in the status.
const WORDS_MAX: usize = 200;

/// What passes by itself: a server that starts, a cluster that moves its keys, a primary that has just been demoted.
const PASSING: [&str; 7] = [
    "LOADING",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "UNBLOCKED",
];

/// Whether the server refused, or is away.
pub(super) fn fault(error: RedisError) -> LinkFault {
    let kind = error.kind();
    let text = error.to_string();
    if let Some((_, error)) = error.into_server_errors().as_deref().and_then(<[_]>::first) {
        return refusal(error);
    }
    match kind {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension => {
            LinkFault::Refused(plain(&text))
        }
        _ => LinkFault::Away(plain(&text)),
    }
}

fn refusal(error: &ServerError) -> LinkFault {
    let (code, details) = (error.code(), error.details().unwrap_or_default());
    let text = plain(format!("{code} {details}").trim());
    if PASSING.contains(&code) {
        LinkFault::Away(text)
    } else {
        LinkFault::Refused(text)
    }
}

/// Somebody is not there.
pub(super) fn away(who: &impl fmt::Display, why: &impl fmt::Display) -> LinkFault {
    LinkFault::Away(plain(&format!("{who}: {why}")))
}

/// An answer that this command cannot have.
pub(super) fn odd(command: &str) -> LinkFault {
    LinkFault::Away(format!("it answers {command} in an unknown form").into())
}

fn plain(text: &str) -> Box<str> {
    let shown = text.chars().filter(|c| !c.is_control()).take(WORDS_MAX);
    shown.collect::<String>().into()
}

/// One answer of a transaction.
pub(super) fn truth(value: Value) -> Truth {
    value.extract_error().map_err(fault)
}

/// Whole milliseconds, at least one: to Redis 0 means for ever.
pub(super) fn millis(span: Duration) -> u64 {
    clock::millis(span).max(1)
}

pub(super) fn number(value: Value) -> Option<u64> {
    from_redis_value(value).ok()
}

pub(super) fn id(value: Value) -> Option<EntryId> {
    EntryId::parse(&text(value)?)
}

fn text(value: Value) -> Option<String> {
    from_redis_value(value).ok()
}

fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Names and values in turn.
fn pairs(value: Value) -> Option<impl Iterator<Item = (Value, Value)>> {
    let values = list(value).filter(|values| values.len().is_multiple_of(2))?;
    let mut values = values.into_iter();
    Some(std::iter::from_fn(move || {
        Some((values.next()?, values.next()?))
    }))
}

/// The value that stands after `name`.
fn member(value: Value, name: &str) -> Option<Value> {
    let is_it = |key: &Value| matches!(key, Value::BulkString(key) if key == name.as_bytes());
    pairs(value)?.find_map(|(key, value)| is_it(&key).then_some(value))
}

/// The last id of the stream by `XINFO STREAM`; zero if there is no stream.
pub(super) fn last_generated(stream: Truth) -> Result<EntryId, LinkFault> {
    match stream {
        Ok(stream) => member(stream, "last-generated-id")
            .and_then(id)
            .ok_or_else(|| odd("XINFO STREAM")),
        Err(LinkFault::Refused(why)) if why.starts_with("ERR no such key") => {
            Ok(EntryId::default())
        }
        Err(fault) => Err(fault),
    }
}

/// The id at which the group `name` stands, by `XINFO GROUPS`.
pub(super) fn tip(groups: Value, name: &str) -> Option<EntryId> {
    list(groups)?.into_iter().find_map(|group| {
        let is_it = member(group.clone(), "name").and_then(text)? == name;
        is_it.then(|| member(group, "last-delivered-id").and_then(id))?
    })
}

/// What the rest of a look says.
pub(super) fn sight(
    run_id: &str,
    last: EntryId,
    epoch: Truth,
    time: Truth,
    info: Truth,
) -> Result<Sight, LinkFault> {
    let info = Info::of(info?)?;
    info.primary()?;
    let replication = info.text("master_replid").ok_or_else(|| odd("INFO"))?;
    let epoch: Option<String> = from_redis_value(epoch?).map_err(|_| odd("GET"))?;
    let (seconds, micros): (u64, u64) = from_redis_value(time?).map_err(|_| odd("TIME"))?;
    Ok(Sight {
        run: Run {
            server: format!("{run_id}/{replication}").into(),
            epoch: epoch.unwrap_or_default().into(),
        },
        last,
        now_ms: seconds.saturating_mul(1000).saturating_add(micros / 1000),
    })
}

/// Entries by `XREAD`. One without our field has an empty payload, which no seal fits.
pub(super) fn entries(answer: Value) -> Result<Vec<Entry>, LinkFault> {
    let odd = || odd("XREAD");
    let streams = match answer {
        Value::Nil => return Ok(vec![]),
        answer => list(answer).ok_or_else(odd)?,
    };
    let Some(stream) = streams.into_iter().next() else {
        return Ok(vec![]);
    };
    let [_, entries] = exactly(stream).ok_or_else(odd)?;
    let entries = list(entries).ok_or_else(odd)?;
    entries
        .into_iter()
        .map(|entry| self::entry(entry).ok_or_else(odd))
        .collect()
}

fn entry(value: Value) -> Option<Entry> {
    let [id, fields] = exactly(value)?;
    let payload = match member(fields, FIELD) {
        Some(Value::BulkString(payload)) => payload,
        _ => vec![],
    };
    Some(Entry {
        id: self::id(id)?,
        payload: payload.into(),
    })
}

fn exactly<const N: usize>(value: Value) -> Option<[Value; N]> {
    list(value)?.try_into().ok()
}

/// What one member said, by `HGET`.
pub(super) fn said(answer: Value) -> Result<Option<Bytes>, LinkFault> {
    match answer {
        Value::BulkString(payload) => Ok(Some(payload.into())),
        Value::Nil => Ok(None),
        _ => Err(odd("HGET")),
    }
}

/// Members by `HGETALL`, without those whose name nobody could have.
pub(super) fn members(answer: Value) -> Result<Vec<(Box<str>, Bytes)>, LinkFault> {
    let pairs = pairs(answer).ok_or_else(|| odd("HGETALL"))?;
    Ok(pairs
        .filter_map(|(name, payload)| match payload {
            Value::BulkString(payload) => Some((text(name)?.into(), payload.into())),
            _ => None,
        })
        .collect())
}

/// Lines `name:value` of `INFO`.
#[derive(Debug)]
pub(super) struct Info(BTreeMap<Box<str>, Box<str>>);

impl Info {
    pub(super) fn of(answer: Value) -> Result<Self, LinkFault> {
        let text = text(answer).ok_or_else(|| odd("INFO"))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Self(
            lines
                .map(|(name, value)| (name.into(), value.trim().into()))
                .collect(),
        ))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// That it is no replica: those follow, and may lag behind.
    pub(super) fn primary(&self) -> Result<(), LinkFault> {
        match self.text("role") {
            Some("master") => Ok(()),
            Some(_) => Err(LinkFault::Refused("READONLY it is a replica".into())),
            None => Err(odd("INFO")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(resp: &str) -> Value {
        ::redis::parse_redis_value(resp.as_bytes()).expect("RESP")
    }

    #[test]
    fn what_passes_by_itself_is_away_and_what_an_operator_must_mend_is_refused() {
        let told =
            |word: &str| truth(value(&format!("-{word} because\r\n"))).expect_err("an error");
        for word in PASSING {
            assert_eq!(
                told(word),
                LinkFault::Away(format!("{word} because").into())
            );
        }
        for word in [
            "ERR",
            "NOPERM",
            "OOM",
            "NOREPLICAS",
            "READONLY",
            "MISCONF",
            "NOAUTH",
            "WRONGTYPE",
        ] {
            assert_eq!(
                told(word),
                LinkFault::Refused(format!("{word} because").into())
            );
        }
    }

    #[test]
    fn the_words_of_a_server_are_cut_and_have_no_control_characters() {
        let word = format!("-ERR \x1b[31m{}\r\n", "x".repeat(1000));
        let Err(LinkFault::Refused(why)) = truth(value(&word)) else {
            panic!("no refusal");
        };
        assert_eq!(why.chars().count(), WORDS_MAX);
        assert!(why.starts_with("ERR [31mxxx"), "{why}");
    }

    #[test]
    fn never_zero_milliseconds() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_micros(2999)), 2);
    }

    #[test]
    fn entries_of_a_wrong_form_are_a_fault() {
        for resp in [
            "+x\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n*2\r\n$1\r\nk\r\n:1\r\n",
            "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n:1\r\n",
            "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$1\r\nx\r\n*0\r\n",
        ] {
            assert_eq!(entries(value(resp)), Err(odd("XREAD")), "{resp:?}");
        }
        assert_eq!(entries(Value::Nil), Ok(vec![]));
        let good = "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nr\r\n$1\r\nx\r\n";
        let entry = Entry {
            id: EntryId { ms: 1, sequence: 2 },
            payload: "x".into(),
        };
        assert_eq!(entries(value(good)), Ok(vec![entry]));
    }
}

//! What the relay needs of Redis or Valkey, and nothing more: one stream of entries, one key that names the stream's epoch, one
//! hash of members. The real one is `redis`; tests drive the very same relay over a simulated one.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

/// Where an entry stands in the stream: Redis' `milliseconds-sequence`. A Redis that was restarted or failed over, with an older
/// clock, may give ids again; so an id means something only together with its [`Run`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The server's clock, in milliseconds since 1970.
    pub ms: u64,
    /// Counts entries of the same millisecond.
    pub sequence: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

impl EntryId {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, sequence) = text.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }
}

/// One life of one server, and one epoch of the stream in it. Whatever may have lost entries changes it: a restart, a failover,
/// `FLUSHALL`, a key that was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// The server's `run_id`, and its `master_replid`.
    pub server: Box<str>,
    /// What the epoch key holds; empty if it is missing.
    pub epoch: Box<str>,
}

/// What the server says of itself and of the stream, at one instant and by one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Whose answer this is.
    pub run: Run,
    /// The last id that the stream gave; zero if there is no stream.
    pub last: EntryId,
    /// The server's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// One entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: EntryId,
    /// What was added, as it was added. Hostile until its seal is checked.
    pub payload: Bytes,
}

/// Why the server did not do it. Everything may be tried again over a new link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// No connection, or it broke, or took too long. What was asked may or may not have happened.
    #[error("{0}")]
    Away(Box<str>),
    /// The server answers, and refuses: no permission, out of memory, too few replicas (`NOREPLICAS`), read-only.
    #[error("{0}")]
    Refused(Box<str>),
}

/// Opens links.
pub trait Carrier: Send + Sync + 'static {
    /// An open link.
    type Link: Link;

    /// Connects to the server that may be written, by Sentinel or Cluster where these are configured. Bounded in time.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, LinkFault>> + Send;
}

/// One connection. Whoever drops a future of it half way drops the link, too.
pub trait Link: Send + 'static {
    /// Looks at server and stream.
    fn look(&mut self) -> impl Future<Output = Result<Sight, LinkFault>> + Send;

    /// Names the epoch, unless it has a name: `SET key epoch NX`.
    fn found(&mut self, epoch: &str) -> impl Future<Output = Result<(), LinkFault>> + Send;

    /// Adds entries in order (`XADD`, pipelined), and waits until as many replicas as configured have them (`WAIT`). Answers with the last id.
    fn add(
        &mut self,
        payloads: &[Bytes],
    ) -> impl Future<Output = Result<EntryId, LinkFault>> + Send;

    /// Entries after `after`, at most `count`; waits up to `block` for the first (`XREAD BLOCK`), and then answers with none.
    fn read(
        &mut self,
        after: EntryId,
        count: usize,
        block: Duration,
    ) -> impl Future<Output = Result<Vec<Entry>, LinkFault>> + Send;

    /// Drops entries before `before` (`XTRIM MINID ~`).
    fn trim(&mut self, before: EntryId) -> impl Future<Output = Result<(), LinkFault>> + Send;

    /// Writes what `member` says of itself (`HSET`), and looks, in this order and on the same server. Answers also with what was said in this
    /// name before (`HGET`). A server that may not write any more (an old master without its replicas, with `min-replicas-to-write`) refuses.
    fn report(
        &mut self,
        member: &str,
        payload: Bytes,
    ) -> impl Future<Output = Result<(Sight, Option<Bytes>), LinkFault>> + Send;

    /// What every member said last (`HGETALL`).
    fn members(&mut self)
    -> impl Future<Output = Result<Vec<(Box<str>, Bytes)>, LinkFault>> + Send;

    /// Forgets a member (`HDEL`).
    fn forget(&mut self, member: &str) -> impl Future<Output = Result<(), LinkFault>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_the_stream() {
        let id = |text| EntryId::parse(text).expect(text);
        assert!(id("9-2") < id("10-0") && id("10-0") < id("10-11"));
        assert_eq!(id("1795417570123-7").to_string(), "1795417570123-7");
        for wrong in [
            "",
            "1",
            "1-",
            "-1",
            "a-1",
            "1-1-1",
            "18446744073709551616-0",
        ] {
            assert_eq!(EntryId::parse(wrong), None, "{wrong}");
        }
    }
}

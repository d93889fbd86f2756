//! The real link: one connection to one Redis or Valkey server. Nothing here connects again or asks twice; whoever sees a
//! fault drops the link and asks [`RedisCarrier`] for another one. An invisible new connection could be to another server, and a
//! lease that was renewed by one server says nothing about what another one has.
//!
//! The crate `redis` encodes, decodes and pipelines. Its own reconnecting clients for Sentinel and Cluster are not used, for that
//! reason; finding the server is one question (`find`).

mod find;
mod reply;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{Cmd, Value, cmd, pipe};
use bytes::Bytes;

use self::find::Finder;
use self::reply::Info;
use self::wire::Wire;
use super::link::{Carrier, Entry, EntryId, Link, LinkFault, Sight};
use crate::denylist::redis::Options;

/// Largest answer that is no list of entries or members, in bytes: `INFO` has 2 KiB, errors less.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Largest entry that is read, in bytes. 512 rules, each with five texts of at most 1 KiB, are below 3 MiB.
const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest answer to one `read`, in bytes: four of the largest entries, and 100,000 rules as they usually are. A larger one ends the
/// link, and the next one asks for fewer entries at a time.
const READ_BYTES_MAX: usize = 4 * ENTRY_BYTES_MAX;

/// Most bytes of all members together: 10,000 gateways with 400 bytes each.
const MEMBERS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest answer to one `XADD`: two numbers of 20 digits, and what is around them.
const ID_BYTES_MAX: usize = 64;

/// The one field of an entry.
const FIELD: &str = "r";

/// A consumer group that nobody consumes with. `XGROUP SETID … $` writes the stream's last id into it, and `XINFO GROUPS` reads it there,
/// both without the entries that `XINFO STREAM` sends along.
const TIP: &str = "tip";

/// Opens links to the server that may be written.
#[derive(Debug)]
pub struct RedisCarrier {
    finder: Finder,
    /// Most entries of one `read`. It shrinks when answers are too large.
    width: Arc<AtomicUsize>,
}

/// One connection to one server. After a fault it is closed, and every further question is a fault.
#[derive(Debug)]
pub struct RedisLink {
    wire: Option<Wire>,
    options: Arc<Options>,
    keys: Keys,
    /// The server's `run_id`. A connection ends with its server, so it is asked once.
    run_id: Box<str>,
    width: Arc<AtomicUsize>,
}

/// The hash tag (`{…}`) puts all of them into the same slot of a cluster.
#[derive(Debug)]
struct Keys {
    rules: Box<str>,
    epoch: Box<str>,
    members: Box<str>,
}

impl Keys {
    fn new(stream: &str) -> Self {
        let key = |name| format!("{{{stream}}}:{name}").into_boxed_str();
        Self {
            rules: key("rules"),
            epoch: key("epoch"),
            members: key("members"),
        }
    }
}

impl RedisCarrier {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(options: Arc<Options>) -> Self {
        Self {
            finder: Finder::new(options),
            width: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }
}

impl Carrier for RedisCarrier {
    type Link = RedisLink;

    async fn connect(&self) -> Result<RedisLink, LinkFault> {
        let options = Arc::clone(self.finder.options());
        let keys = Keys::new(&options.stream);
        // Many small steps make a large future.
        let (wire, run_id) = Box::pin(self.finder.find(&keys.rules)).await?;
        Ok(RedisLink {
            wire: Some(wire),
            options,
            keys,
            run_id,
            width: Arc::clone(&self.width),
        })
    }
}

impl RedisLink {
    /// Takes the connection out. It is put back after a good answer alone, so it is closed by every fault, and when somebody drops the
    /// question half way: an answer that comes later must not be taken for that of the next question.
    fn take(&mut self) -> Result<Wire, LinkFault> {
        let closed = || LinkFault::Away("the link is closed".into());
        self.wire.take().ok_or_else(closed)
    }

    /// One command whose answer says nothing but that it was done.
    async fn done(&mut self, command: &Cmd) -> Result<(), LinkFault> {
        let mut wire = self.take()?;
        let limit = self.options.command_timeout;
        wire.one(command, ANSWER_BYTES_MAX, limit).await?;
        self.wire = Some(wire);
        Ok(())
    }

    /// What stands at the end of each look: the epoch, the clock, and who the server is now. A primary that was demoted, or a replica that was
    /// promoted, keeps its `run_id`; its `master_replid` is another one.
    fn rest(&self) -> [Cmd; 3] {
        let mut epoch = cmd("GET");
        epoch.arg(&*self.keys.epoch);
        [epoch, cmd("TIME"), find::replication()]
    }
}

impl Link for RedisLink {
    async fn look(&mut self) -> Result<Sight, LinkFault> {
        let mut wire = self.take()?;
        let mut stream = cmd("XINFO");
        stream.arg("STREAM").arg(&*self.keys.rules);
        let [epoch, time, info] = self.rest();
        // It shows the first entry and the last one.
        let room = ANSWER_BYTES_MAX + 2 * ENTRY_BYTES_MAX;
        let limit = self.options.command_timeout;
        let answers = wire.all([stream, epoch, time, info], room, limit).await?;
        let [stream, epoch, time, info] = answers;
        let last = reply::last_generated(stream)?;
        let sight = reply::sight(&self.run_id, last, epoch, time, info)?;
        self.wire = Some(wire);
        Ok(sight)
    }

    async fn found(&mut self, epoch: &str) -> Result<(), LinkFault> {
        let mut set = cmd("SET");
        set.arg(&*self.keys.epoch).arg(epoch).arg("NX");
        // Whether it was set, or had a name: either is well.
        self.done(&set).await
    }

    async fn add(&mut self, payloads: &[Bytes]) -> Result<EntryId, LinkFault> {
        let mut wire = self.take()?;
        let (limit, replicas) = (self.options.command_timeout, self.options.replicas_min);
        if replicas > 0 {
            // Before it is written: what is written once more with each attempt would fill the stream while a replica is away.
            let ask = find::replication();
            let info = Info::of(wire.one(&ask, ANSWER_BYTES_MAX, limit).await?)?;
            enough(info.number("connected_slaves"), replicas)?;
        }
        let mut all = pipe();
        for payload in payloads {
            let payload: &[u8] = payload;
            all.cmd("XADD").arg(&*self.keys.rules).arg("*");
            all.arg(FIELD).arg(payload);
        }
        let mut longest = limit;
        if replicas > 0 {
            all.cmd("WAIT").arg(replicas).arg(reply::millis(limit));
            longest += limit;
        }
        let room = ANSWER_BYTES_MAX + all.len() * ID_BYTES_MAX;
        let mut answers = wire.each(&all, room, longest).await?;
        if replicas > 0 {
            enough(answers.pop().and_then(reply::number), replicas)?;
        }
        let last = answers.pop().and_then(reply::id);
        let last = last.ok_or_else(|| reply::odd("XADD"))?;
        self.wire = Some(wire);
        Ok(last)
    }

    async fn read(
        &mut self,
        after: EntryId,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, LinkFault> {
        let mut wire = self.take()?;
        let count = count.min(self.width.load(Ordering::Relaxed)).max(1);
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count);
        // `BLOCK 0` would wait for ever.
        if !block.is_zero() {
            read.arg("BLOCK").arg(reply::millis(block));
        }
        read.arg("STREAMS").arg(&*self.keys.rules);
        read.arg(after.to_string());
        let limit = block.saturating_add(self.options.command_timeout);
        let answer = wire.one(&read, READ_BYTES_MAX, limit).await;
        // Too much for its bound, or for the line in the time there is.
        if answer.is_err() {
            let fewer = (count / 8).max(1);
            self.width.store(fewer, Ordering::Relaxed);
        }
        let entries = reply::entries(answer?)?;
        // Back to what was asked, step by step.
        let more = count.saturating_mul(2);
        self.width.fetch_max(more, Ordering::Relaxed);
        self.wire = Some(wire);
        Ok(entries)
    }

    async fn trim(&mut self, before: EntryId) -> Result<(), LinkFault> {
        let mut trim = cmd("XTRIM");
        trim.arg(&*self.keys.rules).arg("MINID").arg("~");
        trim.arg(before.to_string());
        self.done(&trim).await
    }

    async fn report(
        &mut self,
        member: &str,
        payload: Bytes,
    ) -> Result<(Sight, Option<Bytes>), LinkFault> {
        let mut wire = self.take()?;
        let limit = self.options.command_timeout;
        let rules = &*self.keys.rules;
        let payload: &[u8] = &payload;
        let mut before = cmd("HGET");
        before.arg(&*self.keys.members).arg(member);
        let mut write = cmd("HSET");
        write.arg(&*self.keys.members).arg(member).arg(payload);
        let mut set = cmd("XGROUP");
        set.arg("SETID").arg(rules).arg(TIP).arg("$");
        let mut groups = cmd("XINFO");
        groups.arg("GROUPS").arg(rules);
        let [epoch, time, info] = self.rest();
        // In one transaction, so that it is a look at one instant: no `FLUSHALL` between the epoch and the last id.
        let commands = [before, write, set, groups, epoch, time, info];
        let mut answers = wire.all(commands.clone(), ANSWER_BYTES_MAX, limit).await?;
        if answers[2].is_err() {
            // No group, or no stream.
            let mut make = cmd("XGROUP");
            make.arg("CREATE").arg(rules).arg(TIP);
            make.arg("$").arg("MKSTREAM");
            match wire.one(&make, ANSWER_BYTES_MAX, limit).await {
                // Another gateway was faster.
                Err(LinkFault::Refused(why)) if why.starts_with("BUSYGROUP") => {}
                created => {
                    created?;
                    // The epoch was there and the stream was not: somebody deleted it, or Redis did for room. It is another epoch now,
                    // so that all gateways publish again what they know.
                    if answers[4].as_ref().is_ok_and(|epoch| *epoch != Value::Nil) {
                        let mut forget = cmd("DEL");
                        forget.arg(&*self.keys.epoch);
                        wire.one(&forget, ANSWER_BYTES_MAX, limit).await?;
                    }
                }
            }
            let [before, ..] = answers;
            answers = wire.all(commands, ANSWER_BYTES_MAX, limit).await?;
            // Now it is what was written above.
            answers[0] = before;
        }
        let [before, written, set, groups, epoch, time, info] = answers;
        written?;
        set?;
        if self.options.replicas_min > 0 {
            // An old primary that lost its replicas must not vouch for anything.
            let mut wait = cmd("WAIT");
            wait.arg(self.options.replicas_min)
                .arg(reply::millis(limit));
            let have = wire.one(&wait, ANSWER_BYTES_MAX, limit * 2).await?;
            enough(reply::number(have), self.options.replicas_min)?;
        }
        let last = reply::tip(groups?, TIP).ok_or_else(|| reply::odd("XINFO GROUPS"))?;
        let sight = reply::sight(&self.run_id, last, epoch, time, info)?;
        let before = reply::said(before?)?;
        self.wire = Some(wire);
        Ok((sight, before))
    }

    async fn members(&mut self) -> Result<Vec<(Box<str>, Bytes)>, LinkFault> {
        let mut wire = self.take()?;
        let mut all = cmd("HGETALL");
        all.arg(&*self.keys.members);
        let limit = self.options.command_timeout;
        let answer = wire.one(&all, MEMBERS_BYTES_MAX, limit).await?;
        let members = reply::members(answer)?;
        self.wire = Some(wire);
        Ok(members)
    }

    async fn forget(&mut self, member: &str) -> Result<(), LinkFault> {
        let mut forget = cmd("HDEL");
        forget.arg(&*self.keys.members).arg(member);
        self.done(&forget).await
    }
}

/// Whether as many replicas are there, or have it.
fn enough(replicas: Option<u64>, least: u32) -> Result<(), LinkFault> {
    let replicas = replicas.unwrap_or(0);
    if replicas >= u64::from(least) {
        return Ok(());
    }
    let why =
        format!("NOREPLICAS {replicas} of the {least} replicas of denylist.redis.replicas_min");
    Err(LinkFault::Refused(why.into()))
}

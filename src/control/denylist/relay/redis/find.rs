//! Which server may be written: the one of the address, the one that a sentinel names, or the owner of our keys in a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::redis::{Cmd, Value, cmd, from_redis_value};

use super::reply::{self, Info};
use super::wire::{Target, Wire};
use super::{ANSWER_BYTES_MAX, LinkFault};
use crate::denylist::redis::{Options, Peer, Place};

/// Finds it.
#[derive(Debug)]
pub(super) struct Finder {
    options: Arc<Options>,
    /// The sentinel or node that was good last: asked first, so that a dead one costs its time once.
    first: AtomicUsize,
}

/// `INFO replication`
pub(super) fn replication() -> Cmd {
    let mut info = cmd("INFO");
    info.arg("replication");
    info
}

impl Finder {
    pub(super) const fn new(options: Arc<Options>) -> Self {
        Self {
            options,
            first: AtomicUsize::new(0),
        }
    }

    pub(super) const fn options(&self) -> &Arc<Options> {
        &self.options
    }

    /// An open connection to a primary, and its `run_id`.
    pub(super) async fn find(&self, key: &str) -> Result<(Wire, Box<str>), LinkFault> {
        let tls = self.options.tls.as_ref();
        let peers = match &self.options.place {
            Place::Server { at, database } => {
                return self.primary(Target::Tcp(at, tls), *database).await;
            }
            Place::Unix(path) => return self.primary(Target::Unix(path), 0).await,
            Place::Sentinels { at, .. } | Place::Cluster(at) => at,
        };
        // One after the other, until one of them leads to a primary.
        let first = self.first.load(Ordering::Relaxed);
        let mut fault = LinkFault::Away("nobody to ask".into());
        for turn in 0..peers.len() {
            let at = first.wrapping_add(turn) % peers.len();
            match self.led_by(&peers[at], key).await {
                Ok(found) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(found);
                }
                // Who answers and refuses says more than who is not there.
                Err(why @ LinkFault::Refused(_)) => fault = why,
                Err(why) if matches!(fault, LinkFault::Away(_)) => fault = why,
                Err(_) => {}
            }
        }
        Err(fault)
    }

    async fn led_by(&self, peer: &Peer, key: &str) -> Result<(Wire, Box<str>), LinkFault> {
        let named = match &self.options.place {
            Place::Sentinels { service, .. } => self.named_by(peer, service).await?,
            Place::Server { .. } | Place::Unix(_) | Place::Cluster(_) => {
                self.owner_of(key, peer).await?
            }
        };
        self.primary(Target::Tcp(&named, self.options.tls.as_ref()), 0)
            .await
    }

    /// Connects, and refuses a replica: a sentinel may be behind, too.
    async fn primary(
        &self,
        target: Target<'_>,
        database: u32,
    ) -> Result<(Wire, Box<str>), LinkFault> {
        let Options {
            login,
            connect_timeout,
            command_timeout,
            ..
        } = &*self.options;
        let mut wire = Wire::open(target, login.as_ref(), database, *connect_timeout).await?;
        let answer = wire
            .one(&replication(), ANSWER_BYTES_MAX, *command_timeout)
            .await?;
        Info::of(answer)?.primary()?;
        let mut server = cmd("INFO");
        server.arg("server");
        let answer = wire
            .one(&server, ANSWER_BYTES_MAX, *command_timeout)
            .await?;
        let info = Info::of(answer)?;
        let run_id = info
            .text("run_id")
            .ok_or_else(|| reply::odd("INFO"))?
            .into();
        Ok((wire, run_id))
    }

    async fn named_by(&self, sentinel: &Peer, service: &str) -> Result<Peer, LinkFault> {
        let options = &*self.options;
        let login = options.sentinel_login.as_ref();
        let target = Target::Tcp(sentinel, options.tls.as_ref());
        let mut wire = Wire::open(target, login, 0, options.connect_timeout).await?;
        let mut ask = cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let answer = wire
            .one(&ask, ANSWER_BYTES_MAX, options.command_timeout)
            .await?;
        let named: Option<(String, u16)> =
            from_redis_value(answer).map_err(|_| reply::odd("SENTINEL"))?;
        let Some((host, port)) = named else {
            let why = format!("the sentinel {sentinel} knows no primary named {service:?}");
            return Err(LinkFault::Refused(why.into()));
        };
        Ok(Peer {
            host: host.into(),
            port,
        })
    }

    async fn owner_of(&self, key: &str, node: &Peer) -> Result<Peer, LinkFault> {
        let options = &*self.options;
        let target = Target::Tcp(node, options.tls.as_ref());
        let mut wire =
            Wire::open(target, options.login.as_ref(), 0, options.connect_timeout).await?;
        let (room, limit) = (SLOTS_BYTES_MAX, options.command_timeout);
        let mut slot = cmd("CLUSTER");
        slot.arg("KEYSLOT").arg(key);
        let slot = wire.one(&slot, room, limit).await?;
        let slot = reply::number(slot).ok_or_else(|| reply::odd("CLUSTER KEYSLOT"))?;
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let slots = wire.one(&slots, room, limit).await?;
        owner(slots, slot, node).ok_or_else(|| {
            LinkFault::Away(format!("the node {node} knows no owner of slot {slot}").into())
        })
    }
}

/// Most bytes of `CLUSTER SLOTS`: 1,000 nodes in 16,384 ranges do not happen; a fragmented cluster of 100 nodes has some 200 KiB.
const SLOTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The primary of the range that has `slot`. A node that does not know its own name leaves it out; then it is the one that was asked.
fn owner(slots: Value, slot: u64, asked: &Peer) -> Option<Peer> {
    let Value::Array(ranges) = slots else {
        return None;
    };
    ranges.into_iter().find_map(|range| {
        let Value::Array(range) = range else {
            return None;
        };
        let mut range = range.into_iter();
        let (from, to) = (reply::number(range.next()?)?, reply::number(range.next()?)?);
        if !(from..=to).contains(&slot) {
            return None;
        }
        let Value::Array(primary) = range.next()? else {
            return None;
        };
        let mut primary = primary.into_iter();
        let host: Option<String> = from_redis_value(primary.next()?).ok()?;
        let port = u16::try_from(reply::number(primary.next()?)?).ok()?;
        let host = match host.as_deref() {
            None | Some("") => asked.host.clone(),
            Some("?") => return None,
            Some(host) => host.into(),
        };
        Some(Peer { host, port })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(slots: &str, expected: Option<(&str, u16)>) {
        let slots = ::redis::parse_redis_value(slots.as_bytes()).expect("RESP");
        let asked = Peer {
            host: "asked".into(),
            port: 1,
        };
        let found = owner(slots, 5, &asked);
        let expected = expected.map(|(host, port)| Peer {
            host: host.into(),
            port,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn the_owner_is_the_first_node_of_the_range() {
        let two = "*2\r\n*3\r\n:0\r\n:4\r\n*2\r\n$1\r\na\r\n:1\r\n\
                   *4\r\n:5\r\n:9\r\n*3\r\n$1\r\nb\r\n:2\r\n$2\r\nid\r\n*2\r\n$1\r\nc\r\n:3\r\n";
        check(two, Some(("b", 2)));
        check(
            "*1\r\n*3\r\n:5\r\n:5\r\n*2\r\n$0\r\n\r\n:2\r\n",
            Some(("asked", 2)),
        );
        check(
            "*1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$-1\r\n:2\r\n",
            Some(("asked", 2)),
        );
        check("*1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$1\r\n?\r\n:2\r\n", None);
        check("*1\r\n*3\r\n:6\r\n:9\r\n*2\r\n$1\r\na\r\n:2\r\n", None);
        for odd in [
            "*0\r\n",
            ":1\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n*2\r\n:0\r\n:9\r\n",
        ] {
            check(odd, None);
        }
    }
}

//! A DNS server for one name, which answers as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What the name is: addresses and their time to live in seconds, or an error code (RFC 1035 section 4.1.1).
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    Addresses(Vec<Ipv4Addr>, u32),
    Error(u8),
}

/// No such name.
pub(crate) const NXDOMAIN: u8 = 3;

/// The server failed.
pub(crate) const SERVFAIL: u8 = 2;

pub(crate) struct Dns {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    zone: Mutex<Zone>,
    asked: AtomicUsize,
}

impl Dns {
    pub(crate) async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let state = Arc::new(State {
            zone: Mutex::new(zone),
            asked: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let zone = serving.zone.lock().expect("no holder panics").clone();
                serving.asked.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&query[..length], &zone);
                // A client that is gone needs none.
                let _ = socket.send_to(&answer, client).await;
            }
        });
        Self { address, state }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name is this.
    pub(crate) fn now(&self, zone: Zone) {
        *self.state.zone.lock().expect("no holder panics") = zone;
    }

    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

/// The question again, and what it is answered (RFC 1035 section 4).
fn answer(query: &[u8], zone: &Zone) -> Vec<u8> {
    const HEAD: usize = 12;
    const A: [u8; 2] = [0, 1];
    let name = query[HEAD..].iter().position(|byte| *byte == 0);
    let end = HEAD + name.expect("a name's end") + 1 + 4;
    let is_a = query[end - 4..end - 2] == A;
    let (code, addresses, ttl) = match zone {
        Zone::Addresses(addresses, ttl) if is_a => (0, &addresses[..], *ttl),
        Zone::Addresses(..) => (0, &[][..], 0),
        Zone::Error(code) => (*code, &[][..], 0),
    };
    let count = u8::try_from(addresses.len()).expect("few addresses");
    let mut answer = query[..2].to_vec();
    // An answer, recursion desired and available; one question.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&query[HEAD..end]);
    for address in addresses {
        // The name as in the question, A, IN.
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    answer
}

//! Bodies that nobody wants any more. A client in the middle of sending sees our answer only if we do not hang up on it (a
//! close with bytes unread resets the connection), so the rest is read, within bounds. Past the bounds hyper closes the
//! connection or resets the stream.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::base::deadline::Deadlines;
use crate::listener::Coming;

/// Most bytes that are read of one body, and longest time. Whoever sends more is cut off.
const BYTES_MAX: usize = 4 * 1024 * 1024;
const TIME_MAX: Duration = Duration::from_secs(1);

/// Where unwanted bodies of one thread are left. Clones share the place.
#[derive(Clone, Default)]
pub(super) struct Drain(Rc<Left>);

#[derive(Default)]
struct Left {
    /// With the word to their connections that what comes is no head of a next request.
    bodies: RefCell<Vec<(Incoming, Coming)>>,
    more: Notify,
}

impl Drain {
    /// Leaves a body here. Can be called from a destructor, also while the thread ends.
    pub(super) fn leave(&self, body: Incoming, coming: Coming) {
        self.0.bodies.borrow_mut().push((body, coming));
        self.0.more.notify_one();
    }

    /// Reads what is left here, for ever.
    pub(super) async fn run(self, deadlines: Deadlines) {
        loop {
            self.0.more.notified().await;
            for (body, coming) in self.0.bodies.take() {
                let deadlines = deadlines.clone();
                spawn_local(async move {
                    // Late or not, what remains is dropped.
                    let _ = deadlines.within(TIME_MAX, read(body)).await;
                    drop(coming);
                });
            }
        }
    }
}

async fn read(mut body: Incoming) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drain")
    }
}

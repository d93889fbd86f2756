//! A cable between two actors: it can be cut, healed, slowed down, or pulled out.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Listens, and passes on what it gets. It ends, with all connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    address: SocketAddr,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Where new connections lead.
    target: SocketAddr,
    /// Nothing gets through; connections stay open, and what was sent comes when it is healed, as with TCP.
    is_cut: bool,
    /// Each piece takes so long.
    delay: Duration,
    /// How often it was pulled out.
    pulled: u64,
}

impl Cable {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (state, seen) = watch::channel(State {
            target,
            is_cut: false,
            delay: Duration::ZERO,
            pulled: 0,
        });
        let task = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connection(client, seen.clone()));
            }
        });
        Self {
            address,
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through any more, and nobody is told.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.is_cut = true);
    }

    pub(crate) fn heal(&self) {
        self.state.send_modify(|state| {
            state.is_cut = false;
            state.delay = Duration::ZERO;
        });
    }

    /// Each piece takes so long.
    pub(crate) fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Closes all connections. New ones lead elsewhere, as those to a name after a failover.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| {
            state.target = target;
            state.pulled += 1;
        });
    }

    /// Closes all connections. New ones may come.
    pub(crate) fn pull(&self) {
        self.state.send_modify(|state| state.pulled += 1);
    }
}

async fn connection(mut client: TcpStream, state: watch::Receiver<State>) {
    let pulled = state.borrow().pulled;
    let both = async {
        passes(&mut state.clone()).await;
        let target = state.borrow().target;
        let Ok(mut server) = TcpStream::connect(target).await else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            () = pump(from_client, to_server, state.clone()) => {}
            () = pump(from_server, to_client, state.clone()) => {}
        }
    };
    let mut until = state.clone();
    let is_pulled = async {
        let _ = until.wait_for(|state| state.pulled != pulled).await;
    };
    tokio::select! {
        () = both => {}
        () = is_pulled => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        passes(&mut state).await;
        if to.write_all(&piece[..len]).await.is_err() {
            return;
        }
    }
}

/// Waits until something gets through.
async fn passes(state: &mut watch::Receiver<State>) {
    let delay = match state.wait_for(|state| !state.is_cut).await {
        Ok(state) => state.delay,
        Err(_) => return,
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

//! Sockets that listened before the process began: systemd's socket activation (`sd_listen_fds(3)`). Connections wait in them
//! while the gateway restarts, and ports below 1024 need no right. They are known by their addresses, so that the same
//! configuration works with and without them.

use std::io;

use listenfd::ListenFd;
use socket2::SockRef;

use super::accept::Listening;
use super::options::Address;

/// The number of the first socket: 0 to 2 are the standard streams.
const FIRST: usize = 3;

/// Sockets that came with the process and are not taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Address, Listening)>);

/// A descriptor cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("file descriptor {number} of LISTEN_FDS cannot be used: {source}")]
pub struct InheritError {
    /// Its number.
    pub number: usize,
    /// What is wrong with it.
    pub source: io::Error,
}

impl Inherited {
    /// Those that `LISTEN_FDS` counts, if `LISTEN_PID` is this process. Takes the variables away, so that it must be called
    /// before there is another thread.
    pub fn from_environment() -> Result<Self, InheritError> {
        let mut passed = ListenFd::from_env();
        (0..passed.len())
            .map(|at| {
                open(&mut passed, at).map_err(|source| InheritError {
                    number: FIRST + at,
                    source,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The socket of this address.
    pub(super) fn take(&mut self, address: &Address) -> Option<Listening> {
        let at = self.0.iter().position(|(known, _)| known == address)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The address of a socket that nobody took: connections would wait in it for ever.
    #[must_use]
    pub fn left(&self) -> Option<&Address> {
        self.0.first().map(|(address, _)| address)
    }
}

fn open(passed: &mut ListenFd, at: usize) -> io::Result<(Address, Listening)> {
    // The crate does not ask whether it listens: with `Accept=yes` it would be one connection.
    let listens = |socket: SockRef<'_>| match socket.is_listener() {
        Ok(true) => socket.set_nonblocking(true),
        Ok(false) => Err(io::Error::other(
            "it does not listen; write Accept=no, the default, in its .socket unit",
        )),
        Err(error) => Err(error),
    };
    if let Ok(Some(socket)) = passed.take_tcp_listener(at) {
        listens(SockRef::from(&socket))?;
        let address = socket.local_addr()?;
        return Ok((Address::Tcp(address), Listening::Tcp(socket)));
    }
    let socket = match passed.take_unix_listener(at) {
        Ok(Some(socket)) => socket,
        // Each is taken once, so there is always one.
        Ok(None) => return Err(io::Error::other("it is taken already")),
        Err(error) => {
            return Err(io::Error::other(format!(
                "{error}; of what .socket units open, only ListenStream= is for jotgate"
            )));
        }
    };
    listens(SockRef::from(&socket))?;
    match socket.local_addr()?.as_pathname() {
        Some(path) => Ok((Address::Unix(path.to_owned()), Listening::Unix(socket))),
        None => Err(io::Error::other(
            "its address has no path; write ListenStream=/run/jotgate.sock in its .socket unit",
        )),
    }
}

//! One connection: TCP, TLS or a Unix socket, below the codec of the crate `redis`. Each question has a time, and each answer a bound.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value, pipe};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::reply::{self, Truth};
use super::{ANSWER_BYTES_MAX, LinkFault};
use crate::base::secret::ExposeSecret;
use crate::denylist::redis::{Login, Peer, Tls};

/// An open connection. Dropped, it is closed at once, whatever is under way.
#[derive(Debug)]
pub(super) struct Wire {
    connection: MultiplexedConnection,
    room: Arc<Room>,
    /// Reads and writes.
    _driver: AbortOnDropHandle<()>,
}

/// How much the server may still send. Without it a server could make us remember any amount: the codec keeps what it has until
/// it is whole. Parsed, it takes up to 14 times as much (an empty list of 4 bytes is a value of 56).
#[derive(Debug, Default)]
struct Room {
    left: AtomicUsize,
}

struct Bounded<S> {
    stream: S,
    room: Arc<Room>,
}

/// Where a connection leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Tcp(&'a Peer, Option<&'a Tls>),
    Unix(&'a std::path::Path),
}

impl Wire {
    /// Connects and logs in.
    pub(super) async fn open(
        target: Target<'_>,
        login: Option<&Login>,
        database: u32,
        limit: Duration,
    ) -> Result<Self, LinkFault> {
        let opened = async {
            match target {
                Target::Tcp(peer, tls) => {
                    let stream = TcpStream::connect((&*peer.host, peer.port)).await;
                    let stream = stream.map_err(|why| reply::away(peer, &why))?;
                    // Questions are small, and each waits for its answer.
                    stream
                        .set_nodelay(true)
                        .map_err(|why| reply::away(peer, &why))?;
                    let Some(tls) = tls else {
                        return Self::over(stream, login, database).await;
                    };
                    let stream = handshake(peer, tls, stream).await;
                    let stream = stream.map_err(|why| reply::away(peer, &why))?;
                    Self::over(stream, login, database).await
                }
                Target::Unix(path) => {
                    let stream = UnixStream::connect(path).await;
                    let stream = stream.map_err(|why| reply::away(&path.display(), &why))?;
                    Self::over(stream, login, database).await
                }
            }
        };
        in_time(limit, "to connect", opened).await
    }

    async fn over<S>(stream: S, login: Option<&Login>, database: u32) -> Result<Self, LinkFault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let room = Arc::new(Room::default());
        room.open(ANSWER_BYTES_MAX);
        let bounded = Bounded {
            stream,
            room: Arc::clone(&room),
        };
        let mut who = RedisConnectionInfo::default()
            .set_db(i64::from(database))
            // It would need one more permission.
            .set_skip_set_lib_name();
        if let Some(Login { user, password }) = login {
            if let Some(user) = user {
                who = who.set_username(user);
            }
            let password = std::str::from_utf8(password.expose_secret());
            let password =
                password.map_err(|_| LinkFault::Refused("the password is not UTF-8".into()))?;
            who = who.set_password(password);
        }
        // Times are kept here, by the question.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&who, bounded, config).await;
        let (connection, driver) = opened.map_err(reply::fault)?;
        Ok(Self {
            connection,
            room,
            _driver: AbortOnDropHandle::new(tokio::spawn(driver)),
        })
    }

    /// The answer to one command.
    pub(super) async fn one(
        &mut self,
        command: &Cmd,
        room: usize,
        limit: Duration,
    ) -> Result<Value, LinkFault> {
        self.room.open(room);
        let answer = in_time(limit, "to answer", async {
            let answer = self.connection.req_packed_command(command).await;
            answer.and_then(Value::extract_error).map_err(reply::fault)
        });
        let answer = answer.await;
        self.room.close();
        answer
    }

    /// The answers to all commands of a pipeline. One that fails makes it a fault.
    pub(super) async fn each(
        &mut self,
        commands: &Pipeline,
        room: usize,
        limit: Duration,
    ) -> Result<Vec<Value>, LinkFault> {
        self.room.open(room);
        let answers = in_time(limit, "to answer", async {
            let answers = commands.query_async(&mut self.connection).await;
            answers.map_err(reply::fault)
        });
        let answers = answers.await;
        self.room.close();
        answers
    }

    /// The answers to the commands of a transaction. One that was refused before it ran makes all of it a fault.
    pub(super) async fn all<const N: usize>(
        &mut self,
        commands: [Cmd; N],
        room: usize,
        limit: Duration,
    ) -> Result<[Truth; N], LinkFault> {
        // Written out, because the library's own transactions count on it that `MULTI` and `EXEC` are permitted.
        let mut all = pipe();
        all.ignore_errors().cmd("MULTI");
        for command in commands {
            all.add_command(command);
        }
        all.cmd("EXEC");
        let mut answers = self.each(&all, room, limit).await?;
        let end = answers.pop().unwrap_or(Value::Nil);
        if let Value::Array(answers) = end {
            let answers: Vec<Truth> = answers.into_iter().map(reply::truth).collect();
            return answers.try_into().map_err(|_| reply::odd("EXEC"));
        }
        let mut refused = answers.into_iter().chain([end]).map(reply::truth);
        Err(refused
            .find_map(Result::err)
            .unwrap_or_else(|| reply::odd("EXEC")))
    }
}

async fn handshake(
    peer: &Peer,
    tls: &Tls,
    stream: TcpStream,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = match &tls.name {
        Some(name) => name.clone(),
        None => ServerName::try_from(peer.host.to_string()).map_err(io::Error::other)?,
    };
    TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, stream)
        .await
}

async fn in_time<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, LinkFault>>,
) -> Result<T, LinkFault> {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| {
            Err(LinkFault::Away(
                format!("it took longer than {limit:?} {what}").into(),
            ))
        })
}

impl Room {
    fn open(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Nothing was asked, so nothing is answered.
    fn close(&self) {
        self.open(0);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        let left = self.room.left.load(Ordering::Relaxed);
        if read > left {
            self.room.close();
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it sends more than was asked for",
            )));
        }
        self.room.left.store(left - read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

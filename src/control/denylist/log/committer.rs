//! The one thread that writes the log: a group of records, one sync, one answer. What comes while a sync runs waits for
//! the next.
//!
//! Disk full: the file is cut back to its last good length, and the gateway goes on. A sync that fails is final, because
//! nobody knows what is on the disk then, and a second sync may claim success without it: nothing is acknowledged any
//! more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::Histogram;
use tokio::sync::oneshot;

use super::compact::Rewritten;
use super::file::{GROUP_BYTES_MAX, publish_draft};
use super::places::LOG_BYTES_MAX;

/// Why a change was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The gateway goes on, and tries again with the next one.
    #[error("the disk of the denylist's log is full")]
    DiskFull,
    /// The gateway ends.
    #[error("the denylist's log cannot be written any more; the gateway is ending")]
    Failed,
}

/// What is written on; a file, and in tests something worse.
pub(super) trait Disk: Send {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Disk for Arc<File> {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// How the log is, for status and metrics. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct LogView(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    bytes: AtomicU64,
    last_sync_micros: AtomicU64,
}

impl LogView {
    /// Length of the file, as far as it is synced.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// How long the last write and sync took.
    #[must_use]
    pub fn last_sync(&self) -> Duration {
        Duration::from_micros(self.0.last_sync_micros.load(Ordering::Relaxed))
    }
}

type Answer<T> = oneshot::Sender<Result<T, CommitError>>;

enum Job {
    Append {
        bytes: Vec<u8>,
        answer: Answer<u64>,
    },
    Adopt {
        rewritten: Box<Rewritten>,
        answer: Answer<Option<Box<Rewritten>>>,
    },
}

/// The thread's other end. Dropping it waits for the thread, and so for what it was told.
#[derive(Debug)]
pub(super) struct Committer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread. `length` is where the next group goes.
    pub(super) fn start(
        path: PathBuf,
        file: Arc<File>,
        disk: Box<dyn Disk>,
        length: u64,
        view: LogView,
        sync_seconds: Histogram,
    ) -> io::Result<Self> {
        view.0.bytes.store(length, Ordering::Release);
        let (sender, jobs) = mpsc::channel();
        let mut work = Work {
            path,
            file,
            disk,
            length,
            failed: false,
            view,
            sync_seconds,
        };
        let thread = std::thread::Builder::new()
            .name("jotgate-log".into())
            .spawn(move || {
                for job in jobs {
                    work.run(job);
                }
            })?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    /// Writes and syncs one group. Answers with the offset of its first byte. A closed channel means failure.
    pub(super) fn append(&self, bytes: Vec<u8>) -> oneshot::Receiver<Result<u64, CommitError>> {
        self.send(|answer| Job::Append { bytes, answer })
    }

    /// Puts the rewritten log in the place of this one. Answers None if that did not work and this one goes on.
    pub(super) fn adopt(
        &self,
        rewritten: Box<Rewritten>,
    ) -> oneshot::Receiver<Result<Option<Box<Rewritten>>, CommitError>> {
        self.send(|answer| Job::Adopt { rewritten, answer })
    }

    fn send<T>(
        &self,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> oneshot::Receiver<Result<T, CommitError>> {
        let (answer, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // A thread that is gone drops the answer, which says that it failed.
            let _ = jobs.send(job(answer));
        }
        receiver
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the denylist's log panicked");
        }
    }
}

struct Work {
    path: PathBuf,
    file: Arc<File>,
    disk: Box<dyn Disk>,
    /// Everything before it is synced.
    length: u64,
    failed: bool,
    view: LogView,
    sync_seconds: Histogram,
}

impl Work {
    /// Who no longer waits for an answer has not undone the job.
    fn run(&mut self, job: Job) {
        match job {
            Job::Append { bytes, answer } => {
                let _ = answer.send(self.append(&bytes));
            }
            Job::Adopt { rewritten, answer } => {
                let _ = answer.send(self.adopt(rewritten));
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, CommitError> {
        if self.failed {
            return Err(CommitError::Failed);
        }
        let end = self.length + bytes.len() as u64;
        if bytes.len() > GROUP_BYTES_MAX || end > LOG_BYTES_MAX {
            return Err(CommitError::DiskFull);
        }
        let start = Instant::now();
        if let Err(error) = self.disk.write_at(bytes, self.length) {
            if !is_full(&error) {
                return Err(self.fail("write", &error));
            }
            tracing::error!(%error, "revocations are refused: the denylist's log cannot grow");
            // Part of it may be there. The next one would overwrite it, but a crash in between must not find it.
            let cut = self.disk.cut(self.length);
            return Err(match cut.and_then(|()| self.disk.sync()) {
                Ok(()) => CommitError::DiskFull,
                Err(error) => self.fail("cut", &error),
            });
        }
        if let Err(error) = self.disk.sync() {
            return Err(self.fail("sync", &error));
        }
        let took = start.elapsed();
        self.sync_seconds.observe(took.as_secs_f64());
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.view
            .0
            .last_sync_micros
            .store(micros, Ordering::Relaxed);
        let offset = std::mem::replace(&mut self.length, end);
        self.view.0.bytes.store(end, Ordering::Release);
        Ok(offset)
    }

    fn fail(&mut self, doing: &'static str, error: &io::Error) -> CommitError {
        self.failed = true;
        tracing::error!(
            %error,
            path = %self.path.display(),
            "cannot {doing} the denylist's log; no revocation is acknowledged any more, and the gateway ends"
        );
        CommitError::Failed
    }

    /// Copies what came since, and changes places. Until the rename nothing has happened.
    fn adopt(
        &mut self,
        mut rewritten: Box<Rewritten>,
    ) -> Result<Option<Box<Rewritten>>, CommitError> {
        if self.failed {
            return Err(CommitError::Failed);
        }
        let ready = rewritten
            .catch_up(&self.file, self.length)
            .and_then(|()| rewritten.file.sync_all());
        if let Err(error) = ready {
            tracing::warn!(%error, "the denylist's log could not be rewritten; the old one goes on");
            return Ok(None);
        }
        // Half done, nobody knows which file a crash would leave.
        if let Err(error) = publish_draft(&self.path) {
            return Err(self.fail("replace", &error));
        }
        self.file = Arc::clone(&rewritten.file);
        self.disk = Box::new(Arc::clone(&rewritten.file));
        self.length = rewritten.length;
        self.view.0.bytes.store(self.length, Ordering::Release);
        Ok(Some(rewritten))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

//! Timeouts for one thread, at the price of a store. A timer of the runtime is set and taken back for every request and
//! nearly never fires; here a request writes down its deadline, and a sweep a few times a second wakes whoever is late.
//! Deadlines are therefore met up to [`TICK`] late, which timeouts of whole seconds do not notice.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::task::Task;

/// How often the sweep looks.
pub const TICK: Duration = Duration::from_millis(100);

/// Most that are kept to be used again, of some 32 bytes each: as many requests as a thread commonly has at once.
const SPARE_MAX: usize = 1024;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// All deadlines of one thread.
#[derive(Clone)]
pub struct Deadlines(Rc<Shared>);

struct Shared {
    start: Instant,
    /// Milliseconds since `start` at the last sweep; also seen by [`DeadlineHandle`]s on other threads.
    now: Arc<AtomicU64>,
    slots: RefCell<Slab<Slot>>,
    /// Of deadlines that are gone and that nobody else holds, to be used again: each request has one.
    spare: RefCell<Vec<Arc<Due>>>,
    /// Wakes the sweep when the first deadline is set; it sleeps when there is none.
    sweeper: RefCell<Option<Waker>>,
}

struct Slot {
    due: Arc<Due>,
    waker: Option<Waker>,
}

/// When a deadline is due.
#[derive(Debug)]
struct Due {
    /// In milliseconds since `start`, or [`NEVER`].
    at: AtomicU64,
    /// Its waker was used up by the sweep.
    is_woken: AtomicBool,
}

/// One deadline, not set at first.
pub struct Deadline {
    shared: Rc<Shared>,
    slot: usize,
    due: Arc<Due>,
    /// Whose waker the slot has.
    task: Cell<Option<Task>>,
}

/// Sets a [`Deadline`] from anywhere.
#[derive(Clone, Debug)]
pub struct DeadlineHandle {
    now: Arc<AtomicU64>,
    due: Arc<Due>,
}

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Deadlines {
    /// None yet. [`Deadlines::sweep`] must run on the same thread.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            start: Instant::now(),
            now: Arc::new(AtomicU64::new(0)),
            slots: RefCell::default(),
            spare: RefCell::default(),
            sweeper: RefCell::default(),
        }))
    }

    /// Wakes those whose deadline has passed, for ever.
    pub async fn sweep(self) {
        let mut late = vec![];
        loop {
            poll_fn(|cx| {
                if self.0.slots.borrow().is_empty() {
                    *self.0.sweeper.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            tokio::time::sleep(TICK).await;
            let now = self.0.read_clock();
            late.extend(
                self.0
                    .slots
                    .borrow_mut()
                    .iter_mut()
                    .filter(|(_, slot)| slot.due.at.load(Ordering::Relaxed) <= now)
                    .filter_map(|(_, slot)| {
                        let waker = slot.waker.take()?;
                        slot.due.is_woken.store(true, Ordering::Relaxed);
                        Some(waker)
                    }),
            );
            late.drain(..).for_each(Waker::wake);
        }
    }

    /// A deadline that is not set.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let shared = Rc::clone(&self.0);
        let mut slots = shared.slots.borrow_mut();
        if slots.is_empty() {
            // The clock stood still while nobody waited.
            shared.read_clock();
            if let Some(sweeper) = shared.sweeper.borrow_mut().take() {
                sweeper.wake();
            }
        }
        let spare = shared.spare.borrow_mut().pop();
        let due = spare.unwrap_or_default();
        let slot = slots.insert(Slot {
            due: Arc::clone(&due),
            waker: None,
        });
        drop(slots);
        Deadline {
            shared,
            slot,
            due,
            task: Cell::new(None),
        }
    }

    /// Runs `future` for at most `span`.
    pub async fn within<F: Future>(&self, span: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            deadline
                .get_or_insert_with(|| {
                    let deadline = self.deadline();
                    deadline.set(span);
                    deadline
                })
                .poll(cx)
                .map(|()| Err(Elapsed))
        })
        .await
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Due {
    fn default() -> Self {
        Self {
            at: AtomicU64::new(NEVER),
            is_woken: AtomicBool::new(false),
        }
    }
}

impl Due {
    fn set(&self, now: &AtomicU64, span: Duration) {
        let span = u64::try_from(span.as_millis()).unwrap_or(NEVER);
        self.set_at(now.load(Ordering::Relaxed).saturating_add(span));
    }

    fn set_at(&self, instant: u64) {
        self.at.store(instant.min(NEVER - 1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.at.store(NEVER, Ordering::Relaxed);
    }
}

impl Shared {
    fn read_clock(&self) -> u64 {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.now.store(now, Ordering::Relaxed);
        now
    }
}

impl Deadline {
    /// Due `span` from now.
    pub fn set(&self, span: Duration) {
        self.due.set(&self.shared.now, span);
    }

    /// Due at an instant of [`Deadline::now`].
    pub fn set_at(&self, instant: u64) {
        self.due.set_at(instant);
    }

    /// Milliseconds since the thread began to look, at the last sweep.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.shared.now.load(Ordering::Relaxed)
    }

    /// Never due.
    pub fn clear(&self) {
        self.due.clear();
    }

    /// Something that sets this deadline from elsewhere.
    #[must_use]
    pub fn handle(&self) -> DeadlineHandle {
        DeadlineHandle {
            now: Arc::clone(&self.shared.now),
            due: Arc::clone(&self.due),
        }
    }

    /// Ready once the deadline has passed.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.due.at.load(Ordering::Relaxed) <= self.shared.now.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let waker = cx.waker();
        let is_known = self.task.get().is_some_and(|task| task.is_of(waker));
        if !is_known || self.due.is_woken.load(Ordering::Relaxed) {
            self.due.is_woken.store(false, Ordering::Relaxed);
            self.task.set(Some(Task::of(waker)));
            self.shared.slots.borrow_mut()[self.slot].waker = Some(waker.clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let slot = self.shared.slots.borrow_mut().remove(self.slot);
        drop(slot);
        let mut spare = self.shared.spare.borrow_mut();
        // A handle that outlives its deadline must not set another one.
        if spare.len() < SPARE_MAX
            && let Some(due) = Arc::get_mut(&mut self.due)
        {
            *due = Due::default();
            spare.push(Arc::clone(&self.due));
        }
    }
}

impl DeadlineHandle {
    /// Due `span` from now.
    pub fn set(&self, span: Duration) {
        self.due.set(&self.now, span);
    }

    /// Due at an instant of [`DeadlineHandle::now`].
    pub fn set_at(&self, instant: u64) {
        self.due.set_at(instant);
    }

    /// As [`Deadline::now`].
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Never due.
    pub fn clear(&self) {
        self.due.clear();
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").finish_non_exhaustive()
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    async fn with_sweep<F: Future<Output = ()>>(test: impl FnOnce(Deadlines) -> F) {
        let deadlines = Deadlines::new();
        tokio::select! {
            () = deadlines.clone().sweep() => {}
            () = test(deadlines) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_cut() {
        with_sweep(|deadlines| async move {
            let start = Instant::now();
            let cut = deadlines
                .within(Duration::from_secs(2), pending::<()>())
                .await;
            assert_eq!(cut, Err(Elapsed));
            let took = start.elapsed();
            assert!(
                took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + 2 * TICK,
                "{took:?}"
            );
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_quick_is_not() {
        with_sweep(|deadlines| async move {
            let quick = tokio::time::sleep(Duration::from_secs(1));
            assert_eq!(
                deadlines.within(Duration::from_secs(2), quick).await,
                Ok(())
            );
            assert!(
                deadlines.0.slots.borrow().is_empty(),
                "nothing is left behind"
            );
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_does_not_stand_still_while_nobody_waits() {
        with_sweep(|deadlines| async move {
            tokio::time::sleep(Duration::from_hours(1)).await;
            let start = Instant::now();
            let deadline = deadlines.deadline();
            deadline.set(Duration::from_secs(5));
            poll_fn(|cx| deadline.poll(cx)).await;
            let took = start.elapsed();
            assert!(
                took >= Duration::from_secs(5) && took <= Duration::from_secs(5) + 2 * TICK,
                "{took:?}"
            );
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_moved_when_it_wakes_wakes_again() {
        // Tasks of their own, which wake each other by nothing else.
        let moved = async {
            let deadlines = Deadlines::new();
            spawn_local(deadlines.clone().sweep());
            let turns = spawn_local(async move {
                let second = Duration::from_secs(1);
                let deadline = deadlines.deadline();
                deadline.set(second);
                let mut turns = 0;
                poll_fn(|cx| {
                    turns += 1;
                    if turns == 2 {
                        deadline.set(second);
                    }
                    deadline.poll(cx)
                })
                .await;
                turns
            });
            let start = Instant::now();
            assert_eq!(turns.await.unwrap(), 3);
            assert!(start.elapsed() >= Duration::from_secs(2));
        };
        LocalSet::new().run_until(moved).await;
    }

    #[test]
    fn what_is_used_again_is_not_set_and_nobody_else_sets_it() {
        let deadlines = Deadlines::new();
        let first = deadlines.deadline();
        first.set(Duration::ZERO);
        let place = Arc::as_ptr(&first.due);
        drop(first);
        let second = deadlines.deadline();
        assert_eq!(Arc::as_ptr(&second.due), place, "it is used again");
        assert_eq!(second.due.at.load(Ordering::Relaxed), NEVER);
        let handle = second.handle();
        drop(second);
        let third = deadlines.deadline();
        handle.set(Duration::ZERO);
        assert_eq!(third.due.at.load(Ordering::Relaxed), NEVER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_be_moved() {
        with_sweep(|deadlines| async move {
            let start = Instant::now();
            let deadline = deadlines.deadline();
            let handle = deadline.handle();
            handle.set(Duration::from_secs(1));
            tokio::join!(poll_fn(|cx| deadline.poll(cx)), async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                handle.set(Duration::from_secs(10));
            });
            assert!(start.elapsed() >= Duration::from_secs(10));
        })
        .await;
    }
}

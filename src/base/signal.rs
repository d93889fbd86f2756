//! A word that is given once to all tasks of a thread that wait for it. Asking whether it was given costs a look: what all
//! threads share has a lock, and connections ask at every turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::task::Task;

/// Not given at first, and never taken back.
#[derive(Clone, Default)]
pub struct Signal(Rc<State>);

#[derive(Default)]
struct State {
    is_given: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

/// One who waits for a [`Signal`].
pub struct Waiting {
    state: Rc<State>,
    /// Where its waker is kept, and whose that is.
    place: Option<(usize, Task)>,
}

impl Signal {
    /// Gives it, and wakes all who wait.
    pub fn give(&self) {
        self.0.is_given.set(true);
        // Whoever is woken gives its place back.
        let waiting: Vec<Waker> = {
            let waiting = self.0.waiting.borrow();
            waiting.iter().map(|(_, waker)| waker.clone()).collect()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits for it.
    #[must_use]
    pub fn wait(&self) -> Waiting {
        Waiting {
            state: Rc::clone(&self.0),
            place: None,
        }
    }
}

impl Waiting {
    /// Ready once the signal is given.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.is_given.get() {
            return Poll::Ready(());
        }
        let waker = cx.waker();
        if self.place.is_some_and(|(_, task)| task.is_of(waker)) {
            return Poll::Pending;
        }
        let mut waiting = self.state.waiting.borrow_mut();
        let (at, before) = match self.place {
            Some((at, _)) => {
                let before = std::mem::replace(&mut waiting[at], waker.clone());
                (at, Some(before))
            }
            None => (waiting.insert(waker.clone()), None),
        };
        self.place = Some((at, Task::of(waker)));
        // Only now: what a waker lets go of may be somebody who waits here.
        drop(waiting);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((at, _)) = self.place {
            let waker = self.state.waiting.borrow_mut().remove(at);
            drop(waker);
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signal").field(&self.0.is_given).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), count.into())
    }

    #[tokio::test]
    async fn all_who_wait_learn_of_it_and_those_who_come_later_too() {
        let signal = Signal::default();
        let all = async {
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    let mut waiting = signal.wait();
                    spawn_local(async move { poll_fn(|cx| waiting.poll(cx)).await })
                })
                .collect();
            yield_now().await;
            assert!(waiting.iter().all(|task| !task.is_finished()));
            signal.give();
            for task in waiting {
                task.await.unwrap();
            }
            let mut late = signal.wait();
            poll_fn(|cx| late.poll(cx)).await;
        };
        LocalSet::new().run_until(all).await;
        assert!(
            signal.0.waiting.borrow().is_empty(),
            "nothing is left behind"
        );
    }

    #[test]
    fn the_task_that_asked_last_is_woken() {
        let signal = Signal::default();
        let (first, second) = (counting(), counting());
        let mut waiting = signal.wait();
        let mut waiting = pin!(poll_fn(|cx| waiting.poll(cx)));
        for (_, waker) in [&first, &first, &second] {
            assert!(
                waiting
                    .as_mut()
                    .poll(&mut Context::from_waker(waker))
                    .is_pending()
            );
        }
        signal.give();
        assert_eq!(first.0.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.0.load(Ordering::Relaxed), 1);
    }
}

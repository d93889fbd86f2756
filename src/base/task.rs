//! Which task waits, known without a look at where its waker is kept: connections ask at every turn, and thousands of them
//! do not find their wakers in the processor's caches.

use std::task::{RawWakerVTable, Waker};

/// The task that a waker wakes. It says so for as long as somebody keeps that waker.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    data: *const (),
    table: *const RawWakerVTable,
}

impl Task {
    /// The task of `waker`.
    #[must_use]
    pub fn of(waker: &Waker) -> Self {
        Self {
            data: waker.data(),
            table: waker.vtable(),
        }
    }

    /// Whether it is that of `waker`. As with [`Waker::will_wake`], a no may be wrong, a yes is not.
    #[must_use]
    pub fn is_of(self, waker: &Waker) -> bool {
        self.data == waker.data() && std::ptr::eq(self.table, waker.vtable())
    }
}

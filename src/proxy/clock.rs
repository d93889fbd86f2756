//! The time that a service has, first for the head of its answer, then for each part of it.

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Duration;

use super::body::BodyFault;
use crate::base::deadline::Deadline;

/// One exchange with a service. Shared by both of its bodies, which run in different tasks.
#[derive(Debug)]
pub(super) struct Clock {
    deadline: Deadline,
    head_max: Duration,
    silence_max: Duration,
    /// The head of the answer is there.
    answered: Cell<bool>,
    /// Why the request's body ended early.
    fault: Cell<Option<BodyFault>>,
}

impl Clock {
    /// Starts. The service has `head_max` for the head, and `silence_max` for each part that follows.
    pub(super) fn new(deadline: Deadline, head_max: Duration, silence_max: Duration) -> Self {
        let clock = Self {
            deadline,
            head_max,
            silence_max,
            answered: Cell::new(false),
            fault: Cell::new(None),
        };
        clock.start();
        clock
    }

    /// Something came from one side or the other: all the time again.
    pub(super) fn start(&self) {
        self.deadline.set(if self.answered.get() {
            self.silence_max
        } else {
            self.head_max
        });
    }

    /// The client keeps us waiting for its body. An answer that has begun may go on all the same, so its time runs.
    pub(super) fn stop(&self) {
        if !self.answered.get() {
            self.deadline.clear();
        }
    }

    /// The head of the answer came.
    pub(super) fn head_came(&self) {
        self.answered.set(true);
        self.start();
    }

    pub(super) const fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Ready when the service had its time.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll(cx)
    }

    pub(super) fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    pub(super) fn fail(&self, fault: BodyFault) {
        self.fault.set(Some(fault));
    }
}

//! The tracer of the running edition, and what becomes of it at a reload: one whose settings are the same stays, with its
//! queue and its connections.

use std::sync::Arc;

use prometheus::IntCounterVec;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::settings::Otlp;
use crate::control::traces;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Tracer;

/// What tasks that deliver traces need, and the one that does.
#[derive(Debug)]
pub(super) struct Traces {
    spans: IntCounterVec,
    tasks: TaskTracker,
    control: CancellationToken,
    running: Option<(Otlp, Arc<Tracer>)>,
}

/// The tracer of a new edition. Dropped before it is in force, its task ends.
#[derive(Debug)]
pub(super) struct Next(Option<(Otlp, Arc<Tracer>)>);

impl Traces {
    /// Those of the first edition.
    pub(super) fn begin(
        wanted: Option<Otlp>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        control: &CancellationToken,
    ) -> Self {
        let mut traces = Self {
            spans: metrics.trace_spans.clone(),
            tasks: tasks.clone(),
            control: control.clone(),
            running: None,
        };
        traces.take_over(traces.next(wanted));
        traces
    }

    /// Of the running edition.
    pub(super) fn tracer(&self) -> Option<Arc<Tracer>> {
        self.running.as_ref().map(|(_, tracer)| Arc::clone(tracer))
    }

    /// The tracer that is wanted: that of the running edition if it is the same, or a new one, whose task begins.
    pub(super) fn next(&self, wanted: Option<Otlp>) -> Next {
        let Some(wanted) = wanted else {
            return Next(None);
        };
        if let Some((settings, tracer)) = &self.running
            && *settings == wanted
        {
            return Next(Some((wanted, Arc::clone(tracer))));
        }
        let (tracer, delivery) = traces::start(&wanted, &self.spans, self.control.clone());
        self.tasks.spawn(delivery);
        Next(Some((wanted, tracer)))
    }

    /// The old tracer's task ends with the last request that has it.
    pub(super) fn take_over(&mut self, next: Next) {
        self.running = next.0;
    }
}

impl Next {
    pub(super) fn tracer(&self) -> Option<Arc<Tracer>> {
        self.0.as_ref().map(|(_, tracer)| Arc::clone(tracer))
    }
}

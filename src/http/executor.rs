//! Runs what hyper wants to run beside a connection.

use tokio::task::spawn_local;

/// Runs the tasks of an HTTP/2 connection on this thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

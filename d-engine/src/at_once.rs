//! A future on a thread that must not wait.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

/// Something that is done at once, or goes on elsewhere.
pub(crate) type Begun<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Boxes it beside the budget of the task that this thread may be running: only what it does makes it wait.
pub(crate) fn begun<T>(future: impl Future<Output = T> + Send + 'static) -> Begun<T> {
    Box::pin(tokio::task::unconstrained(future))
}

/// Polls it once, within `runtime`. Nobody is told when a pending one can go on.
pub(crate) fn poll_once<T>(begun: &mut Begun<T>, runtime: &Handle) -> Poll<T> {
    let _within = runtime.enter();
    begun.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

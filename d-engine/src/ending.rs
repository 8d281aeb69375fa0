//! The end of a node: in which order its parts stop, and that they all do.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use crate::shared::Shared;

/// How long calls that are under way may take to finish once the node ends.
const DRAIN: Duration = Duration::from_millis(1000);
/// How long a thread may take to end: the disk finishes what it has begun.
const JOIN_WAIT: Duration = Duration::from_secs(30);
/// How long dropping the last handle may block.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// Between two questions whether a thread has ended.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// Ends the node, once: when asked, or when dropped with its last handle.
///
/// The threads end one after the other on their own: the inbox closes, so the driver loop ends and closes the disk's and
/// the state machine's queues, which are emptied first.
pub(crate) struct Ending {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The threads that did not end.
    ended: OnceCell<Vec<String>>,
    watcher: Mutex<Option<AbortHandle>>,
}

impl Ending {
    pub(crate) fn new(shared: Arc<Shared>, threads: Vec<JoinHandle<()>>) -> Self {
        Self { shared, threads: Mutex::new(threads), ended: OnceCell::new(), watcher: Mutex::default() }
    }

    /// Takes the task that waits for the builder's watch: it ends with the node.
    pub(crate) fn own(&self, watcher: AbortHandle) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    /// Ends the node and waits for it. Returns the names of threads that did not end.
    pub(crate) async fn shut_down(self: &Arc<Self>) -> Vec<String> {
        let this = Arc::clone(self);
        // A task of its own: the end is reached even if the caller gives up waiting.
        let end = tokio::spawn(async move { this.ended.get_or_init(|| this.end()).await.to_owned() });
        end.await.unwrap_or_else(|_| {
            tracing::error!(node = self.shared.id(), "the node's end was cut off");
            Vec::new()
        })
    }

    /// Ends the node as kill -9 ends a process, as nearly as a process can do that to a part of itself: it takes part no
    /// more from this moment, hands nothing over, finishes no call, and leaves its state machine without a flush. Returns
    /// the names of threads that did not end.
    #[cfg(feature = "testing")]
    pub(crate) async fn kill(&self) -> Vec<String> {
        self.ended
            .get_or_init(|| async {
                self.shared.refuse_calls();
                self.shared.end_tasks();
                self.shared.inbox.complete(d_engine_raft::Input::StorageFailed { why: "it was killed".into() });
                self.stop().await
            })
            .await
            .to_owned()
    }

    async fn end(&self) -> Vec<String> {
        self.shared.refuse_calls();
        let drained = async {
            while self.shared.inbox.calls() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Those that have not finished by then are told so when the driver ends.
        let _ = tokio::time::timeout(DRAIN, drained).await;
        self.hand_over().await;
        self.shared.end_tasks();
        #[cfg(feature = "server")]
        if let Some(network) = self.shared.network() {
            network.shutdown().await;
        }
        self.stop().await
    }

    /// Ends the threads, the driver first.
    async fn stop(&self) -> Vec<String> {
        self.shared.inbox.close();
        // A machine that is stopped does it itself; this one may have failed, or its thread hang.
        self.shared.end_watches();
        self.shared.snapshots.forget_receipt();
        let hanging = join_all(self.take_threads(), JOIN_WAIT).await;
        for thread in &hanging {
            tracing::error!(node = self.shared.id(), thread, "a thread has not ended; its storage hangs");
        }
        self.shared.release_machine();
        tracing::info!(node = self.shared.id(), "stopped");
        hanging
    }

    /// A leader lets another voter take over first, so that the cluster need not notice that it is gone.
    async fn hand_over(&self) {
        let Some(to) = self.shared.successor() else { return };
        let within = Duration::from_millis(self.shared.config.raft.election_timeout_max_ms);
        let transferred = self.shared.transfer(to, tokio::time::Instant::now() + within).await;
        match transferred {
            Ok(_) => tracing::info!(node = self.shared.id(), to, "leadership is handed over"),
            // The others elect somebody, a little later.
            Err(error) => tracing::info!(node = self.shared.id(), to, %error, "leadership is not handed over"),
        }
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Joins the threads that end in time; returns the names of the others.
async fn join_all(threads: Vec<JoinHandle<()>>, within: Duration) -> Vec<String> {
    let until = Instant::now() + within;
    let mut hanging = Vec::new();
    for thread in threads {
        // Asked again and again, because a join cannot be given up, not even by the end of the application's runtime.
        while !thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        if thread.is_finished() {
            join(thread);
        } else {
            hanging.push(name(&thread));
        }
    }
    hanging
}

fn name(thread: &JoinHandle<()>) -> String {
    thread.thread().name().unwrap_or("unnamed").to_owned()
}

fn join(thread: JoinHandle<()>) {
    // A panic was caught and reported inside.
    let _ = thread.join();
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watcher.abort();
        }
        self.shared.refuse_calls();
        self.shared.end_tasks();
        self.shared.inbox.close();
        self.shared.end_watches();
        self.shared.snapshots.forget_receipt();
        #[cfg(feature = "server")]
        if let Some(network) = self.shared.network() {
            network.abort();
        }
        let threads = self.take_threads();
        let until = Instant::now() + DROP_WAIT;
        for thread in threads {
            // Bounded, because a store that waits for the very runtime whose thread is here would never end.
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            if thread.is_finished() {
                join(thread);
            } else {
                tracing::warn!(
                    node = self.shared.id(),
                    thread = name(&thread),
                    "a thread of the dropped node has not ended yet"
                );
            }
        }
        self.shared.release_machine();
    }
}

/// Starts a thread of the node. If `run` panics, `on_panic` is told why.
pub(crate) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
    on_panic: impl FnOnce(String) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        // The state that a panic leaves behind is not looked at again: `on_panic` ends its use.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let what = cause(&*panic);
            tracing::error!(thread = name, what, "a thread of the node panicked");
            on_panic(format!("its thread {name} panicked: {what}"));
        }
    })
}

/// What a panic says.
pub(crate) fn cause(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_hangs_is_named_and_not_waited_for() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let threads = vec![
            spawn("hangs".into(), move || while hangs.recv().is_ok() {}, |_| ()).unwrap(),
            spawn("ends".into(), || (), |_| ()).unwrap(),
        ];
        while !threads[1].is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(join_all(threads, Duration::from_millis(20)).await, ["hangs"]);
        drop(release);
    }
}

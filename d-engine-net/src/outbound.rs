//! The connection that carries our messages to one peer.

mod queue;
mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use d_engine_raft::Message;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::peer::{PeerEvent, Shared, lock};
use queue::{MESSAGES_LEN_MAX, Queue, message_len};
use session::{Session, Writer, Written};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// While nothing waits to be sent.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// While something waits to be sent: a peer that restarted is found again within this time.
const BACKOFF_MAX_WANTED: Duration = Duration::from_millis(400);
/// A connection that lasted so long was a good one: what fails afterwards is told anew, and retried at once.
const STABLE: Duration = Duration::from_secs(1);
/// Causes that are logged between two good connections; the same one never twice.
const NAMED_MAX: usize = 8;
/// Bytes that a sender writes itself, at most: copying more takes longer than waking the link's task.
const FLUSHED_LEN_MAX: usize = 128 << 10;

/// One peer and what waits to be sent to it.
pub(crate) struct Link {
    to: u64,
    queue: Mutex<Queue>,
    /// The connection that the peer has accepted.
    writer: Mutex<Option<Writer>>,
    /// A message was dropped that no frame can carry; said once.
    oversized: AtomicBool,
    /// Something waits that nobody else writes.
    filled: Notify,
    /// The peer lives: do not wait any longer.
    dial_now: Notify,
    /// `None`: the peer is no member any more.
    address: watch::Sender<Option<String>>,
}

impl Link {
    pub(crate) fn new(to: u64, address: String) -> Self {
        Self {
            to,
            queue: Mutex::default(),
            writer: Mutex::default(),
            oversized: AtomicBool::new(false),
            filled: Notify::new(),
            dial_now: Notify::new(),
            address: watch::Sender::new(Some(address)),
        }
    }

    pub(crate) fn to(&self) -> u64 {
        self.to
    }

    /// Queues a message for the next [`flush`](Link::flush).
    pub(crate) fn queue(&self, message: Message, shared: &Shared) {
        let len = message_len(&message);
        if len > MESSAGES_LEN_MAX {
            return self.drop_oversized(len);
        }
        let mut queue = lock(&self.queue);
        if !queue.is_full_for(len) {
            return queue.push(message, len);
        }
        let first = !std::mem::replace(&mut queue.overflowed, true);
        drop(queue);
        if first {
            let why = "messages wait faster than the connection takes them; some are dropped".to_owned();
            (shared.sink)(PeerEvent::Unreachable { to: self.to, why });
        }
    }

    /// Writes what waits to the socket, on this thread, as far as that takes no time; the link's task does the rest.
    pub(crate) fn flush(&self) {
        let waiting = lock(&self.queue).len();
        if waiting == 0 {
            return;
        }
        let written = match self.writer.try_lock() {
            Ok(mut writer) if waiting <= FLUSHED_LEN_MAX => writer.as_mut().map(|writer| writer.write(&self.queue)),
            Err(TryLockError::Poisoned(_)) | Ok(_) => None,
            // The task may have looked already.
            Err(TryLockError::WouldBlock) => None,
        };
        if written != Some(Written::All) {
            self.filled.notify_one();
        }
    }

    /// A message that no frame can carry would only break the connection, and each one after it.
    fn drop_oversized(&self, len: usize) {
        if !self.oversized.swap(true, Ordering::Relaxed) {
            tracing::error!(
                peer = self.to,
                len,
                limit = MESSAGES_LEN_MAX,
                "messages that are too large for the wire are dropped; the log holds entries that no configuration of a \
                 networked node allows"
            );
        }
    }

    pub(crate) fn set_address(&self, address: String) {
        self.address.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&address);
            *current = Some(address);
            changed
        });
    }

    pub(crate) fn close(&self) {
        self.address.send_replace(None);
    }

    pub(crate) fn dial_now(&self) {
        self.dial_now.notify_one();
    }

    /// Dials, sends, and dials again, until the link is closed or the peers are shut down.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut address = self.address.subscribe();
        let mut failures = 0;
        let mut named = Vec::new();
        loop {
            let target = address.borrow_and_update().clone();
            let Some(target) = target else { return };
            let session = tokio::select! {
                () = shared.stopped() => return,
                _ = address.changed() => continue,
                session = Session::open(&self, &shared, &target) => session,
            };
            let why = match session {
                Ok(session) => {
                    let since = Instant::now();
                    tracing::info!(peer = self.to, address = %target, "peer connected");
                    (shared.sink)(PeerEvent::Connected { to: self.to });
                    let ended = tokio::select! {
                        () = shared.stopped() => return,
                        _ = address.changed() => "its address changed".to_owned(),
                        why = session.ended() => why,
                    };
                    if since.elapsed() >= STABLE {
                        failures = 0;
                        named.clear();
                    }
                    // Of an earlier life: this one was dialled already.
                    self.forget_wish_to_dial();
                    ended
                }
                Err(why) => why,
            };
            self.report(&shared, &target, why, &mut named);
            self.back_off(&shared, &mut address, failures).await;
            failures += 1;
        }
    }

    /// What waited is as good as lost: raft sends anew what still matters.
    fn report(&self, shared: &Shared, target: &str, why: String, named: &mut Vec<String>) {
        *lock(&self.queue) = Queue::default();
        if named.len() < NAMED_MAX && !named.contains(&why) {
            tracing::warn!(peer = self.to, address = target, "peer unreachable: {why}");
            named.push(why.clone());
        }
        (shared.sink)(PeerEvent::Unreachable { to: self.to, why });
    }

    fn forget_wish_to_dial(&self) {
        let wish = std::pin::pin!(self.dial_now.notified());
        // Enabling takes a stored permit.
        wish.enable();
    }

    /// Waits longer after each failure, and less while something waits to be sent.
    async fn back_off(&self, shared: &Shared, address: &mut watch::Receiver<Option<String>>, failures: u32) {
        let base = BACKOFF_MIN * 2_u32.pow(failures.min(6));
        let jittered = |limit: Duration| base.min(limit).mul_f64(0.5 + fastrand::f64() / 2.0);
        let since = Instant::now();
        let (wanted, idle) = (since + jittered(BACKOFF_MAX_WANTED), since + jittered(BACKOFF_MAX));
        let something_waits = async {
            while lock(&self.queue).is_empty() {
                self.filled.notified().await;
            }
            sleep_until(wanted).await;
        };
        tokio::select! {
            () = sleep_until(idle) => {}
            () = something_waits => {}
            () = self.dial_now.notified() => {}
            _ = address.changed() => address.mark_changed(),
            () = shared.stopped() => {}
        }
    }
}

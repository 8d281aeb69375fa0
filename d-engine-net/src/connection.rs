//! One pipelined connection to one node.
//!
//! Callers put requests into a queue; the task that writes to the socket takes everything that waits as one frame, and
//! one task completes the callers from the answers. That task also enforces the deadlines, with one timer for all.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use crate::channel::{dial, host_and_port, stream_end};
use crate::convert::{detail_to_error, mode_to_wire, operation_to_wire, reply_from_wire, status_from_wire};
use crate::generated::v1;
use crate::generated::v1::pipeline_client::PipelineClient;
use crate::generated::v1::request::Op;
use crate::generated::v1::response::Result as Outcome;
use crate::peer::lock;
use crate::{
    COMMAND_LEN_MAX, ClientError, FRAME_LEN_MAX, FRAME_LEN_TARGET, NodeStatus, Operated, Operation, ReadMode, Reason,
    Reply, Result,
};

/// A node accepts a stream within so long; requests are sent only afterwards.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests that may wait to be sent; beyond, calls are refused as busy.
const QUEUE_MAX: usize = 1 << 16;
/// Bytes of requests that may wait to be sent.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Deadlines are enforced this exactly.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(5);

/// One pipelined connection to one node: connects when first used and again after it broke. Cheap to clone.
///
/// Nothing is sent twice. Dropping a call's future does not take back what was sent; dropping the last clone ends the
/// connection.
#[derive(Clone)]
pub struct Connection {
    owner: Arc<Owner>,
}

/// Ends the connection's task when the last clone goes.
struct Owner {
    shared: Arc<Shared>,
}

impl Connection {
    /// A connection to `address`, as `host:port` or `http://host:port`. Nothing is dialled yet; what is wrong with the
    /// address, the first call says.
    pub fn new(address: impl Into<String>) -> Self {
        let address = host_and_port(&address.into()).to_owned();
        let shared = Shared {
            address,
            state: Mutex::default(),
            filled: Notify::new(),
            deadline_set: Notify::new(),
            closed: watch::Sender::new(false),
        };
        Self { owner: Arc::new(Owner { shared: Arc::new(shared) }) }
    }

    /// The address as `host:port`.
    pub fn address(&self) -> &str {
        &self.owner.shared.address
    }

    /// Proposes a command; with `forwarded` the node does not pass it on, but answers `NotLeader` if it does not lead.
    ///
    /// # Errors
    /// `Unknown` if the command was sent and no answer came by `deadline` or before the connection broke. Every other
    /// error says that it was not and will not be applied.
    pub async fn propose(&self, command: Bytes, forwarded: bool, deadline: Instant) -> Result<Reply> {
        self.call_for_reply(Op::Propose(v1::Propose { command, forwarded, key_value: false }), deadline).await
    }

    /// Asks the state machine.
    ///
    /// # Errors
    /// `Unavailable` if no answer came by `deadline` or before the connection broke.
    pub async fn read(&self, query: Bytes, mode: ReadMode, deadline: Instant) -> Result<Reply> {
        self.call_for_reply(Op::Read(v1::Read { query, mode: mode_to_wire(mode), at_leader: false }), deadline).await
    }

    /// What the node knows about itself and its cluster.
    ///
    /// # Errors
    /// As [`Connection::read`].
    pub async fn status(&self, deadline: Instant) -> Result<NodeStatus> {
        match self.call(Op::Status(v1::StatusRequest {}), deadline).await? {
            Outcome::Status(status) => {
                status_from_wire(status).map_err(|error| ClientError::unavailable(error.to_string()))
            }
            _ => Err(ClientError::unavailable("the node answered something else than its status")),
        }
    }

    /// Asks for an operation; with `forwarded` the node does not pass it on, but answers `NotLeader` if it does not lead.
    ///
    /// # Errors
    /// `Unknown` if no answer came by `deadline` or before the connection broke. Every other error says that nothing was
    /// changed.
    pub async fn operate(&self, operation: Operation, forwarded: bool, deadline: Instant) -> Result<Operated> {
        match self.call(Op::Operation(operation_to_wire(operation, forwarded)), deadline).await? {
            Outcome::Operated(v1::Operated { index }) => Ok(Operated::new(index)),
            _ => Err(no_answer(true, "the node's answer is not understood")),
        }
    }

    pub(crate) async fn call_for_reply(&self, op: Op, deadline: Instant) -> Result<Reply> {
        let write = is_write(&op);
        match self.call(op, deadline).await? {
            Outcome::Reply(reply) => Ok(reply_from_wire(reply)),
            _ => Err(no_answer(write, "the node's answer is not understood")),
        }
    }

    async fn call(&self, op: Op, deadline: Instant) -> Result<Outcome> {
        let write = is_write(&op);
        let (answer, answered) = oneshot::channel();
        self.owner.shared.enqueue(Job { op, deadline, answer })?;
        match answered.await.unwrap_or_else(|_| Err(no_answer(write, "the connection's task ended")))? {
            Outcome::Error(detail) => Err(detail_to_error(detail)),
            outcome => Ok(outcome),
        }
    }

    /// Whether both are clones of one connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.closed.send_replace(true);
    }
}

fn is_write(op: &Op) -> bool {
    matches!(op, Op::Propose(_) | Op::Operation(_))
}

/// What a caller is told whose request was sent and is not answered any more.
fn no_answer(write: bool, why: &str) -> ClientError {
    if write { ClientError::Unknown } else { ClientError::unavailable(why) }
}

fn op_len(op: &Op) -> usize {
    match op {
        Op::Propose(propose) => propose.command.len(),
        Op::Read(read) => read.query.len(),
        Op::Status(_) | Op::Operation(_) => 0,
    }
}

/// A request that waits to be sent.
struct Job {
    op: Op,
    deadline: Instant,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// A request that was sent.
struct Waiter {
    write: bool,
    deadline: Instant,
    answer: oneshot::Sender<Result<Outcome>>,
}

impl Waiter {
    fn give_up(self, why: &str) {
        // The caller may have gone.
        let _ = self.answer.send(Err(no_answer(self.write, why)));
    }
}

struct Shared {
    address: String,
    state: Mutex<State>,
    /// Something waits to be sent.
    filled: Notify,
    /// The next deadline is earlier than it was.
    deadline_set: Notify,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    has_task: bool,
    queue: VecDeque<Job>,
    queue_len: usize,
    sent: HashMap<u64, Waiter>,
    last_id: u64,
    /// Number of the current stream; requests are sent on no other.
    stream: u64,
    next_deadline: Option<Instant>,
}

impl Shared {
    /// Never waits; starts the connection's task if there is none.
    fn enqueue(self: &Arc<Self>, job: Job) -> Result<()> {
        let len = op_len(&job.op);
        if len > COMMAND_LEN_MAX {
            return Err(Reason::TooLarge { len: len as u64, limit: COMMAND_LEN_MAX as u64 }.into());
        }
        let mut state = lock(&self.state);
        if state.queue.len() >= QUEUE_MAX || state.queue_len + len > QUEUE_BYTES_MAX {
            return Err(ClientError::Busy);
        }
        if !std::mem::replace(&mut state.has_task, true) {
            tokio::spawn(run(Running { shared: self.clone() }));
        }
        let earlier = state.next_deadline.is_none_or(|next| job.deadline < next);
        if earlier {
            state.next_deadline = Some(job.deadline);
        }
        state.queue_len += len;
        state.queue.push_back(job);
        drop(state);
        self.filled.notify_one();
        if earlier {
            self.deadline_set.notify_one();
        }
        Ok(())
    }

    /// Everything that waits, up to the size of a frame. `None`: another stream is the current one.
    fn take(&self, stream: u64) -> Option<Vec<v1::Request>> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.stream != stream {
            return None;
        }
        let mut requests = Vec::with_capacity(state.queue.len().min(1024));
        let mut len = 0;
        while len < FRAME_LEN_TARGET
            && let Some(Job { op, deadline, answer }) = state.queue.pop_front()
        {
            len += op_len(&op);
            state.last_id += 1;
            state.sent.insert(state.last_id, Waiter { write: is_write(&op), deadline, answer });
            requests.push(v1::Request { id: state.last_id, op: Some(op) });
        }
        state.queue_len -= len;
        Some(requests)
    }

    fn complete(&self, responses: Vec<v1::Response>) {
        let mut completed = Vec::with_capacity(responses.len());
        let mut state = lock(&self.state);
        for v1::Response { id, result } in responses {
            if let Some(waiter) = state.sent.remove(&id) {
                completed.push((waiter, result));
            }
        }
        drop(state);
        for (waiter, result) in completed {
            match result {
                Some(outcome) => drop(waiter.answer.send(Ok(outcome))),
                None => waiter.give_up("the node's answer is not understood"),
            }
        }
    }

    /// Nothing was sent: the callers may try elsewhere.
    fn refuse_queued(&self, why: &str) {
        let mut state = lock(&self.state);
        let queue = std::mem::take(&mut state.queue);
        state.queue_len = 0;
        drop(state);
        for job in queue {
            let _ = job.answer.send(Err(ClientError::unavailable(why)));
        }
    }

    /// The current stream is no more.
    fn give_up_sent(&self, why: &str) {
        let mut state = lock(&self.state);
        state.stream += 1;
        let sent = std::mem::take(&mut state.sent);
        drop(state);
        sent.into_values().for_each(|waiter| waiter.give_up(why));
    }

    /// Enforces the deadlines, for ever.
    async fn sweep(&self) {
        loop {
            let next = lock(&self.state).next_deadline;
            match next {
                None => self.deadline_set.notified().await,
                Some(deadline) => tokio::select! {
                    () = sleep_until(deadline) => self.expire(Instant::now()),
                    () = self.deadline_set.notified() => {}
                },
            }
        }
    }

    fn expire(&self, now: Instant) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let mut next: Option<Instant> = None;
        let mut still_waits = |deadline: Instant| {
            if deadline > now {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
            deadline > now
        };
        let expired: Vec<Waiter> =
            state.sent.extract_if(|_, waiter| !still_waits(waiter.deadline)).map(|(_, waiter)| waiter).collect();
        let queue = std::mem::take(&mut state.queue);
        let (kept, late): (Vec<Job>, Vec<Job>) = queue.into_iter().partition(|job| still_waits(job.deadline));
        state.queue = kept.into();
        state.queue_len = state.queue.iter().map(|job| op_len(&job.op)).sum();
        state.next_deadline = next.map(|next| next.max(now + SWEEP_INTERVAL_MIN));
        // Completing a caller only wakes it: that may happen under the lock.
        expired.into_iter().for_each(|waiter| waiter.give_up("no answer in time"));
        for job in late {
            let why = format!("{} did not take the request in time", self.address);
            let _ = job.answer.send(Err(ClientError::unavailable(why)));
        }
    }

    async fn wait_until_filled(&self) {
        while lock(&self.state).queue.is_empty() {
            self.filled.notified().await;
        }
    }
}

/// Held by the connection's task: when that ends, however it ends, nobody is left waiting.
struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.shared.state).has_task = false;
        self.shared.give_up_sent("the connection was closed");
        self.shared.refuse_queued("the connection was closed");
    }
}

async fn run(running: Running) {
    let shared = &running.shared;
    let mut closed = shared.closed.subscribe();
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = shared.sweep() => {}
        () = reconnect(shared) => {}
    }
}

/// Connects whenever something waits to be sent.
async fn reconnect(shared: &Arc<Shared>) {
    loop {
        shared.wait_until_filled().await;
        let stream = lock(&shared.state).stream;
        match open(shared, stream).await {
            Ok((mut responses, _open)) => {
                let why = receive(shared, &mut responses).await;
                tracing::debug!(address = %shared.address, "the stream ended: {why}");
                shared.give_up_sent(&format!("the connection to {} broke: {why}", shared.address));
            }
            Err(why) => {
                // Nothing was sent, but the stream that was to be must not come alive.
                shared.give_up_sent("");
                shared.refuse_queued(&format!("connecting to {}: {why}", shared.address));
            }
        }
    }
}

async fn open(
    shared: &Arc<Shared>,
    number: u64,
) -> Result<(Streaming<v1::ResponseBatch>, watch::Sender<bool>), String> {
    let channel = dial(&shared.address).await?;
    let mut client =
        PipelineClient::new(channel).max_decoding_message_size(FRAME_LEN_MAX).max_encoding_message_size(FRAME_LEN_MAX);
    let (open, opened) = watch::channel(false);
    let requests = requests(shared.clone(), number, opened);
    let late = |_| Err("the node accepts connections and does not answer".to_owned());
    let response = timeout(OPEN_TIMEOUT, async { client.open(requests).await.map_err(|status| stream_end(&status)) })
        .await
        .unwrap_or_else(late)?;
    open.send_replace(true);
    Ok((response.into_inner(), open))
}

/// The request side of a stream: polled by the task that writes to the socket. Silent until the node has answered, so
/// that what was not sent may be sent elsewhere.
fn requests(shared: Arc<Shared>, number: u64, opened: watch::Receiver<bool>) -> impl Stream<Item = v1::RequestBatch> {
    stream::unfold((shared, opened), move |(shared, mut opened)| async move {
        opened.wait_for(|opened| *opened).await.ok()?;
        loop {
            let requests = shared.take(number)?;
            if !requests.is_empty() {
                return Some((v1::RequestBatch { requests }, (shared, opened)));
            }
            tokio::select! {
                () = shared.filled.notified() => {}
                _ = opened.changed() => {
                    // What woke this stream is its successor's.
                    shared.filled.notify_one();
                    return None;
                }
            }
            // Callers that were woken together ask together: let them, and send one frame.
            tokio::task::yield_now().await;
        }
    })
}

/// Completes callers until the stream ends, with the cause.
async fn receive(shared: &Shared, responses: &mut Streaming<v1::ResponseBatch>) -> String {
    loop {
        match responses.message().await {
            Ok(Some(batch)) => shared.complete(batch.responses),
            Ok(None) => return "the node ended the stream".to_owned(),
            Err(status) => return stream_end(&status),
        }
    }
}

//! Snapshots between nodes: this node's to a replica that needs it, and a leader's to this node.
//!
//! Both directions hold one chunk in memory, read and write on tokio's threads for blocking work, and are given up by
//! dropping their future; what has arrived by then stays for the next transfer of the same snapshot.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_net::{
    ClientError, SNAPSHOT_CHUNK_LEN_MAX, SnapshotAnswer, SnapshotHead, SnapshotOffer, SnapshotSink, SnapshotSource,
    TransferProgress,
};
use d_engine_raft::{Input, NodeId};
use tokio::time::Instant;

use crate::clock::milliseconds;
use crate::published::Published;
use crate::shared::Shared;
use crate::snapshot_store::{Record, SnapshotStore};
use crate::wire::Wire;

/// One transfer to a replica.
pub(crate) struct Sending {
    pub(crate) node: NodeId,
    pub(crate) to: NodeId,
    pub(crate) term: u64,
    pub(crate) bytes_per_s: u64,
    pub(crate) store: Arc<SnapshotStore>,
    pub(crate) wire: Wire,
    pub(crate) published: Arc<Published>,
}

impl Sending {
    /// Sends the newest snapshot. Gives its last entry if the replica holds that state afterwards.
    pub(crate) async fn run(self) -> Option<LogId> {
        let to = self.to;
        let result = self.send().await;
        self.published.note_transfer(to, None);
        match result {
            Ok(installed) => installed,
            Err(why) => {
                tracing::warn!(node = self.node, to, why, "a snapshot was not sent; it is tried again");
                None
            }
        }
    }

    async fn send(&self) -> Result<Option<LogId>, String> {
        let Some((record, file)) = open_newest(&self.store).await? else {
            return Err("this node has no snapshot".into());
        };
        let Record { metadata, digest } = Record::clone(&record);
        let total = metadata.size;
        let offer = SnapshotOffer { from: self.node, term: self.term, metadata, digest };
        let mut sink = match self.wire.offer_snapshot(self.to, offer).await? {
            SnapshotAnswer::Held(id) => return Ok(Some(id)),
            SnapshotAnswer::Accepted(sink) => sink,
        };
        let mut chunks = Chunks::new(file, sink.offset().min(total), total, self.bytes_per_s);
        let first = chunks.offset;
        tracing::info!(node = self.node, to = self.to, index = record.at().index, total, first, "sending a snapshot");
        loop {
            let done = chunks.offset;
            self.published.note_transfer(self.to, Some(TransferProgress { done, total }));
            let Some(chunk) = chunks.next().await? else { break };
            sink.write(done, chunk).await?;
        }
        sink.finish().await
    }
}

async fn open_newest(store: &Arc<SnapshotStore>) -> Result<Option<(Arc<Record>, File)>, String> {
    let store = Arc::clone(store);
    blocking(move || store.open_newest().map_err(|error| error.to_string())).await
}

/// A snapshot's file, read chunk by chunk, no faster than so many bytes per second.
struct Chunks {
    /// Away while it is read.
    file: Option<File>,
    first: u64,
    offset: u64,
    size: u64,
    bytes_per_s: u64,
    since: Instant,
}

impl Chunks {
    fn new(file: File, first: u64, size: u64, bytes_per_s: u64) -> Self {
        Self { file: Some(file), first, offset: first, size, bytes_per_s, since: Instant::now() }
    }

    /// The next chunk, once it is its time; `None` at the end. Not to be called again after an error, nor after its
    /// future was dropped.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.offset >= self.size {
            return Ok(None);
        }
        tokio::time::sleep_until(self.since + self.time_for(self.offset - self.first)).await;
        let file = self.file.take().ok_or("the file of the snapshot is not open any more")?;
        let (chunk, file) = read_chunk(file, self.offset, self.size).await?;
        self.file = Some(file);
        self.offset += chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64)
    }
}

async fn read_chunk(mut file: File, offset: u64, size: u64) -> Result<(Bytes, File), String> {
    blocking(move || {
        let len = (size - offset).min(SNAPSHOT_CHUNK_LEN_MAX as u64);
        let mut chunk = vec![0; usize::try_from(len).unwrap_or(SNAPSHOT_CHUNK_LEN_MAX)];
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut chunk))
            .map_err(|error| format!("reading byte {offset} of the snapshot: {error}"))?;
        Ok((Bytes::from(chunk), file))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("the work was cut off".into()))
}

/// This node's newest snapshot on its way to whoever keeps it.
struct Fetched {
    head: SnapshotHead,
    chunks: Chunks,
}

#[async_trait]
impl SnapshotSource for Fetched {
    fn head(&self) -> SnapshotHead {
        self.head.clone()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        self.chunks.next().await
    }
}

/// A node's snapshot for whoever keeps it, no faster than so many bytes per second.
pub(crate) fn fetched(node: NodeId, record: &Record, file: File, bytes_per_s: u64) -> Box<dyn SnapshotSource> {
    let Record { metadata, digest } = record.clone();
    let chunks = Chunks::new(file, 0, metadata.size, bytes_per_s);
    Box::new(Fetched { head: SnapshotHead { node, metadata, digest }, chunks })
}

impl Shared {
    /// Makes a snapshot of this node's state for whoever keeps it. Without `local` it includes every write that was
    /// answered before the call.
    pub(crate) async fn fetch_snapshot(&self, local: bool) -> Result<Box<dyn SnapshotSource>, ClientError> {
        if !local {
            self.confirm_read(false).await?;
        }
        self.snapshot().await?;
        let newest = open_newest(&self.snapshots).await.map_err(ClientError::unavailable)?;
        let (record, file) = newest.ok_or_else(|| ClientError::unavailable("the snapshot was removed at once"))?;
        Ok(fetched(self.id(), &record, file, self.config.snapshot.transfer_bytes_per_s))
    }

    /// A leader offers a snapshot.
    pub(crate) async fn take_snapshot(self: &Arc<Self>, offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        if !self.is_open() || self.published.failure().is_some() {
            return Err(format!("node {} takes part no more", self.id()));
        }
        let SnapshotOffer { from, term, metadata, digest } = offer;
        let at = metadata.last_included;
        if self.applied() >= at.index {
            return Ok(SnapshotAnswer::Held(at));
        }
        let store = Arc::clone(&self.snapshots);
        let record = Record { metadata, digest };
        let begin = move || store.begin_receiving(record).map_err(|error| error.to_string());
        let (turn, offset) = blocking(begin).await?;
        let (shared, since) = (Arc::clone(self), Instant::now());
        Ok(SnapshotAnswer::Accepted(Box::new(Receiver { shared, from, term, turn, offset, since })))
    }
}

/// This node as the receiver of one transfer.
struct Receiver {
    shared: Arc<Shared>,
    from: NodeId,
    term: u64,
    turn: u64,
    offset: u64,
    /// When it was accepted.
    since: Instant,
}

#[async_trait]
impl SnapshotSink for Receiver {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), String> {
        let (store, turn) = (Arc::clone(&self.shared.snapshots), self.turn);
        blocking(move || store.receive(turn, offset, &chunk).map_err(|error| error.to_string())).await
    }

    async fn finish(self: Box<Self>) -> Result<Option<LogId>, String> {
        let Self { shared, from, term, turn, offset, since } = *self;
        let arriving_ms = milliseconds(since.elapsed());
        // What is marked is reported in the same breath: the sender may go, and this future with it, while the file is
        // verified, and a mark that nobody was told of would stand in the way of every later snapshot.
        let mark = move || {
            let begun = Instant::now();
            let (record, receipt) = shared.snapshots.mark_received(turn).map_err(|error| error.to_string())?;
            let last_included = record.at();
            let (bytes, verifying_ms) = (record.metadata.size.saturating_sub(offset), milliseconds(begun.elapsed()));
            let (node, index) = (shared.id(), last_included.index);
            tracing::info!(node, from, index, bytes, arriving_ms, verifying_ms, "a snapshot has arrived");
            let membership = record.metadata.membership.clone();
            shared.inbox.complete(Input::SnapshotReceived { from, term, last_included, membership });
            if !shared.is_open() {
                shared.snapshots.forget_receipt();
            }
            Ok((last_included, receipt))
        };
        let (last_included, receipt) = blocking(mark).await?;
        // Without an answer the node has ended.
        Ok(receipt.await.unwrap_or(false).then_some(last_included))
    }
}

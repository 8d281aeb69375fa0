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
use d_engine_net::{SNAPSHOT_CHUNK_LEN_MAX, SnapshotAnswer, SnapshotOffer, SnapshotSink, TransferProgress};
use d_engine_raft::{Input, NodeId};
use tokio::time::Instant;

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
        let store = Arc::clone(&self.store);
        let newest = blocking(move || store.open_newest().map_err(|error| error.to_string())).await?;
        let Some((record, mut file)) = newest else { return Err("this node has no snapshot".into()) };
        let Record { metadata, digest } = Record::clone(&record);
        let size = metadata.size;
        let offer = SnapshotOffer { from: self.node, term: self.term, metadata, digest };
        let mut sink = match self.wire.offer_snapshot(self.to, offer).await? {
            SnapshotAnswer::Held(id) => return Ok(Some(id)),
            SnapshotAnswer::Accepted(sink) => sink,
        };
        let first = sink.offset().min(size);
        tracing::info!(node = self.node, to = self.to, index = record.at().index, size, first, "sending a snapshot");
        let (mut offset, since) = (first, Instant::now());
        while offset < size {
            self.published.note_transfer(self.to, Some(TransferProgress { done: offset, total: size }));
            let (chunk, back) = read_chunk(file, offset, size).await?;
            file = back;
            let len = chunk.len() as u64;
            sink.write(offset, chunk).await?;
            offset += len;
            tokio::time::sleep_until(since + self.time_for(offset - first)).await;
        }
        self.published.note_transfer(self.to, Some(TransferProgress { done: size, total: size }));
        sink.finish().await
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

impl Shared {
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
        Ok(SnapshotAnswer::Accepted(Box::new(Receiver { shared: Arc::clone(self), from, term, turn, offset })))
    }
}

/// This node as the receiver of one transfer.
struct Receiver {
    shared: Arc<Shared>,
    from: NodeId,
    term: u64,
    turn: u64,
    offset: u64,
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
        let Self { shared, from, term, turn, .. } = *self;
        // What is marked is reported in the same breath: the sender may go, and this future with it, while the file is
        // verified, and a mark that nobody was told of would stand in the way of every later snapshot.
        let mark = move || {
            let (record, receipt) = shared.snapshots.mark_received(turn).map_err(|error| error.to_string())?;
            let last_included = record.at();
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

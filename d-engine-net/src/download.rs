//! A snapshot from a node to whoever keeps it: one stream on a connection of its own, paced by the node.
//!
//! Chunks are checked one by one here; who receives them verifies the whole against the digest before trusting it.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{SnapshotChecksum, SnapshotMetadata, checksum};
use futures_util::{Stream, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::channel::{dial, stream_end};
use crate::convert::{error_to_status, status_to_error};
use crate::generated::v1;
use crate::generated::v1::fetched_snapshot::Part;
use crate::generated::v1::snapshots_client::SnapshotsClient;
use crate::server::{Phase, Stop};
use crate::snapshot::digest_from_wire;
use crate::{ClientError, FRAME_LEN_MAX, NodeService, Result, SNAPSHOT_CHUNK_LEN_MAX};

/// What a node says about a snapshot before its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The node whose state it is.
    pub node: u64,
    /// What the node knows about it.
    pub metadata: SnapshotMetadata,
    /// SHA-256 of the file.
    pub digest: SnapshotChecksum,
}

/// A snapshot on its way out of a node, which paces it.
#[async_trait]
pub trait SnapshotSource: Send {
    /// What it is.
    fn head(&self) -> SnapshotHead;

    /// The next chunk, of [`SNAPSHOT_CHUNK_LEN_MAX`] bytes at most; `None` once all of the file was given.
    ///
    /// # Errors
    /// In plain words why it cannot be read.
    async fn next(&mut self) -> Result<Option<Bytes>, String>;
}

/// A snapshot that a node sends. Dropping it breaks the transfer off; nothing of it stays on the node.
pub struct Download {
    address: String,
    head: SnapshotHead,
    parts: Streaming<v1::FetchedSnapshot>,
    received: u64,
}

impl Download {
    /// Asks the node at `address` for a snapshot of its state, on a connection of its own. Answers when the snapshot is
    /// made, which takes as long as writing the whole state. With `local` the node does not ask the leader first how
    /// fresh its state is.
    ///
    /// # Errors
    /// `Unavailable` if the node cannot be reached, makes no snapshot, or, without `local`, knows no leader with a quorum.
    pub async fn open(address: &str, local: bool) -> Result<Self> {
        let refused = |why| ClientError::unavailable(format!("connecting to {address}: {why}"));
        let channel = dial(address).await.map_err(refused)?;
        let mut client = SnapshotsClient::new(channel).max_decoding_message_size(FRAME_LEN_MAX);
        let answer = client.fetch(v1::FetchSnapshot { local }).await.map_err(|status| error_of(address, &status))?;
        let mut parts = answer.into_inner();
        match next_part(address, &mut parts).await? {
            Part::Head(head) => {
                let head = head_from_wire(head).map_err(|why| ClientError::unavailable(format!("{address}: {why}")))?;
                Ok(Self { address: address.to_owned(), head, parts, received: 0 })
            }
            _ => Err(ClientError::unavailable(format!("{address}: the snapshot does not begin with its head"))),
        }
    }

    /// What the node says that it sends.
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// The next bytes; `None` once as many have arrived as the head says. That they are the right ones, only the digest
    /// of all of them shows.
    ///
    /// # Errors
    /// `Unavailable` if the transfer broke off or a chunk is damaged.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let fail = |why: String| Err(ClientError::unavailable(format!("{}: {why}", self.address)));
        let size = self.head.metadata.size;
        match next_part(&self.address, &mut self.parts).await? {
            Part::Chunk(v1::SnapshotChunk { offset, data, checksum: sum }) => {
                let end = offset.saturating_add(data.len() as u64);
                if checksum(&[&data]) != sum {
                    return fail(format!("the chunk at byte {offset} of the snapshot is damaged"));
                }
                if offset != self.received || data.is_empty() || end > size {
                    let at = self.received;
                    return fail(format!(
                        "bytes {offset} to {end} of a snapshot of {size} bytes, {at} of which are here"
                    ));
                }
                self.received = end;
                Ok(Some(data))
            }
            Part::End(_) if self.received == size => Ok(None),
            Part::End(_) => fail(format!("the snapshot ends after {} of {size} bytes", self.received)),
            Part::Head(_) => fail("a second head in one snapshot".to_owned()),
        }
    }
}

#[async_trait]
impl SnapshotSource for Download {
    fn head(&self) -> SnapshotHead {
        self.head.clone()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        Download::next(self).await.map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({}, {} of {} bytes)", self.address, self.received, self.head.metadata.size)
    }
}

async fn next_part(address: &str, parts: &mut Streaming<v1::FetchedSnapshot>) -> Result<Part> {
    let broken = |why: &str| ClientError::unavailable(format!("{address}: {why}"));
    match parts.message().await {
        Ok(Some(v1::FetchedSnapshot { part: Some(part) })) => Ok(part),
        Ok(Some(_)) => Err(broken("a part of the snapshot is not understood")),
        Ok(None) => Err(broken("the snapshot broke off")),
        Err(status) => Err(error_of(address, &status)),
    }
}

fn error_of(address: &str, status: &Status) -> ClientError {
    match status_to_error(status) {
        Some(error) => error,
        None if status.code() == Code::Unimplemented => {
            ClientError::unavailable(format!("{address} gives no snapshots away; it runs an older version"))
        }
        None => ClientError::unavailable(format!("fetching a snapshot from {address}: {}", stream_end(status))),
    }
}

fn head_from_wire(head: v1::SnapshotHead) -> Result<SnapshotHead, String> {
    let metadata = SnapshotMetadata::decode(&head.metadata).map_err(|error| error.to_string())?;
    Ok(SnapshotHead { node: head.node, metadata, digest: digest_from_wire(&head.digest)? })
}

fn head_to_wire(head: SnapshotHead) -> v1::SnapshotHead {
    let digest = Bytes::copy_from_slice(head.digest.as_ref());
    v1::SnapshotHead { node: head.node, metadata: head.metadata.encode(), digest }
}

pub(crate) type Parts = Pin<Box<dyn Stream<Item = Result<v1::FetchedSnapshot, Status>> + Send>>;

/// Serves one call of Fetch.
pub(crate) async fn serve_fetch(
    service: &dyn NodeService,
    stop: Stop,
    request: Request<v1::FetchSnapshot>,
) -> Result<Response<Parts>, Status> {
    let source = service.fetch_snapshot(request.into_inner().local).await.map_err(error_to_status)?;
    let head = Some(Part::Head(head_to_wire(source.head())));
    let outgoing = Outgoing { source, stop, next: head, sent: 0, is_over: false };
    Ok(Response::new(Box::pin(stream::unfold(outgoing, Outgoing::next))))
}

/// One snapshot on its way out. It is read only as fast as the other side takes it.
struct Outgoing {
    source: Box<dyn SnapshotSource>,
    stop: Stop,
    /// What is sent before the chunks.
    next: Option<Part>,
    sent: u64,
    is_over: bool,
}

impl Outgoing {
    async fn next(mut self) -> Option<(Result<v1::FetchedSnapshot, Status>, Self)> {
        if self.is_over {
            return None;
        }
        let part = match self.next.take() {
            Some(head) => Ok(head),
            None => self.chunk().await,
        };
        self.is_over = !matches!(part, Ok(Part::Head(_) | Part::Chunk(_)));
        let part = part.map(|part| v1::FetchedSnapshot { part: Some(part) }).map_err(error_to_status);
        Some((part, self))
    }

    async fn chunk(&mut self) -> Result<Part> {
        let next = tokio::select! {
            () = self.stop.reached(Phase::Stopping) => return Err(ClientError::ShuttingDown),
            next = self.source.next() => next.map_err(ClientError::unavailable)?,
        };
        let Some(data) = next else { return Ok(Part::End(v1::SnapshotEnd {})) };
        debug_assert!(data.len() <= SNAPSHOT_CHUNK_LEN_MAX, "a chunk fits its frame");
        let offset = self.sent;
        self.sent += data.len() as u64;
        Ok(Part::Chunk(v1::SnapshotChunk { offset, checksum: checksum(&[&data]), data }))
    }
}

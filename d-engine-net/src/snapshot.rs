//! A snapshot from one node to another: one stream on a connection of its own, so that no heartbeat waits behind it.
//!
//! Chunks are checked one by one here; the receiver verifies the whole file before it looks into it. Both sides hold a few
//! chunks in memory at most: who writes waits for the other side to take them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{LogId, SnapshotChecksum, SnapshotMetadata, checksum};
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::channel::{dial, stream_end};
use crate::convert::{Malformed, hello_from_wire, hello_to_wire};
use crate::generated::v1;
use crate::generated::v1::snapshot_answer::Answer;
use crate::generated::v1::snapshot_frame::Frame;
use crate::generated::v1::snapshots_client::SnapshotsClient;
use crate::generated::v1::snapshots_server::Snapshots;
use crate::peer::{Peers, Shared};
use crate::server::{Phase, Stop};
use crate::{Hello, NodeService, SNAPSHOT_CHUNK_LEN_MAX};

/// The other side answers an offer within so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A sender that says nothing for so long has gone; the rate limit never pauses longer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Chunks that wait between the sender and its socket.
const CHUNKS_AHEAD: usize = 2;

/// A snapshot that a leader offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader.
    pub from: u64,
    /// Its term.
    pub term: u64,
    /// What it knows about the snapshot.
    pub metadata: SnapshotMetadata,
    /// SHA-256 of the file.
    pub digest: SnapshotChecksum,
}

/// What becomes of an offer.
pub enum SnapshotAnswer {
    /// The receiver holds the state already.
    Held(LogId),
    /// The receiver takes the file.
    Accepted(Box<dyn SnapshotSink>),
}

/// Where a snapshot goes, on this node or on another one. Dropping it breaks the transfer off; the receiver keeps what it
/// has for the next offer of the same snapshot.
#[async_trait]
pub trait SnapshotSink: Send {
    /// The byte to begin with.
    fn offset(&self) -> u64;

    /// Writes the next chunk, which begins at `offset`; waits while the receiver is slow.
    ///
    /// # Errors
    /// In plain words why the transfer is over.
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), String>;

    /// All chunks are written: the receiver verifies and installs. Gives the snapshot's last entry if its state includes
    /// it then.
    ///
    /// # Errors
    /// In plain words why the receiver did not take it.
    async fn finish(self: Box<Self>) -> Result<Option<LogId>, String>;
}

/// Offers a snapshot to node `to` at `address`; `hello` is what this node says of itself.
///
/// # Errors
/// In plain words why the other node cannot be reached or does not take it.
pub async fn offer_snapshot(
    address: &str,
    hello: &Hello,
    to: u64,
    offer: SnapshotOffer,
) -> Result<SnapshotAnswer, String> {
    let channel = dial(address).await?;
    let (frames, waiting) = mpsc::channel(CHUNKS_AHEAD);
    let offer = v1::SnapshotOffer {
        hello: Some(hello_to_wire(hello, to)),
        term: offer.term,
        metadata: offer.metadata.encode(),
        digest: Bytes::copy_from_slice(offer.digest.as_ref()),
    };
    let outgoing = stream::unfold((Some(Frame::Offer(offer)), waiting), |(first, mut waiting)| async move {
        let frame = match first {
            Some(first) => first,
            None => waiting.recv().await?,
        };
        Some((v1::SnapshotFrame { frame: Some(frame) }, (None, waiting)))
    });
    let greeting = async {
        let response = SnapshotsClient::new(channel).send(outgoing).await.map_err(|status| stream_end(&status))?;
        let mut answers = response.into_inner();
        let answer = next_answer(&mut answers).await?;
        Ok::<_, String>((answers, answer))
    };
    let late = |_| Err("no answer to the offer of a snapshot".to_owned());
    let (answers, answer) = timeout(ANSWER_TIMEOUT, greeting).await.unwrap_or_else(late)?;
    match answer {
        Answer::SendFrom(offset) => Ok(SnapshotAnswer::Accepted(Box::new(RemoteSink { frames, answers, offset }))),
        Answer::Held(id) => Ok(SnapshotAnswer::Held(LogId::new(id.term, id.index))),
        Answer::Refused(why) => Err(why),
    }
}

async fn next_answer(answers: &mut Streaming<v1::SnapshotAnswer>) -> Result<Answer, String> {
    match answers.message().await {
        Ok(Some(v1::SnapshotAnswer { answer: Some(answer) })) => Ok(answer),
        Ok(Some(_)) => Err("the receiver's answer is not understood".to_owned()),
        Ok(None) => Err("the receiver ended the stream".to_owned()),
        Err(status) => Err(stream_end(&status)),
    }
}

/// A receiver on another machine.
struct RemoteSink {
    frames: mpsc::Sender<Frame>,
    answers: Streaming<v1::SnapshotAnswer>,
    offset: u64,
}

impl RemoteSink {
    /// Whatever the receiver says before the end is why it does not go on.
    async fn objection(answers: &mut Streaming<v1::SnapshotAnswer>) -> String {
        match next_answer(answers).await {
            Ok(Answer::Refused(why)) | Err(why) => why,
            Ok(_) => "the receiver answered before the end".to_owned(),
        }
    }
}

#[async_trait]
impl SnapshotSink for RemoteSink {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), String> {
        let chunk = v1::SnapshotChunk { offset, checksum: checksum(&[&chunk]), data: chunk };
        tokio::select! {
            biased;
            why = Self::objection(&mut self.answers) => Err(why),
            sent = self.frames.send(Frame::Chunk(chunk)) => sent.map_err(|_| "the stream is gone".to_owned()),
        }
    }

    async fn finish(mut self: Box<Self>) -> Result<Option<LogId>, String> {
        // If the stream is gone, the answers say why.
        let _ = self.frames.send(Frame::End(v1::SnapshotEnd {})).await;
        match next_answer(&mut self.answers).await? {
            Answer::Held(id) => Ok(Some(LogId::new(id.term, id.index))),
            Answer::Refused(why) => Err(why),
            Answer::SendFrom(_) => Err("the receiver began anew".to_owned()),
        }
    }
}

/// The service Snapshots.
pub(crate) struct SnapshotService {
    service: Arc<dyn NodeService>,
    shared: Arc<Shared>,
    stop: Stop,
}

impl SnapshotService {
    pub(crate) fn new(service: Arc<dyn NodeService>, peers: &Peers, stop: Stop) -> Self {
        Self { service, shared: peers.shared().clone(), stop }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::SnapshotAnswer, Status>> + Send>>;

#[tonic::async_trait]
impl Snapshots for SnapshotService {
    type SendStream = Answers;
    type FetchStream = crate::download::Parts;

    async fn fetch(&self, request: Request<v1::FetchSnapshot>) -> Result<Response<Self::FetchStream>, Status> {
        crate::download::serve_fetch(&*self.service, self.stop.clone(), request).await
    }

    async fn send(&self, request: Request<Streaming<v1::SnapshotFrame>>) -> Result<Response<Answers>, Status> {
        let transfer = Transfer {
            frames: request.into_inner(),
            service: self.service.clone(),
            hello: self.shared.hello.borrow().clone(),
            stop: self.stop.clone(),
            stage: Stage::Offer,
        };
        Ok(Response::new(Box::pin(stream::unfold(transfer, Transfer::next))))
    }
}

enum Stage {
    Offer,
    Chunks(Box<dyn SnapshotSink>),
    Over,
}

/// One transfer, on the receiver's side.
struct Transfer {
    frames: Streaming<v1::SnapshotFrame>,
    service: Arc<dyn NodeService>,
    hello: Hello,
    stop: Stop,
    stage: Stage,
}

impl Transfer {
    /// The next answer: to the offer, then to the whole.
    async fn next(mut self) -> Option<(Result<v1::SnapshotAnswer, Status>, Self)> {
        let answer = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Offer => self.consider().await,
            Stage::Chunks(sink) => self.receive(sink).await,
            Stage::Over => return None,
        };
        let answer = answer.unwrap_or_else(Answer::Refused);
        Some((Ok(v1::SnapshotAnswer { answer: Some(answer) }), self))
    }

    async fn frame(&mut self) -> Result<Frame, String> {
        let mut stop = self.stop.clone();
        let frame = tokio::select! {
            () = stop.reached(Phase::Stopping) => return Err("the receiver is shutting down".to_owned()),
            frame = timeout(SILENCE_MAX, self.frames.message()) => frame,
        };
        match frame.map_err(|_| "the sender says nothing".to_owned())? {
            Ok(Some(v1::SnapshotFrame { frame: Some(frame) })) => Ok(frame),
            Ok(_) => Err("the sender broke off".to_owned()),
            Err(status) => Err(stream_end(&status)),
        }
    }

    async fn consider(&mut self) -> Result<Answer, String> {
        let Frame::Offer(offer) = self.frame().await? else { return Err("the first frame is no offer".to_owned()) };
        let offer = check_offer(offer, &self.hello)?;
        match self.service.take_snapshot(offer).await? {
            SnapshotAnswer::Held(id) => Ok(held(id)),
            SnapshotAnswer::Accepted(sink) => {
                let offset = sink.offset();
                self.stage = Stage::Chunks(sink);
                Ok(Answer::SendFrom(offset))
            }
        }
    }

    async fn receive(&mut self, mut sink: Box<dyn SnapshotSink>) -> Result<Answer, String> {
        loop {
            match self.frame().await? {
                Frame::Chunk(v1::SnapshotChunk { offset, data, checksum: sum }) => {
                    if data.len() > SNAPSHOT_CHUNK_LEN_MAX || checksum(&[&data]) != sum {
                        return Err(format!("the chunk at byte {offset} of the snapshot is damaged"));
                    }
                    sink.write(offset, data).await?;
                }
                Frame::End(_) => {
                    let installed = sink.finish().await?;
                    return installed.map(held).ok_or_else(|| "the receiver did not install it".to_owned());
                }
                Frame::Offer(_) => return Err("a second offer on one stream".to_owned()),
            }
        }
    }
}

fn held(id: LogId) -> Answer {
    Answer::Held(v1::LogId { term: id.term, index: id.index })
}

/// What an offer says, if its sender is one that this node talks to.
fn check_offer(offer: v1::SnapshotOffer, local: &Hello) -> Result<SnapshotOffer, String> {
    let wire = offer.hello.ok_or_else(|| Malformed::missing("the Hello of an offer").to_string())?;
    let hello = hello_from_wire(&wire).map_err(|error| error.to_string())?;
    if let Some(why) = hello.objection(local) {
        return Err(why);
    }
    if wire.to != local.node {
        return Err(format!("node {} meant node {} and reached node {}", hello.node, wire.to, local.node));
    }
    let metadata = SnapshotMetadata::decode(&offer.metadata).map_err(|error| error.to_string())?;
    if metadata.cluster != hello.cluster || metadata.membership.cluster != hello.cluster {
        return Err(format!("the snapshot belongs to cluster {:032x}, its sender to another", metadata.cluster));
    }
    let digest = digest_from_wire(&offer.digest)?;
    Ok(SnapshotOffer { from: hello.node, term: offer.term, metadata, digest })
}

pub(crate) fn digest_from_wire(bytes: &[u8]) -> Result<SnapshotChecksum, String> {
    let digest = bytes.try_into().map_err(|_| "the digest of a snapshot has no 32 bytes".to_owned())?;
    Ok(SnapshotChecksum::new(digest))
}

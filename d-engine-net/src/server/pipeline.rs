//! The service Pipeline: many requests on one stream.
//!
//! A stream is answered on the task that carries it: requests become futures in one set, and whatever of it is ready
//! leaves in one batch. Nothing is spawned, and a batch costs about as many wake-ups as a single request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{Phase, Stop};
use crate::convert::{error_to_detail, mode_from_wire, operation_from_wire, reply_to_wire, status_to_wire};
use crate::generated::v1;
use crate::generated::v1::request::Op;
use crate::generated::v1::response::Result as Outcome;
use crate::{COMMAND_LEN_MAX, ClientError, FRAME_LEN_TARGET, NodeService, Operated, Reason, Result};
use d_engine_core::KvRequest;

/// Requests of one stream that are not answered yet, at most; beyond, they are refused as busy.
const UNANSWERED_MAX: usize = 1 << 15;
/// Bytes of the same, at most; a single larger one is still taken.
const UNANSWERED_BYTES_MAX: usize = 64 << 20;

pub(super) struct PipelineService {
    service: Arc<dyn NodeService>,
    stop: Stop,
}

impl PipelineService {
    pub(super) fn new(service: Arc<dyn NodeService>, stop: Stop) -> Self {
        Self { service, stop }
    }
}

#[tonic::async_trait]
impl v1::pipeline_server::Pipeline for PipelineService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<v1::ResponseBatch, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<v1::RequestBatch>>) -> Result<Response<Self::OpenStream>, Status> {
        let (mut stopping, mut ending) = (self.stop.clone(), self.stop.clone());
        let answers = Answers {
            service: self.service.clone(),
            requests: Some(request.into_inner()),
            answer,
            unanswered: FuturesUnordered::new(),
            unanswered_len: 0,
            refused: Vec::new(),
            stopping: Box::pin(async move { stopping.reached(Phase::Stopping).await }),
            ending: Box::pin(async move { ending.reached(Phase::Ending).await }),
        };
        Ok(Response::new(Box::pin(answers)))
    }
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A response and the bytes that its request held until then.
struct Answered {
    response: v1::Response,
    request_len: usize,
}

/// The response side of one stream.
struct Answers<A, F> {
    service: Arc<dyn NodeService>,
    /// `None`: no more requests come, or are taken.
    requests: Option<Streaming<v1::RequestBatch>>,
    answer: A,
    unanswered: FuturesUnordered<F>,
    /// Bytes of their commands and queries.
    unanswered_len: usize,
    refused: Vec<v1::Response>,
    stopping: Signal,
    ending: Signal,
}

impl<A, F> Answers<A, F>
where
    A: Fn(Arc<dyn NodeService>, v1::Request) -> F + Unpin,
    F: Future<Output = Answered>,
{
    /// Takes what has arrived. `false`: the stream broke, nobody is there to answer.
    fn take_requests(&mut self, context: &mut Context<'_>) -> bool {
        while let Some(requests) = &mut self.requests {
            match requests.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(batch))) => batch.requests.into_iter().for_each(|request| self.begin(request)),
                Poll::Ready(Some(Err(status))) => {
                    tracing::debug!(%status, "a client's stream broke");
                    return false;
                }
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => break,
            }
        }
        true
    }

    fn begin(&mut self, request: v1::Request) {
        let len = request_len(&request);
        let is_full = self.unanswered_len + len > UNANSWERED_BYTES_MAX && !self.unanswered.is_empty();
        if is_full || self.unanswered.len() >= UNANSWERED_MAX {
            self.refused.push(response(request.id, Err(ClientError::Busy)));
        } else {
            self.unanswered_len += len;
            self.unanswered.push((self.answer)(self.service.clone(), request));
        }
    }

    /// What can be answered now, up to the size of a frame.
    fn take_responses(&mut self, context: &mut Context<'_>) -> Vec<v1::Response> {
        let mut responses = std::mem::take(&mut self.refused);
        let mut len = 0;
        while len < FRAME_LEN_TARGET {
            match self.unanswered.poll_next_unpin(context) {
                Poll::Ready(Some(Answered { response, request_len })) => {
                    self.unanswered_len -= request_len;
                    len += response.encoded_len();
                    responses.push(response);
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        responses
    }
}

impl<A, F> Stream for Answers<A, F>
where
    A: Fn(Arc<dyn NodeService>, v1::Request) -> F + Unpin,
    F: Future<Output = Answered>,
{
    type Item = Result<v1::ResponseBatch, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ending.as_mut().poll(context).is_ready() || !this.take_requests(context) {
            return Poll::Ready(None);
        }
        if this.requests.is_some() && this.stopping.as_mut().poll(context).is_ready() {
            this.requests = None;
        }
        let responses = this.take_responses(context);
        if !responses.is_empty() {
            return Poll::Ready(Some(Ok(v1::ResponseBatch { responses })));
        }
        if this.requests.is_none() && this.unanswered.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

async fn answer(service: Arc<dyn NodeService>, request: v1::Request) -> Answered {
    let request_len = request_len(&request);
    let outcome = match request.op {
        Some(Op::Propose(propose)) => match check_command(&*service, &propose) {
            Ok(()) => service.propose(propose.command, propose.forwarded).await.map(reply_to_wire).map(Outcome::Reply),
            Err(error) => Err(error),
        },
        Some(Op::Read(read)) => {
            let mode = mode_from_wire(read.mode).map_err(|error| ClientError::malformed(error.to_string()));
            match mode.and_then(|mode| if read.at_leader { service.check_leads().map(|()| mode) } else { Ok(mode) }) {
                Ok(mode) => service.read(read.query, mode).await.map(reply_to_wire).map(Outcome::Reply),
                Err(error) => Err(error),
            }
        }
        Some(Op::Status(_)) => Ok(Outcome::Status(status_to_wire(service.status()))),
        Some(Op::Operation(operation)) => match operation_from_wire(operation) {
            Ok((operation, forwarded)) => {
                let done = Box::pin(service.operate(operation, forwarded)).await;
                done.map(|Operated { index }| Outcome::Operated(v1::Operated { index }))
            }
            Err(error) => Err(ClientError::malformed(error.to_string())),
        },
        None => {
            let why = "the node does not know this operation; a newer client sent it".to_owned();
            Err(Reason::Unsupported { why }.into())
        }
    };
    Answered { response: response(request.id, outcome), request_len }
}

fn request_len(request: &v1::Request) -> usize {
    match &request.op {
        Some(Op::Propose(propose)) => propose.command.len(),
        Some(Op::Read(read)) => read.query.len(),
        Some(Op::Operation(operation)) => operation.encoded_len(),
        Some(Op::Status(_)) | None => 0,
    }
}

fn response(id: u64, outcome: Result<Outcome>) -> v1::Response {
    let outcome = outcome.unwrap_or_else(|error| Outcome::Error(error_to_detail(error)));
    v1::Response { id, result: Some(outcome) }
}

/// The limits that the node's configuration sets; the state machine checks the others.
fn check_command(service: &dyn NodeService, propose: &v1::Propose) -> Result<()> {
    let len = propose.command.len();
    if len > COMMAND_LEN_MAX {
        return Err(Reason::TooLarge { len: len as u64, limit: COMMAND_LEN_MAX as u64 }.into());
    }
    if propose.key_value {
        service.check_key_value()?;
    }
    let value_len_max = service.max_value_len();
    // A command that is shorter than a value may be holds none that is too long: most are not looked into.
    if propose.key_value && len > value_len_max {
        let request = KvRequest::decode_bytes(propose.command.clone())
            .map_err(|error| ClientError::malformed(error.to_string()))?;
        request.command.check(value_len_max)?;
    }
    Ok(())
}

//! The service Kv: unary calls for people of every language.

use std::future::Future;
use std::sync::Arc;

use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, LogId};
use tonic::{Request, Response, Status};

use super::{Phase, Stop};
use crate::convert::{error_to_status, mode_from_wire, record_to_wire};
use crate::generated::v1;
use crate::{ClientError, NodeService, Reason, Reply, Result};

pub(super) struct KvService {
    service: Arc<dyn NodeService>,
    stop: Stop,
}

impl KvService {
    pub(super) fn new(service: Arc<dyn NodeService>, stop: Stop) -> Self {
        Self { service, stop }
    }

    async fn apply(&self, command: KvCommand) -> Result<(LogId, KvOutcome)> {
        self.service.check_key_value()?;
        command.check(self.service.max_value_len())?;
        let proposed = self.service.propose(command.encode(), false);
        let reply = self.unless_ending(proposed, ClientError::Unknown).await?;
        match KvOutcome::decode_bytes(reply.response) {
            Ok(KvOutcome::Rejected(reject)) => Err(reject.into()),
            Ok(outcome) => Ok((reply.at, outcome)),
            Err(error) => Err(unreadable(&error)),
        }
    }

    async fn ask(&self, query: KvQuery, mode: i32) -> Result<(LogId, KvAnswer)> {
        let mode = mode_from_wire(mode).map_err(|error| ClientError::malformed(error.to_string()))?;
        self.service.check_key_value()?;
        let read = self.service.read(query.encode(), mode);
        let reply = self.unless_ending(read, ClientError::ShuttingDown).await?;
        match KvAnswer::decode_bytes(reply.response) {
            Ok(answer) => Ok((reply.at, answer)),
            Err(error) => Err(no_kv_store(&error)),
        }
    }

    /// `otherwise` if the server ends before the answer comes.
    async fn unless_ending(
        &self,
        answer: impl Future<Output = Result<Reply>>,
        otherwise: ClientError,
    ) -> Result<Reply> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            answer = answer => answer,
            () = stop.reached(Phase::Ending) => Err(otherwise),
        }
    }
}

/// The command has been applied, to what effect cannot be told.
fn unreadable(found: &dyn std::fmt::Debug) -> ClientError {
    tracing::warn!(?found, "the state machine answered a key-value command in another language");
    ClientError::Unknown
}

/// A query, which has no effect, was answered by a machine that speaks another language.
fn no_kv_store(found: &dyn std::fmt::Debug) -> ClientError {
    let why = format!("this node's state machine is not the built-in key-value store; it answered {found:?}");
    Reason::Unsupported { why }.into()
}

fn at(id: LogId, revision: u64) -> Option<v1::At> {
    Some(v1::At { term: id.term, index: id.index, revision })
}

fn respond<T>(result: Result<T>) -> std::result::Result<Response<T>, Status> {
    result.map(Response::new).map_err(error_to_status)
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let v1::PutRequest { key, value } = request.into_inner();
        let applied = self.apply(KvCommand::Put { key, value }).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Put { revision } => Ok(v1::PutResponse { at: at(id, revision) }),
            other => Err(unreadable(&other)),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { key, mode } = request.into_inner();
        respond(self.ask(KvQuery::Get { key }, mode).await.and_then(|(id, answer)| match answer {
            KvAnswer::Get { record, revision } => {
                Ok(v1::GetResponse { at: at(id, revision), record: record.map(record_to_wire) })
            }
            other => Err(no_kv_store(&other)),
        }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let applied = self.apply(KvCommand::Delete { key: request.into_inner().key }).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Deleted { revision, existed } => Ok(v1::DeleteResponse { at: at(id, revision), existed }),
            other => Err(unreadable(&other)),
        }))
    }

    async fn compare_and_swap(
        &self,
        request: Request<v1::CompareAndSwapRequest>,
    ) -> Result<Response<v1::CompareAndSwapResponse>, Status> {
        let v1::CompareAndSwapRequest { key, expected, value } = request.into_inner();
        let applied = self.apply(KvCommand::Cas { key, expected, value }).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Cas { revision, succeeded, current } => {
                Ok(v1::CompareAndSwapResponse { at: at(id, revision), succeeded, current })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<v1::RangeResponse>, Status> {
        let v1::RangeRequest { start, end, limit, reverse, keys_only, mode } = request.into_inner();
        let mut query = KvRange::new(KeySpan::new(start, end));
        (query.limit, query.reverse, query.keys_only) = (limit, reverse, keys_only);
        let query = KvQuery::Range(query);
        respond(self.ask(query, mode).await.and_then(|(id, answer)| match answer {
            KvAnswer::Range { records, more, revision } => {
                let records = records.into_iter().map(record_to_wire).collect();
                Ok(v1::RangeResponse { at: at(id, revision), records, more })
            }
            other => Err(no_kv_store(&other)),
        }))
    }
}

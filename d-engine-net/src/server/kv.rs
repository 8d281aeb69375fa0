//! The service Kv: unary calls for people of every language.

use std::future::Future;
use std::sync::Arc;

use d_engine_core::command::KvOpResult;
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRequest, LogId};
use tonic::{Request, Response, Status};

use super::{Phase, Stop};
use crate::convert::{
    Malformed, at_to_wire, delete_from_wire, error_to_status, header_from_wire, mode_from_wire, put_command,
    range_from_wire, record_to_wire, result_to_wire, txn_from_wire,
};
use crate::generated::v1;
use crate::kv::{unexpected, unreadable};
use crate::{ClientError, NodeService, Result, outcome_of};

#[derive(Clone)]
pub(super) struct KvService {
    service: Arc<dyn NodeService>,
    stop: Stop,
}

impl KvService {
    pub(super) fn new(service: Arc<dyn NodeService>, stop: Stop) -> Self {
        Self { service, stop }
    }

    pub(super) async fn apply(
        &self,
        command: KvCommand,
        session: Option<v1::SessionHeader>,
    ) -> Result<(LogId, KvOutcome)> {
        self.service.check_key_value()?;
        command.check(self.service.max_value_len())?;
        let request = KvRequest::new(command, session.map(header_from_wire));
        let proposed = self.service.propose(request.encode(), false);
        outcome_of(self.unless_ending(proposed, ClientError::Unknown).await?)
    }

    /// [`apply`](KvService::apply) of a command that may not have been one.
    async fn apply_if(
        &self,
        command: Result<KvCommand, Malformed>,
        session: Option<v1::SessionHeader>,
    ) -> Result<(LogId, KvOutcome)> {
        self.apply(command.map_err(|error| ClientError::malformed(error.0))?, session).await
    }

    pub(super) async fn ask(&self, query: KvQuery, mode: i32) -> Result<(LogId, KvAnswer)> {
        let mode = mode_from_wire(mode).map_err(|error| ClientError::malformed(error.to_string()))?;
        self.service.check_key_value()?;
        self.unless_ending(self.service.ask(query, mode), ClientError::ShuttingDown).await
    }

    /// `otherwise` if the server ends before the answer comes.
    async fn unless_ending<T>(&self, answer: impl Future<Output = Result<T>>, otherwise: ClientError) -> Result<T> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            answer = answer => answer,
            () = stop.reached(Phase::Ending) => Err(otherwise),
        }
    }
}

pub(super) fn respond<T>(result: Result<T>) -> std::result::Result<Response<T>, Status> {
    result.map(Response::new).map_err(error_to_status)
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let mut request = request.into_inner();
        let session = request.session.take();
        let applied = self.apply_if(put_command(request), session).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Put { revision } => Ok(v1::PutResponse { at: at_to_wire(id, revision), prev: None, lease: 0 }),
            KvOutcome::Done { revision, result: KvOpResult::Put { lease, prev } } => {
                Ok(v1::PutResponse { at: at_to_wire(id, revision), prev: prev.map(record_to_wire), lease })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { key, mode } = request.into_inner();
        respond(self.ask(KvQuery::Get { key }, mode).await.and_then(|(id, answer)| match answer {
            KvAnswer::Get { record, revision } => {
                Ok(v1::GetResponse { at: at_to_wire(id, revision), record: record.map(record_to_wire) })
            }
            other => Err(unexpected(&other)),
        }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let v1::DeleteRequest { key, session } = request.into_inner();
        let applied = self.apply(KvCommand::Delete { key }, session).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Deleted { revision, existed } => {
                Ok(v1::DeleteResponse { at: at_to_wire(id, revision), existed })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Result<Response<v1::DeleteRangeResponse>, Status> {
        let mut request = request.into_inner();
        let session = request.session.take();
        let applied = self.apply_if(delete_from_wire(request).map(KvCommand::DeleteRange), session).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Done { revision, result: KvOpResult::Deleted { deleted, prev } } => {
                let prev = prev.into_iter().map(record_to_wire).collect();
                Ok(v1::DeleteRangeResponse { at: at_to_wire(id, revision), deleted, prev })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn compare_and_swap(
        &self,
        request: Request<v1::CompareAndSwapRequest>,
    ) -> Result<Response<v1::CompareAndSwapResponse>, Status> {
        let v1::CompareAndSwapRequest { key, expected, value, session } = request.into_inner();
        let applied = self.apply(KvCommand::Cas { key, expected, value }, session).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Cas { revision, succeeded, current } => {
                Ok(v1::CompareAndSwapResponse { at: at_to_wire(id, revision), succeeded, current })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<v1::RangeResponse>, Status> {
        let request = request.into_inner();
        let mode = request.mode;
        let answer = self.ask(KvQuery::Range(range_from_wire(request)), mode).await;
        respond(answer.and_then(|(id, answer)| match answer {
            KvAnswer::Range { records, more, revision } => {
                let records = records.into_iter().map(record_to_wire).collect();
                Ok(v1::RangeResponse { at: at_to_wire(id, revision), records, more, count: 0 })
            }
            KvAnswer::Count { count, revision } => {
                Ok(v1::RangeResponse { at: at_to_wire(id, revision), records: Vec::new(), more: false, count })
            }
            other => Err(unexpected(&other)),
        }))
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        let mut request = request.into_inner();
        let session = request.session.take();
        let applied = self.apply_if(txn_from_wire(request).map(KvCommand::Txn), session).await;
        respond(applied.and_then(|(id, outcome)| match outcome {
            KvOutcome::Txn { revision, succeeded, results } => {
                let results = results.into_iter().map(result_to_wire).collect::<Option<Vec<_>>>();
                let results = results.ok_or_else(|| unreadable(&"results of a newer kind"))?;
                Ok(v1::TxnResponse { at: at_to_wire(id, revision), succeeded, results })
            }
            other => Err(unreadable(&other)),
        }))
    }
}

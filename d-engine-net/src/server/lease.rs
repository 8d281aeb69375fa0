//! The services Lease and Session.

use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery};
use tonic::{Request, Response, Status};

use super::kv::{KvService, respond};
use crate::convert::{at_to_wire, lease_to_wire};
use crate::generated::v1;
use crate::kv::{unexpected, unreadable};

#[tonic::async_trait]
impl v1::lease_server::Lease for KvService {
    async fn grant(&self, request: Request<v1::LeaseGrantRequest>) -> Result<Response<v1::LeaseGrantResponse>, Status> {
        let v1::LeaseGrantRequest { ttl_ms, id, session } = request.into_inner();
        let applied = self.apply(KvCommand::LeaseGrant { id, ttl_ms }, session).await;
        respond(applied.and_then(|(at, outcome)| match outcome {
            KvOutcome::LeaseGranted { revision, id, ttl_ms } => {
                Ok(v1::LeaseGrantResponse { at: at_to_wire(at, revision), id, ttl_ms })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn revoke(
        &self,
        request: Request<v1::LeaseRevokeRequest>,
    ) -> Result<Response<v1::LeaseRevokeResponse>, Status> {
        let v1::LeaseRevokeRequest { id, session } = request.into_inner();
        let applied = self.apply(KvCommand::LeaseRevoke { id }, session).await;
        respond(applied.and_then(|(at, outcome)| match outcome {
            KvOutcome::LeasesEnded { revision, keys, .. } => {
                Ok(v1::LeaseRevokeResponse { at: at_to_wire(at, revision), keys })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<v1::LeaseKeepAliveRequest>,
    ) -> Result<Response<v1::LeaseKeepAliveResponse>, Status> {
        let applied = self.apply(KvCommand::LeaseKeepAlive { ids: request.into_inner().ids }, None).await;
        respond(applied.and_then(|(at, outcome)| match outcome {
            KvOutcome::LeasesKept { revision, ttls_ms } => {
                Ok(v1::LeaseKeepAliveResponse { at: at_to_wire(at, revision), ttls_ms })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn time_to_live(
        &self,
        request: Request<v1::LeaseTimeToLiveRequest>,
    ) -> Result<Response<v1::LeaseTimeToLiveResponse>, Status> {
        let v1::LeaseTimeToLiveRequest { id, keys, mode } = request.into_inner();
        respond(self.ask(KvQuery::Lease { id, keys }, mode).await.and_then(|(at, answer)| match answer {
            KvAnswer::Lease { lease, revision } => {
                Ok(v1::LeaseTimeToLiveResponse { at: at_to_wire(at, revision), lease: lease.map(lease_to_wire) })
            }
            other => Err(unexpected(&other)),
        }))
    }

    async fn list(&self, request: Request<v1::LeaseListRequest>) -> Result<Response<v1::LeaseListResponse>, Status> {
        let v1::LeaseListRequest { after, limit, mode } = request.into_inner();
        respond(self.ask(KvQuery::Leases { after, limit }, mode).await.and_then(|(at, answer)| match answer {
            KvAnswer::Leases { ids, more, revision } => {
                Ok(v1::LeaseListResponse { at: at_to_wire(at, revision), ids, more })
            }
            other => Err(unexpected(&other)),
        }))
    }
}

#[tonic::async_trait]
impl v1::session_server::Session for KvService {
    async fn open(&self, _: Request<v1::SessionOpenRequest>) -> Result<Response<v1::SessionOpenResponse>, Status> {
        respond(self.apply(KvCommand::SessionOpen, None).await.and_then(|(_, outcome)| match outcome {
            KvOutcome::SessionOpened { revision, session, window } => {
                Ok(v1::SessionOpenResponse { session, window, revision })
            }
            other => Err(unreadable(&other)),
        }))
    }

    async fn close(
        &self,
        request: Request<v1::SessionCloseRequest>,
    ) -> Result<Response<v1::SessionCloseResponse>, Status> {
        let command = KvCommand::SessionClose { session: request.into_inner().session };
        respond(self.apply(command, None).await.and_then(|(at, outcome)| match outcome {
            KvOutcome::SessionClosed { revision, existed } => {
                Ok(v1::SessionCloseResponse { index: at.index, existed, revision })
            }
            other => Err(unreadable(&other)),
        }))
    }
}

//! The service Cluster.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::convert::{error_to_status, operation_from_wire, status_to_wire};
use crate::generated::v1;
use crate::{ClientError, NodeService, Operated};

pub(super) struct ClusterService {
    service: Arc<dyn NodeService>,
}

impl ClusterService {
    pub(super) fn new(service: Arc<dyn NodeService>) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for ClusterService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let status = Some(status_to_wire(self.service.status()));
        Ok(Response::new(v1::StatusResponse { status }))
    }

    async fn operate(&self, request: Request<v1::Operation>) -> Result<Response<v1::Operated>, Status> {
        let (operation, forwarded) = operation_from_wire(request.into_inner())
            .map_err(|error| error_to_status(ClientError::malformed(error.to_string())))?;
        let Operated { index } = self.service.operate(operation, forwarded).await.map_err(error_to_status)?;
        Ok(Response::new(v1::Operated { index }))
    }
}

//! The service Cluster.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::NodeService;
use crate::convert::status_to_wire;
use crate::generated::v1;

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
}

//! Serves peers and clients on one port.

mod accept;
mod cluster;
mod kv;
mod lease;
mod pipeline;
mod watcher;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::generated::v1::cluster_server::ClusterServer;
use crate::generated::v1::kv_server::KvServer;
use crate::generated::v1::lease_server::LeaseServer;
use crate::generated::v1::pipeline_server::PipelineServer;
use crate::generated::v1::session_server::SessionServer;
use crate::generated::v1::snapshots_server::SnapshotsServer;
use crate::generated::v1::watch_server::WatchServer;
use crate::snapshot::SnapshotService;
use crate::{FRAME_LEN_MAX, HTTP2_FRAME_LEN, NodeService, Peers, WINDOW_LEN};

/// From the wish to stop: requests under way may still be answered for so long.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// After that: connections may take so long to end.
const END_GRACE: Duration = Duration::from_secs(2);
/// Together the time after which a silent connection counts as broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Unary calls under way on one connection, at most; clients wait for their turn.
const CONCURRENT_CALLS_MAX: u32 = 4096;

/// The server could not go on.
#[derive(Debug, thiserror::Error)]
#[error("serving on {address}: {why}")]
pub struct ServeError {
    address: String,
    why: String,
}

/// Serves peers and clients on `listener` until `shutdown` completes; then requests under way are answered or given up
/// within half a second, and every stream ends.
///
/// Dropping the future ends everything as well, without the grace.
///
/// # Errors
/// The server failed.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn NodeService>,
    peers: Arc<Peers>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_or_else(|_| "an unknown address".to_owned(), |address| address.to_string());
    let (phase, stop) = watch::channel(Phase::Running);
    let stop = Stop(stop);
    let mut stopping = stop.clone();
    let (accepted, connections) = mpsc::channel(accept::WAITING_MAX);
    let key_value = kv::KvService::new(service.clone(), stop.clone());
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_LEN)
        .initial_connection_window_size(WINDOW_LEN)
        .max_frame_size(HTTP2_FRAME_LEN)
        .max_concurrent_streams(CONCURRENT_CALLS_MAX)
        .add_service(
            PipelineServer::new(pipeline::PipelineService::new(service.clone(), stop.clone()))
                .max_decoding_message_size(FRAME_LEN_MAX),
        )
        .add_service(KvServer::new(key_value.clone()).max_decoding_message_size(FRAME_LEN_MAX))
        .add_service(LeaseServer::new(key_value.clone()).max_decoding_message_size(FRAME_LEN_MAX))
        .add_service(SessionServer::new(key_value))
        .add_service(WatchServer::new(watcher::WatchService::new(service.clone(), stop.clone())))
        .add_service(SnapshotsServer::new(SnapshotService::new(service.clone(), &peers, stop.clone())))
        .add_service(ClusterServer::new(cluster::ClusterService::new(service)))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            stopping.reached(Phase::Stopping).await;
        });
    let accepting = accept::accept(listener, Arc::clone(peers.shared()), accepted, stop);
    let serving = async {
        let served = server.await;
        // One that ends by itself takes the peers' connections with it.
        phase.send_modify(|phase| *phase = Phase::Stopping.max(*phase));
        served
    };
    let mut server = pin!(async { tokio::join!(serving, accepting).0 });
    let served = tokio::select! {
        served = &mut server => Ok(served),
        () = shutdown => {
            phase.send_replace(Phase::Stopping);
            timeout(ANSWER_GRACE, &mut server).await
        }
    };
    let served = match served {
        Ok(served) => served,
        Err(_) => {
            phase.send_replace(Phase::Ending);
            timeout(END_GRACE, &mut server).await.unwrap_or_else(|_| {
                tracing::warn!(%address, "some connections did not end; they are dropped");
                Ok(())
            })
        }
    };
    served.map_err(|error| ServeError { address, why: error.to_string() })
}

/// How far the server is with stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not at all.
    Running,
    /// No new requests.
    Stopping,
    /// Nothing is waited for any more.
    Ending,
}

/// Tells streams and calls how far the server is with stopping.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<Phase>);

impl Stop {
    /// Completes when the server has come to `phase`; also when it is gone.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // The error says that the server is gone.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }

    /// Whether no new requests are taken.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.borrow() >= Phase::Stopping || self.0.has_changed().is_err()
    }
}

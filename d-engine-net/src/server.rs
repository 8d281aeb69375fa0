//! Serves peers and clients on one port.

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::{NodeService, Peers};

/// The server could not go on.
#[derive(Debug, thiserror::Error)]
#[error("serving {address}: {why}")]
pub struct ServeError {
    address: String,
    why: String,
}

/// Serves peers and clients on `listener` until `shutdown` completes; then every open stream ends.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn NodeService>,
    peers: Arc<Peers>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let _ = (listener, service, peers, shutdown);
    unimplemented!("follows")
}

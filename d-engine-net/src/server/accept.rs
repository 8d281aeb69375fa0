//! Tells peers and callers apart, who come by one port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Phase, Stop};
use crate::framing::PREAMBLE;
use crate::inbound;
use crate::peer::Shared;

/// Connections of callers that wait for the gRPC server.
pub(super) const WAITING_MAX: usize = 64;
/// Whoever connects says something within so long; both protocols begin with the side that dials.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before the next one is accepted, when there was no room for one.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection for the gRPC server.
pub(super) type Accepted = Result<TcpStream, Infallible>;

/// Accepts connections until the server stops; then those of peers end.
pub(super) async fn accept(listener: TcpListener, peers: Arc<Shared>, callers: mpsc::Sender<Accepted>, stop: Stop) {
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    let mut has_failed = false;
    loop {
        tokio::select! {
            () = stopping.reached(Phase::Stopping) => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    has_failed = false;
                    connections.spawn(route(socket, Arc::clone(&peers), callers.clone(), stop.clone()));
                }
                Err(error) => {
                    // No file descriptor is left, or the other side has gone already.
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(%error, "a connection cannot be accepted; trying again");
                    }
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, callers));
    while connections.join_next().await.is_some() {}
}

async fn route(socket: TcpStream, peers: Arc<Shared>, callers: mpsc::Sender<Accepted>, mut stop: Stop) {
    let mut first = [0];
    let peeked = tokio::select! {
        () = stop.reached(Phase::Stopping) => return,
        peeked = timeout(FIRST_BYTE_TIMEOUT, socket.peek(&mut first)) => peeked,
    };
    match peeked {
        Ok(Ok(1)) if first[0] == PREAMBLE[0] => inbound::serve(socket, peers, stop).await,
        // Without it, small answers wait for acknowledgements of those before.
        Ok(Ok(1)) if socket.set_nodelay(true).is_ok() => {
            // The gRPC server may be gone: so is the connection then.
            let _ = callers.send(Ok(socket)).await;
        }
        // Nothing was said, or the connection ended.
        _ => {}
    }
}

//! Watches of a client: on any node, several on one connection.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use d_engine_core::command::KvWatch;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::channel::{dial, stream_end};
use crate::convert::{status_to_error, watch_message_from_wire, watch_to_wire};
use crate::generated::v1;
use crate::generated::v1::watch_client::WatchClient;
use crate::peer::lock;
use crate::{ClientError, FRAME_LEN_MAX, Result, WatchStream};

/// Between two rounds through all nodes.
const PAUSE: Duration = Duration::from_millis(100);
/// A node accepts a watch within so long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to each node that is or was watched on.
pub(super) struct WatchChannels {
    endpoints: Vec<String>,
    open: Mutex<HashMap<String, Channel>>,
    /// Index of the endpoint to try next. Watches begin at different ones: every node serves them from its own copy.
    next: AtomicUsize,
}

impl WatchChannels {
    pub(super) fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        let first = fastrand::usize(..endpoints.len().max(1));
        Self { endpoints, open: Mutex::default(), next: first.into() }
    }

    /// Begins a watch on the first node that takes it.
    pub(super) async fn watch(&self, watch: KvWatch, deadline: Instant) -> Result<WatchStream> {
        let request = watch_to_wire(watch);
        let mut tried = 0;
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
            let address = &self.endpoints[place];
            let attempt = deadline.min(Instant::now() + OPEN_TIMEOUT);
            let answer = timeout_at(attempt, self.watch_at(address, request.clone())).await;
            let silent = || Err(ClientError::unavailable(format!("{address} does not answer")));
            let error = match answer.unwrap_or_else(|_| silent()) {
                Ok(stream) => return Ok(stream),
                Err(error @ ClientError::Rejected { .. }) => return Err(error),
                Err(error) => error,
            };
            lock(&self.open).remove(address);
            tried += 1;
            let pause = if tried % self.endpoints.len() == 0 { PAUSE } else { Duration::ZERO };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn watch_at(&self, address: &str, request: v1::WatchRequest) -> Result<WatchStream> {
        let channel = self.channel(address).await?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(FRAME_LEN_MAX);
        let from = address.to_owned();
        let responses = client.open(request).await.map_err(|status| error_of(&from, &status))?.into_inner();
        Ok(Box::pin(responses.map(move |response| match response {
            Ok(response) => {
                watch_message_from_wire(response).map_err(|error| ClientError::unavailable(error.to_string()))
            }
            Err(status) => Err(error_of(&from, &status)),
        })))
    }

    async fn channel(&self, address: &str) -> Result<Channel> {
        if let Some(channel) = lock(&self.open).get(address) {
            return Ok(channel.clone());
        }
        let refused = |why| ClientError::unavailable(format!("connecting to {address}: {why}"));
        let channel = dial(address).await.map_err(refused)?;
        // Of two that were dialled at once, one is enough.
        Ok(lock(&self.open).entry(address.to_owned()).or_insert(channel).clone())
    }
}

fn error_of(address: &str, status: &Status) -> ClientError {
    match status_to_error(status) {
        Some(error) => error,
        None if status.code() == Code::Unimplemented => {
            ClientError::unavailable(format!("{address} has no watches; it runs an older version"))
        }
        None => ClientError::unavailable(format!("watching on {address}: {}", stream_end(status))),
    }
}

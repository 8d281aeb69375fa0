//! Watches of a client: on any node, several on one connection.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use d_engine_core::command::{KvWatch, WatchEnd, WatchMessage};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::channel::{dial, stream_end};
use crate::convert::{status_to_error, watch_message_from_wire, watch_to_wire};
use crate::generated::v1;
use crate::generated::v1::watch_client::WatchClient;
use crate::peer::lock;
use crate::{ClientError, FRAME_LEN_MAX, Reason, Result, WatchStream};

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

    /// Begins a watch on the first node that takes it and has the changes it asks for.
    ///
    /// # Errors
    /// `Rejected` with `Compacted`: no node that could be reached has them; with the earliest revision that one of them has.
    pub(super) async fn watch(&self, watch: KvWatch, deadline: Instant) -> Result<WatchStream> {
        let request = watch_to_wire(watch);
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let mut kept_from = None;
        let mut tried = 0;
        loop {
            let address = &self.endpoints[(first + tried) % self.endpoints.len()];
            let attempt = deadline.min(Instant::now() + OPEN_TIMEOUT);
            let answer = timeout_at(attempt, self.begin_at(address, request.clone())).await;
            let silent = || Err(ClientError::unavailable(format!("{address} does not answer")));
            let error = match answer.unwrap_or_else(|_| silent()) {
                Ok(stream) => return Ok(stream),
                Err(ClientError::Rejected { why: Reason::Compacted { first_revision } }) => {
                    let earliest = kept_from.map_or(first_revision, |kept: u64| kept.min(first_revision));
                    kept_from = Some(earliest);
                    None
                }
                Err(error @ ClientError::Rejected { .. }) => return Err(error),
                Err(error) => {
                    lock(&self.open).remove(address);
                    Some(error)
                }
            };
            tried += 1;
            let is_round_over = tried % self.endpoints.len() == 0;
            let pause = if is_round_over { PAUSE } else { Duration::ZERO };
            let is_late = Instant::now() + pause >= deadline;
            match (kept_from, error) {
                (Some(first_revision), _) if is_round_over || is_late => {
                    return Err(Reason::Compacted { first_revision }.into());
                }
                (_, Some(error)) if is_late => return Err(error),
                _ => {}
            }
            sleep(pause).await;
        }
    }

    /// A watch on this node that has begun.
    async fn begin_at(&self, address: &str, request: v1::WatchRequest) -> Result<WatchStream> {
        let mut messages = self.watch_at(address, request).await?;
        match messages.next().await {
            Some(Ok(WatchMessage::Ended(WatchEnd::Compacted { first_revision }))) => {
                Err(Reason::Compacted { first_revision }.into())
            }
            Some(Ok(WatchMessage::Ended(end))) => {
                Err(ClientError::unavailable(format!("{address} ended the watch at once: {end}")))
            }
            Some(Ok(first)) => Ok(Box::pin(stream::iter([Ok(first)]).chain(messages))),
            Some(Err(error)) => Err(error),
            None => Err(ClientError::unavailable(format!("{address} ended the watch at once"))),
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

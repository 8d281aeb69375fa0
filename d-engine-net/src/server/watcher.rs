//! The service Watch: one stream for each watch, from the node's own state machine.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use d_engine_core::command::{WatchEnd, WatchMessage};
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{Phase, Stop};
use crate::convert::{error_to_status, watch_from_wire, watch_message_to_wire};
use crate::generated::v1;
use crate::{ClientError, NodeService, Result, WatchStream, watch_queue};

pub(super) struct WatchService {
    service: Arc<dyn NodeService>,
    stop: Stop,
}

impl WatchService {
    pub(super) fn new(service: Arc<dyn NodeService>, stop: Stop) -> Self {
        Self { service, stop }
    }

    fn begin(&self, request: v1::WatchRequest) -> Result<Told> {
        let watch = watch_from_wire(request);
        self.service.check_key_value()?;
        watch.check()?;
        let (sink, messages) = watch_queue();
        self.service.watch(watch.encode(), sink)?;
        let mut stop = self.stop.clone();
        let stopping = Box::pin(async move { stop.reached(Phase::Stopping).await });
        Ok(Told { messages, stopping, has_ended: false })
    }
}

#[tonic::async_trait]
impl v1::watch_server::Watch for WatchService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn open(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let told = self.begin(request.into_inner()).map_err(error_to_status)?;
        Ok(Response::new(Box::pin(told)))
    }
}

/// What one watcher is told; ends with a reason, also when the server stops.
struct Told {
    messages: WatchStream,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_ended: bool,
}

impl Stream for Told {
    type Item = Result<v1::WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let message = if this.stopping.as_mut().poll(context).is_ready() {
            Some(Ok(WatchMessage::Ended(WatchEnd::Stopped)))
        } else {
            match this.messages.poll_next_unpin(context) {
                Poll::Ready(message) => message,
                Poll::Pending => return Poll::Pending,
            }
        };
        this.has_ended = !matches!(
            message,
            Some(Ok(WatchMessage::Created { .. } | WatchMessage::Changes { .. } | WatchMessage::Progress { .. }))
        );
        Poll::Ready(message.map(|message| {
            let newer = || ClientError::unavailable("the state machine tells what this server cannot pass on");
            message.and_then(|message| watch_message_to_wire(message).ok_or_else(newer)).map_err(error_to_status)
        }))
    }
}

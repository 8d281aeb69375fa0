//! Unary gRPC alone: a server that keeps nothing and answers each get with a value, in this process with its callers. What
//! a store can at best do for plain calls of any language.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_load::{Load, Round};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Data;
use crate::log::Result;
use crate::subject::{Subject, UNARY_ALONE, Work};
use crate::unary::{Caller, Outcome, Protocol, unary};

const PATH: &str = "/peers.Echo/Call";

/// A put has a value, a get has none.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(bytes = "bytes", tag = "1")]
    value: Bytes,
}

/// Answers.
#[derive(Clone)]
struct Echo {
    value: Bytes,
}

impl NamedService for Echo {
    const NAME: &'static str = "peers.Echo";
}

impl UnaryService<Asked> for Echo {
    type Response = Answered;
    type Future = std::future::Ready<std::result::Result<Response<Answered>, Status>>;

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let value = if request.get_ref().value.is_empty() { self.value.clone() } else { Bytes::new() };
        std::future::ready(Ok(Response::new(Answered { value })))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::<Answered, Asked>::default()).unary(service, request).await) })
    }
}

/// What is called.
struct Unary;

impl Protocol for Unary {
    async fn put(channel: Channel, key: Bytes, value: Bytes) -> Outcome<()> {
        unary(channel, Asked { key, value }, PATH).await.map(|Answered { .. }| ())
    }

    async fn get(channel: Channel, _: Work, key: Bytes) -> Outcome<Option<Bytes>> {
        let answered: Answered = unary(channel, Asked { key, value: Bytes::new() }, PATH).await?;
        Ok(Some(answered.value))
    }
}

struct Alone {
    caller: Arc<Caller<Unary>>,
}

/// Starts the server; it serves as long as this process lives.
pub async fn start(data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?.to_string();
    let echo = Echo { value: vec![b'v'; data.value_bytes].into() };
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(Server::builder().add_service(echo).serve_with_incoming(incoming));
    Ok(vec![Box::new(Alone { caller: Caller::new(&address, data)? })])
}

#[async_trait(?Send)]
impl Subject for Alone {
    fn name(&self) -> &'static str {
        UNARY_ALONE
    }

    fn about(&self) -> String {
        let version = crate::peers::locked_version("tonic", "0.14").unwrap_or("unknown");
        format!("tonic {version}, one server that keeps nothing, plain unary calls over ten connections")
    }

    fn can(&self, work: Work) -> bool {
        matches!(work, Work::Put | Work::Get)
    }

    async fn answers(&mut self) -> Result<u64> {
        self.caller.answers().await?;
        Ok(0)
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        self.caller.round(work, load).await
    }
}

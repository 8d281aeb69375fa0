//! Plain unary gRPC calls over a few connections, as a client of any language makes them.

use std::sync::Arc;

use bytes::Bytes;
use d_engine_load::{Load, Round};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::cluster::Data;
use crate::log::Result;
use crate::subject::Work;

/// Connections; callers share them.
const CONNECTIONS: usize = 10;
const AT_ONCE: u64 = 500;

/// What a service's puts and gets are on the wire.
pub trait Protocol: Send + Sync + 'static {
    /// Writes this key.
    fn put(channel: Channel, key: Bytes, value: Bytes) -> impl Future<Output = Outcome<()>> + Send;

    /// Reads this key; the value if it is there.
    fn get(channel: Channel, work: Work, key: Bytes) -> impl Future<Output = Outcome<Option<Bytes>>> + Send;
}

pub type Outcome<T> = std::result::Result<T, Status>;

/// Calls to one server.
pub struct Caller<P> {
    channels: Vec<Channel>,
    keys: u64,
    value: Bytes,
    protocol: std::marker::PhantomData<P>,
}

impl<P: Protocol> Caller<P> {
    /// Connects when it is first called.
    pub fn new(address: &str, data: Data) -> Result<Arc<Self>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channels = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
        let value = vec![b'v'; data.value_bytes].into();
        Ok(Arc::new(Self { channels, keys: data.keys, value, protocol: std::marker::PhantomData }))
    }

    /// A call with this random number, over one of the first `connections`.
    async fn call(self: Arc<Self>, work: Work, random: u64, connections: usize) -> Outcome<()> {
        // The key takes the low digits.
        let channel = self.channels[(random >> 40) as usize % connections].clone();
        let key = key_of(random % self.keys);
        if work == Work::Put {
            return P::put(channel, key, self.value.clone()).await;
        }
        match P::get(channel, work, key).await? {
            Some(value) if value.len() == self.value.len() => Ok(()),
            _ => Err(Status::data_loss("a key that was written is missing or has another value")),
        }
    }

    /// Writes every key.
    pub async fn fill(self: &Arc<Self>) -> Result<()> {
        for first in (0..self.keys).step_by(AT_ONCE as usize) {
            let numbers = first..self.keys.min(first + AT_ONCE);
            let puts: Vec<_> = numbers.map(|key| tokio::spawn(Arc::clone(self).call(Work::Put, key, 1))).collect();
            for put in puts {
                put.await??;
            }
        }
        Ok(())
    }

    /// Writes a key and reads it.
    pub async fn answers(self: &Arc<Self>) -> Result<()> {
        Arc::clone(self).call(Work::Put, 0, 1).await?;
        Ok(Arc::clone(self).call(Work::Get, 0, 1).await?)
    }

    /// One round of this load.
    pub async fn round(self: &Arc<Self>, work: Work, load: &Load) -> Result<Round> {
        let connections = load.clients.clamp(1, CONNECTIONS);
        let caller = Arc::clone(self);
        load.round(move |random| Arc::clone(&caller).call(work, random, connections)).await
    }
}

/// One call.
pub async fn unary<Q, A>(channel: Channel, request: Q, path: &'static str) -> Outcome<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// Eight bytes.
fn key_of(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

//! The stream that another node opened to send us its messages.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::Hello;
use crate::convert::{Malformed, hello_from_wire, hello_to_wire, message_from_wire};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{PeerEvent, Peers, Shared, lock};
use crate::server::{Phase, Stop};

/// A peer says Hello within so long.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service Peer.
pub(crate) struct PeerService {
    shared: Arc<Shared>,
    stop: Stop,
}

impl PeerService {
    pub(crate) fn new(peers: &Peers, stop: Stop) -> Self {
        Self { shared: peers.shared().clone(), stop }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<v1::PeerFrame, Status>> + Send>>;

#[tonic::async_trait]
impl v1::peer_server::Peer for PeerService {
    type ConnectStream = Frames;

    async fn connect(&self, request: Request<Streaming<v1::PeerFrame>>) -> Result<Response<Frames>, Status> {
        let inbound = Inbound {
            frames: request.into_inner(),
            hello: self.shared.hello.clone(),
            shared: self.shared.clone(),
            stop: self.stop.clone(),
            remote: None,
            ended: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(inbound, Inbound::next))))
    }
}

/// One stream from a peer; it is read by the task that carries the answer.
struct Inbound {
    frames: Streaming<v1::PeerFrame>,
    hello: watch::Receiver<Hello>,
    shared: Arc<Shared>,
    stop: Stop,
    remote: Option<Remote>,
    ended: bool,
}

/// The other side, once its Hello was accepted.
struct Remote {
    hello: Hello,
    claim: Claim,
}

impl Inbound {
    /// The next frame of the answer: our Hello; then one only if the peer is refused, after which the stream ends.
    async fn next(mut self) -> Option<(Result<v1::PeerFrame, Status>, Self)> {
        if self.ended {
            return None;
        }
        let answer = match self.remote {
            None => self.greet().await,
            Some(_) => match self.receive().await {
                Ok(()) => return None,
                Err(refused) => Err(refused),
            },
        };
        let frame = match answer {
            Ok(hello) => Ok(Frame::Hello(hello)),
            Err(refused) => {
                self.ended = true;
                self.shared.warn_once(&refused.why);
                match refused.malformed {
                    true => Err(Status::invalid_argument(refused.why)),
                    false => Ok(Frame::Refusal(v1::Refusal { why: refused.why })),
                }
            }
        };
        Some((frame.map(|frame| v1::PeerFrame { frame: Some(frame) }), self))
    }

    async fn greet(&mut self) -> Result<v1::Hello, Refused> {
        let first = tokio::select! {
            () = self.stop.reached(Phase::Stopping) => return Err(Refused::because("this node is shutting down")),
            first = timeout(HELLO_TIMEOUT, self.frames.message()) => first,
        };
        let wire = match first {
            Ok(Ok(Some(v1::PeerFrame { frame: Some(Frame::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return Err(Refused::because("the first frame of a peer's stream is not a Hello")),
            Ok(Err(status)) => return Err(Refused::because(format!("reading a peer's Hello: {}", status.message()))),
            Err(_) => return Err(Refused::because("a peer opened a stream and did not say Hello")),
        };
        let hello = hello_from_wire(&wire)?;
        let local = self.hello.borrow_and_update().clone();
        if let Some(why) = hello.objection(&local) {
            return Err(Refused::because(why));
        }
        if wire.to != 0 && wire.to != local.node {
            let (node, to, here) = (hello.node, wire.to, local.node);
            return Err(Refused::because(format!("node {node} dialled node {to} and reached node {here}")));
        }
        let claim = Claims::claim(&self.shared, &hello)?;
        self.shared.greeted_by(&hello);
        self.shared.heard_from(hello.node);
        let answer = hello_to_wire(&local, hello.node);
        self.remote = Some(Remote { hello, claim });
        Ok(answer)
    }

    /// Passes messages on until the stream ends.
    async fn receive(&mut self) -> Result<(), Refused> {
        loop {
            if self.stop.is_stopping() || self.shared.is_stopped() || !self.holds_claim() {
                return Ok(());
            }
            if self.hello.has_changed().unwrap_or(false) {
                self.check_again()?;
            }
            let frame = tokio::select! {
                biased;
                frame = self.frames.message() => frame,
                () = self.stop.reached(Phase::Stopping) => return Ok(()),
                () = self.shared.stopped() => return Ok(()),
                Ok(()) = self.hello.changed() => {
                    self.check_again()?;
                    continue;
                }
            };
            match frame {
                Ok(Some(frame)) => self.take(frame)?,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::debug!(from = self.remote.as_ref().map(|remote| remote.hello.node), %status, "a peer's stream broke");
                    return Ok(());
                }
            }
        }
    }

    fn holds_claim(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.claim.holds())
    }

    fn take(&mut self, frame: v1::PeerFrame) -> Result<(), Refused> {
        let Some(remote) = &mut self.remote else { return Ok(()) };
        match frame.frame {
            Some(Frame::Messages(batch)) => {
                let from = remote.hello.node;
                let mut messages = Vec::with_capacity(batch.messages.len());
                let mut outcome = Ok(());
                for message in batch.messages {
                    match message_from_wire(message, remote.hello.incarnation) {
                        Ok(Some(message)) => messages.push(message),
                        Ok(None) => tracing::debug!(from, "a message of an unknown kind was dropped"),
                        Err(malformed) => {
                            outcome = Err(malformed.into());
                            break;
                        }
                    }
                }
                // Those before one that is malformed count.
                (self.shared.sink)(PeerEvent::Messages { from, messages });
                outcome
            }
            Some(Frame::Hello(wire)) => {
                let hello = hello_from_wire(&wire)?;
                if (hello.node, hello.incarnation) != (remote.hello.node, remote.hello.incarnation) {
                    return Err(Refused::because(format!("node {} became another on one stream", remote.hello.node)));
                }
                remote.hello = hello;
                self.shared.greeted_by(&remote.hello);
                self.check_again()
            }
            Some(Frame::Refusal(_)) | None => Ok(()),
        }
    }

    /// Facts have changed here or there since the Hello.
    fn check_again(&mut self) -> Result<(), Refused> {
        let local = self.hello.borrow_and_update();
        match self.remote.as_ref().and_then(|remote| remote.hello.objection(&local)) {
            Some(why) => Err(Refused::because(why)),
            None => Ok(()),
        }
    }
}

struct Refused {
    why: String,
    malformed: bool,
}

impl Refused {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), malformed: false }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self { why: malformed.to_string(), malformed: true }
    }
}

/// Which data directory speaks for each peer at the moment, so that two nodes with one id are noticed.
#[derive(Default)]
pub(crate) struct Claims {
    of_node: Mutex<HashMap<u64, (u128, Arc<AtomicBool>)>>,
}

/// Held by a stream; the next stream of the same data directory takes it over.
struct Claim {
    node: u64,
    superseded: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Claims {
    fn claim(shared: &Arc<Shared>, hello: &Hello) -> Result<Claim, Refused> {
        let superseded = Arc::new(AtomicBool::new(false));
        let entry = (hello.incarnation, superseded.clone());
        match lock(&shared.claims.of_node).entry(hello.node) {
            Entry::Occupied(mut held) if held.get().0 == hello.incarnation => {
                let (_, older) = held.insert(entry);
                older.store(true, Ordering::Relaxed);
            }
            Entry::Occupied(held) => {
                let (node, there, here) = (hello.node, held.get().0, hello.incarnation);
                return Err(Refused::because(format!(
                    "two nodes claim the id {node}: data directories {there:032x} and {here:032x}; give each node its own id"
                )));
            }
            Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
        Ok(Claim { node: hello.node, superseded, shared: shared.clone() })
    }
}

impl Claim {
    fn holds(&self) -> bool {
        !self.superseded.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut of_node = lock(&self.shared.claims.of_node);
        if of_node.get(&self.node).is_some_and(|(_, current)| Arc::ptr_eq(current, &self.superseded)) {
            of_node.remove(&self.node);
            drop(of_node);
            self.shared.left_by(self.node);
        }
    }
}

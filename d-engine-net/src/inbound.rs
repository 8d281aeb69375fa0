//! The connection that another node opened to send us its messages.
//!
//! One task says Hello, reads, and drives the node with what it reads.

mod claims;
mod reader;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Hello;
use crate::convert::{Malformed, hello_from_wire, hello_to_wire};
use crate::framing::{FrameReader, PREAMBLE, ReadError, prepare, put_frame, read_greeting, read_preamble};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{Shared, lock};
use crate::server::{Phase, Stop};
use claims::Claim;
pub(crate) use claims::Claims;
use reader::Reader;

/// A peer says Hello within so long.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is refused ends the connection within so long, or it is ended here.
const REFUSED_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a peer is not listened to.
#[derive(Debug)]
struct Refused {
    why: String,
}

impl Refused {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::because(malformed.to_string())
    }
}

/// Serves a connection that has begun with the first byte of [`PREAMBLE`], until either side ends it.
pub(crate) async fn serve(mut socket: TcpStream, shared: Arc<Shared>, stop: Stop) {
    let mut inbound = Inbound { hello: shared.hello.clone(), shared, stop };
    let (answer, remote) = match inbound.greet(&mut socket).await {
        Ok((answer, remote)) => (Frame::Hello(answer), Some(remote)),
        Err(None) => return,
        Err(Some(refused)) => (inbound.refusal(refused), None),
    };
    let mut bytes = PREAMBLE.to_vec();
    put_frame(&mut bytes, answer);
    match remote {
        Some((remote, claim)) => {
            if socket.write_all(&bytes).await.is_ok() {
                inbound.receive(socket, remote, claim).await;
            }
        }
        None => {
            let (socket, answers) = socket.into_split();
            refuse(FrameReader::new(socket), answers, &bytes).await;
        }
    }
}

/// Says `bytes`, and waits until the peer has ended the connection: closed with something unread, it would take them with it.
async fn refuse(mut frames: FrameReader<OwnedReadHalf>, mut answers: OwnedWriteHalf, bytes: &[u8]) {
    let refuse = async {
        answers.write_all(bytes).await?;
        answers.shutdown().await?;
        frames.drain().await;
        std::io::Result::Ok(())
    };
    // A peer that is gone need not be told.
    let _ = timeout(REFUSED_TIMEOUT, refuse).await;
}

struct Inbound {
    hello: watch::Receiver<Hello>,
    shared: Arc<Shared>,
    stop: Stop,
}

impl Inbound {
    /// Reads the peer's Hello and makes ours; `None`: the connection ended before.
    async fn greet(&mut self, socket: &mut TcpStream) -> Result<(v1::Hello, (Hello, Claim)), Option<Refused>> {
        let refused = |why: &str| Some(Refused::because(why));
        prepare(socket).map_err(|_| None)?;
        let first = async {
            read_preamble(socket).await?;
            read_greeting(socket).await
        };
        let first = tokio::select! {
            () = self.stop.reached(Phase::Stopping) => return Err(refused("this node is shutting down")),
            first = timeout(HELLO_TIMEOUT, first) => first,
        };
        let wire = match first {
            Ok(Ok(Some(Frame::Hello(hello)))) => hello,
            Ok(Ok(_)) => return Err(refused("the first frame of a peer's connection is not a Hello")),
            Ok(Err(error @ ReadError::Malformed(_))) => return Err(Some(Refused::because(error.to_string()))),
            Ok(Err(ReadError::Broken(_))) => return Err(None),
            Err(_) => return Err(refused("a peer opened a connection and did not say Hello")),
        };
        self.accept(&wire).map_err(Some)
    }

    fn accept(&mut self, wire: &v1::Hello) -> Result<(v1::Hello, (Hello, Claim)), Refused> {
        let hello = hello_from_wire(wire)?;
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
        Ok((hello_to_wire(&local, hello.node), (hello, claim)))
    }

    fn refusal(&self, Refused { why }: Refused) -> Frame {
        self.shared.warn_once(&why);
        Frame::Refusal(v1::Refusal { why })
    }

    /// Passes on what comes, until the connection ends or is to end.
    async fn receive(mut self, socket: TcpStream, remote: Hello, claim: Claim) {
        let (socket, answers) = socket.into_split();
        let mut frames = FrameReader::new(socket);
        let remote = Mutex::new(remote);
        let mut reader = Reader::new(&self.shared, &remote, self.hello.clone());
        let stop = self.stop.clone();
        // What the socket brings then is nobody's.
        let is_over = || self.shared.is_stopped() || stop.is_stopping() || !claim.holds();
        let refused = tokio::select! {
            refused = reader.run(&mut frames, is_over) => refused,
            () = self.stop.reached(Phase::Stopping) => None,
            () = self.shared.stopped() => None,
            () = claim.superseded() => None,
            refused = disagreement(&mut self.hello, &remote) => Some(refused),
        };
        let Some(refused) = refused else { return };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, self.refusal(refused));
        refuse(frames, answers, &bytes).await;
    }
}

/// Completes when facts have changed here so that the peer is not listened to any more.
async fn disagreement(hello: &mut watch::Receiver<Hello>, remote: &Mutex<Hello>) -> Refused {
    loop {
        if hello.changed().await.is_err() {
            // The node is about to end.
            return std::future::pending().await;
        }
        let local = hello.borrow_and_update();
        if let Some(why) = lock(remote).objection(&local) {
            return Refused::because(why);
        }
    }
}

//! What a peer sends, from frames to the node.

use std::sync::{Arc, Mutex};

use d_engine_raft::Message;
use tokio::io::AsyncRead;
use tokio::sync::watch;

use super::Refused;
use crate::Hello;
use crate::convert::{hello_from_wire, message_from_wire};
use crate::framing::{FrameReader, ReadError};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{PeerEvent, Shared, lock};

/// Messages that have arrived are passed on together, up to so many.
const TOGETHER_MAX: usize = 1024;

pub(super) struct Reader<'a> {
    shared: &'a Arc<Shared>,
    /// What the peer says of itself; node and incarnation never change.
    remote: &'a Mutex<Hello>,
    /// What this node says of itself.
    hello: watch::Receiver<Hello>,
    from: u64,
    incarnation: u128,
    messages: Vec<Message>,
}

impl<'a> Reader<'a> {
    /// `hello` has not changed since `remote` was found to agree with it.
    pub(super) fn new(shared: &'a Arc<Shared>, remote: &'a Mutex<Hello>, hello: watch::Receiver<Hello>) -> Self {
        let (from, incarnation) = {
            let remote = lock(remote);
            (remote.node, remote.incarnation)
        };
        Self { shared, remote, hello, from, incarnation, messages: Vec::new() }
    }

    /// Passes messages on until the connection ends, `is_over` says so, or its peer is to be refused.
    pub(super) async fn run<R: AsyncRead + Unpin>(
        &mut self,
        frames: &mut FrameReader<R>,
        is_over: impl Fn() -> bool,
    ) -> Option<Refused> {
        loop {
            let outcome = match frames.read().await {
                Ok(_) if is_over() => return None,
                Ok(frame) => self.check().and_then(|()| self.take(frame, frames.has_frame())),
                Err(ReadError::Malformed(why)) => {
                    self.pass_on();
                    Err(Refused::because(format!("malformed frame: {why}")))
                }
                Err(ReadError::Broken(error)) => {
                    tracing::debug!(from = self.from, %error, "a peer's connection ended");
                    self.pass_on();
                    return None;
                }
            };
            if let Err(refused) = outcome {
                return Some(refused);
            }
        }
    }

    /// Facts may have changed here since the last frame.
    fn check(&mut self) -> Result<(), Refused> {
        if !self.hello.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let objection = lock(self.remote).objection(&self.hello.borrow_and_update());
        objection.map_or(Ok(()), |why| Err(Refused::because(why)))
    }

    fn take(&mut self, frame: Option<Frame>, is_another_there: bool) -> Result<(), Refused> {
        match frame {
            Some(Frame::Messages(batch)) => {
                let outcome = self.gather(batch);
                if outcome.is_err() || self.messages.len() >= TOGETHER_MAX || !is_another_there {
                    // Those before one that is malformed count.
                    self.pass_on();
                }
                outcome
            }
            Some(Frame::Hello(wire)) => {
                self.pass_on();
                self.greet_again(hello_from_wire(&wire)?)
            }
            Some(Frame::Refusal(_)) | None => {
                if !is_another_there {
                    self.pass_on();
                }
                Ok(())
            }
        }
    }

    fn gather(&mut self, batch: v1::MessageBatch) -> Result<(), Refused> {
        for message in batch.messages {
            match message_from_wire(message, self.incarnation)? {
                Some(message) => self.messages.push(message),
                None => tracing::debug!(from = self.from, "a message of an unknown kind was dropped"),
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if !messages.is_empty() {
            (self.shared.sink)(PeerEvent::Messages { from: self.from, messages });
        }
    }

    /// The peer's facts have changed.
    fn greet_again(&mut self, hello: Hello) -> Result<(), Refused> {
        if (hello.node, hello.incarnation) != (self.from, self.incarnation) {
            return Err(Refused::because(format!("node {} became another on one connection", self.from)));
        }
        *lock(self.remote) = hello.clone();
        self.shared.greeted_by(&hello);
        let objection = hello.objection(&self.shared.hello.borrow());
        objection.map_or(Ok(()), |why| Err(Refused::because(why)))
    }
}

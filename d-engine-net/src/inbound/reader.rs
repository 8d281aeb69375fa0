//! The thread that reads what a peer sends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use d_engine_raft::Message;
use tokio::sync::mpsc;

use super::Refused;
use crate::Hello;
use crate::convert::{hello_from_wire, message_from_wire};
use crate::framing::{FrameReader, ReadError};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{PeerEvent, Shared, lock};

/// Messages that have arrived are passed on together, up to so many.
const TOGETHER_MAX: usize = 1024;

pub(super) struct Reader {
    frames: FrameReader,
    shared: Arc<Shared>,
    /// What the peer says of itself; node and incarnation never change.
    remote: Arc<Mutex<Hello>>,
    from: u64,
    incarnation: u128,
    /// Nothing is passed on any more.
    over: Arc<AtomicBool>,
    refusals: mpsc::UnboundedSender<Refused>,
    messages: Vec<Message>,
}

impl Reader {
    pub(super) fn new(
        frames: FrameReader,
        shared: &Arc<Shared>,
        remote: &Arc<Mutex<Hello>>,
        over: &Arc<AtomicBool>,
        refusals: mpsc::UnboundedSender<Refused>,
    ) -> Self {
        let (from, incarnation) = {
            let remote = lock(remote);
            (remote.node, remote.incarnation)
        };
        Self {
            frames,
            shared: Arc::clone(shared),
            remote: Arc::clone(remote),
            from,
            incarnation,
            over: Arc::clone(over),
            refusals,
            messages: Vec::new(),
        }
    }

    /// Passes messages on until the connection ends; once it is over, only waits until the peer has noticed.
    pub(super) fn run(mut self) {
        let refused = loop {
            let taken = match self.frames.read() {
                Ok(_) if self.is_over() => break None,
                Ok(frame) => self.take(frame),
                Err(ReadError::Malformed(why)) => Err(Refused::because(format!("malformed frame: {why}"))),
                Err(ReadError::Broken(error)) => {
                    tracing::debug!(from = self.from, %error, "a peer's connection ended");
                    return self.pass_on();
                }
            };
            if let Err(refused) = taken {
                break Some(refused);
            }
        };
        if let Some(refused) = refused {
            self.over.store(true, Ordering::Release);
            // Whoever is to tell the peer may have gone.
            let _ = self.refusals.send(refused);
        }
        self.frames.drain();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.shared.is_stopped()
    }

    fn take(&mut self, frame: Option<Frame>) -> Result<(), Refused> {
        match frame {
            Some(Frame::Messages(batch)) => {
                let outcome = self.gather(batch);
                if outcome.is_err() || self.messages.len() >= TOGETHER_MAX || !self.frames.has_frame() {
                    // Those before one that is malformed count.
                    self.pass_on();
                }
                outcome
            }
            Some(Frame::Hello(wire)) => {
                self.pass_on();
                self.greet_again(hello_from_wire(&wire)?)
            }
            Some(Frame::Refusal(_)) | None => Ok(()),
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
        if !messages.is_empty() && !self.is_over() {
            (self.shared.sink)(PeerEvent::Messages { from: self.from, messages });
        }
    }

    /// The peer's facts have changed.
    fn greet_again(&mut self, hello: Hello) -> Result<(), Refused> {
        if (hello.node, hello.incarnation) != (self.from, self.incarnation) {
            return Err(Refused::because(format!("node {} became another on one connection", self.from)));
        }
        *lock(&self.remote) = hello.clone();
        self.shared.greeted_by(&hello);
        let objection = hello.objection(&self.shared.hello.borrow());
        objection.map_or(Ok(()), |why| Err(Refused::because(why)))
    }
}

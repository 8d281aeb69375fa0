//! One connection to a peer, from its Hello to its end.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Link;
use super::queue::Queue;
use crate::channel::{CONNECT_TIMEOUT, endpoint, host_and_port};
use crate::convert::{hello_from_wire, hello_to_wire};
use crate::framing::{PREAMBLE, ReadError, prepare, put_frame, read_greeting, read_preamble};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{Shared, lock};
use crate::{FRAME_LEN_TARGET, Hello};

/// A peer answers our Hello within so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that ends the connection has said why, if it did, within so long.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(200);
/// Frames that are written before other tasks go on.
const FRAMES_MAX: usize = 8;

/// A connection that the peer has accepted.
pub(super) struct Session {
    answers: OwnedReadHalf,
    socket: Arc<OwnedWriteHalf>,
    hello: watch::Receiver<Hello>,
    link: Connected,
}

/// While it lives, senders write to the connection.
struct Connected(Arc<Link>);

impl Drop for Connected {
    fn drop(&mut self) {
        lock(&self.0.writer).take();
    }
}

impl Session {
    pub(super) async fn open(link: &Arc<Link>, shared: &Arc<Shared>, address: &str) -> Result<Self, String> {
        // For the sake of what it says of an address that is none.
        endpoint(address)?;
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(host_and_port(address)));
        let socket = connecting.await.map_err(|_| format!("no connection within {CONNECT_TIMEOUT:?}"))?;
        let socket = socket.map_err(|error| error.to_string())?;
        prepare(&socket).map_err(|error| error.to_string())?;
        let (mut answers, mut socket) = socket.into_split();
        let mut hello = shared.hello.clone();
        let local = hello.borrow_and_update().clone();
        let greeting = async {
            let mut bytes = PREAMBLE.to_vec();
            put_frame(&mut bytes, Frame::Hello(hello_to_wire(&local, link.to)));
            socket.write_all(&bytes).await.map_err(ReadError::from)?;
            read_preamble(&mut answers).await?;
            read_greeting(&mut answers).await
        };
        let answer = timeout(ANSWER_TIMEOUT, greeting).await.map_err(|_| "no answer to our Hello".to_owned())?;
        check_answer(answer.map_err(|error| end(&error))?, link.to, &local)?;
        let socket = Arc::new(socket);
        *lock(&link.writer) = Some(Writer::new(&socket, link.to, hello.clone(), local.incarnation));
        Ok(Self { answers, socket, hello, link: Connected(Arc::clone(link)) })
    }

    /// Writes what senders leave. Completes when the connection ends, with the cause.
    pub(super) async fn ended(self) -> String {
        let Self { answers, socket, mut hello, link } = self;
        let mut ended = pin!(last_word(answers));
        loop {
            let written = lock(&link.0.writer).as_mut().map_or(Written::Broken, |writer| writer.write(&link.0.queue));
            match written {
                Written::Broken => {
                    let late = |_| "the connection broke".to_owned();
                    return timeout(LAST_WORD_TIMEOUT, ended).await.unwrap_or_else(late);
                }
                Written::Some => tokio::task::yield_now().await,
                Written::All | Written::Blocked => {}
            }
            tokio::select! {
                why = &mut ended => return why,
                // An error shows when it is written to.
                _ = socket.writable(), if written == Written::Blocked => {}
                () = std::future::ready(()), if written == Written::Some => {}
                () = link.0.filled.notified() => {}
                Ok(()) = hello.changed() => {}
            }
        }
    }
}

/// How far the writing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits any more.
    All,
    /// There is more, and there may be room.
    Some,
    /// There is more, and no room.
    Blocked,
    /// Nothing will be written any more.
    Broken,
}

/// The writing side of a connection.
pub(super) struct Writer {
    socket: Arc<OwnedWriteHalf>,
    to: u64,
    hello: watch::Receiver<Hello>,
    /// Of the latest Hello on this connection.
    incarnation: u128,
    /// The frame that is being written, and how much of it is.
    frame: Vec<u8>,
    written: usize,
}

impl Writer {
    fn new(socket: &Arc<OwnedWriteHalf>, to: u64, hello: watch::Receiver<Hello>, incarnation: u128) -> Self {
        Self { socket: Arc::clone(socket), to, hello, incarnation, frame: Vec::new(), written: 0 }
    }

    /// Writes what waits in `queue`, as far as there is room; never waits.
    pub(super) fn write(&mut self, queue: &Mutex<Queue>) -> Written {
        for _ in 0..FRAMES_MAX {
            while self.written < self.frame.len() {
                match self.socket.try_write(&self.frame[self.written..]) {
                    Ok(0) => return Written::Broken,
                    Ok(written) => self.written += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Written::Broken,
                }
            }
            if !self.next_frame(queue) {
                return Written::All;
            }
        }
        Written::Some
    }

    /// Hello if it has changed, and messages.
    fn next_frame(&mut self, queue: &Mutex<Queue>) -> bool {
        self.frame.clear();
        self.frame.shrink_to(2 * FRAME_LEN_TARGET);
        self.written = 0;
        // Before the look at the Hello: what was sent after a change of it is not said before.
        let messages = lock(queue).take(self.incarnation);
        if self.hello.has_changed().unwrap_or(false) {
            let hello = self.hello.borrow_and_update();
            self.incarnation = hello.incarnation;
            put_frame(&mut self.frame, Frame::Hello(hello_to_wire(&hello, self.to)));
        }
        if !messages.is_empty() {
            put_frame(&mut self.frame, Frame::Messages(v1::MessageBatch { messages }));
        }
        !self.frame.is_empty()
    }
}

/// Waits for the end of what the peer says.
async fn last_word(mut answers: OwnedReadHalf) -> String {
    loop {
        match read_greeting(&mut answers).await {
            Ok(Some(Frame::Refusal(v1::Refusal { why }))) => return why,
            Ok(_) => {}
            Err(error) => return end(&error),
        }
    }
}

fn end(error: &ReadError) -> String {
    if error.is_end() { "the peer ended the connection".to_owned() } else { error.to_string() }
}

fn check_answer(answer: Option<Frame>, to: u64, local: &Hello) -> Result<(), String> {
    match answer {
        Some(Frame::Hello(wire)) => {
            let remote = hello_from_wire(&wire).map_err(|error| error.to_string())?;
            if remote.node != to {
                return Err(format!("node {} answers at the address of node {to}", remote.node));
            }
            remote.objection(local).map_or(Ok(()), Err)
        }
        Some(Frame::Refusal(v1::Refusal { why })) => Err(why),
        Some(Frame::Messages(_)) | None => Err("the peer did not answer our Hello".to_owned()),
    }
}

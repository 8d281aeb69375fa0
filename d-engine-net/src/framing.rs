//! How two nodes talk: frames on a TCP connection, on the port that serves gRPC too.
//!
//! Each side begins with [`PREAMBLE`], whose first byte no HTTP/2 connection begins with; then come frames: the length of
//! a `PeerFrame` as four bytes, least significant first, and the `PeerFrame` itself.
//!
//! Not a gRPC stream, because one wakes four tasks for a message: here whoever drives the node writes to the socket, and the
//! task that reads from it drives the node that receives.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

use crate::FRAME_LEN_MAX;
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;

/// Says that a connection speaks frames, and of which version.
pub(crate) const PREAMBLE: [u8; 8] = *b"\xdeENGINE\x01";
/// Bytes of a Hello or a Refusal, at most: more is not kept for a stranger.
const GREETING_LEN_MAX: usize = 64 << 10;
/// Bytes that are read at once.
const READ_LEN: usize = 64 << 10;
const HEADER_LEN: usize = 4;

/// A peer that has vanished without a word is noticed within so long, whether we speak or listen.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const KEEPALIVE_TIME: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Messages leave at once, and a broken connection is noticed.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    // Without it, what nobody acknowledges is sent again for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    Ok(())
}

/// Appends a frame to `to`.
pub(crate) fn put_frame(to: &mut Vec<u8>, frame: Frame) {
    let frame = v1::PeerFrame { frame: Some(frame) };
    let len = frame.encoded_len();
    to.reserve(HEADER_LEN + len);
    // Senders close a frame before it holds FRAME_LEN_MAX bytes.
    to.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    // A vector has room for everything.
    let _ = frame.encode(to);
}

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("malformed frame: {0}")]
    Malformed(String),
}

impl ReadError {
    /// The peer has ended the connection between two frames.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof)
    }
}

/// Reads what the other side begins with.
pub(crate) async fn read_preamble(from: &mut (impl AsyncRead + Unpin)) -> Result<(), ReadError> {
    let mut preamble = [0; PREAMBLE.len()];
    from.read_exact(&mut preamble).await?;
    if preamble == PREAMBLE {
        return Ok(());
    }
    Err(ReadError::Malformed(if preamble[..PREAMBLE.len() - 1] == PREAMBLE[..PREAMBLE.len() - 1] {
        format!("framing of version {}, this build speaks {}; upgrade the older node", preamble[7], PREAMBLE[7])
    } else {
        "what answers there is not a d-engine node".to_owned()
    }))
}

/// Reads a Hello or a Refusal. `None`: of an unknown kind.
pub(crate) async fn read_greeting(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, ReadError> {
    read_frame(from, GREETING_LEN_MAX).await
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin), len_max: usize) -> Result<Option<Frame>, ReadError> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header).await?;
    let len = u32::from_le_bytes(header) as usize;
    if len > len_max {
        return Err(ReadError::Malformed(format!("{len} bytes, more than {len_max}")));
    }
    // One allocation for all entries of a frame: they are slices of it.
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).await?;
    let frame = v1::PeerFrame::decode(Bytes::from(bytes)).map_err(|error| ReadError::Malformed(error.to_string()))?;
    Ok(frame.frame)
}

/// Reads frames.
pub(crate) struct FrameReader<R> {
    from: BufReader<R>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(READ_LEN, from) }
    }

    /// Waits for a frame. `None`: of an unknown kind.
    pub(crate) async fn read(&mut self) -> Result<Option<Frame>, ReadError> {
        read_frame(&mut self.from, FRAME_LEN_MAX).await
    }

    /// Whether the next frame has arrived whole.
    pub(crate) fn has_frame(&self) -> bool {
        let buffered = self.from.buffer();
        buffered.first_chunk().is_some_and(|header: &[u8; HEADER_LEN]| {
            buffered.len() - HEADER_LEN >= u32::from_le_bytes(*header) as usize
        })
    }

    /// Reads what still comes, and forgets it, until the connection ends.
    pub(crate) async fn drain(&mut self) {
        // Any error is an end.
        let _ = tokio::io::copy_buf(&mut self.from, &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(why: &str) -> Frame {
        Frame::Refusal(v1::Refusal { why: why.to_owned() })
    }

    #[tokio::test]
    async fn frames_are_read_as_they_were_put_however_they_arrive() {
        use tokio::io::AsyncWriteExt as _;
        let (mut sender, receiver) = tokio::io::duplex(1000);
        let mut reader = FrameReader::new(receiver);
        let mut bytes = Vec::new();
        let whys = ["a".to_owned(), String::new(), "b".repeat(3 * READ_LEN)];
        for why in &whys {
            put_frame(&mut bytes, refusal(why));
        }
        let writer = tokio::spawn(async move {
            for piece in bytes.chunks(700) {
                sender.write_all(piece).await.unwrap();
            }
        });
        for why in &whys {
            assert_eq!(reader.read().await.unwrap(), Some(refusal(why)));
        }
        assert!(!reader.has_frame());
        writer.await.unwrap();
        assert!(reader.read().await.unwrap_err().is_end());
    }

    #[tokio::test]
    async fn a_frame_that_has_arrived_is_seen_before_it_is_read() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, refusal("one"));
        put_frame(&mut bytes, refusal("two"));
        let mut reader = FrameReader::new(&bytes[..]);
        reader.read().await.unwrap();
        assert!(reader.has_frame());
        let mut reader = FrameReader::new(&bytes[..bytes.len() - 1]);
        reader.read().await.unwrap();
        assert!(!reader.has_frame());
    }

    #[tokio::test]
    async fn lengths_that_cannot_be_and_bytes_that_are_no_frame_are_malformed() {
        for bytes in [&u32::MAX.to_le_bytes()[..], &[2, 0, 0, 0, 0xff, 0xff]] {
            assert!(matches!(FrameReader::new(bytes).read().await, Err(ReadError::Malformed(_))));
        }
    }

    #[tokio::test]
    async fn another_protocol_is_named() {
        let mut other = &b"HTTP/1.1 400 Bad Request"[..];
        assert!(read_preamble(&mut other).await.unwrap_err().to_string().contains("not a d-engine node"));
        let mut newer = PREAMBLE;
        newer[7] = 2;
        assert!(read_preamble(&mut &newer[..]).await.unwrap_err().to_string().contains("version 2"));
        read_preamble(&mut &PREAMBLE[..]).await.unwrap();
        let mut long = &(1_u32 << 20).to_le_bytes()[..];
        assert!(matches!(read_greeting(&mut long).await, Err(ReadError::Malformed(_))));
    }
}

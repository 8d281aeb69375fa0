//! Connections that say nothing beside 100 callers: memory of the leader for each, and what they cost the callers.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use three_nodes::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::nodes::{Processes, put};
use super::{CLIENTS, Scale, row};

/// What a client of HTTP/2 says first: the preface, and a SETTINGS frame without settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const KIB: f64 = 1024.0;

pub(super) async fn measure(scale: &Scale, dir: &Path) -> Result<Vec<Value>> {
    let processes = Processes::start(3, dir)?;
    let (client, leader) = processes.leader().await?;
    let load = scale.load(CLIENTS);
    let alone = load.run(put(&client)).await?;
    let before = processes.resident_bytes(leader)?;
    let mut idle = Vec::new();
    for _ in 0..scale.connections {
        idle.push(
            connect(&processes.addresses[leader]).await.map_err(|error| {
                format!("connection {} of {} idle ones: {error}", idle.len() + 1, scale.connections)
            })?,
        );
    }
    let after = processes.resident_bytes(leader)?;
    let beside = load.run(put(&client)).await?;
    drop(idle);
    #[allow(clippy::cast_precision_loss, reason = "bytes of one connection")]
    let each = after.saturating_sub(before) as f64 / scale.connections.max(1) as f64;
    let detail = json!({ "connections": scale.connections, "alone": alone.json(), "beside": beside.json() });
    Ok(vec![
        row("idle connection: KiB of the leader's memory", each / KIB, "≤", 64.0, json!({ "bytes": [before, after] })),
        row(
            "calls per second of 100 callers beside idle connections ÷ alone",
            beside.median() / alone.median(),
            "≥",
            0.85,
            detail,
        ),
    ])
}

/// A connection that has said hello, and was answered.
async fn connect(address: &str) -> Result<TcpStream> {
    let connected = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(HELLO).await?;
        stream.read_exact(&mut [0; 9]).await?;
        Ok::<_, std::io::Error>(stream)
    };
    Ok(tokio::time::timeout(Duration::from_secs(10), connected).await??)
}

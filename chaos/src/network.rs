//! The network between the nodes: a TCP proxy for each, at the address that the node advertises.
//!
//! Bytes from one process to another wait while that direction is cut, and arrive when it is mended: late, in order, none
//! lost, as TCP has it. Cutting one direction alone is a one-way partition. No rights are needed, unlike with a firewall.
//! Who dials is found by the socket, in /proc.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A node's id; 0 is this process with its clients.
pub(crate) type Id = u64;
/// Directions that are cut, as (from, to).
pub(crate) type Cuts = BTreeSet<(Id, Id)>;

pub(crate) struct Network {
    cuts: Arc<watch::Sender<Cuts>>,
    pids: Arc<Mutex<Vec<(Id, u32)>>>,
    proxies: JoinSet<()>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { cuts: Arc::new(watch::Sender::new(Cuts::new())), pids: Arc::default(), proxies: JoinSet::new() }
    }

    /// What is cut from now on; everything else is mended.
    pub(crate) fn cut(&self, cuts: Cuts) {
        self.cuts.send_replace(cuts);
    }

    /// The process in which a node runs.
    pub(crate) fn runs_as(&self, node: Id, pid: u32) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.retain(|(other, _)| *other != node);
        pids.push((node, pid));
    }

    /// Passes on what comes to the address that the answer names to `port` of this machine, where node `to` listens.
    pub(crate) async fn lead_to(&mut self, to: Id, advertised: u16, port: u16) -> io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", advertised)).await?;
        let (cuts, pids) = (Arc::clone(&self.cuts), Arc::clone(&self.pids));
        self.proxies.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let known = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let from = dialler(peer, &known);
                connections.spawn(pass_on(stream, from, to, port, cuts.subscribe()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(())
    }
}

/// The node whose process holds the socket at the other end.
fn dialler(peer: SocketAddr, pids: &[(Id, u32)]) -> Id {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let Some(inode) = inode_of(peer, &table) else { return 0 };
    let socket = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.to_string_lossy() == socket)
    };
    pids.iter().find(|(_, pid)| holds(*pid)).map_or(0, |(node, _)| *node)
}

/// The inode of the socket that is bound to `address`, in the text of /proc/net/tcp.
fn inode_of(address: SocketAddr, table: &str) -> Option<&str> {
    let SocketAddr::V4(address) = address else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        (fields.next()? == wanted).then(|| fields.nth(7)).flatten()
    })
}

async fn pass_on(dialled: TcpStream, from: Id, to: Id, port: u16, cuts: watch::Receiver<Cuts>) {
    let Ok(reached) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (dialled.set_nodelay(true), reached.set_nodelay(true));
    let (dialled_read, dialled_write) = dialled.into_split();
    let (reached_read, reached_write) = reached.into_split();
    // A connection of which one direction has ended is of no use to anybody here.
    tokio::select! {
        () = carry(dialled_read, reached_write, (from, to), cuts.clone()) => {}
        () = carry(reached_read, dialled_write, (to, from), cuts) => {}
    }
}

async fn carry(mut read: OwnedReadHalf, mut write: OwnedWriteHalf, way: (Id, Id), mut cuts: watch::Receiver<Cuts>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let Ok(len) = read.read(&mut bytes).await else { return };
        if len == 0 || cuts.wait_for(|cuts| !cuts.contains(&way)).await.is_err() {
            return;
        }
        if write.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_an_address_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: \
                     0100007F:1F90 0100007F:A3C1 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20";
        assert_eq!(inode_of("127.0.0.1:8080".parse().unwrap(), table), Some("4711"));
        assert_eq!(inode_of("127.0.0.1:8081".parse().unwrap(), table), None);
    }

    #[tokio::test]
    async fn what_is_cut_in_one_direction_arrives_when_it_is_mended() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut network = Network::new();
        network.lead_to(1, free, node.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", free)).await.unwrap();
        let (mut served, _) = node.accept().await.unwrap();
        network.cut(Cuts::from([(0, 1)]));
        client.write_all(b"late").await.unwrap();
        served.write_all(b"early").await.unwrap();
        let mut told = [0; 5];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"early");
        let mut nothing = [0; 4];
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), served.read_exact(&mut nothing)).await;
        assert!(waited.is_err(), "it is cut");
        network.cut(Cuts::new());
        served.read_exact(&mut nothing).await.unwrap();
        assert_eq!(&nothing, b"late");
    }
}

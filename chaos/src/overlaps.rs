//! Faults that meet: the second one begins before the first has ended. A quorum may be gone meanwhile; it is back at the end.

use std::time::{Duration, Instant};

use d_engine_net::Operation;
use tokio::time::sleep;

use crate::faults::{Cluster, LOOK};
use crate::network::{Cuts, Id};
use crate::schedule::Kind;

/// After so long without one, nobody is elected in a leader's place.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(6);

impl Cluster {
    /// From the beginning of the first to the end of both; false: there was no occasion for it.
    pub(crate) async fn overlap(&mut self, kind: Kind, node: Id, lasts: Duration) -> Result<bool, String> {
        match kind {
            Kind::CutAndKill => self.cut_and_kill(node, lasts).await,
            Kind::CutAndPause => self.cut_and_pause(node, lasts).await,
            Kind::KillSuccessor => self.kill_successor(lasts).await,
            Kind::PauseSuccessor => self.pause_successor(lasts).await,
            Kind::KillInSnapshot => self.kill_in_snapshot(node, lasts).await,
            Kind::KillInTransfer => self.kill_in_transfer(node, lasts).await,
            other => Err(format!("{other:?} is no overlap of faults")),
        }
    }

    /// The one after `node`.
    fn next(&self, node: Id) -> Id {
        let ids = self.nodes.ids();
        ids.iter().copied().find(|id| *id > node).or(ids.first().copied()).unwrap_or(node)
    }

    /// Everything from and to a node.
    pub(crate) fn around(&self, node: Id) -> Cuts {
        let others = self.nodes.ids().into_iter().filter(|id| *id != node);
        others.flat_map(|other| [(node, other), (other, node)]).collect()
    }

    /// The network is whole before the killed node is back.
    async fn cut_and_kill(&mut self, node: Id, lasts: Duration) -> Result<bool, String> {
        let second = self.next(node);
        self.network.cut(self.around(node));
        sleep(lasts / 2).await;
        self.nodes.kill(second)?;
        sleep(lasts / 2).await;
        self.network.cut(Cuts::new());
        sleep(lasts / 4).await;
        self.nodes.start(second, false, &self.network)?;
        Ok(true)
    }

    /// The paused node goes on before the network is whole.
    async fn cut_and_pause(&mut self, node: Id, lasts: Duration) -> Result<bool, String> {
        let second = self.next(node);
        self.nodes.pause(second, true)?;
        sleep(lasts / 2).await;
        self.network.cut(self.around(node));
        sleep(lasts / 2).await;
        self.nodes.pause(second, false)?;
        sleep(lasts / 2).await;
        self.network.cut(Cuts::new());
        Ok(true)
    }

    /// The leader dies, and so does the one that is elected in its place; the first one comes back first.
    async fn kill_successor(&mut self, lasts: Duration) -> Result<bool, String> {
        let Some((old, _)) = self.leader().await else { return Ok(false) };
        self.nodes.kill(old)?;
        let successor = self.successor(old).await;
        if let Some(new) = successor {
            self.nodes.kill(new)?;
            sleep(lasts).await;
        }
        self.nodes.start(old, false, &self.network)?;
        sleep(lasts / 4).await;
        self.start_all()?;
        Ok(successor.is_some())
    }

    /// The leader is cut off, and the one elected in its place stands still while the old one comes back.
    async fn pause_successor(&mut self, lasts: Duration) -> Result<bool, String> {
        let Some((old, _)) = self.leader().await else { return Ok(false) };
        self.network.cut(self.around(old));
        let successor = self.successor(old).await;
        if let Some(new) = successor {
            self.nodes.pause(new, true)?;
            sleep(lasts / 2).await;
            self.network.cut(Cuts::new());
            sleep(lasts / 2).await;
            self.nodes.pause(new, false)?;
        }
        self.network.cut(Cuts::new());
        Ok(successor.is_some())
    }

    /// Waits until another node than `old` leads.
    async fn successor(&self, old: Id) -> Option<Id> {
        let started = Instant::now();
        while started.elapsed() < SUCCESSOR_WITHIN {
            match self.leader().await {
                Some((leader, _)) if leader != old => return Some(leader),
                _ => sleep(LOOK).await,
            }
        }
        None
    }

    async fn kill_in_snapshot(&mut self, node: Id, lasts: Duration) -> Result<bool, String> {
        let (client, address) = (self.client.clone(), self.nodes.address(node));
        let asked = tokio::spawn(async move { client.make_snapshot_of(&address).await });
        self.kill_within(node, lasts).await?;
        asked.abort();
        Ok(true)
    }

    async fn kill_in_transfer(&mut self, node: Id, lasts: Duration) -> Result<bool, String> {
        let client = self.client.clone();
        let asked = tokio::spawn(async move { client.operate(Operation::Transfer { to: node }).await });
        self.kill_within(node, lasts).await?;
        asked.abort();
        Ok(true)
    }

    /// Kills a node some milliseconds from now, as many as the fault's length says.
    pub(crate) async fn kill_within(&mut self, node: Id, lasts: Duration) -> Result<(), String> {
        sleep(lasts / 32).await;
        self.nodes.kill(node)?;
        sleep(lasts / 2).await;
        self.nodes.start(node, false, &self.network)
    }
}

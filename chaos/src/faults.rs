//! Carries faults out, and brings everything back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use d_engine_net::{Client, ClientError, Digest, NodeStatus, Operation};
use tokio::time::{sleep, timeout};

use crate::network::{Cuts, Id, Network};
use crate::nodes::Nodes;
use crate::schedule::{Fault, Kind, Target};

/// How long the cluster may take to serve again, or a replica to catch up, once nothing is wrong any more: generous, since
/// the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Cluster {
    pub(crate) nodes: Nodes,
    pub(crate) network: Network,
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) fn start_all(&mut self) -> Result<(), String> {
        self.nodes.ids().into_iter().try_for_each(|id| self.nodes.start(id, false, &self.network))
    }

    fn kill_all(&mut self) -> Result<(), String> {
        self.nodes.ids().into_iter().try_for_each(|id| self.nodes.kill(id))
    }

    async fn statuses(&self) -> Vec<(Id, Option<NodeStatus>)> {
        let mut statuses = Vec::new();
        for id in self.nodes.ids() {
            let asked = timeout(Duration::from_secs(1), self.client.status_of(&self.nodes.address(id))).await;
            statuses.push((id, asked.ok().and_then(Result::ok)));
        }
        statuses
    }

    pub(crate) async fn leader(&self) -> Option<(Id, NodeStatus)> {
        let leaders = self.statuses().await.into_iter().filter_map(|(id, status)| Some((id, status?)));
        leaders.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term)
    }

    /// One fault from its beginning to its end. Whether it was carried out; what an operator asks for may be refused.
    pub(crate) async fn carry_out(&mut self, fault: &Fault) -> Result<bool, String> {
        let node = match fault.target {
            Target::Node(id) => id,
            Target::Leader => self.leader().await.map_or(1, |(id, _)| id),
        };
        let lasts = Duration::from_millis(fault.lasts_ms);
        let others: Vec<Id> = self.nodes.ids().into_iter().filter(|id| *id != node).collect();
        let from = || others.iter().map(|other| (node, *other));
        let to = || others.iter().map(|other| (*other, node));
        let ok = match fault.kind {
            Kind::Kill => {
                self.nodes.kill(node)?;
                sleep(lasts).await;
                self.nodes.start(node, false, &self.network)?;
                true
            }
            Kind::KillAll => {
                self.kill_all()?;
                sleep(lasts / 4).await;
                self.start_all()?;
                true
            }
            Kind::Pause => {
                self.nodes.pause(node, true)?;
                sleep(lasts).await;
                self.nodes.pause(node, false)?;
                true
            }
            Kind::Isolate => self.cut(self.around(node), lasts).await,
            Kind::Mute => self.cut(from().collect(), lasts).await,
            Kind::Deaf => self.cut(to().collect(), lasts).await,
            Kind::Cut => self.cut(others.iter().take(1).flat_map(|o| [(node, *o), (*o, node)]).collect(), lasts).await,
            Kind::Transfer => self.client.operate(Operation::Transfer { to: node }).await.is_ok(),
            Kind::Snapshot => self.client.make_snapshot_of(&self.nodes.address(node)).await.is_ok(),
            Kind::Replace => self.replace(node, false).await?,
            Kind::Readd => self.replace(node, true).await?,
            Kind::KillInReplace => {
                self.replace_and_kill(node, lasts).await?;
                true
            }
            kind => self.overlap(kind, node, lasts).await?,
        };
        sleep(Duration::from_millis(fault.rest_ms)).await;
        self.nodes.judge()?;
        Ok(ok)
    }

    async fn cut(&self, cuts: Cuts, lasts: Duration) -> bool {
        self.network.cut(cuts);
        sleep(lasts).await;
        self.network.cut(Cuts::new());
        true
    }

    /// The node loses its directory and comes back as an empty one of the same id, in one change or in three.
    ///
    /// All others must have caught up: what only the lost directory and one other hold must not be lost with both.
    async fn replace(&mut self, node: Id, in_steps: bool) -> Result<bool, String> {
        self.until_level().await?;
        if in_steps && !self.ask(Operation::Remove { node }).await? {
            return Ok(false);
        }
        self.lose_directory(node)?;
        let address = self.nodes.address(node);
        let come = match in_steps {
            true => Operation::AddLearner { node, address, promote: false },
            false => Operation::Replace { old: node, node, address, promote: true },
        };
        // The leader that promotes it by itself may have gone meanwhile.
        self.ask_until_done(come).await?;
        self.ask_until_done(Operation::Promote { node }).await?;
        Ok(true)
    }

    /// As in one change, and killed twice while it catches up. Killed early enough it has kept nothing, and is another directory
    /// when it comes back: it is replaced again.
    async fn replace_and_kill(&mut self, node: Id, lasts: Duration) -> Result<(), String> {
        self.until_level().await?;
        self.lose_directory(node)?;
        let replace = Operation::Replace { old: node, node, address: self.nodes.address(node), promote: true };
        for part in [16, 4] {
            self.ask_until_done(replace.clone()).await?;
            sleep(lasts / part).await;
            self.nodes.kill(node)?;
            self.nodes.start(node, true, &self.network)?;
        }
        self.ask_until_done(replace).await?;
        self.ask_until_done(Operation::Promote { node }).await
    }

    /// An empty directory takes the place of the node's own, and waits to be added.
    fn lose_directory(&mut self, node: Id) -> Result<(), String> {
        self.nodes.kill(node)?;
        let data = self.nodes.data(node);
        fs::remove_dir_all(&data).map_err(|error| format!("{} cannot be removed: {error}", data.display()))?;
        self.nodes.start(node, true, &self.network)
    }

    /// Asks for a change of the membership. An answer that was lost is asked for again; false: it is refused.
    async fn ask(&mut self, operation: Operation) -> Result<bool, String> {
        let started = Instant::now();
        loop {
            match self.client.operate(operation.clone()).await {
                Ok(_) => return Ok(true),
                Err(ClientError::Rejected { .. }) => return Ok(false),
                Err(error) => self.go_on(&operation, started, &error).await?,
            }
        }
    }

    /// Asks for a change that must be possible in the end, until it is made.
    async fn ask_until_done(&mut self, operation: Operation) -> Result<(), String> {
        let started = Instant::now();
        while let Err(error) = self.client.operate(operation.clone()).await {
            self.go_on(&operation, started, &error).await?;
        }
        Ok(())
    }

    async fn go_on(&mut self, operation: &Operation, started: Instant, error: &ClientError) -> Result<(), String> {
        self.nodes.judge()?;
        if started.elapsed() > PATIENCE {
            return Err(format!("not done within {} s: {operation:?}: {error}", PATIENCE.as_secs()));
        }
        sleep(LOOK).await;
        Ok(())
    }

    /// Everything is mended; waits until the cluster serves. How long that took.
    pub(crate) async fn until_served(&mut self) -> Result<Duration, String> {
        self.network.cut(Cuts::new());
        self.start_all()?;
        let started = Instant::now();
        loop {
            let error = match self.client.get("settled").await {
                Ok(_) => return Ok(started.elapsed()),
                Err(error) => error,
            };
            self.nodes.judge()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("no service within {} s of the last fault: {error}", PATIENCE.as_secs()));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until every node serves and has on its disk what the leader had committed when this began. What comes after that
    /// is no goal: under load nobody ever stands where the leader stands.
    async fn until_level(&mut self) -> Result<(), String> {
        self.until_served().await?;
        let started = Instant::now();
        let mut goal = None;
        loop {
            if let Some((_, leader)) = self.leader().await {
                let goal = *goal.get_or_insert(leader.commit);
                let statuses = self.statuses().await;
                let is_level = |status: &Option<NodeStatus>| {
                    status.as_ref().is_some_and(|status| status.persisted >= goal && status.failure.is_none())
                };
                if statuses.iter().all(|(_, status)| is_level(status)) {
                    return Ok(());
                }
            }
            self.nodes.judge()?;
            if started.elapsed() > PATIENCE {
                let statuses = self.statuses().await;
                return Err(format!("not every node caught up within {} s: {statuses:?}", PATIENCE.as_secs()));
            }
            sleep(LOOK).await;
        }
    }

    /// When nobody writes: waits until all have applied the same, and compares their states.
    pub(crate) async fn digests(&mut self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let mut digests: Vec<Option<Digest>> = Vec::new();
            for id in self.nodes.ids() {
                let asked = timeout(Duration::from_secs(10), self.client.digest_of(&self.nodes.address(id))).await;
                digests.push(asked.ok().and_then(Result::ok));
            }
            let applied: Vec<Option<u64>> = digests.iter().map(|d| d.map(|digest| digest.applied.index)).collect();
            if applied.iter().all(|index| index.is_some() && *index == applied[0]) {
                return all_equal(&digests);
            }
            self.nodes.judge()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("the replicas are not level after {} s: {applied:?}", PATIENCE.as_secs()));
            }
            sleep(LOOK).await;
        }
    }

    /// Kills all, and keeps a copy of their directories, or puts the copies back: sabotage, which the checks must notice.
    pub(crate) fn travel(&mut self, copies: &Path, back: bool) -> Result<(), String> {
        self.kill_all()?;
        for id in self.nodes.ids() {
            let (data, copy) = (self.nodes.data(id), copies.join(id.to_string()));
            let (from, to) = if back { (&copy, &data) } else { (&data, &copy) };
            let _ = fs::remove_dir_all(to);
            copy_all(from, to).map_err(|error| format!("{} cannot be copied: {error}", from.display()))?;
        }
        self.start_all()
    }
}

fn all_equal(digests: &[Option<Digest>]) -> Result<(), String> {
    let states: Vec<_> = digests.iter().flatten().map(|digest| (digest.digest, digest.revision)).collect();
    if states.iter().all(|state| *state == states[0]) {
        return Ok(());
    }
    Err(format!("replicas that applied the same entries hold different states: {digests:?}"))
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_digests_are_found() {
        let of = |byte: u8| Some(Digest { digest: [byte; 32], keys: 1, revision: 1, applied: Default::default() });
        assert!(all_equal(&[of(1), of(1), of(1)]).is_ok());
        assert!(all_equal(&[of(1), of(2), of(1)]).unwrap_err().contains("different states"));
    }
}

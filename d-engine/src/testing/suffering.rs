//! Carries faults out, from their beginning to their end.

use tokio::time::sleep;

use super::{Cluster, Fault, FaultKind, TestError, schedule};

/// Faults by the seed.
impl Cluster {
    /// The first `count` faults of this cluster's seed, for the nodes that it has now.
    pub fn faults(&self, count: usize) -> Vec<Fault> {
        schedule(self.seed(), &self.ids(), count)
    }

    /// Suffers a fault, and mends it after its time: every node runs and the network is whole when this returns. Service may
    /// still be on its way back: [`wait_until_ready`](Cluster::wait_until_ready).
    ///
    /// # Errors
    /// What is mended does not come back. What is asked of a leader, a snapshot or a transfer, may be refused: that is none.
    pub async fn suffer(&self, fault: &Fault) -> Result<(), TestError> {
        tracing::info!(?fault, "a fault");
        match fault.kind {
            FaultKind::Kill(node) => {
                self.kill(node).await?;
                sleep(fault.lasts).await;
                self.restart(node).await?;
            }
            FaultKind::KillAll => {
                for node in self.nodes() {
                    self.kill(node.id()).await?;
                }
                sleep(fault.lasts).await;
                for node in self.ids() {
                    self.restart(node).await?;
                }
            }
            FaultKind::Isolate(node) => {
                self.isolate(node);
                sleep(fault.lasts).await;
            }
            FaultKind::Mute(node) => {
                self.router.cut(self.pairs().filter(|(from, _)| *from == node));
                sleep(fault.lasts).await;
            }
            FaultKind::Deaf(node) => {
                self.router.cut(self.pairs().filter(|(_, to)| *to == node));
                sleep(fault.lasts).await;
            }
            FaultKind::Weather { loss_percent, delay_max } => {
                self.weather(loss_percent, delay_max);
                sleep(fault.lasts).await;
            }
            FaultKind::Snapshot(node) => {
                if let Err(error) = self.snapshot(node).await {
                    tracing::info!(%error, "no snapshot");
                }
            }
            FaultKind::Transfer(node) => {
                if let Err(error) = self.any().transfer_leadership(node).await {
                    tracing::info!(%error, "no transfer");
                }
            }
            FaultKind::Wipe(node) => {
                self.wipe(node).await?;
            }
        }
        self.heal();
        Ok(())
    }
}

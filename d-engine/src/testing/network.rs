//! What the network between the nodes does to messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use d_engine_raft::{Message, NodeId};
use tokio::runtime::Handle;

use super::Cluster;
use super::fault::Random;
use crate::local_router::LocalRouter;

/// Loses and delays messages: the fate of each follows from the seed, its link, and how many went over it before.
pub(crate) struct Weather {
    seed: u64,
    loss_percent: u64,
    delay_max: Duration,
    /// Messages so far, by sender and receiver.
    counts: Mutex<BTreeMap<(NodeId, NodeId), u64>>,
    runtime: Handle,
}

impl Weather {
    /// Whether the next message of a link is lost, else how long it takes.
    fn next(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((from, to)).or_default();
        *count += 1;
        let mut random = Random::new([self.seed, from, to, *count]);
        let is_lost = random.below(100) < self.loss_percent;
        let micros = u64::try_from(self.delay_max.as_micros()).unwrap_or(u64::MAX);
        (!is_lost).then(|| Duration::from_micros(random.below(micros.saturating_add(1))))
    }

    pub(crate) fn carry(&self, router: &LocalRouter, from: NodeId, to: NodeId, message: Message) {
        match self.next(from, to) {
            None => {}
            Some(Duration::ZERO) => router.deliver(from, to, vec![message]),
            Some(delay) => {
                let router = router.clone();
                // Ends by itself; whether the link is there is seen on arrival.
                self.runtime.spawn(async move {
                    tokio::time::sleep(delay).await;
                    router.deliver(from, to, vec![message]);
                });
            }
        }
    }
}

/// The network.
impl Cluster {
    /// Lets nodes reach each other only within their group, until [`heal`](Cluster::heal) or the next partition. Those in no
    /// group form one more.
    pub fn partition(&self, groups: &[&[NodeId]]) {
        let group = |id: NodeId| groups.iter().position(|group| group.contains(&id));
        self.router.mend();
        self.router.cut(self.pairs().filter(|(from, to)| group(*from) != group(*to)));
    }

    /// Lets a node reach nobody, and nobody reach it, until [`heal`](Cluster::heal) or the next partition.
    pub fn isolate(&self, id: NodeId) {
        self.partition(&[&[id]]);
    }

    /// Loses every message that `from` sends to `to`, beside what is cut already. Nothing else is: `from` hears `to`. Calls
    /// that one node passes on to the other need both directions.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.router.cut([(from, to)]);
    }

    /// From now on loses so many of a hundred messages between nodes, and delays each other one by up to `delay_max`, which
    /// also changes their order.
    pub fn weather(&self, loss_percent: u8, delay_max: Duration) {
        self.router.set_weather(Some(Arc::new(Weather {
            seed: self.seed(),
            loss_percent: loss_percent.into(),
            delay_max,
            counts: Mutex::default(),
            runtime: Handle::current(),
        })));
    }

    /// The network is whole and fast again.
    pub fn heal(&self) {
        self.router.mend();
        self.router.set_weather(None);
    }

    /// All links, in both directions.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (NodeId, NodeId)> + use<> {
        let ids = self.ids();
        let others = ids.clone();
        let pairs = ids.into_iter().flat_map(move |from| others.clone().into_iter().map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seed_decides_the_fate_of_every_message() {
        let fates = |seed| {
            let weather = Weather {
                seed,
                loss_percent: 30,
                delay_max: Duration::from_millis(9),
                counts: Mutex::default(),
                runtime: Handle::current(),
            };
            let links = [(1, 2), (2, 1), (1, 3)];
            (0..900).map(|n| weather.next(links[n % 3].0, links[n % 3].1)).collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let lost = fates(7).iter().filter(|fate| fate.is_none()).count();
        assert!((200..340).contains(&lost), "{lost} of 900 lost");
    }
}

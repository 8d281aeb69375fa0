//! openraft: three nodes that call each other's functions, logs in memory, a machine that counts; snapshots every 500,000
//! entries, as its own benchmark has them, so that logs do not grow for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use d_engine_load::{Load, Round};
use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::{
    Config, EntryPayload, LogState, OptionalSend, Raft, RaftLogReader, RaftNetworkFactory, RaftNetworkV2,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StoredMembership,
};

use crate::log::Result;
use crate::peers::locked_version;
use crate::subject::{Subject, Work};

openraft::declare_raft_types!(
    /// Commands and answers are numbers.
    pub Types:
        D = u64,
        R = u64,
        Node = (),
);

type Entry = <Types as openraft::RaftTypeConfig>::Entry;
type Node = Raft<Types, Counter>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log in memory; clones are the same log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Logged>>);

#[derive(Default)]
struct Logged {
    /// Without gaps.
    entries: VecDeque<Entry>,
    purged: Option<LogIdOf<Types>>,
    vote: Option<VoteOf<Types>>,
}

impl Logged {
    fn first(&self) -> u64 {
        self.entries.front().map_or(0, |entry| entry.index())
    }

    fn place(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first())).unwrap_or(usize::MAX).min(self.entries.len())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let logged = locked(&self.0);
        let from = match range.start_bound() {
            Bound::Included(index) => logged.place(*index),
            Bound::Excluded(index) => logged.place(*index + 1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => logged.place(*index + 1),
            Bound::Excluded(index) => logged.place(*index),
            Bound::Unbounded => logged.entries.len(),
        };
        Ok(logged.entries.range(from..to.max(from)).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(locked(&self.0).vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let logged = locked(&self.0);
        let last_log_id = logged.entries.back().map(|entry| entry.log_id()).or(logged.purged);
        Ok(LogState { last_purged_log_id: logged.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        locked(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        locked(&self.0).entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let mut logged = locked(&self.0);
        let kept = last.map_or(0, |last| logged.place(last.index() + 1));
        logged.entries.truncate(kept);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogIdOf<Types>) -> io::Result<()> {
        let mut logged = locked(&self.0);
        let gone = logged.place(log_id.index() + 1);
        logged.entries.drain(..gone);
        logged.purged = Some(log_id);
        Ok(())
    }
}

/// A machine that counts; clones are the same machine.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    commands: u64,
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Option<SnapshotMetaOf<Types>>,
}

impl RaftSnapshotBuilder<Types> for Counter {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        let mut counted = locked(&self.0);
        let meta = SnapshotMeta { last_log_id: counted.applied, last_membership: counted.membership.clone() };
        counted.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<Types> for Counter {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        let counted = locked(&self.0);
        Ok((counted.applied, counted.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let commands = {
                let mut counted = locked(&self.0);
                counted.applied = Some(entry.log_id());
                match &entry.payload {
                    EntryPayload::Normal(_) => counted.commands += 1,
                    EntryPayload::Membership(members) => {
                        counted.membership = StoredMembership::new(Some(entry.log_id()), members.clone());
                    }
                    EntryPayload::Blank => {}
                }
                counted.commands
            };
            if let Some(responder) = responder {
                responder.send(commands);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, (): ()) -> io::Result<()> {
        let mut counted = locked(&self.0);
        counted.applied = meta.last_log_id;
        counted.membership = meta.last_membership.clone();
        counted.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(locked(&self.0).snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

/// All nodes of this process.
#[derive(Clone, Default)]
struct Router(Arc<Mutex<BTreeMap<u64, Node>>>);

impl RaftNetworkFactory<Types> for Router {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, (): &()) -> Connection {
        Connection { router: self.clone(), target }
    }
}

/// The way to one node.
struct Connection {
    router: Router,
    target: u64,
}

impl Connection {
    fn node(&self) -> std::result::Result<Node, RPCError<Types>> {
        let node = locked(&self.router.0).get(&self.target).cloned();
        node.ok_or_else(|| unreachable(&io::Error::other("the node has not started")))
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> std::result::Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.node()?.append_entries(request).await.map_err(|error| unreachable(&error))
    }

    /// Without waiting for the answer to one request before the next, which is the fastest that it offers.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        std::result::Result<
            BoxStream<'s, std::result::Result<StreamAppendResult<Types>, RPCError<Types>>>,
            RPCError<Types>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.node()?.stream_append(input).map(|answer| answer.map_err(|error| unreachable(&error)));
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> std::result::Result<VoteResponse<Types>, RPCError<Types>> {
        self.node()?.vote(request).await.map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> std::result::Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let told = |error: &dyn std::error::Error| StreamingError::Unreachable(Unreachable::from_string(error));
        let node = self.node().map_err(|error| told(&error))?;
        node.install_full_snapshot(vote, snapshot).await.map_err(|error| told(&error))
    }
}

struct Openraft {
    nodes: Vec<Node>,
    leader: Node,
}

pub async fn start() -> Result<Vec<Box<dyn Subject>>> {
    let config = Config {
        election_timeout_min: 200,
        election_timeout_max: 2000,
        purge_batch_size: 1024,
        max_payload_entries: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(500_000),
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let router = Router::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let node = Raft::new(id, Arc::clone(&config), router.clone(), Log::default(), Counter::default()).await?;
        locked(&router.0).insert(id, node.clone());
        nodes.push(node);
    }
    nodes[0].initialize(BTreeSet::from([1, 2, 3])).await?;
    Ok(vec![Box::new(Openraft { leader: nodes[0].clone(), nodes })])
}

#[async_trait(?Send)]
impl Subject for Openraft {
    fn name(&self) -> &'static str {
        "openraft"
    }

    fn about(&self) -> String {
        let version = locked_version("openraft", "").unwrap_or("unknown");
        format!("{version}, log in memory; acknowledged: in the memory of a majority")
    }

    fn can(&self, work: Work) -> bool {
        work == Work::Put
    }

    async fn answers(&mut self) -> Result<u64> {
        let leader = self.nodes[0].current_leader().await.ok_or("the first node knows no leader")?;
        self.leader = self.nodes[usize::try_from(leader - 1)?].clone();
        self.leader.client_write(0).await?;
        Ok(leader)
    }

    async fn round(&self, _: Work, load: &Load) -> Result<Round> {
        let leader = self.leader.clone();
        let call = move |random: u64| {
            let leader = leader.clone();
            async move { leader.client_write(random).await.map(drop) }
        };
        load.round(call).await
    }
}

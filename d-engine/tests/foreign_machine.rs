//! State machines that speak another language than the built-in one, or only half of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine::mem::MemStorageEngine;
use d_engine::{
    ApplyResult, Client, ClientError, Entry, Error, KvAnswer, LogId, Node, NodeBuilder, NodeConfig, Reason,
    SnapshotChecksum, SnapshotMetadata, StateMachine,
};
use tokio::sync::watch;

/// Collects commands, answers each with `ok`, and every query as it is told.
struct Collector {
    applied: Mutex<(Vec<Bytes>, LogId)>,
    answer: fn() -> Result<Bytes, Error>,
}

#[async_trait]
impl StateMachine for Collector {
    fn start(&self) -> Result<(), Error> {
        Ok(())
    }
    fn stop(&self) -> Result<(), Error> {
        Ok(())
    }
    fn is_running(&self) -> bool {
        true
    }
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        let mut applied = self.applied.lock().unwrap();
        for entry in chunk {
            applied.1 = entry.id();
            applied.0.push(entry.data);
        }
        Ok(())
    }
    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        let results = chunk.iter().map(|entry| ApplyResult::new(entry.index, Bytes::from_static(b"ok"))).collect();
        self.apply_chunk(chunk).await?;
        Ok(results)
    }
    fn read_at(&self, _: Bytes) -> Result<(Bytes, LogId), Error> {
        Ok(((self.answer)()?, self.last_applied()))
    }
    fn len(&self) -> usize {
        self.applied.lock().unwrap().0.len()
    }
    fn last_applied(&self) -> LogId {
        self.applied.lock().unwrap().1
    }
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }
    async fn generate_snapshot_data(&self, _: PathBuf, _: LogId) -> Result<SnapshotChecksum, Error> {
        Err(Error::unsupported("snapshots"))
    }
    async fn apply_snapshot_from_file(&self, _: &SnapshotMetadata, _: PathBuf) -> Result<(), Error> {
        Err(Error::unsupported("snapshots"))
    }
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn reset(&self) -> Result<(), Error> {
        Ok(())
    }
}

async fn node(answer: fn() -> Result<Bytes, Error>) -> (Node, Arc<Collector>) {
    let machine = Arc::new(Collector { applied: Mutex::default(), answer });
    let (_, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::for_dir("unused").listen("127.0.0.1:0"), shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::clone(&machine))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(20)).await.unwrap();
    (node, machine)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_finds_key_value_queries_faulty_is_given_its_own_commands() {
    let answers: [fn() -> Result<Bytes, Error>; 4] = [
        || Err(Error::corrupt("a query of an unknown kind")),
        || Err(Error::backend("no such query")),
        || Err(Error::unsupported("queries")),
        || Ok(Bytes::from_static(b"what?")),
    ];
    for answer in answers {
        let (node, machine) = node(answer).await;
        for _ in 0..2 {
            assert_eq!(node.propose("a command of its own").await.unwrap().response, "ok");
        }
        assert_eq!(machine.len(), 2);
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_another_language_never_sees_key_value_commands() {
    let (node, machine) = node(|| Err(Error::corrupt("a query of an unknown kind"))).await;
    let client = Client::new([node.status().members[0].address.clone()]).unwrap();
    for refused in [node.put("k", "v").await, client.put("k", "v").await] {
        assert!(matches!(refused, Err(ClientError::Rejected { why: Reason::Unsupported { .. } })), "{refused:?}");
    }
    client.propose("a command of its own".into()).await.unwrap();
    assert_eq!(machine.len(), 1);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_applied_is_never_reported_as_rejected() {
    // It speaks like the built-in machine when it is asked, but not when it applies.
    let (node, machine) = node(|| Ok(KvAnswer::Get { record: None, revision: 0 }.encode())).await;
    assert_eq!(node.put("k", "v").await, Err(ClientError::Unknown));
    assert_eq!(node.delete("k").await, Err(ClientError::Unknown));
    assert_eq!(node.cas("k", None, None).await, Err(ClientError::Unknown));
    assert_eq!(machine.len(), 3);
    node.shutdown().await.unwrap();
}

//! Three nodes over gRPC, log and data on RocksDB: one is stopped, the other two go on, and it catches up from its disk.

use d_engine_rocksdb::{RocksKvStore, RocksStorageEngine};
use three_nodes::{Result, one_stops_and_catches_up};

#[tokio::main]
async fn main() -> Result<()> {
    let allow_unsafe_voters = false;
    one_stops_and_catches_up("RocksDB", allow_unsafe_voters, |dir| {
        Ok((RocksStorageEngine::open(dir.join("log"))?, RocksKvStore::open(dir.join("data"))?))
    })
    .await
}

//! Three nodes over gRPC, log and data on sled: one is stopped, the other two go on, and it catches up from its disk.

use d_engine::sled::{SledKvStore, SledStorageEngine};
use three_nodes::{Result, one_stops_and_catches_up};

#[tokio::main]
async fn main() -> Result<()> {
    // sled does not promise to survive a loss of power, so such a node votes only because the configuration allows it.
    let allow_unsafe_voters = true;
    one_stops_and_catches_up("sled", allow_unsafe_voters, |dir| {
        Ok((SledStorageEngine::open(dir.join("log"))?, SledKvStore::open(dir.join("data"))?))
    })
    .await
}

//! Three nodes over gRPC, each on another backend: they agree through writes, changes of leader and restarts, and snapshots
//! go from each backend to each, with a network and without.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

mod backend;
mod cluster;

use backend::{ALL, SNAPSHOT, digest, make_snapshot};
use cluster::Cluster;
use d_engine::StateMachine;
use three_nodes::Result;

#[tokio::main]
async fn main() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.write(200).await?;
    cluster.common_digest().await?;
    println!("200 writes: the states on files, RocksDB and sled are equal");

    for backend in ALL {
        cluster.lead(backend).await?;
        cluster.write(50).await?;
        cluster.common_digest().await?;
        println!("node {} on {} leads: 50 writes, equal", Cluster::id(backend), backend.name());
    }
    for backend in ALL {
        cluster.stop(backend).await?;
        cluster.write(50).await?;
        cluster.start_one(backend).await?;
        cluster.common_digest().await?;
        println!("the node on {} missed 50 writes and is back from its disk: equal", backend.name());
    }

    let expected = cluster.common_digest().await?;
    for backend in ALL {
        cluster.stop(backend).await?;
    }
    let pairs = carry_snapshots(&cluster, expected).await?;
    println!("{pairs} snapshots carried from each backend to each, without a network: equal");
    cluster.start_all().await?;
    cluster.common_digest().await?;
    println!("all three are back from their disks: equal");

    for backend in ALL {
        cluster.wipe(backend).await?;
        cluster.write(20).await?;
        cluster.common_digest().await?;
        println!("the node on {} lost its directory and is back by a snapshot over the wire: equal", backend.name());
    }
    for backend in ALL {
        cluster.stop(backend).await?;
    }
    Ok(())
}

/// Makes a snapshot of the data of each stopped node and installs it on each backend; answers with how many.
async fn carry_snapshots(cluster: &Cluster, expected: [u8; 32]) -> Result<usize> {
    let place = tempfile::tempdir()?;
    let mut made = Vec::new();
    for from in ALL {
        let machine = from.machine(&cluster.dir_of(from))?;
        if digest(&machine)? != expected {
            return Err(format!("the data on {} are not what the node answered", from.name()).into());
        }
        let dir = place.path().join(from.name());
        let metadata = make_snapshot(&machine, &dir).await?;
        made.push((from, metadata, dir.join(SNAPSHOT)));
    }
    let mut carried = 0;
    for (from, metadata, file) in &made {
        for to in ALL {
            let dir = tempfile::tempdir_in(place.path())?;
            let machine = to.machine(dir.path())?;
            machine.apply_snapshot_from_file(metadata, file.clone()).await?;
            if digest(&machine)? != expected {
                return Err(format!("a snapshot from {} is another state on {}", from.name(), to.name()).into());
            }
            carried += 1;
        }
    }
    Ok(carried)
}

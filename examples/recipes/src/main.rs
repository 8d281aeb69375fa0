//! The recipes at work on three nodes, each a process, of which the leader is killed in the middle.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::time::Duration;

use recipes::RecipeError;
use recipes::election::{Elected, Observer};
use recipes::lock::Lock;
use recipes::registry::{Instances, Registration};
use three_nodes::Result;
use three_nodes::processes::{Processes, run_node_if_asked};

/// How long the cluster waits for a process that does not answer any more.
const TTL: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() -> Result<()> {
    if run_node_if_asked().await? {
        return Ok(());
    }
    let mut nodes = Processes::start(std::env::current_exe()?)?;
    // Two processes of an application, each with its own client.
    let (ours, theirs) = (nodes.client()?, nodes.client()?);

    let first = Lock::acquire(&ours, "report", TTL).await?;
    first.put("report/state", "begun").await?;
    println!("lock: held with fencing token {}", first.token());

    let registered = Registration::begin(&ours, "mail", "m1", "10.0.0.7:25", TTL).await?;
    let mut instances = Instances::of(&theirs, "mail").await?;
    println!("registry: {:?}", instances.list());

    let elected = Elected::campaign(&ours, "primary", "ours", TTL).await?;
    let mut observer = Observer::begin(&theirs, "primary").await?;
    println!("election: {:?} leads", observer.leader().map(|leader| &leader.value));

    let leader = nodes.leader().await?;
    nodes.kill(leader)?;
    println!("node {leader}, which led the three nodes, is killed");

    // What was held before is held after: leases, claims and watches outlive the node.
    elected.proclaim("ours, still").await?;
    println!("election: {:?} leads", observer.changed().await?.map(|leader| &leader.value));
    elected.resign().await?;
    assert_eq!(observer.changed().await?, None);
    println!("election: nobody leads");

    registered.deregister().await?;
    instances.changed().await?;
    assert!(instances.list().is_empty());
    println!("registry: empty");

    // An operator ends the lease of a holder that hangs. When it wakes up, it is too late for it, whatever it believes.
    theirs.lease_revoke(first.lease()).await?;
    let second = Lock::acquire(&theirs, "report", TTL).await?;
    second.put("report/state", "done").await?;
    println!("lock: held by another one with fencing token {}", second.token());
    match first.put("report/state", "overwritten").await {
        Err(RecipeError::Lost { .. }) => println!("lock: the write of the old holder is refused"),
        other => return Err(format!("the old holder was told {other:?}").into()),
    }
    assert_eq!(ours.get("report/state").await?.value.as_deref(), Some(&b"done"[..]));
    second.release().await?;
    Ok(())
}

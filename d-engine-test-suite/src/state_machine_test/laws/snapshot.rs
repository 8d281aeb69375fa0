//! Laws of snapshots. A snapshot is one file in the directory that it is written into.

use std::path::{Path, PathBuf};

use d_engine_core::{Error, LogId, Membership, SnapshotChecksum, SnapshotMetadata, StateMachine};
use tempfile::TempDir;

use super::{StateMachineBuilder, TERM, apply, expect_state, fresh, up_to};
use crate::law::{LawResult, Violation, Why, held, not_checked};

pub(super) const NO_SNAPSHOTS: &str = "the machine makes no snapshots";

pub(super) struct Snapshot {
    pub(super) metadata: SnapshotMetadata,
    pub(super) path: PathBuf,
    // Keeps the file.
    _dir: TempDir,
}

/// A snapshot of the present state; `None` if the machine makes none.
pub(super) async fn take(why: Why, machine: &dyn StateMachine) -> Result<Option<Snapshot>, Violation> {
    let dir = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
    let label = machine.last_applied();
    match machine.generate_snapshot_data(dir.path().to_path_buf(), label).await {
        Err(Error::Unsupported { .. }) => Ok(None),
        result => {
            let checksum = why.ok("generate_snapshot_data() under last_applied()", result)?;
            collect(why, dir, label, checksum).map(Some)
        }
    }
}

fn collect(why: Why, dir: TempDir, label: LogId, checksum: SnapshotChecksum) -> Result<Snapshot, Violation> {
    why.holds("the checksum of a snapshot is not zero", !checksum.is_zero(), "zero")?;
    let files = why.ok("listing the snapshot's directory", files(dir.path()))?;
    let [path] = &files[..] else {
        return Err(why.violation("a snapshot is one file in its directory", format!("{files:?}")));
    };
    let size = why.ok("the snapshot's length", std::fs::metadata(path).map_err(Error::from))?.len();
    let metadata = SnapshotMetadata::new(label, Membership::default(), checksum, size);
    Ok(Snapshot { metadata, path: path.clone(), _dir: dir })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

pub(super) async fn install(why: Why, machine: &dyn StateMachine, snapshot: &Snapshot) -> Result<(), Violation> {
    let installed = machine.apply_snapshot_from_file(&snapshot.metadata, snapshot.path.clone()).await;
    why.ok("apply_snapshot_from_file()", installed)
}

/// A snapshot brings a machine with any other state to the one it was made of, and goes on from there.
pub async fn a_snapshot_restores_the_state<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("a follower that is too far behind has nothing but the snapshot");
    for count in [0, 1, 50] {
        let machine = fresh(builder, why).await?;
        if count > 0 {
            apply(builder, why, &*machine, 1..=count).await?;
        }
        let Some(snapshot) = take(why, &*machine).await? else {
            return not_checked(NO_SNAPSHOTS);
        };
        apply(builder, why, &*machine, count + 1..=count + 9).await?;
        let when = format!("after installing a snapshot of {count} commands over {}", count + 9);
        install(why, &*machine, &snapshot).await?;
        expect_state(builder, why, &*machine, &when, &up_to(count), 70)?;

        why.ok("reset()", machine.reset().await)?;
        install(why, &*machine, &snapshot).await?;
        expect_state(builder, why, &*machine, &when, &up_to(count), 70)?;
        apply(builder, why, &*machine, count + 1..=count + 3).await?;
        expect_state(builder, why, &*machine, "after going on", &up_to(count + 3), 70)?;
    }
    held()
}

/// `generate_snapshot_data` refuses an id that is not `last_applied`.
pub async fn a_snapshot_is_refused_under_another_label<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("the log is purged up to the label; a snapshot that holds less loses the difference");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=5).await?;
    if take(why, &*machine).await?.is_none() {
        return not_checked(NO_SNAPSHOTS);
    }
    let dir = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
    for label in [LogId::new(TERM, 4), LogId::new(TERM, 6), LogId::new(TERM + 1, 5), LogId::default()] {
        let result = machine.generate_snapshot_data(dir.path().to_path_buf(), label).await;
        why.refused(&format!("a snapshot of {TERM}.5 labelled {label}"), result, "an error", |_| true)?;
    }
    held()
}

/// A snapshot with a changed byte, a wrong length or a wrong checksum is refused, and the old state stays.
pub async fn a_damaged_snapshot_leaves_the_old_state<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("a snapshot travels over the network; half of a damaged one is a state that no replica was ever in");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=30).await?;
    let Some(snapshot) = take(why, &*machine).await? else {
        return not_checked(NO_SNAPSHOTS);
    };
    why.ok("reset()", machine.reset().await)?;
    apply(builder, why, &*machine, 1..=4).await?;

    let good = why.ok("reading the snapshot", std::fs::read(&snapshot.path).map_err(Error::from))?;
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    let step = (good.len() / 100).max(1);
    for at in (0..good.len()).step_by(step).chain(good.len().checked_sub(1)) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        damaged.push((format!("byte {at} changed"), bad));
        damaged.push((format!("only its first {at} bytes"), good[..at].to_vec()));
    }
    damaged.push(("a byte more".to_owned(), [&good[..], b"x"].concat()));
    for (what, bytes) in damaged {
        why.ok("writing a damaged snapshot", std::fs::write(&snapshot.path, bytes).map_err(Error::from))?;
        expect_refused(builder, why, &*machine, &snapshot.metadata, &snapshot.path, &what).await?;
    }
    why.ok("writing the snapshot back", std::fs::write(&snapshot.path, &good).map_err(Error::from))?;
    let SnapshotMetadata { last_included, membership, checksum, size, .. } = snapshot.metadata.clone();
    let other = SnapshotMetadata::new(last_included, membership.clone(), SnapshotChecksum::new([7; 32]), size);
    expect_refused(builder, why, &*machine, &other, &snapshot.path, "another checksum in its metadata").await?;
    let other = SnapshotMetadata::new(last_included, membership, checksum, size + 1);
    expect_refused(builder, why, &*machine, &other, &snapshot.path, "another length in its metadata").await?;

    install(why, &*machine, &snapshot).await?;
    expect_state(builder, why, &*machine, "after installing the undamaged snapshot", &up_to(30), 31)?;
    held()
}

async fn expect_refused<B: StateMachineBuilder>(
    builder: &B,
    why: Why,
    machine: &dyn StateMachine,
    metadata: &SnapshotMetadata,
    path: &Path,
    what: &str,
) -> Result<(), Violation> {
    let result = machine.apply_snapshot_from_file(metadata, path.to_path_buf()).await;
    why.refused(&format!("a snapshot with {what}"), result, "an error", |_| true)?;
    expect_state(builder, why, machine, &format!("after a refused snapshot with {what}"), &up_to(4), 31)
}

/// `begin_snapshot` gives a view of its moment, which is written out beside further applies, or not at all.
pub async fn a_view_holds_its_moment<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why =
        Why("a view that moves on holds more than its label says, and entries are applied twice after an install");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=20).await?;
    let Some(view) = why.ok("begin_snapshot()", machine.begin_snapshot())? else {
        return not_checked("the machine has no views; the engine holds apply while it writes a snapshot");
    };
    apply(builder, why, &*machine, 21..=30).await?;
    let label = view.last_applied();
    why.equal("the label of a view taken after 20 commands", label, LogId::new(TERM, 20))?;
    let dir = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
    let checksum = why.ok("writing the view", view.write(dir.path()))?;
    let snapshot = collect(why, dir, label, checksum)?;
    expect_state(builder, why, &*machine, "beside the view", &up_to(30), 31)?;

    let unwritten = why.ok("begin_snapshot()", machine.begin_snapshot())?;
    apply(builder, why, &*machine, 31..=32).await?;
    drop(unwritten);
    apply(builder, why, &*machine, 33..=34).await?;
    install(why, &*machine, &snapshot).await?;
    expect_state(builder, why, &*machine, "after installing the view of 20 commands", &up_to(20), 40)?;
    held()
}

//! A full disk: a small file system with a file that takes the rest of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use d_engine_core::Error;

use super::enter;
use super::jobs::{announce, judged_elsewhere};
use crate::law::{LawResult, Violation, Why, held, missing, not_checked};
use crate::mount::Tmpfs;
use crate::process::Child;
use crate::subject::{History, Style, Subject, Unreadable};

const WHY: Why = Why("");
const BYTES: u64 = 64 << 20;
/// Growing calls, of at least 48 KiB each: more than the file system holds.
const CALLS: u64 = 1500;
const REMEDY: &str = "run the tests as root on Linux (in a container: --privileged)";

/// A full disk is refused with `NoSpace`, costs nothing and is over when there is space again.
pub(crate) async fn full_disk<S: Subject>(child: &Child, why: Why) -> LawResult {
    let _lab = enter!(S, child, why);
    let disk = match Tmpfs::make(BYTES) {
        Ok(disk) => disk,
        Err(what) => return missing(why, &what, REMEDY),
    };
    judged_elsewhere(child, why, &["full disk".as_ref(), S::NAME.as_ref(), disk.dir().as_os_str()])
}

/// The child's part, in a process of its own: a store that maps its files dies of a full disk.
pub(super) async fn judge<S: Subject>(dir: &Path) -> LawResult {
    let Some(subject) = S::at(dir) else { return held() };
    let store = WHY.ok("opening an empty store", subject.open().await)?;
    let mut history = History::new(&subject, read(&subject, &store, "when it is new").await?, 9, false);
    for style in [Style::Unflushed, Style::Growing, Style::Flush] {
        let (call, _) = history.step(style);
        WHY.ok("writing to a disk with space", subject.run(&store, call).await)?;
    }
    history.settle();
    let filler = Filler::take_the_rest(dir);
    let filler = WHY.ok("filling the disk", filler.map_err(Error::from))?;
    announce("writing to a full disk");
    let Some(refused) = write_until_refused(&subject, &store, &mut history).await? else {
        return not_checked("the store wrote more than the disk holds, and was never refused");
    };
    if !subject.refuses_cleanly_when_full() {
        return recovers(&subject, store, filler, &history.possible).await;
    }
    let before = history.state.clone();
    let shown = read(&subject, &store, "on a full disk").await?;
    let when = "what the store shows after a call was refused for want of space";
    WHY.equal(when, subject.describe(&shown), subject.describe(&before))?;
    drop(filler);
    announce("repeating the refused call with space");
    WHY.ok("the refused call, repeated with space on the disk,", subject.run(&store, refused.clone()).await)?;
    if let Some(state) = subject.effects(&before, &refused).pop() {
        history.state = state;
    }
    for style in [Style::Unflushed, Style::Flush] {
        let (call, _) = history.step(style);
        WHY.ok("writing once there is space again", subject.run(&store, call).await)?;
    }
    drop(store);
    let store = WHY.ok("opening the store again", subject.open().await)?;
    let shown = read(&subject, &store, "after a reopen").await?;
    let when = "what the store shows after a full disk, further writes and a reopen";
    WHY.equal(when, subject.describe(&shown), subject.describe(&history.state))?;
    held()
}

async fn read<S: Subject>(subject: &S, store: &S::Store, when: &str) -> Result<S::State, Violation> {
    let unreadable = |unreadable: Unreadable| WHY.violation(format!("reads go on {when}"), unreadable.describe());
    subject.read(store).await.map_err(unreadable)
}

/// Writes and flushes until a call is refused; that call. The history stands before it then.
async fn write_until_refused<S: Subject>(
    subject: &S,
    store: &S::Store,
    history: &mut History<'_, S>,
) -> Result<Option<S::Call>, Violation> {
    for number in 1..=CALLS {
        let before = history.clone();
        let (call, _) = history.step(if number % 4 == 0 { Style::Flush } else { Style::Growing });
        match subject.run(store, call.clone()).await {
            Ok(()) if number % 4 == 0 => history.settle(),
            Ok(()) => {}
            Err(error) => {
                let possible = std::mem::take(&mut history.possible);
                *history = before;
                history.possible = possible;
                let clean = matches!(error, Error::NoSpace { .. }) || !subject.refuses_cleanly_when_full();
                let expected = "a call for which the disk has no space is refused with NoSpace";
                WHY.holds(expected, clean, format!("{error:?} of call {number}"))?;
                return Ok(Some(call));
            }
        }
    }
    Ok(None)
}

/// A store that a full disk poisons: it is sound after a reopen.
async fn recovers<S: Subject>(subject: &S, store: S::Store, filler: Filler, possible: &[S::State]) -> LawResult {
    drop(store);
    drop(filler);
    announce("opening the store once there is space again");
    let store = WHY.ok("opening the store once there is space again", subject.open().await)?;
    let shown = read(subject, &store, "after a full disk and a reopen").await?;
    let expected = "after a full disk and a reopen the store holds what was flushed and whole calls after it";
    WHY.holds(expected, possible.contains(&shown), subject.describe(&shown))?;
    WHY.ok("flush() after a full disk and a reopen", subject.run(&store, subject.flush()).await)?;
    held()
}

/// A file that takes all the space there is.
struct Filler(PathBuf);

impl Filler {
    fn take_the_rest(dir: &Path) -> std::io::Result<Self> {
        let filler = Self(dir.join("filler of the test suite"));
        let mut file = File::create(&filler.0)?;
        for size in [1 << 20, 4096] {
            let zeros = vec![0; size];
            loop {
                match file.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // The file system is about to go as well.
        let _ = fs::remove_file(&self.0);
    }
}

//! Power cuts: a file system on a loop device that is shut down without writing what was not synced.

use std::time::Duration;

use super::writer::FOR_EVER;
use super::{Lab, enter};
use crate::law::{LawResult, Violation, Why, held, missing, not_checked};
use crate::mount::Ext4;
use crate::process::Child;
use crate::subject::{Style, Subject};

const CUTS: u64 = 8;

const REMEDY: &str = "run the tests as root on Linux, with ext4 and loop devices (in a container: --privileged, and \
                      install e2fsprogs and mount)";

/// After a power cut the store holds everything that was said to be durable, and whole calls only.
pub(crate) async fn power_cut<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    if !lab.survives_power_loss {
        return not_checked("the store says that it does not survive a loss of power");
    }
    let mut disk = match Ext4::make() {
        Ok(disk) => disk,
        Err(what) => return missing(why, &what, REMEDY),
    };
    let subject = lab.on(&disk)?;
    let mut random = fastrand::Rng::with_seed(3);
    let mut state = lab.look_at(&subject, "when it is new").await?;
    for cut in 0..CUTS {
        let seed = random.u64(..);
        let mut writer = lab.open_writer(disk.dir(), &state, seed, FOR_EVER)?;
        writer.let_run(random.u32(0..30), Duration::from_millis(150))?;
        writer.loses_power()?;
        why.ok("cutting the power", disk.cut())?;
        writer.kill()?;
        why.ok("mounting the file system again", disk.remount())?;
        let when = format!("after power cut {cut} (history with seed {seed}, {} calls)", writer.durable());
        state = lab.look_for(&subject, &writer.possible(), &when).await?;
    }
    held()
}

/// What a store shows after it was killed and opened is there after a power cut.
pub(crate) async fn open_is_durable<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    if !lab.survives_power_loss {
        return not_checked("the store says that it does not survive a loss of power");
    }
    let mut disk = match Ext4::make() {
        Ok(disk) => disk,
        Err(what) => return missing(why, &what, REMEDY),
    };
    let subject = lab.on(&disk)?;
    let mut random = fastrand::Rng::with_seed(4);
    let mut state = lab.look_at(&subject, "when it is new").await?;
    for cut in 0..CUTS {
        let seed = random.u64(..);
        let phases = [(Style::Flush, 1), (Style::Unflushed, random.u64(1..12))];
        let mut writer = lab.open_writer(disk.dir(), &state, seed, &phases)?;
        writer.wait_for("end")?;
        why.ok("going on", writer.process.send_word().map_err(Into::into))?;
        writer.wait_for("end")?;
        writer.kill()?;
        for (style, calls) in phases {
            (0..calls).for_each(|_| drop(writer.history.step(style)));
        }
        let mut second = lab.writer(disk.dir(), &state, seed, &[(Style::Mixed, 0)], &[])?;
        let shown = second.wait_for("open")?;
        second.wait_for("end")?;
        why.ok("cutting the power", disk.cut())?;
        second.kill()?;
        why.ok("mounting the file system again", disk.remount())?;
        let when =
            format!("after power cut {cut}, right after an open, which followed kill -9 of a writer with seed {seed}");
        state = lab.look_for(&subject, &writer.history.possible, &when).await?;
        why.equal(&format!("what the store shows {when}"), lab.subject.describe(&state), shown)?;
    }
    held()
}

impl<S: Subject> Lab<'_, S> {
    fn on(&self, disk: &Ext4) -> Result<S, Violation> {
        S::at(disk.dir()).ok_or_else(|| self.why.violation("at(dir) gives a builder for every directory", "none"))
    }
}

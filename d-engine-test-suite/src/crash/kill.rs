//! kill -9 at random moments, reopen, check, and on from there.

use std::time::Duration;

use super::writer::FOR_EVER;
use super::{Lab, enter};
use crate::law::{LawResult, Violation, Why, held};
use crate::process::Child;
use crate::subject::{Style, Subject};

const ROUNDS: u64 = 12;
const FLUSHED_ROUNDS: u64 = 8;

/// The state after a kill is the one after some prefix of the calls, with everything that was said to be durable; a
/// second open shows the same, and the next life goes on from there.
pub(crate) async fn kill<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    let mut random = fastrand::Rng::with_seed(1);
    let mut state = lab.look("when it is new").await?;
    let mut durable = 0;
    for round in 0..ROUNDS {
        let seed = random.u64(..);
        let mut writer = lab.open_writer(lab.dir(), &state, seed, FOR_EVER)?;
        writer.let_run(random.u32(0..40), Duration::from_millis(300))?;
        std::thread::sleep(Duration::from_micros(random.u64(0..2000)));
        writer.kill()?;
        let when = format!("after kill -9 in round {round} (history with seed {seed}, {} calls)", writer.durable());
        state = lab.look_for(&lab.subject, &writer.possible(), &when).await?;
        durable += writer.durable();
        if round % 3 == 0 {
            let again = lab.look("opened a second time").await?;
            let shown = lab.subject.describe(&again);
            why.equal("what a second open after a kill shows", shown, lab.subject.describe(&state))?;
        }
    }
    why.holds("the writing processes made calls that are durable", durable > 0, "none in any round")?;
    for round in 0..FLUSHED_ROUNDS {
        let (seed, calls) = (random.u64(..), round + 1);
        state = kill_after_flush(&lab, &state, seed, calls).await?;
    }
    held()
}

/// Kills a process that waits after a flush: what was flushed must not be in its memory alone, however short the time in
/// which a kill at random would show it.
async fn kill_after_flush<S: Subject>(
    lab: &Lab<'_, S>,
    state: &S::State,
    seed: u64,
    calls: u64,
) -> Result<S::State, Violation> {
    let phases = [(Style::Mixed, calls), (Style::Flush, 1)];
    let mut writer = lab.open_writer(lab.dir(), state, seed, &phases)?;
    writer.wait_for("end")?;
    lab.why.ok("going on", writer.process.send_word().map_err(Into::into))?;
    writer.wait_for("end")?;
    writer.kill()?;
    for (style, calls) in phases {
        (0..calls).for_each(|_| drop(writer.history.step(style)));
    }
    writer.history.settle();
    let when = format!("after kill -9 behind a flush (history with seed {seed}, {calls} calls and a flush)");
    lab.look_for(&lab.subject, &writer.history.possible, &when).await
}

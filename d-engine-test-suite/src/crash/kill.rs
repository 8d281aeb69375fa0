//! kill -9 at random moments, reopen, check, and on from there.

use std::time::Duration;

use super::enter;
use super::writer::FOR_EVER;
use crate::law::{LawResult, Why, held};
use crate::process::Child;
use crate::subject::Subject;

const ROUNDS: u64 = 12;

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
    held()
}

//! A system in a process of its own: starts it, and does what the process that measures asks, one line of JSON at a time.
//!
//! What a system itself prints begins with no brace. Ends when its standard input does.

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use d_engine_load::Load;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{self, Data};
use crate::consensus;
use crate::log::Result;
use crate::subject::{Subject, Work};

/// How long a leader may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it must stay the same after all were stopped, in which followers may have waited too long for it.
const STEADY: Duration = Duration::from_millis(400);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Starts the system `name` below `dir` and serves until nobody asks any more.
pub fn serve(name: &str, dir: &Path, data: Data) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let started = runtime.block_on(async {
        match cluster::start(name, dir, data).await {
            None => consensus::start(name).await,
            started => started,
        }
    });
    let mut subjects = match started.unwrap_or_else(|| Err(format!("this program was built without {name}").into())) {
        Ok(subjects) => subjects,
        Err(why) => {
            println!("{}", json!({ "error": why.to_string() }));
            return Ok(());
        }
    };
    println!("{}", json!({ "subjects": subjects.iter().map(|subject| about(subject.as_ref())).collect::<Vec<_>>() }));
    for line in std::io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let answer = runtime.block_on(answer(&mut subjects, &asked));
        println!("{}", answer.unwrap_or_else(|why| json!({ "error": why.to_string() })));
    }
    // Other processes end with their subjects; what else there is ends with this one.
    drop(subjects);
    std::process::exit(0);
}

fn about(subject: &dyn Subject) -> Value {
    let works: Vec<_> = Work::ALL.into_iter().filter(|work| subject.can(*work)).map(Work::name).collect();
    json!({ "name": subject.name(), "about": subject.about(), "works": works })
}

async fn answer(subjects: &mut [Box<dyn Subject>], asked: &Value) -> Result<Value> {
    let number = |name: &str| asked[name].as_u64().ok_or_else(|| format!("{asked} lacks {name}"));
    let subject = subjects.get_mut(usize::try_from(number("subject")?)?).ok_or("there is no such subject")?;
    match asked["do"].as_str() {
        Some("fill") => {
            settle(subject.as_mut(), false).await?;
            subject.fill().await?;
            Ok(json!({}))
        }
        Some("settle") => {
            settle(subject.as_mut(), asked["steady"] == true).await?;
            Ok(json!({}))
        }
        Some("round") => {
            let work = asked["work"].as_str().and_then(Work::named).ok_or("there is no such work")?;
            let load = Load {
                clients: usize::try_from(number("clients")?)?,
                rate: None,
                round: Duration::from_nanos(number("nanoseconds")?),
                rounds: 1,
            };
            Ok(subject.round(work, &load).await?.json())
        }
        _ => Err(format!("{asked} asks for nothing that is known").into()),
    }
}

/// Waits until a leader answers; with `steady`, until the same one does so some time later too.
async fn settle(subject: &mut dyn Subject, steady: bool) -> Result<()> {
    let begun = Instant::now();
    let mut last = String::new();
    while begun.elapsed() < PATIENCE {
        match attempt(subject).await {
            Ok(_) if !steady => return Ok(()),
            Ok(leader) => {
                sleep(STEADY).await;
                match attempt(subject).await {
                    Ok(still) if still == leader => return Ok(()),
                    Ok(_) => {}
                    Err(why) => last = why,
                }
            }
            Err(why) => last = why,
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(format!("no leader answered within {} s: {last}", PATIENCE.as_secs()).into())
}

async fn attempt(subject: &mut dyn Subject) -> std::result::Result<u64, String> {
    match timeout(ATTEMPT, subject.answers()).await {
        Ok(answered) => answered.map_err(|why| why.to_string()),
        Err(_) => Err(format!("a call had no answer after {} s", ATTEMPT.as_secs())),
    }
}

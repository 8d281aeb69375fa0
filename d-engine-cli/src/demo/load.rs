//! The demo's load: every key belongs to one task, whose writes to it follow each other, so that what the key must hold
//! is known exactly.
//!
//! A write whose answer is unknown ends the writing to its key: afterwards the key holds that value or the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use d_engine_net::{Client, ClientError};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::progress::Bar;
use super::timeline::Timeline;
use crate::processes::PATIENCE;

/// One key in so many is overwritten at once, so that a stale value would be noticed.
const OVERWRITE_EVERY: usize = 10;
/// Pause before a refused request is sent again.
const PAUSE: Duration = Duration::from_millis(5);
/// Wrong answers that are shown in full.
const EXAMPLES: usize = 5;
/// Never killed.
const NEVER: u64 = u64::MAX;

/// What is known about one key.
#[derive(Debug, Clone, Copy)]
struct Key {
    number: u32,
    /// The newest version that was acknowledged; 0: none.
    acked: u32,
    /// The version whose answer never came; nothing is written to the key after it.
    unknown: Option<u32>,
    /// The version that the newest read found.
    seen: u32,
}

/// One task's keys.
type Share = Vec<Key>;

pub(super) struct Load {
    client: Client,
    value_len: usize,
    shares: Vec<Share>,
    keys: u64,
    acked: Arc<AtomicU64>,
}

/// What reading everything back found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Keys that miss an acknowledged write.
    pub(super) lost: u64,
    /// Keys with a value that nobody wrote, or that is older than one read before.
    pub(super) wrong: u64,
    pub(super) examples: Vec<String>,
}

impl Load {
    pub(super) fn new(client: Client, keys: u32, value_len: u32, tasks: u32) -> Self {
        let mut shares = vec![Share::new(); tasks.min(keys) as usize];
        let tasks = shares.len();
        for number in 0..keys {
            shares[number as usize % tasks].push(Key { number, acked: 0, unknown: None, seen: 0 });
        }
        Self { client, value_len: value_len as usize, shares, keys: keys.into(), acked: Arc::default() }
    }

    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    /// Writes of [`Load::write_all`].
    pub(super) fn first_writes(&self) -> u64 {
        self.shares.iter().map(|share| share.len() + share.len().div_ceil(OVERWRITE_EVERY)).sum::<usize>() as u64
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub(super) fn unknown(&self) -> u64 {
        self.shares.iter().flatten().filter(|key| key.unknown.is_some()).count() as u64
    }

    /// Writes every key once and some a second time.
    pub(super) async fn write_all(&mut self, bar: &Bar) -> Result<(), String> {
        let mut tasks = JoinSet::new();
        for mut share in std::mem::take(&mut self.shares) {
            let (writer, bar) = (self.writer(), bar.clone());
            tasks.spawn(async move {
                for (place, key) in share.iter_mut().enumerate() {
                    let times = if place % OVERWRITE_EVERY == 0 { 2 } else { 1 };
                    for _ in 0..times {
                        writer.write(key).await?;
                        bar.add(1);
                    }
                }
                Ok(share)
            });
        }
        self.shares = gathered(tasks).await?;
        Ok(())
    }

    /// Begins to overwrite keys from all tasks, until told to stop.
    pub(super) fn overwrite(&mut self) -> Overwriting {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            killed: AtomicU64::new(NEVER),
            back: AtomicU64::new(NEVER),
            timeline: Timeline::new(),
        });
        let origin = Instant::now();
        let mut tasks = JoinSet::new();
        for mut share in std::mem::take(&mut self.shares) {
            let (writer, shared) = (self.writer(), Arc::clone(&shared));
            tasks.spawn(async move {
                let mut place = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    let began = nanos(origin.elapsed());
                    // A key whose fate is unknown is left alone; when all of them are, there is nothing to do but wait.
                    let key = &mut share[place];
                    if key.unknown.is_some() {
                        tokio::task::yield_now().await;
                    } else if writer.try_write(key).await? == Outcome::Acked {
                        let acked = nanos(origin.elapsed());
                        shared.timeline.acked(acked, acked - began);
                        if began > shared.killed.load(Ordering::Acquire) {
                            shared.back.fetch_min(acked, Ordering::AcqRel);
                        }
                    }
                    place = (place + 1) % share.len();
                }
                Ok(share)
            });
        }
        Overwriting { tasks, shared, origin }
    }

    /// Takes the keys back from a finished [`Load::overwrite`].
    pub(super) fn take_back(&mut self, shares: Overwritten) {
        self.shares = shares.0;
    }

    /// Reads every key linearizably and compares it with what it must hold.
    pub(super) async fn read_all(&mut self, bar: &Bar) -> Result<Found, String> {
        let mut tasks = JoinSet::new();
        for mut share in std::mem::take(&mut self.shares) {
            let (client, value_len, bar) = (self.client.clone(), self.value_len, bar.clone());
            tasks.spawn(async move {
                let mut found = Found::default();
                for key in &mut share {
                    let value = read(&client, key.number).await?;
                    found.judge(key, value.as_deref(), value_len);
                    bar.add(1);
                }
                Ok((share, found))
            });
        }
        let mut all = Found::default();
        for (share, found) in gathered(tasks).await? {
            self.shares.push(share);
            all.lost += found.lost;
            all.wrong += found.wrong;
            all.examples.extend(found.examples);
        }
        all.examples.truncate(EXAMPLES);
        Ok(all)
    }

    fn writer(&self) -> Writer {
        Writer { client: self.client.clone(), value_len: self.value_len, acked: Arc::clone(&self.acked) }
    }
}

impl Found {
    fn judge(&mut self, key: &mut Key, value: Option<&[u8]>, value_len: usize) {
        let version = match value {
            None => Some(0),
            Some(bytes) => version(bytes).filter(|version| bytes == value_of(key.number, *version, value_len)),
        };
        let Some(version) = version else {
            self.wrong += 1;
            self.examples.push(format!("{} holds a value that was never written to it", name(key.number)));
            return;
        };
        if version == key.acked || Some(version) == key.unknown {
            // The unknown write was seen: from now on nothing older may be.
            if version < key.seen {
                self.wrong += 1;
                self.examples.push(format!("{} was read at version {}, then at {version}", name(key.number), key.seen));
            }
            key.seen = version;
            return;
        }
        if version < key.acked {
            self.lost += 1;
        } else {
            self.wrong += 1;
        }
        self.examples.push(format!("{} holds version {version}, acknowledged was {}", name(key.number), key.acked));
    }
}

/// Overwriting tasks at work.
pub(super) struct Overwriting {
    tasks: JoinSet<Result<Share, String>>,
    shared: Arc<Shared>,
    origin: Instant,
}

/// The keys of an overwriting that has ended.
pub(super) struct Overwritten(Vec<Share>);

/// Times are nanoseconds since the overwriting began.
struct Shared {
    stop: AtomicBool,
    killed: AtomicU64,
    /// When the first write that began after the kill was acknowledged.
    back: AtomicU64,
    timeline: Timeline,
}

impl Overwriting {
    /// Says when the leader was killed.
    pub(super) fn killed(&self, at: Instant) {
        self.shared.killed.store(nanos(at - self.origin), Ordering::Release);
    }

    /// Time from the kill until a write that began after it was acknowledged.
    pub(super) fn back_after(&self) -> Option<Duration> {
        let back = self.shared.back.load(Ordering::Acquire);
        (back != NEVER).then(|| Duration::from_nanos(back.saturating_sub(self.shared.killed.load(Ordering::Acquire))))
    }

    /// Plots of what was written so far.
    pub(super) fn plots(&self) -> [String; 2] {
        let killed = self.shared.killed.load(Ordering::Acquire);
        let back = self.shared.back.load(Ordering::Acquire);
        let marks = [(killed, "kill -9 of the leader"), (back, "writes go on")];
        let marks: Vec<_> =
            marks.into_iter().filter(|(at, _)| *at != NEVER).map(|(at, text)| (at, text.to_owned())).collect();
        self.shared.timeline.plots(nanos(self.origin.elapsed()), &marks)
    }

    pub(super) async fn stop(self) -> Result<Overwritten, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        gathered(self.tasks).await.map(Overwritten)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Acked,
    Unknown,
    /// It had no effect.
    Refused,
}

/// One task's way to write.
struct Writer {
    client: Client,
    value_len: usize,
    acked: Arc<AtomicU64>,
}

impl Writer {
    /// Writes the key's next version, again and again while it is refused.
    async fn write(&self, key: &mut Key) -> Result<(), String> {
        let started = Instant::now();
        while key.unknown.is_none() && self.try_write(key).await? == Outcome::Refused {
            if started.elapsed() > PATIENCE {
                return Err(format!("a write was refused for {} s", PATIENCE.as_secs()));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn try_write(&self, key: &mut Key) -> Result<Outcome, String> {
        let version = key.acked + 1;
        match self.client.put(name(key.number), value_of(key.number, version, self.value_len)).await {
            Ok(_) => {
                key.acked = version;
                self.acked.fetch_add(1, Ordering::Relaxed);
                Ok(Outcome::Acked)
            }
            Err(ClientError::Unknown) => {
                key.unknown = Some(version);
                Ok(Outcome::Unknown)
            }
            Err(error @ ClientError::Rejected { .. }) => Err(format!("a write was rejected: {error}")),
            Err(_) => Ok(Outcome::Refused),
        }
    }
}

async fn read(client: &Client, number: u32) -> Result<Option<Bytes>, String> {
    let started = Instant::now();
    loop {
        match client.get(name(number)).await {
            Ok(got) => return Ok(got.value),
            Err(error @ ClientError::Rejected { .. }) => return Err(format!("a read was rejected: {error}")),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(format!("a read was refused for {} s: {error}", PATIENCE.as_secs()));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn gathered<T: 'static>(mut tasks: JoinSet<Result<T, String>>) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended.map_err(|error| format!("a task of the load ended: {error}"))??);
    }
    Ok(all)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1)
}

fn name(number: u32) -> String {
    format!("demo/{number:07}")
}

/// A value that tells its key and version, and no two are alike.
fn value_of(number: u32, version: u32, len: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(len + 8);
    value.extend_from_slice(format!("{number:07}:{version:010}:").as_bytes());
    let mut state = (u64::from(number) << 32 | u64::from(version)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while value.len() < len {
        // Xorshift: cheap, and all that is asked of it is to differ.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(len);
    value.freeze()
}

/// The version that a value tells.
fn version(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value.get(8..18)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(mut key: Key, value: Option<&[u8]>) -> (u64, u64) {
        let mut found = Found::default();
        found.judge(&mut key, value, 64);
        (found.lost, found.wrong)
    }

    #[test]
    fn a_value_tells_its_version_and_is_checked_to_the_last_byte() {
        let key = Key { number: 7, acked: 3, unknown: None, seen: 0 };
        let value = value_of(7, 3, 64);
        assert_eq!((value.len(), version(&value)), (64, Some(3)));
        assert_eq!(judged(key, Some(&value)), (0, 0));
        let mut damaged = value.to_vec();
        damaged[63] ^= 1;
        assert_eq!(judged(key, Some(&damaged)), (0, 1));
        assert_eq!(judged(key, Some(&value_of(8, 3, 64))), (0, 1));
        assert_eq!(judged(key, Some(b"short")), (0, 1));
    }

    #[test]
    fn an_older_or_missing_value_is_a_lost_write_and_a_newer_one_a_wrong_read() {
        let key = Key { number: 7, acked: 3, unknown: None, seen: 0 };
        assert_eq!(judged(key, Some(&value_of(7, 2, 64))), (1, 0));
        assert_eq!(judged(key, None), (1, 0));
        assert_eq!(judged(key, Some(&value_of(7, 4, 64))), (0, 1));
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not_but_may_not_vanish_again() {
        let key = Key { number: 7, acked: 3, unknown: Some(4), seen: 0 };
        assert_eq!(judged(key, Some(&value_of(7, 3, 64))), (0, 0));
        assert_eq!(judged(key, Some(&value_of(7, 4, 64))), (0, 0));
        assert_eq!(judged(key, Some(&value_of(7, 5, 64))), (0, 1));
        assert_eq!(judged(Key { seen: 4, ..key }, Some(&value_of(7, 3, 64))), (0, 1));
        let never = Key { number: 7, acked: 0, unknown: Some(1), seen: 0 };
        assert_eq!(judged(never, None), (0, 0));
    }
}

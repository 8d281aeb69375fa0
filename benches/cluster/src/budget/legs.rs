//! From seams to legs: how long each part of the way of a call took.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::collector::Told;

/// One call, as its caller saw it.
pub(super) struct Sample {
    pub(super) called: Instant,
    pub(super) returned: Instant,
    /// Of its entry, or the newest that its answer includes.
    pub(super) index: u64,
}

/// The legs of all calls that could be followed.
pub(crate) struct Legs {
    pub(super) calls: usize,
    pub(super) followed: usize,
    pub(super) legs: Vec<Leg>,
}

/// How long one part of the way took, of each call.
pub(super) struct Leg {
    pub(super) name: &'static str,
    took: Vec<Duration>,
}

impl Leg {
    /// Median and 99th percentile.
    pub(super) fn quantiles(&self) -> (Duration, Duration) {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let at = |hundredths: usize| sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1)));
        (at(50).copied().unwrap_or_default(), at(99).copied().unwrap_or_default())
    }
}

/// A stage, the node that tells it, and the peer of a message.
type Seam = (&'static str, u64, u64);

/// What was told at each seam, in the order of time.
struct Seams<'a>(HashMap<(&'a str, u64, u64), Vec<&'a Told>>);

impl<'a> Seams<'a> {
    fn new(told: &'a [Told]) -> Self {
        let mut seams = HashMap::<_, Vec<&Told>>::new();
        for one in told {
            // What is called peer there is the number of the write.
            let peer = if one.stage == "write" { 0 } else { one.peer };
            seams.entry((one.stage.as_str(), one.node, peer)).or_default().push(one);
        }
        Self(seams)
    }

    /// Without those that reach no further than one before them, where that is what they tell.
    fn ascending(mut self) -> Self {
        for (_, list) in self.0.iter_mut().filter(|((stage, ..), _)| !["enter", "answer"].contains(stage)) {
            let mut highest = 0;
            list.retain(|one| {
                let is_further = one.last > highest;
                highest = highest.max(one.last);
                is_further
            });
        }
        self
    }

    fn of(&self, seam: Seam) -> &[&'a Told] {
        self.0.get(&seam).map_or(&[], Vec::as_slice)
    }

    /// The first that reaches `last`.
    fn reaching(&self, seam: Seam, last: u64) -> Option<&'a Told> {
        let list = self.of(seam);
        list.get(list.partition_point(|one| one.last < last)).copied()
    }

    /// The first not before `at`.
    fn after(&self, seam: Seam, at: Instant) -> Option<&'a Told> {
        let list = self.of(seam);
        list.get(list.partition_point(|one| one.at < at)).copied()
    }

    /// The other nodes.
    fn followers(&self, leader: u64) -> Vec<u64> {
        let mut nodes: Vec<u64> =
            self.0.keys().map(|(_, node, _)| *node).filter(|node| ![0, leader].contains(node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// Puts the legs of calls together: the times at which each call passed, under the names of what lies before them.
#[derive(Default)]
struct Passed {
    legs: BTreeMap<usize, Leg>,
    followed: usize,
}

impl Passed {
    fn add(&mut self, begun: Instant, passed: &[(&'static str, Instant)], whole: &[(&'static str, Duration)]) {
        self.followed += 1;
        let mut before = begun;
        let durations =
            passed.iter().map(|(name, at)| (*name, at.saturating_duration_since(std::mem::replace(&mut before, *at))));
        for (place, (name, took)) in durations.collect::<Vec<_>>().into_iter().chain(whole.iter().copied()).enumerate()
        {
            self.legs.entry(place).or_insert_with(|| Leg { name, took: Vec::new() }).took.push(took);
        }
    }

    fn legs(self, calls: usize) -> Legs {
        Legs { calls, followed: self.followed, legs: self.legs.into_values().collect() }
    }
}

/// Of writes: through the follower that acknowledged first. Where several call, it is not known when each one got to the
/// node's queue.
pub(super) fn of_writes(told: &[Told], leader: u64, samples: &[Sample], is_single: bool) -> Legs {
    let seams = Seams::new(told).ascending();
    let followers = seams.followers(leader);
    let answers: HashMap<u64, Instant> = seams.of(("answer", leader, 0)).iter().map(|one| (one.last, one.at)).collect();
    let mut passed = Passed::default();
    for sample in samples {
        let index = sample.index;
        let one = || {
            let write = seams.reaching(("write", leader, 0), index)?;
            let own = seams.reaching(("persisted", leader, 0), write.peer)?;
            let fastest = followers.iter().filter_map(|follower| {
                let write = seams.reaching(("write", *follower, 0), index)?;
                Some([
                    ("sent to a follower", seams.reaching(("send", leader, *follower), index)?.at),
                    ("taken up by the follower's driver", seams.reaching(("take", *follower, leader), index)?.at),
                    ("given to the follower's disk", write.at),
                    ("written and synced there", seams.reaching(("persisted", *follower, 0), write.peer)?.at),
                    ("acknowledged", seams.reaching(("send-reply", *follower, leader), index)?.at),
                    ("taken up by the leader's driver", seams.reaching(("take-reply", leader, *follower), index)?.at),
                ])
            });
            let fastest = fastest.min_by_key(|seams| seams[5].1)?;
            let mut all = Vec::new();
            if is_single {
                all.push(("called: in the leader's queue", seams.after(("enter", leader, 0), sample.called)?.at));
            }
            all.push(("taken up by the driver, given to the leader's disk", write.at));
            all.extend(fastest);
            all.extend([
                ("committed", seams.reaching(("commit", leader, 0), index)?.at),
                ("applied", seams.reaching(("apply", leader, 0), index)?.at),
                ("answered in the leader", *answers.get(&index)?),
                ("answered to the caller", sample.returned),
            ]);
            let whole = sample.returned.saturating_duration_since(sample.called);
            Some((
                all,
                [
                    ("all of it", whole),
                    ("beside it: written and synced by the leader", own.at.saturating_duration_since(write.at)),
                ],
            ))
        };
        if let Some((all, whole)) = one() {
            passed.add(sample.called, &all, &whole);
        }
    }
    passed.legs(samples.len())
}

/// Of linearizable reads of one caller: through the follower that answered first.
pub(super) fn of_reads(told: &[Told], leader: u64, samples: &[Sample]) -> Legs {
    let seams = Seams::new(told);
    let followers = seams.followers(leader);
    let mut passed = Passed::default();
    for sample in samples {
        let one = || {
            let enter = seams.after(("enter", leader, 0), sample.called)?;
            let read = seams.after(("read", leader, 0), enter.at)?;
            let fastest = followers.iter().filter_map(|follower| {
                let send = seams.after(("send-probe", leader, *follower), read.at)?;
                let take = seams.reaching(("take-probe", *follower, leader), send.last)?;
                let reply = seams.after(("send-reply", *follower, leader), take.at)?;
                let taken = seams.after(("take-reply", leader, *follower), reply.at)?;
                Some([
                    ("sent to a follower", send.at),
                    ("taken up by the follower's driver", take.at),
                    ("answered by it", reply.at),
                    ("taken up by the leader's driver", taken.at),
                ])
            });
            let fastest = fastest.min_by_key(|seams| seams[3].1)?;
            let ready = seams.after(("ready", leader, 0), fastest[3].1)?;
            let answer = seams.after(("answer", leader, 0), ready.at)?;
            let mut all = vec![("called: in the leader's queue", enter.at), ("taken up by the driver", read.at)];
            all.extend(fastest);
            all.extend([
                ("confirmed: the leader still leads", ready.at),
                ("the caller's task runs again", answer.at),
                ("looked up and answered to the caller", sample.returned),
            ]);
            // What belongs to the next call is none of this one.
            let whole = sample.returned.checked_duration_since(sample.called)?;
            (answer.at <= sample.returned).then_some((all, [("all of it", whole)]))
        };
        if let Some((all, whole)) = one() {
            passed.add(sample.called, &all, &whole);
        }
    }
    passed.legs(samples.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Microseconds after `begun`.
    fn told(begun: Instant, all: &[(u64, &str, u64, u64, u64)]) -> Vec<Told> {
        let one = |(micros, stage, node, peer, last): &(u64, &str, u64, u64, u64)| Told {
            at: begun + Duration::from_micros(*micros),
            stage: (*stage).to_owned(),
            node: *node,
            peer: *peer,
            last: *last,
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn a_write_is_followed_through_the_follower_that_acknowledges_first() {
        let begun = Instant::now();
        let told = told(
            begun,
            &[
                (1, "enter", 1, 0, 0),
                (3, "write", 1, 50, 7),
                (4, "send", 1, 2, 7),
                (5, "send", 1, 3, 7),
                (10, "take", 3, 1, 7),
                (11, "write", 3, 80, 7),
                (20, "persisted", 3, 0, 80),
                (21, "send-reply", 3, 1, 7),
                (22, "take", 2, 1, 7),
                (23, "write", 2, 90, 7),
                (29, "take-reply", 1, 3, 7),
                (30, "persisted", 1, 0, 50),
                (31, "commit", 1, 0, 7),
                (35, "apply", 1, 0, 7),
                (36, "answer", 1, 0, 7),
                (40, "persisted", 2, 0, 90),
                (41, "send-reply", 2, 1, 7),
                (50, "take-reply", 1, 2, 7),
            ],
        );
        let sample = Sample { called: begun, returned: begun + Duration::from_micros(40), index: 7 };
        let found = of_writes(&told, 1, &[sample], true);
        assert_eq!((found.calls, found.followed), (1, 1));
        let took: Vec<u128> = found.legs.iter().map(|leg| leg.quantiles().0.as_micros()).collect();
        assert_eq!(took, [1, 2, 2, 5, 1, 9, 1, 8, 2, 4, 1, 4, 40, 27]);
    }

    #[test]
    fn a_read_is_followed_by_time_and_one_that_asked_nobody_is_left_out() {
        let begun = Instant::now();
        let told = told(
            begun,
            &[
                (1, "enter", 1, 0, 0),
                (2, "read", 1, 0, 0),
                (3, "send-probe", 1, 2, 9),
                (8, "take-probe", 2, 1, 9),
                (9, "send-reply", 2, 1, 7),
                (15, "take-reply", 1, 2, 7),
                (16, "ready", 1, 0, 7),
                (18, "answer", 1, 0, 0),
            ],
        );
        let sample = |called: u64, returned: u64| Sample {
            called: begun + Duration::from_micros(called),
            returned: begun + Duration::from_micros(returned),
            index: 7,
        };
        let found = of_reads(&told, 1, &[sample(0, 20), sample(30, 40)]);
        assert_eq!((found.calls, found.followed), (2, 1));
        let took: Vec<u128> = found.legs.iter().map(|leg| leg.quantiles().0.as_micros()).collect();
        assert_eq!(took, [1, 1, 1, 5, 1, 6, 1, 2, 2, 20]);
    }
}

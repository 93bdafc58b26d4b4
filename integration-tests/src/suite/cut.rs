//! Futures that are polled some times and then dropped.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::context::{Context, PATIENCE};

/// How many places are tried on a broker, beside the run that counts them.
const SAMPLE: usize = 8;
/// More polls than any call needs to end.
const ENDLESS: usize = 10_000;

/// When a future is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Right after this many polls.
    After(usize),
    /// After this many polls, when it was woken for the next: what it waited for has come, unread.
    Woken(usize),
}

/// The places at which one call is cut: on memory every one, on a broker a sample drawn by the seed.
#[derive(Debug)]
pub(super) struct Cuts {
    what: &'static str,
    /// All still to come on a broker; `None` on memory.
    sampled: Option<BTreeSet<Place>>,
    place: Place,
    /// Runs begun, and runs that ended before they were cut.
    runs: usize,
    ended: usize,
    /// How often the last one was polled.
    polls: usize,
    patience: Duration,
    random: fastrand::Rng,
}

impl Cuts {
    /// Prepares to cut a call named `what`.
    pub(super) fn of(context: &Context, what: &'static str) -> Self {
        let sampled = (context.harness.name() != "memory").then(BTreeSet::new);
        let random = fastrand::Rng::with_seed(context.seed);
        Self {
            what,
            sampled,
            place: Place::After(0),
            runs: 0,
            ended: 0,
            polls: 0,
            patience: PATIENCE,
            random,
        }
    }

    /// Moves to the next place; returns whether there is one.
    pub(super) fn next(&mut self) -> bool {
        self.runs += 1;
        self.place = match (&mut self.sampled, self.runs, self.place) {
            // The first run on a broker goes to the end and counts.
            (Some(_), 1, _) => Place::After(ENDLESS),
            (Some(sampled), ..) => match sampled.pop_first() {
                Some(place) => place,
                None => return false,
            },
            (None, 1, _) => Place::After(0),
            // It ended though it was let run as long as at the last place: there are no more.
            (None, ..) if self.ended > 0 => return false,
            (None, _, Place::After(0)) => Place::After(1),
            (None, _, Place::After(polls)) => Place::Woken(polls),
            (None, _, Place::Woken(polls)) => Place::After(polls + 1),
        };
        true
    }

    /// Polls `future` up to this place, then drops it; returns its output if it ended before.
    ///
    /// # Errors
    /// It neither ends nor is woken.
    pub(super) async fn cut<F: Future>(&mut self, future: F) -> Result<Option<F::Output>> {
        let mut polls = 0;
        let place = self.place;
        let run = async {
            let mut future = pin!(future);
            poll_fn(|cx| {
                if place == Place::After(0) || place == Place::Woken(polls) {
                    return Poll::Ready(None);
                }
                polls += 1;
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending if place == Place::After(polls) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        // The deadline first: its wake-up must not pass for the one that the future waits for.
        let output = tokio::select! {
            biased;
            () = tokio::time::sleep(self.patience) => None,
            output = run => Some(output),
        };
        let output = output.with_context(|| format!("{} hangs after {polls} polls", self.what))?;
        self.polls = polls;
        ensure!(polls < ENDLESS, "{} was polled {polls} times", self.what);
        if output.is_some() {
            self.ended += 1;
            self.sample(polls);
        }
        Ok(output)
    }

    /// Returns whether the last future was polled at all.
    pub(super) fn polled(&self) -> bool {
        self.polls > 0
    }

    /// Draws the places on a broker from a run that took so many polls.
    fn sample(&mut self, polls: usize) {
        if self.runs > 1 {
            return;
        }
        if let Some(sampled) = &mut self.sampled {
            let mut places = vec![Place::After(0)];
            places.extend((1..polls).flat_map(|polls| [Place::After(polls), Place::Woken(polls)]));
            self.random.shuffle(&mut places);
            sampled.extend(places.into_iter().take(SAMPLE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Harness, MemoryHarness};
    use std::sync::Arc;

    /// Ends at its third poll; counts its polls and its drops.
    async fn thrice(polls: &std::cell::Cell<usize>) {
        for _ in 0..2 {
            polls.set(polls.get() + 1);
            tokio::task::yield_now().await;
        }
        polls.set(polls.get() + 1);
    }

    async fn places(cuts: &mut Cuts) -> Vec<(usize, bool)> {
        let mut seen = Vec::new();
        while cuts.next() {
            let polls = std::cell::Cell::new(0);
            let ended = cuts.cut(thrice(&polls)).await.unwrap().is_some();
            seen.push((polls.get(), ended));
        }
        seen
    }

    async fn context() -> Context {
        let harness: Arc<dyn Harness> = Arc::new(MemoryHarness::default());
        Context::new(harness, "cut.tests", 1).await.unwrap()
    }

    #[tokio::test]
    async fn every_place_is_tried_until_it_ends() {
        let mut cuts = Cuts::of(&context().await, "thrice");
        let cut = [0, 1, 1, 2, 2].map(|polls| (polls, false));
        assert_eq!(places(&mut cuts).await, [&cut[..], &[(3, true)]].concat());
    }

    #[tokio::test]
    async fn a_sample_is_counted_first() {
        let mut cuts = Cuts::of(&context().await, "thrice");
        cuts.sampled = Some(BTreeSet::new());
        let seen = places(&mut cuts).await;
        assert_eq!(seen[0], (3, true));
        let polls: Vec<usize> = seen[1..].iter().map(|(polls, _)| *polls).collect();
        assert_eq!(polls, [0, 1, 2, 1, 2]);
        assert!(seen[1..].iter().all(|(_, ended)| !ended));
    }

    #[tokio::test]
    async fn what_hangs_is_named() {
        let mut cuts = Cuts::of(&context().await, "never");
        cuts.patience = Duration::from_millis(50);
        for _ in 0..2 {
            assert!(cuts.next());
            assert!(cuts.cut(std::future::pending::<()>()).await.unwrap().is_none());
        }
        assert!(cuts.next());
        let error = cuts.cut(std::future::pending::<()>()).await.unwrap_err();
        assert!(format!("{error:#}").contains("never hangs"), "{error:#}");
    }
}

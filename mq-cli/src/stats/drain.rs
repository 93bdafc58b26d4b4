//! How fast a backlog shrinks, and when it is gone.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mq::GroupName;
use tokio::time::Instant;

/// Over how long the rate is taken: long enough for batches, short enough to follow.
const WINDOW: Duration = Duration::from_secs(15);

/// Backlogs seen lately, by group.
#[derive(Debug, Default)]
pub(super) struct Backlogs(HashMap<GroupName, VecDeque<(Instant, u64)>>);

/// Where a backlog goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Drain {
    /// Messages a second by which it shrinks; negative if it grows, `None` before there are two looks.
    pub(super) per_second: Option<f64>,
    /// Seconds until it is gone at this rate; `None` while it does not shrink.
    pub(super) eta: Option<f64>,
}

impl Backlogs {
    /// Takes a look at what waits for a group; returns where it goes.
    pub(super) fn look(&mut self, group: &GroupName, ready: Option<u64>, now: Instant) -> Drain {
        let Some(ready) = ready else {
            self.0.remove(group);
            return Drain::default();
        };
        let seen = self.0.entry(group.clone()).or_default();
        // One look older than the window stays, so that the rate is over all of it.
        while seen.len() > 1 && seen[1].0 + WINDOW <= now {
            seen.pop_front();
        }
        let first = seen.front().copied();
        seen.push_back((now, ready));
        let Some((since, before)) = first.filter(|(since, _)| *since < now) else { return Drain::default() };
        #[allow(clippy::cast_precision_loss, reason = "a backlog beyond 2^53 is none that was ever seen")]
        let per_second = (before as f64 - ready as f64) / (now - since).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "as above")]
        let eta = match ready {
            0 => Some(0.0),
            ready => (per_second > 0.0).then(|| ready as f64 / per_second),
        };
        Drain { per_second: Some(per_second), eta }
    }
}

impl Drain {
    /// Returns the cells of a table: the rate, and when it is gone.
    pub(super) fn cells(self) -> [String; 2] {
        let Some(per_second) = self.per_second else { return ["-".into(), "-".into()] };
        let eta = match self.eta {
            Some(0.0) => "empty".to_owned(),
            Some(seconds) => time(seconds),
            None if per_second < 0.0 => "grows".to_owned(),
            None => "stands".to_owned(),
        };
        [format!("{per_second:.1}"), eta]
    }
}

/// Writes seconds for people: two units at most.
fn time(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupName {
        "billing".try_into().unwrap()
    }

    /// Looks once a second; returns what the last look shows.
    fn last(readies: impl IntoIterator<Item = Option<u64>>) -> Drain {
        let (mut backlogs, start) = (Backlogs::default(), Instant::now());
        let looks = readies.into_iter().enumerate();
        let look =
            |(second, ready)| backlogs.look(&group(), ready, start + Duration::from_secs(second as u64));
        looks.map(look).last().unwrap()
    }

    #[test]
    fn a_backlog_that_shrinks_has_an_end() {
        assert_eq!(last([Some(100)]), Drain::default());
        assert_eq!(last([Some(100), Some(90), Some(80)]), Drain { per_second: Some(10.0), eta: Some(8.0) });
        assert_eq!(last([Some(100), Some(130)]), Drain { per_second: Some(-30.0), eta: None });
        assert_eq!(last([Some(5), Some(0)]), Drain { per_second: Some(5.0), eta: Some(0.0) });
        assert_eq!(last([Some(100), None]), Drain::default());
        assert_eq!(last([Some(100), None, Some(50)]), Drain::default(), "nothing is guessed across a gap");
    }

    #[test]
    fn the_rate_is_that_of_the_window() {
        let stood_then_drains =
            (0..60).map(|_| Some(1000)).chain((0..=15).map(|second| Some(1000 - second * 20)));
        assert_eq!(last(stood_then_drains).per_second, Some(20.0));
    }

    #[test]
    fn people_read_two_units() {
        let cells = |per_second, eta| Drain { per_second, eta }.cells();
        assert_eq!(cells(None, None), ["-", "-"]);
        assert_eq!(cells(Some(-2.5), None), ["-2.5", "grows"]);
        assert_eq!(cells(Some(0.0), None), ["0.0", "stands"]);
        assert_eq!(cells(Some(1.0), Some(0.0)), ["1.0", "empty"]);
        assert_eq!(cells(Some(1.0), Some(59.2)), ["1.0", "1 min 0 s"]);
        assert_eq!(cells(Some(1.0), Some(7325.0)), ["1.0", "2 h 2 min"]);
        assert_eq!(cells(Some(1.0), Some(90_000.0)), ["1.0", "1 d 1 h"]);
    }
}

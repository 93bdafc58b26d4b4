//! Items that come one by one, taken together.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// When what was gathered goes: the first limit that is reached counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    /// Since the first item came.
    pub(crate) within: Duration,
}

/// Gathers items. Who brings the first one leads: it waits for the others and does the work in its own
/// future, so that no task is needed and nothing goes on that nobody waits for.
#[derive(Debug)]
pub(crate) struct Gather<T, R> {
    open: Mutex<Option<Arc<Group<T, R>>>>,
}

impl<T, R> Default for Gather<T, R> {
    fn default() -> Self {
        Self { open: Mutex::new(None) }
    }
}

/// The leader was dropped before it had an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Whether the work had begun.
    pub(crate) begun: bool,
}

#[derive(Debug)]
struct Group<T, R> {
    gathered: Mutex<Gathered<T, R>>,
    full: Notify,
}

#[derive(Debug)]
struct Gathered<T, R> {
    items: Vec<T>,
    answers: Vec<oneshot::Sender<R>>,
    bytes: usize,
    begun: bool,
}

impl<T, R> Gather<T, R> {
    /// Joins with an item of so many bytes; `work` is done once for all by who leads, and answers each item in
    /// order.
    pub(crate) async fn join<F>(
        &self,
        limits: Limits,
        item: T,
        bytes: usize,
        work: impl FnOnce(Vec<T>) -> F,
    ) -> Result<R, Left>
    where
        F: Future<Output = Vec<R>>,
    {
        let (group, leads, answer) = self.enter(limits, item, bytes);
        if leads {
            let leader = Leader { gather: self, group: &group };
            // Full or not: it goes now.
            let _ = tokio::time::timeout(limits.within, group.full.notified()).await;
            let (items, senders) = leader.begin();
            let answers = work(items).await;
            for (sender, answer) in senders.into_iter().zip(answers) {
                // Who was dropped meanwhile needs none.
                let _ = sender.send(answer);
            }
        }
        answer.await.map_err(|_| Left { begun: group.gathered.lock().begun })
    }

    /// Returns the item's group, whether it leads it, and where the answer comes.
    fn enter(&self, limits: Limits, item: T, bytes: usize) -> (Arc<Group<T, R>>, bool, oneshot::Receiver<R>) {
        let (sender, answer) = oneshot::channel();
        let mut open = self.open.lock();
        let over = |group: &Arc<Group<T, R>>| group.gathered.lock().bytes + bytes > limits.bytes;
        if let Some(full) = open.take_if(|group| over(group)) {
            full.full.notify_one();
        }
        let leads = open.is_none();
        let group = open.get_or_insert_with(|| Arc::new(Group::new())).clone();
        let mut gathered = group.gathered.lock();
        gathered.items.push(item);
        gathered.answers.push(sender);
        gathered.bytes += bytes;
        if gathered.items.len() >= limits.items || gathered.bytes >= limits.bytes {
            *open = None;
            group.full.notify_one();
        }
        drop(gathered);
        drop(open);
        (group, leads, answer)
    }

    /// Nobody joins the group any more.
    fn close(&self, group: &Arc<Group<T, R>>) {
        self.open.lock().take_if(|open| Arc::ptr_eq(open, group));
    }
}

impl<T, R> Group<T, R> {
    fn new() -> Self {
        let gathered = Gathered { items: Vec::new(), answers: Vec::new(), bytes: 0, begun: false };
        Self { gathered: Mutex::new(gathered), full: Notify::new() }
    }
}

/// Who waits for the others; dropped before the work begins, it lets all of them go.
struct Leader<'a, T, R> {
    gather: &'a Gather<T, R>,
    group: &'a Arc<Group<T, R>>,
}

impl<T, R> Leader<'_, T, R> {
    fn begin(self) -> (Vec<T>, Vec<oneshot::Sender<R>>) {
        self.gather.close(self.group);
        let mut gathered = self.group.gathered.lock();
        gathered.begun = true;
        (std::mem::take(&mut gathered.items), std::mem::take(&mut gathered.answers))
    }
}

impl<T, R> Drop for Leader<'_, T, R> {
    fn drop(&mut self) {
        self.gather.close(self.group);
        let mut gathered = self.group.gathered.lock();
        let (items, answers) = (std::mem::take(&mut gathered.items), std::mem::take(&mut gathered.answers));
        drop(gathered);
        drop((items, answers));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;

    const LIMITS: Limits = Limits { items: 3, bytes: 100, within: Duration::from_secs(1) };

    async fn double(items: Vec<u32>) -> Vec<(u32, usize)> {
        let count = items.len();
        items.into_iter().map(|item| (item * 2, count)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn goes_when_it_is_full_or_when_the_time_is_over() {
        let (gather, start) = (Gather::default(), Instant::now());
        let answers = join_all((0..5).map(|item| gather.join(LIMITS, item, 1, double))).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [(0, 3), (2, 3), (4, 3), (6, 2), (8, 2)]);
        assert_eq!(start.elapsed(), LIMITS.within);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_a_limit_too_and_one_large_item_goes_alone() {
        let gather = Gather::default();
        let sizes = [40, 40, 40, 200, 1];
        let answers = join_all(sizes.map(|bytes| gather.join(LIMITS, 1, bytes, double))).await;
        let counts: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().1).collect();
        assert_eq!(counts, [2, 2, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_follows_a_leader_that_is_dropped_is_told_so() {
        for (patience, begun) in [(Duration::from_millis(500), false), (Duration::from_secs(5), true)] {
            let gather = Gather::default();
            let slow = async |items: Vec<u32>| {
                tokio::time::sleep(Duration::from_secs(60)).await;
                items
            };
            let leader = tokio::time::timeout(patience, gather.join(LIMITS, 1, 1, slow));
            let both = async { tokio::join!(leader, gather.join(LIMITS, 2, 1, slow)) };
            let both = tokio::time::timeout(Duration::from_secs(3600), both).await;
            let (leader, follower) = both.expect("the follower is never told");
            assert!(leader.is_err());
            assert_eq!(follower, Err(Left { begun }));
            // The next one leads a group of its own.
            assert_eq!(gather.join(LIMITS, 3, 1, slow).await, Ok(3));
        }
    }
}

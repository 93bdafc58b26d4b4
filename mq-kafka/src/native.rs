//! The settings of native producers and consumers, after the windows; how a consumer leaves its group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::config::KafkaConfig;
use crate::member::Opening;

/// The most bytes of a request of one partition: the native client's default.
const BATCH: usize = 1_000_000;

/// A member is out when it did not poll for so long; the events thread polls all the time.
const POLL_INTERVAL: Duration = Duration::from_secs(120);

/// How long callbacks are waited for that are on their way already.
const CALLBACKS: Duration = Duration::from_millis(1);

/// Messages of a partition that the native client reads ahead, in whole fetches and within the bytes. Each costs it
/// some hundred bytes: with 200,000 they come from fresh memory instead of from caches, which took a quarter
/// of the rate; with 10,000 it waits for the broker, which took a third.
const READ_AHEAD: &str = "30000";

/// Whether who chose a window of so many bytes did so to save memory. Then the native queues of a consumer take no
/// more than the window, not twice as much, memory is not kept for the next message, and requests are small.
pub(crate) fn saves_memory(window: usize) -> bool {
    window < 16 << 20
}

/// Returns the bytes of a request: beside the messages that wait for its answer, the native client keeps a copy of
/// all of it for each partition.
fn batch(window: usize) -> usize {
    if saves_memory(window) { (window / 64).max(16 << 10) } else { BATCH }
}

/// Returns the settings of a producer with at most `window` bytes in flight.
pub(crate) fn producer(config: &KafkaConfig, window: usize) -> ClientConfig {
    let timeout = config.send_timeout.as_millis();
    let mut native = config.native();
    native
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", &config.compression)
        .set("linger.ms", format!("{:.3}", config.linger.as_secs_f64() * 1000.0))
        .set("message.timeout.ms", timeout.to_string())
        .set("request.timeout.ms", timeout.min(10_000).to_string())
        .set("batch.size", batch(window).to_string())
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "1048576");
    native
}

/// Returns the KiB of a partition's queue and the bytes of a fetch from it. Fetched bytes are compressed, the
/// queue's are not: a fetch is a small part of it.
fn queue_and_fetch(window: usize, partitions: usize) -> (usize, usize) {
    // Each partition has a queue of its own, and each of these the whole limit.
    let share = window / partitions.max(1) / 1024;
    if saves_memory(window) {
        let queue = share.max(1 << 8);
        return (queue, (queue * 1024 / 64).max(16 << 10));
    }
    let queue = (2 * share).clamp(1 << 10, 32 << 10);
    (queue, (queue * 1024 / 16).min(1 << 20))
}

/// Returns the settings of a member's native consumer.
pub(crate) fn consumer(config: &KafkaConfig, opening: &Opening) -> ClientConfig {
    let session = config.session_timeout;
    let (queue, fetch) = queue_and_fetch(opening.prefetch.bytes, opening.partitions);
    let strategy = if opening.ordered { "range" } else { "cooperative-sticky" };
    let mut native = config.native();
    native
        .set("group.id", &opening.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", strategy)
        .set("session.timeout.ms", session.as_millis().to_string())
        .set("heartbeat.interval.ms", (session / 10).as_millis().clamp(100, 3000).to_string())
        .set("max.poll.interval.ms", POLL_INTERVAL.max(session).as_millis().to_string())
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", fetch.to_string())
        .set("queued.min.messages", READ_AHEAD)
        .set("queued.max.messages.kbytes", queue.to_string());
    native
}

/// Has a consumer that is about to be dropped leave its group, if it has no partitions, and returns whether it was told
/// to: when it is dropped it does not (librdkafka 2.12.1, cooperative), and the group, which waits for it at its next
/// rebalance, could commit nothing until the session ends. One with partitions leaves when it is dropped, and only then:
/// one that is dropped while it gives them up forgets to leave as well.
pub(crate) fn leave<C: ConsumerContext + 'static>(consumer: &BaseConsumer<C>) -> bool {
    let has_nothing = consumer.assignment().is_ok_and(|partitions| partitions.count() == 0);
    if has_nothing {
        consumer.unsubscribe();
    }
    has_nothing
}

/// Waits, at most so long, until a consumer that was told to leave has done so, which it does at the end of a rebalance
/// that is under way; callbacks run meanwhile. It does not say when, but the coordinator answers the requests of
/// a connection one after another: what is asked now is answered after the join, then after the sync, then after the
/// consumer has seen that it has to leave.
pub(crate) fn see_off<C: ConsumerContext + 'static>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    within: Duration,
) {
    let deadline = Instant::now() + within;
    for _ in ["join", "sync", "leave"] {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, 0);
        if consumer.committed_offsets(asked, deadline.saturating_duration_since(Instant::now())).is_err() {
            return;
        }
        // Of what comes nothing is kept: it is of partitions that came too late.
        while Instant::now() < deadline && consumer.poll(CALLBACKS).is_some() {}
    }
}

/// Drops a native client on a thread of its own: its threads are joined.
pub(crate) fn release<T: Send + 'static>(native: T) {
    let dropped = std::thread::Builder::new().name("mq-kafka-release".into()).spawn(move || drop(native));
    if let Err(error) = dropped {
        tracing::warn!(target: "mq", %error, "no thread to release a native client on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_windows_make_small_requests() {
        assert_eq!(batch(64 << 20), BATCH);
        assert_eq!(batch(8 << 20), 128 << 10);
        assert_eq!(batch(1), 16 << 10, "room for something");
    }

    #[test]
    fn all_queues_together_are_in_proportion_to_the_window() {
        assert_eq!(queue_and_fetch(64 << 20, 16), (8 << 10, 512 << 10));
        assert_eq!(queue_and_fetch(1 << 30, 1), (32 << 10, 1 << 20));
        assert_eq!(queue_and_fetch(8 << 20, 16), (512, 16 << 10));
        assert_eq!(queue_and_fetch(1, 0), (256, 16 << 10), "room for something");
    }
}

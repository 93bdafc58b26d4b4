//! The settings of a native producer, and what the windows say about memory.

use rdkafka::ClientConfig;

use crate::config::KafkaConfig;

/// The most bytes of a request of one partition: the native client's default.
const BATCH: usize = 1_000_000;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_windows_make_small_requests() {
        assert_eq!(batch(64 << 20), BATCH);
        assert_eq!(batch(8 << 20), 128 << 10);
        assert_eq!(batch(1), 16 << 10, "room for something");
    }
}

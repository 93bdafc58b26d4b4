//! Every metric: its name, its kind and what it says.

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows from 0 with the process; ask for its rate.
    Counter,
    /// A value of now.
    Gauge,
    /// A distribution of times.
    Histogram,
}

impl Kind {
    /// Returns its name in the exposition format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
    /// Its labels beside `backend`, which all have.
    pub labels: &'static [&'static str],
}

/// Declares the metrics, and [`ALL`] of them.
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(crate) const $constant: &Metric =
            &Metric { name: $name, kind: Kind::$kind, help: $help, labels: &$labels };)*

        /// Every metric there is.
        pub const ALL: &[&Metric] = &[$($constant),*];
    };
}

const GROUP: [&str; 2] = ["topic", "group"];
const GROUP_OUTCOME: [&str; 3] = ["topic", "group", "outcome"];

metrics! {
    PUBLISHED = Counter "mq_published_total" ["topic", "outcome"], "Messages sent, by outcome: confirmed, rejected, unknown.";
    SENDING = Gauge "mq_sends_in_flight" [], "Sends that the broker has not answered.";
    RECEIVED = Counter "mq_received_total" GROUP, "Deliveries handed out.";
    SETTLED = Counter "mq_settled_total" GROUP_OUTCOME, "Deliveries settled, by outcome: acked, retried, deferred, dead, stale.";
    IN_HAND = Gauge "mq_deliveries_in_hand" GROUP, "Deliveries of this process that are handed out or being settled.";
    EXPIRED = Counter "mq_leases_expired_total" GROUP, "Leases that ran out.";
    RENEWED = Counter "mq_leases_renewed_total" GROUP, "Leases that were renewed.";
    HANDLER = Histogram "mq_handler_duration_seconds" GROUP_OUTCOME, "Time in the handler and the layers inside, by outcome: handled, skipped, failed, rejected, deferred.";
    END_TO_END = Histogram "mq_end_to_end_duration_seconds" GROUP, "Time from the first send to the end of the attempt that handled the message.";
    READY = Gauge "mq_group_ready_messages" GROUP, "Messages that wait for the group now: its lag, or the depth of its queue.";
    HELD = Gauge "mq_group_in_flight_messages" GROUP, "Messages that the group's members hold, of all processes.";
    DELAYED = Gauge "mq_group_delayed_messages" GROUP, "Messages that wait for their time.";
    DEAD = Gauge "mq_group_dead_messages" GROUP, "Dead letters.";
    OLDEST = Gauge "mq_group_oldest_ready_age_seconds" GROUP, "Age of the oldest message that waits; absent where the broker cannot tell.";
    MEMBERS = Gauge "mq_group_members" GROUP, "Members of the group, of all processes.";
    FAILED_SAMPLES = Counter "mq_sample_failures_total" [], "Questions about groups that the broker did not answer.";
    UP = Gauge "mq_broker_up" [], "Whether the broker answered when it was last asked.";
    MADE = Counter "mq_connections_made_total" ["use"], "Connections made.";
    LOST = Counter "mq_connections_lost_total" ["use"], "Connections lost.";
    RECONNECTS = Counter "mq_reconnects_total" ["use"], "Connections made in the place of a lost one.";
    REBUILT = Counter "mq_rebuilt_total" [], "Topics, queues, streams and groups that had gone and were made again.";
    TAKEN_OVER = Counter "mq_taken_over_messages_total" [], "Messages taken over from members that died.";
    LOSSES = Counter "mq_losses_total" [], "Times that messages were gone before every group had them.";
    BACKGROUND = Counter "mq_background_failures_total" ["operation"], "Background operations that failed and are tried again.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name is there twice");
        for metric in ALL {
            assert!(metric.name.starts_with("mq_") && metric.help.ends_with('.'), "{metric:?}");
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{metric:?}");
            assert_eq!(
                metric.kind == Kind::Histogram,
                metric.name.ends_with("_duration_seconds"),
                "{metric:?}"
            );
        }
    }
}

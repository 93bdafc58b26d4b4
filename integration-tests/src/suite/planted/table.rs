//! Which row notices what.

use super::defect::Defect;

/// Rows by a defect that each must notice. A row may notice others as well.
pub(super) const NOTICED: &[(Defect, &[&str])] = &[
    (Defect::NothingGivenBack, &["lifecycle.close_gives_back_the_rest", "settle.put_back"]),
    (Defect::HoldShortened, &["order.hold_key_moves"]),
    (Defect::PurgeForgotten, &["dead.purge"]),
    (Defect::RedriveLoses, &["dead.redrive_one", "dead.redrive_all_of_many"]),
    (Defect::CrashNotCounted, &["attempts.a_crash_counts_one"]),
    (Defect::CopyChanged, &["settle.retry_at_once"]),
    (Defect::HistoryLost, &["dead.envelope_is_whole"]),
    (Defect::SubjectLost, &["codec.subjects", "codec.dispatch"]),
    (
        Defect::LosesConfirmed,
        &[
            "groups.topics_are_isolated",
            "flow.batch_up_to_max",
            "settle.as_a_stream",
            "lifecycle.close_makes_room_at_once",
            "lifecycle.idle_members_leave",
            "order.retry_lets_others_pass",
            "cancel.declaring",
            "observe.many_topics",
            "publish.concurrent_sends",
            "publish.batch_is_confirmed",
            "publish.verdicts_of_many_tasks",
            "publish.dropped_publisher_still_sends",
            "publish.dropped_send_loses_only_the_answer",
            "publish.close_answers_every_send",
            "groups.every_group_gets_everything",
            "groups.many_consumers",
            "groups.many_topics_one_consumer",
            "flow.a_held_message_stops_nobody",
            "flow.cancelled_receive_loses_nothing",
            "flow.clones_share",
            "lifecycle.reopen_many_times",
            "attempts.retries_lose_nothing",
            "transactions.all_are_stored",
            "terms.transient",
            "cancel.publishing",
            "cancel.receiving",
            "worker.batches",
            "worker.groups",
            "worker.stops_under_load",
            "worker.outlet",
            "worker.adapts",
            "codec.filters",
        ],
    ),
    (
        Defect::SendsTwice,
        &[
            "lease.not_twice_while_leased",
            "lifecycle.close_amid_settlements",
            "groups.one_group_shares",
            "settle.any_order",
            "settle.batch_ack",
            "inspect.counts",
            "groups.declared_group_keeps_messages",
        ],
    ),
    (
        Defect::PayloadChanged,
        &[
            "codec.schema_check",
            "codec.limits",
            "publish.everything_survives",
            "publish.odd_payloads",
            "publish.json_survives",
            "codec.bytes",
            "codec.json",
            "codec.msgpack",
            "codec.protobuf",
            "codec.avro",
            "codec.confluent",
            "codec.gzip",
            "codec.zstd",
            "codec.lz4",
            "codec.snappy",
            "codec.by_content_type",
            "codec.upcast",
            "worker.sealed",
        ],
    ),
    (
        Defect::HeadersLost,
        &[
            "publish.odd_headers",
            "codec.still_compressed",
            "codec.bomb",
            "codec.newer_version",
            "observe.traceparent_survives",
            "observe.trace_goes_on",
        ],
    ),
    (Defect::KeyLost, &["publish.odd_keys", "order.one_in_hand_per_key"]),
    (Defect::IdChanged, &["publish.given_id_survives", "worker.once_by_redis", "worker.once_by_sql"]),
    (Defect::ContentTypeLost, &["codec.unknown_content_type", "codec.undecodable"]),
    (
        Defect::BatchReversed,
        &["publish.one_task_keeps_order", "publish.one_at_a_time_in_order", "terms.required_in_order"],
    ),
    (
        Defect::DelayDropped,
        &[
            "delay.years",
            "delay.survives_its_publisher",
            "delay.every_group_gets_it",
            "delay.many_due_at_once",
            "delay.long_blocks_no_short",
        ],
    ),
    (Defect::DelayShortened, &["delay.never_early_never_late", "delay.on_time_beside_a_backlog"]),
    (Defect::DelayLengthened, &["delay.past_and_short"]),
    (Defect::GroupNotRequired, &["terms.no_group_is_unroutable"]),
    (Defect::HalfATransaction, &["transactions.none_is_stored"]),
    (Defect::GroupsMerged, &["settle.retry_is_isolated", "dead.isolated", "groups.broadcast"]),
    (
        Defect::AckForgotten,
        &[
            "flow.dropped_ack_still_holds",
            "settle.acked_never_comes_back",
            "inspect.zero_in_the_end",
            "lifecycle.close_drains",
            "cancel.settling",
        ],
    ),
    (
        Defect::AckedWhenFetched,
        &[
            "lease.late_settlement_disturbs_nobody",
            "observe.leases",
            "settle.dropped_comes_back_at_once",
            "settle.after_close_is_stale",
            "settle.out_of_order_then_crash",
            "settle.one_held_many_acked_then_crash",
            "lease.a_dead_process_gives_back",
            "attempts.counted_across_restarts",
            "lifecycle.dropped_subscriber_gives_back",
            "lifecycle.client_close_drains_all",
            "worker.outcomes",
            "observe.settlements",
            "settle.each_of_a_batch_its_own_way",
        ],
    ),
    (
        Defect::RetryNotCounted,
        &[
            "delay.longer_than_the_lease",
            "attempts.exactly_max_attempts",
            "settle.fifty_retries",
            "lease.expiry_ends_in_dead_letters",
            "observe.last_attempts",
            "history.settlements",
        ],
    ),
    (
        Defect::DeathForgotten,
        &["order.hold_key_counts", "dead.redriven_and_dead_again", "dead.redrive_all_to_that_group_alone"],
    ),
    (
        Defect::RetryDelayDropped,
        &["settle.retry_after_a_delay", "delay.retry_survives_its_consumer", "delay.defer_waits"],
    ),
    (Defect::HoldForgotten, &["order.hold_key_survives_a_kill"]),
    (Defect::HoldMoved, &["order.hold_key_always", "order.hold_key", "order.hold_key_many_members"]),
    (Defect::StartForgotten, &["attempts.a_killer_is_dead_lettered_alone"]),
    (
        Defect::FetchedReversed,
        &[
            "order.members_join_and_leave",
            "order.survives_a_crash",
            "order.single_consumer",
            "worker.ordered",
            "history.ordered",
        ],
    ),
    (
        Defect::FetchedForgotten,
        &["history.members", "order.messages_without_a_key", "order.keys_run_in_parallel"],
    ),
    (Defect::PolicyIgnored, &["publish.missing_topic_by_policy", "groups.missing_group_by_policy"]),
    (Defect::SettingsIgnored, &["groups.settings_must_agree", "order.hold_key_declared"]),
    (Defect::StartMoved, &["groups.start_latest", "groups.start_earliest", "groups.start_at_a_time"]),
    (Defect::CountsWrong, &["inspect.delayed_count", "observe.gauges"]),
    (Defect::PagesIgnored, &["dead.paging"]),
    (Defect::SelectionIgnored, &["dead.nothing_selected"]),
    (Defect::LookingPurges, &["dead.looking_changes_nothing", "cancel.administration"]),
    (
        Defect::DeletionForgotten,
        &["lifecycle.topic_deleted_under_a_consumer", "inspect.delete_group", "inspect.delete_topic"],
    ),
    (Defect::DerivedListed, &["inspect.topics_are_listed"]),
    (Defect::PeekEmpty, &["inspect.peek_disturbs_nobody"]),
    (Defect::PendingEmpty, &["inspect.pending"]),
    (Defect::CancelForgotten, &["delay.cancel"]),
    (Defect::MissingUntold, &["terms.missing_topic_is_not_unroutable", "inspect.asked_in_vain"]),
];

/// Rows that hurt a broker and must fail on that backend's driver with the defect: `cargo xtask conformance --planted`.
pub(super) const HURT: &[(&str, Defect, &[&str])] = &[
    (
        "redis-stream",
        Defect::LosesConfirmed,
        &[
            "terms.synced",
            "faults.broker_restarted",
            "faults.broker_killed",
            "faults.broker_paused",
            "faults.connections_cut",
            "faults.half_open",
            "faults.unreachable_then_back",
            "faults.history",
            "transactions.whole_under_cuts",
        ],
    ),
    ("redis-stream", Defect::DelayDropped, &["faults.delayed_survives_a_restart"]),
    ("redis-stream", Defect::AckForgotten, &["operator.out_of_memory", "operator.disk_full"]),
    (
        "redis-stream",
        Defect::EventsLost,
        &["operator.group_deleted", "operator.everything_deleted", "operator.trimmed_while_read"],
    ),
    ("rabbitmq", Defect::EventsLost, &["operator.ack_timeout", "operator.queue_not_started"]),
    ("rabbitmq", Defect::LosesConfirmed, &["operator.queue_full"]),
];

/// Rows that a patch in `xtask/mutants` must fail, by its name: `cargo xtask mutants`.
pub(super) const PATCHED: &[(&str, &str)] = &[
    ("publish.batch_verdicts", "core_batch_verdicts_shifted"),
    ("transactions.in_order_with_sends", "kafka_transaction_overtakes"),
    ("groups.shares_are_fair", "kafka_inboxes_take_all_members"),
    ("settle.defer_does_not_count", "core_defer_counted"),
    ("settle.refused_copy_is_not_lost", "core_refused_copy_forgotten"),
    ("lease.expires_while_the_holder_lives", "core_lease_never_ends"),
    ("lease.a_hung_process_gives_back", "kafka_silence_is_trusted"),
    ("lease.hung_and_cut_off", "kafka_silence_is_trusted"),
    ("lease.extend_keeps_it", "core_extend_does_nothing"),
    ("attempts.clean_close_counts_nothing", "kafka_rebalance_counts"),
    ("flow.prefetch_in_messages", "core_window_never_refilled"),
    ("flow.prefetch_in_bytes", "core_prefetch_bytes_ignored"),
    ("flow.pause_and_resume", "core_pause_ignored"),
    ("observe.sends", "core_counted_on_another_topic"),
    ("observe.latencies", "observe_failures_end_to_end"),
    ("faults.slow_to_connect", "redis_slow_brokers_given_up"),
    ("faults.retried_until_back", "core_send_not_retried"),
    ("operator.everything_deleted_ordered", "redis_rebuilt_otherwise"),
    ("operator.route_removed", "rabbitmq_routes_left_to_chance"),
    ("operator.route_removed_and_sent", "rabbitmq_routes_not_restored"),
    ("operator.trimmed_before_read", "kafka_stops_at_the_removed"),
    ("operator.trimmed_elsewhere", "kafka_trim_counts"),
    ("observe.cuts", "observe_old_gauges_kept"),
    ("publish.oversized_is_refused", "core_size_not_checked"),
    ("publish.reserved_headers_are_refused", "core_reserved_headers_taken"),
    ("publish.send_after_close", "core_closed_is_retryable"),
    ("publish.full_window_waits", "core_window_not_full"),
    ("publish.limits_are_exact", "core_key_one_too_long"),
    ("lifecycle.receive_after_close", "core_closed_receive_is_retryable"),
    ("lifecycle.close_many_times", "core_second_close_fails"),
    ("lifecycle.cannot_connect", "core_unknown_keys_pass"),
    ("lifecycle.secrets_are_not_shown", "memory_password_shown"),
    ("settle.acked_before_the_hand_over", "core_acked_and_lost"),
    ("operator.credentials_revoked", "redis_refused_is_unavailable"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::suite::manifest;

    #[test]
    fn every_row_has_its_place() {
        let listed = NOTICED.iter().flat_map(|(_, rows)| rows.iter().copied());
        let listed = listed.chain(HURT.iter().flat_map(|(_, _, rows)| rows.iter().copied()));
        let others = PATCHED.iter().map(|(row, _)| *row);
        let listed: Vec<&str> = listed.chain(others).collect();
        let rows: BTreeSet<&str> = manifest().iter().map(|case| case.id).collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), rows);
        assert_eq!(listed.len(), rows.len(), "a row is listed twice");
    }

    #[test]
    fn patches_name_their_rows() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/mutants");
        for (row, patch) in PATCHED {
            let text = std::fs::read_to_string(folder.join(format!("{patch}.patch"))).expect(patch);
            let names = |line: &str| line.starts_with("detector: row ") && line.ends_with(&format!(" {row}"));
            assert!(text.lines().any(names), "{patch} does not name {row}");
        }
    }
}

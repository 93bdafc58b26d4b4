//! The rows: what must hold, by contract point.

use anyhow::Result;
use futures_util::future::BoxFuture;

use super::cases::{
    attempts, cancel, codec, dead, delay, faults, flow, groups, hold, inspect, lease, lifecycle, observe,
    once, operator, order, publish, service, settle, terms, transactions, worker,
};
use super::context::Context;
use super::{fault_history, history};

/// What a row found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The property holds.
    Pass,
    /// The backend declares that it cannot, and says so when asked.
    Unsupported,
}

/// Whether a row only uses a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It measures how late something comes: it runs first, alone.
    Times,
    /// It runs beside others.
    Uses,
    /// It kills processes, whose share of what clients do together is nobody's until their sessions
    /// end (Kafka's forwarding of delayed messages): it runs after those, beside its like.
    Kills,
    /// It stops or kills the broker and runs when no other does.
    Hurts,
}

/// A property and the code that checks it.
#[derive(Clone)]
pub struct Case {
    /// Its name.
    pub id: &'static str,
    /// The point of the contract.
    pub point: u8,
    /// What must hold.
    pub says: &'static str,
    /// Whether it hurts the broker.
    pub kind: Kind,
    pub(super) run: fn(Context) -> BoxFuture<'static, Result<Verdict>>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (point {})", self.id, self.point)
    }
}

macro_rules! rows {
    ($($kind:ident $point:literal $id:literal $run:path: $says:literal;)*) => {
        vec![$(Case { id: $id, point: $point, says: $says, kind: Kind::$kind, run: |context| Box::pin($run(context)) }),*]
    };
}

/// Returns every row.
#[must_use]
pub fn manifest() -> Vec<Case> {
    rows! {
        Uses 13 "publish.everything_survives" publish::everything_survives: "id, payload, key, subject, headers and media type arrive as sent";
        Uses 13 "publish.given_id_survives" publish::given_id_survives: "an id that the producer chose arrives as it is";
        Uses 13 "publish.odd_payloads" publish::odd_payloads: "empty, one byte, binary and 512 KiB payloads arrive";
        Uses 13 "publish.odd_headers" publish::odd_headers: "repeated, binary, empty, Unicode and multi-line headers arrive in order";
        Uses 13 "publish.odd_keys" publish::odd_keys: "keys of one byte, sixteen bytes, binary, and the longest arrive";
        Uses 13 "publish.json_survives" publish::json_survives: "a JSON value arrives with its media type";
        Uses 1 "publish.batch_is_confirmed" publish::batch_is_confirmed: "each message of a batch of 2,500 is confirmed and comes once";
        Uses 1 "publish.batch_verdicts" publish::batch_verdicts: "when some of a batch are refused, each verdict belongs to its message";
        Uses 1 "publish.concurrent_sends" publish::concurrent_sends: "10,000 concurrent sends from 50 tasks all come, each once and with its own receipt";
        Uses 1 "publish.oversized_is_refused" publish::oversized_is_refused: "a message over the limit is refused with the limit, and the next one goes through";
        Uses 13 "publish.reserved_headers_are_refused" publish::reserved_headers_are_refused: "headers of the library's own and malformed subjects are refused";
        Uses 12 "publish.send_after_close" publish::send_after_close: "a send after close fails at once as Closed";
        Uses 12 "publish.close_answers_every_send" publish::close_answers_every_send: "close lets 3,000 sends under way end, each with its verdict";
        Uses 11 "publish.dropped_publisher_still_sends" publish::dropped_publisher_still_sends: "dropping publisher and client with 2,000 sends under way loses none";
        Uses 11 "publish.dropped_send_loses_only_the_answer" publish::dropped_send_loses_only_the_answer: "dropping the future of an enqueued send loses only the answer";
        Uses 6 "publish.one_task_keeps_order" publish::one_task_keeps_order: "1,000 pipelined sends of one key come in their order";
        Uses 1 "publish.missing_topic_by_policy" publish::missing_topic_by_policy: "a missing topic is an error under Verify and Assume, and made under Create";
        Uses 10 "publish.full_window_waits" publish::full_window_waits: "a full window returns Full to who does not wait and lets who waits go on";
        Uses 1 "publish.verdicts_of_many_tasks" publish::verdicts_of_many_tasks: "eight tasks share a publisher, half of their messages are refused: each gets its own verdict";
        Uses 1 "publish.limits_are_exact" publish::limits_are_exact: "keys and subjects are taken at their limits and refused one byte over, with the limit";
        Uses 11 "publish.one_at_a_time_in_order" publish::one_at_a_time_in_order: "sends that are awaited, queued, or polled once and dropped arrive in their order, none lost";

        Uses 1 "terms.no_group_is_unroutable" terms::no_group_is_unroutable: "a message that requires a group and has none is refused and stored nowhere; once there is one it comes";
        Uses 1 "terms.missing_topic_is_not_unroutable" terms::missing_topic_is_not_unroutable: "a missing topic is told from a topic without a group";
        Uses 6 "terms.required_in_order" terms::required_in_order: "600 pipelined sends that require a group come in their order";
        Hurts 1 "terms.synced" terms::synced: "sends that wait for the disk are confirmed and come, batches, singles and delayed ones";
        Uses 1 "terms.transient" terms::transient: "messages sent with the least durability come";
        Uses 1 "transactions.all_are_stored" transactions::all_are_stored: "601 messages to two topics, one of them delayed, are committed as one and all come";
        Uses 1 "transactions.none_is_stored" transactions::none_is_stored: "if one message is refused none of the transaction is stored";
        Uses 6 "transactions.in_order_with_sends" transactions::in_order_with_sends: "transactions among pipelined sends of a key keep the order";

        Uses 7 "groups.topics_are_isolated" groups::topics_are_isolated: "messages of one topic never come from another";
        Uses 2 "groups.every_group_gets_everything" groups::every_group_gets_everything: "each of three groups gets every message";
        Uses 2 "groups.one_group_shares" groups::one_group_shares: "two members share a group's messages: each some, none twice";
        Uses 2 "groups.shares_are_fair" groups::shares_are_fair: "of two members each soon handles at least an eighth of what comes";
        Uses 2 "groups.many_consumers" groups::many_consumers: "twelve members lose nothing of 2,000 messages";
        Uses 2 "groups.declared_group_keeps_messages" groups::declared_group_keeps_messages: "a declared group gets what is sent before its first member comes, and nothing from before";
        Uses 2 "groups.start_latest" groups::start_latest: "a new group begins with what is sent after it was declared";
        Uses 2 "groups.start_earliest" groups::start_earliest: "a new group can begin with the oldest message kept";
        Uses 2 "groups.start_at_a_time" groups::start_at_a_time: "a new group can begin at a moment";
        Uses 2 "groups.broadcast" groups::broadcast: "each nameless group gets everything from its start, and goes with its member";
        Uses 2 "groups.settings_must_agree" groups::settings_must_agree: "a member with other settings is refused, and told which";
        Uses 2 "groups.missing_group_by_policy" groups::missing_group_by_policy: "a missing group is an error under Verify, and made under Create";
        Uses 2 "groups.many_topics_one_consumer" groups::many_topics_one_consumer: "one subscriber serves two topics, and retries return on the right one";

        Uses 2 "settle.acked_never_comes_back" settle::acked_never_comes_back: "after ack, close and reopen nothing comes back";
        Uses 3 "settle.retry_at_once" settle::retry_at_once: "a retried message comes back whole, with attempt 2 and the error said";
        Uses 5 "settle.retry_after_a_delay" settle::retry_after_a_delay: "a retry after 700 ms comes back after 700 ms";
        Uses 3 "settle.defer_does_not_count" settle::defer_does_not_count: "a message deferred five times is still on its first attempt";
        Uses 4 "settle.dropped_comes_back_at_once" settle::dropped_comes_back_at_once: "a delivery dropped unsettled comes back at once";
        Uses 2 "settle.any_order" settle::any_order: "200 messages acked in random order are all gone";
        Kills 2 "settle.out_of_order_then_crash" settle::out_of_order_then_crash: "after out-of-order acks and kill -9, just the unacked come back";
        Kills 2 "settle.one_held_many_acked_then_crash" settle::one_held_many_acked_then_crash: "one held, 1,999 acked behind it, kill -9: just the one comes back";
        Uses 2 "settle.batch_ack" settle::batch_ack: "batches are received and acked as batches";
        Uses 12 "settle.as_a_stream" settle::as_a_stream: "a subscriber is a stream that ends when closed";
        Uses 4 "settle.after_close_is_stale" settle::after_close_is_stale: "a settlement after close is stale, and the message comes back";
        Uses 3 "settle.put_back" settle::put_back: "what is put back is received next, uncounted and in its order, also by the next member after a close";
        Uses 7 "settle.retry_is_isolated" settle::retry_is_isolated: "one group's retries are invisible to another";
        Uses 4 "settle.acked_before_the_hand_over" settle::acked_before_the_hand_over: "with AckMode::Auto each message is handed over once, also when dropped, cancelled or closed upon";
        Uses 3 "settle.each_of_a_batch_its_own_way" settle::each_of_a_batch_its_own_way: "acked, retried, deferred and dead-lettered in turn: each goes its own way";
        Uses 8 "settle.refused_copy_is_not_lost" settle::refused_copy_is_not_lost: "a message whose copy the broker refuses comes back or is a dead letter that says so";
        Uses 3 "settle.fifty_retries" settle::fifty_retries: "fifty attempts are fifty attempts, and then a dead letter";

        Uses 4 "lease.not_twice_while_leased" lease::not_twice_while_leased: "a leased message goes to nobody else";
        Uses 4 "lease.expires_while_the_holder_lives" lease::expires_while_the_holder_lives: "after its lease a message comes again though its holder lives; the late ack is stale";
        Uses 4 "lease.late_settlement_disturbs_nobody" lease::late_settlement_disturbs_nobody: "a late dead_letter is refused and the new holder's ack holds";
        Uses 4 "lease.extend_keeps_it" lease::extend_keeps_it: "a delivery that is extended runs once, for four leases";
        Uses 3 "lease.expiry_ends_in_dead_letters" lease::expiry_ends_in_dead_letters: "leases that run out count as attempts";
        Kills 4 "lease.a_dead_process_gives_back" lease::a_dead_process_gives_back: "kill -9 with 100 unacked: all 100 come back within the stated bound";
        Kills 4 "lease.a_hung_process_gives_back" lease::a_hung_process_gives_back: "a process that hangs with 100 unacked: all 100 come within the stated bound; when it goes on its late dead_letters change nothing";
        Hurts 4 "lease.hung_and_cut_off" lease::hung_and_cut_off: "the same while nothing comes on its open connections any more, and new ones work: what it settles late changes nothing";

        Uses 3 "attempts.exactly_max_attempts" attempts::exactly_max_attempts: "a message that fails each time is dead after max_attempts, no more, no fewer";
        Uses 3 "attempts.counted_across_restarts" attempts::counted_across_restarts: "attempts are counted across clean restarts";
        Uses 3 "attempts.clean_close_counts_nothing" attempts::clean_close_counts_nothing: "four clean closes with messages held count nothing";
        Kills 3 "attempts.a_crash_counts_one" attempts::a_crash_counts_one: "each crash adds one attempt to what was held";
        Kills 3 "attempts.a_killer_is_dead_lettered_alone" attempts::a_killer_is_dead_lettered_alone: "a message that kills its process each time is dead after max_attempts; of the 40 beside it none is";
        Uses 3 "attempts.retries_lose_nothing" attempts::retries_lose_nothing: "300 messages retried twice with short delays all come";

        Uses 8 "dead.envelope_is_whole" dead::envelope_is_whole: "a dead letter keeps bytes, headers, key, id, attempts, first seen, last error and reason";
        Uses 8 "dead.looking_changes_nothing" dead::looking_changes_nothing: "a hundred listings change nothing";
        Uses 8 "dead.paging" dead::paging: "pages of ten list 25 letters, each once";
        Uses 8 "dead.redrive_one" dead::redrive_one: "one chosen letter goes back, once, as a first attempt";
        Uses 7 "dead.redrive_all_to_that_group_alone" dead::redrive_all_to_that_group_alone: "a redrive is seen by the failed group alone";
        Uses 8 "dead.redriven_and_dead_again" dead::redriven_and_dead_again: "redriven and dead again, three times: nothing lost";
        Uses 8 "dead.purge" dead::purge: "chosen letters and all letters can be removed";
        Uses 7 "dead.isolated" dead::isolated: "one group's dead letters are invisible to another";
        Uses 8 "dead.nothing_selected" dead::nothing_selected: "an unknown id redrives and purges nothing, a page beyond the end is empty";
        Uses 8 "dead.redrive_all_of_many" dead::redrive_all_of_many: "500 letters redriven all come back, and none is left";

        Times 5 "delay.never_early_never_late" delay::never_early_never_late: "mixed delays up to 3.5 s: none early, none a second late";
        Times 5 "delay.long_blocks_no_short" delay::long_blocks_no_short: "an hour and a minute in front do not hold up 300 ms";
        Uses 5 "delay.survives_its_publisher" delay::survives_its_publisher: "a delayed message comes though its publisher closed";
        Uses 5 "delay.retry_survives_its_consumer" delay::retry_survives_its_consumer: "a delayed retry comes to another process, counted";
        Times 5 "delay.many_due_at_once" delay::many_due_at_once: "10,000 due in one instant all come, none early, within 2 s more than as many without delay take";
        Times 5 "delay.on_time_beside_a_backlog" delay::on_time_beside_a_backlog: "beside 100,000 that wait for a far day (a million with MQ_LONG), 1,000 due a second are p99 at most 250 ms late, none early, and plain messages as fast as before";
        Uses 5 "delay.every_group_gets_it" delay::every_group_gets_it: "a delayed message comes whole to every group";
        Uses 5 "delay.longer_than_the_lease" delay::longer_than_the_lease: "a retry delay of five leases is one attempt";
        Uses 5 "delay.defer_waits" delay::defer_waits: "a deferred message comes after its time, uncounted";
        Uses 5 "delay.past_and_short" delay::past_and_short: "what is due already, or in 20 ms, comes at once";
        Uses 5 "delay.cancel" delay::cancel: "a delayed message can be taken back before it is due, once; retries and other messages stay";
        Uses 5 "delay.years" delay::years: "delays of 1, 10 and 30 years are kept and hold up nothing";

        Uses 6 "order.single_consumer" order::single_consumer: "one member gets each key's messages in order, one at a time";
        Uses 6 "order.one_in_hand_per_key" order::one_in_hand_per_key: "a key's next message waits for the settlement of the one before";
        Uses 6 "order.keys_run_in_parallel" order::keys_run_in_parallel: "twenty keys can be in hand at once";
        Uses 6 "order.members_join_and_leave" order::members_join_and_leave: "members join and leave while 3,000 messages flow: each key in order, one at a time";
        Kills 6 "order.survives_a_crash" order::survives_a_crash: "after kill -9 each key goes on in order";
        Uses 6 "order.retry_lets_others_pass" order::retry_lets_others_pass: "a retried message lets the key's others pass";
        Uses 6 "order.hold_key" hold::other_keys_pass: "with hold_key a retried message holds its key, other keys pass, and its key's messages end in the order sent";
        Uses 6 "order.hold_key_always" hold::defer_drop_and_lease: "deferred, dropped and late messages hold their key too; only defer is not counted";
        Uses 6 "order.hold_key_counts" hold::counts: "a message that fails each time is dead after max_attempts, then its key goes on; one without a key holds nothing";
        Uses 6 "order.hold_key_moves" hold::moves: "members close while a message waits: the next has the same attempt, not early, and the order";
        Uses 6 "order.hold_key_many_members" hold::many_members: "members come and go while a third of the attempts fail: each key's messages end in the order sent, counted right";
        Kills 6 "order.hold_key_survives_a_kill" hold::survives_a_kill: "kill -9 while a message waits: one attempt more at most, none fewer, not early, and the order";
        Uses 6 "order.hold_key_declared" hold::declared: "hold_key without ordered is refused, and so is a member that differs in it";
        Uses 6 "order.messages_without_a_key" order::messages_without_a_key: "messages without a key are not held back";

        Uses 10 "flow.prefetch_in_messages" flow::prefetch_in_messages: "no more than the prefetch is held";
        Uses 10 "flow.prefetch_in_bytes" flow::prefetch_in_bytes: "a prefetch in bytes holds back what is over it";
        Uses 10 "flow.a_held_message_stops_nobody" flow::a_held_message_stops_nobody: "3,000 messages pass one that is held";
        Uses 10 "flow.batch_up_to_max" flow::batch_up_to_max: "a batch is at most max, or empty when the wait is over";
        Uses 11 "flow.cancelled_receive_loses_nothing" flow::cancelled_receive_loses_nothing: "1,000 cancelled receives lose nothing";
        Uses 11 "flow.dropped_ack_still_holds" flow::dropped_ack_still_holds: "an ack whose future is dropped holds";
        Uses 10 "flow.pause_and_resume" flow::pause_and_resume: "a paused subscriber gets nothing, another group everything; after resume nothing is missing";
        Uses 2 "flow.clones_share" flow::clones_share: "eight tasks on clones of a subscriber get each message once";

        Uses 8 "inspect.counts" inspect::counts: "ready, in flight and dead are exact when quiet, or null";
        Uses 8 "inspect.delayed_count" inspect::delayed_count: "delayed is exact, or null";
        Uses 4 "inspect.pending" inspect::pending: "what consumers hold is listed with owner, idle time and attempt, page by page; looking changes nothing";
        Uses 8 "inspect.zero_in_the_end" inspect::zero_in_the_end: "after acks, retries and defers all counts are zero";
        Uses 8 "inspect.peek_disturbs_nobody" inspect::peek_disturbs_nobody: "a peek shows the message and takes it from nobody";
        Uses 8 "inspect.topics_are_listed" inspect::topics_are_listed: "topics are listed, without derived names";
        Uses 8 "inspect.asked_in_vain" inspect::asked_in_vain: "2,500 questions about a group that is not there are answered so, and others as before";
        Uses 8 "inspect.delete_group" inspect::delete_group: "a deleted group is gone and can be declared anew";
        Uses 8 "inspect.delete_topic" inspect::delete_topic: "a deleted topic is gone";

        Uses 11 "cancel.publishing" cancel::publishing: "opening a publisher, sending and closing, dropped at every poll: what was queued arrives, what was not does not, the window stays whole";
        Uses 11 "cancel.receiving" cancel::receiving: "opening, receiving and closing, dropped at every poll: every message comes once, as a first attempt, and no member is left";
        Uses 11 "cancel.settling" cancel::settling: "waiting for a settlement, dropped at every poll: each settlement holds, the prefetch stays whole";
        Uses 11 "cancel.declaring" cancel::declaring: "connecting and declaring, dropped at every poll: the next call finishes it";
        Uses 11 "cancel.administration" cancel::administration: "looking at dead letters, redrive and purge, dropped at every poll: no letter is lost or stuck";

        Uses 12 "lifecycle.receive_after_close" lifecycle::receive_after_close: "receive ends with Closed, also one that waited";
        Uses 12 "lifecycle.close_many_times" lifecycle::close_many_times: "ten closes at once are one";
        Uses 12 "lifecycle.close_drains" lifecycle::close_drains: "close waits for 100 deliveries in hand";
        Uses 12 "lifecycle.close_gives_back_the_rest" lifecycle::close_gives_back_the_rest: "what is held at the deadline is reported and comes back at once";
        Uses 12 "lifecycle.close_amid_settlements" lifecycle::close_amid_settlements: "100 retries are under way when the time of a close is over: each message comes once, those that were answered as second attempts";
        Uses 12 "lifecycle.close_makes_room_at_once" lifecycle::close_makes_room_at_once: "whenever a member closes, the next one has its share within 3 s";
        Uses 12 "lifecycle.idle_members_leave" lifecycle::idle_members_leave: "four members that have nothing close: the next has its share, and acks of the others are stored, within 5 s of the first close";
        Uses 9 "lifecycle.topic_deleted_under_a_consumer" lifecycle::topic_deleted_under_a_consumer: "a topic deleted under a consumer is made again, with an event, and both sides go on";
        Uses 9 "lifecycle.cannot_connect" lifecycle::cannot_connect: "wrong credentials, a refused port, an unknown host and an unknown URL key: a typed error within 5 s";
        Uses 2 "lifecycle.reopen_many_times" lifecycle::reopen_many_times: "ten consumers in a row, each taking three of thirty messages, lose none";
        Uses 13 "lifecycle.secrets_are_not_shown" lifecycle::secrets_are_not_shown: "a password shows in no error, cause or Debug of a connection that fails";
        Uses 12 "lifecycle.dropped_subscriber_gives_back" lifecycle::dropped_subscriber_gives_back: "a subscriber dropped without close gives back what it held; what is in hand can be settled";
        Uses 12 "lifecycle.client_close_drains_all" lifecycle::client_close_drains_all: "closing a client drains all its subscribers and reports what it gave back";

        Uses 3 "worker.outcomes" worker::outcomes: "a worker's handlers ack, retry, reject, panic and publish: each message ends as its handler said, and results come";
        Uses 6 "worker.ordered" worker::ordered: "a worker with sixteen places keeps the order of each key";
        Uses 3 "worker.batches" service::batches: "batches of up to fifty, with a verdict for each message";
        Uses 2 "worker.groups" service::groups: "one worker serves two groups of a topic: each sees everything";
        Uses 12 "worker.stops_under_load" service::stops_under_load: "a worker that stops finishes what is under way, and the rest comes to the next one as its first attempt";
        Uses 1 "worker.outlet" service::outlet: "default headers, a filter, a rate and batches around a publisher: what passes is confirmed and comes once";
        Uses 8 "worker.sealed" service::sealed: "payloads of two keys are read, what nobody can read is a dead letter byte for byte";
        Uses 3 "worker.adapts" service::adapts: "concurrency within a range loses nothing to a partner that refuses the fifth call";
        Kills 3 "worker.once_by_redis" once::redis: "10,000 messages sent twice, two worker processes, one killed half-way: 10,000 effects, by a store in Redis";
        Kills 3 "worker.once_by_sql" once::sql: "the same by a table in a database";

        Uses 13 "codec.bytes" codec::bytes: "329 real webhooks come back byte for byte, each with its subject";
        Uses 13 "codec.json" codec::json: "webhooks written as JSON come back as the values they were";
        Uses 13 "codec.msgpack" codec::msgpack: "webhooks written as MessagePack come back as the values they were";
        Uses 13 "codec.protobuf" codec::protobuf: "webhooks as text in a Protobuf record come back byte for byte";
        Uses 13 "codec.avro" codec::avro: "webhooks as text in an Avro record, with the schema's fingerprint, come back byte for byte";
        Uses 13 "codec.confluent" codec::confluent: "webhooks in Confluent's framing are read with another schema than they were written with";
        Uses 13 "codec.gzip" codec::gzip: "webhooks compressed with gzip become shorter and come back byte for byte";
        Uses 13 "codec.zstd" codec::zstd: "webhooks compressed with zstd become shorter and come back byte for byte";
        Uses 13 "codec.lz4" codec::lz4: "webhooks compressed with LZ4 become shorter and come back byte for byte";
        Uses 13 "codec.snappy" codec::snappy: "webhooks compressed with Snappy become shorter and come back byte for byte";
        Uses 13 "codec.by_content_type" codec::by_content_type: "JSON, MessagePack and Avro on one topic are each read as what they say they are";
        Uses 13 "codec.subjects" codec::subjects: "subject patterns choose as many webhooks as a plain reading of their events does";
        Uses 13 "codec.dispatch" codec::dispatched: "each webhook goes to the first handler that its subject fits";
        Uses 13 "codec.filters" codec::filtered: "filters by header and by content choose as many webhooks as a plain reading does";
        Uses 13 "codec.upcast" codec::upcast: "webhooks of three versions reach the handler as the current one";
        Uses 8 "codec.newer_version" codec::newer_version: "versions newer or older than those known are dead letters that say so, and the next message proceeds";
        Uses 8 "codec.undecodable" codec::undecodable: "payloads that are not what they say are dead letters with the reason, and the next message proceeds";
        Uses 8 "codec.schema_check" codec::schema_check: "what does not fit its type is a dead letter with the reason, and the next message proceeds";
        Uses 8 "codec.unknown_content_type" codec::unknown_content_type: "an unknown content type is a dead letter that lists the known ones, and the next message proceeds";
        Uses 8 "codec.still_compressed" codec::still_compressed: "what nobody decompressed is a dead letter that says so, not garbage in a handler";
        Uses 8 "codec.bomb" codec::bomb: "decompression bombs and false encodings are dead letters, and the next message proceeds";
        Uses 10 "codec.limits" codec::limits: "size, depth and decompressed size are taken at their limits and refused one over";

        Uses 1 "observe.sends" observe::sends: "of 210 sends to two topics, and a transaction to both, each is counted once on its topic";
        Uses 2 "observe.settlements" observe::settlements: "after 100 messages acked, retried, deferred and dead-lettered each outcome's count is exact, and nothing is in hand";
        Uses 3 "observe.last_attempts" observe::last_attempts: "a retry of the last attempt is counted as a dead letter";
        Uses 4 "observe.leases" observe::leases: "renewed and expired leases are counted";
        Uses 2 "observe.many_topics" observe::many_topics: "deliveries of one subscriber to two topics are counted on theirs";
        Uses 9 "observe.gauges" observe::gauges: "gauges of a group are what the broker counts, and absent where it counts nothing";
        Uses 3 "observe.latencies" observe::latencies: "each message is once in the end-to-end histogram, each attempt once in its outcome's";
        Uses 13 "observe.traceparent_survives" observe::traceparent_survives: "traceparent and tracestate arrive, and stay through retry, dead letter and redrive";
        Uses 13 "observe.trace_goes_on" observe::trace_goes_on: "what a handler publishes is in the trace of what it handled";

        Uses 3 "history.settlements" history::settlements: "a seeded history of acks, retries, defers, drops, expiries and dead letters ends as in the memory model";
        Uses 6 "history.ordered" history::ordered: "the same on an ordered group, each key in order";
        Uses 3 "history.members" history::members: "the same with members that come and go";

        Hurts 9 "faults.broker_restarted" faults::broker_restarted: "a broker restart loses nothing confirmed, and both sides go on";
        Hurts 9 "faults.broker_killed" faults::broker_killed: "a broker that is killed and started loses nothing confirmed, and both sides go on";
        Hurts 9 "faults.broker_paused" faults::broker_paused: "a broker that pauses for 5 s loses nothing confirmed, and both sides go on";
        Hurts 5 "faults.delayed_survives_a_restart" faults::delayed_survives_a_restart: "delayed messages and retries survive a broker restart, none early";
        Hurts 9 "faults.connections_cut" faults::connections_cut: "all connections cut 20 times while both sides work: nothing confirmed is lost, and both go on after each";
        Hurts 9 "faults.half_open" faults::half_open: "on connections that carry nothing for 8 s a send ends in time, as unknown or unavailable, and both sides go on within the bound";
        Hurts 9 "faults.slow_to_connect" faults::slow_to_connect: "a broker that answers a first connection after 7 s is waited for; one that never does is a typed error in time";
        Hurts 9 "faults.unreachable_then_back" faults::unreachable_then_back: "a broker that is away is a typed error in time, and when it is back both sides go on within the bound";
        Hurts 1 "faults.retried_until_back" terms::retried_until_the_broker_is_back: "with a send retry, sends begun while the broker is away are confirmed when it is back";
        Hurts 1 "transactions.whole_under_cuts" transactions::whole_under_cuts: "connections cut twelve times under transactions to two topics: what was stored comes whole, what was refused not at all, the unknown either way";
        Hurts 9 "operator.group_deleted" operator::group_deleted: "what holds a group's share is deleted with the broker's own tool: an event says so, it is made again, both sides go on";
        Hurts 9 "operator.everything_deleted" operator::everything_deleted: "all that is stored is deleted: an event says so, topic and group are made again, both sides go on";
        Hurts 9 "operator.everything_deleted_ordered" operator::everything_deleted_ordered: "the same with an ordered group";
        Hurts 9 "operator.route_removed" operator::route_removed: "a route that the broker lost is there again as soon as the group's member has its connection back";
        Hurts 1 "operator.route_removed_and_sent" operator::route_removed_and_sent: "what the declaring client sends as soon as it is connected again is not confirmed into nowhere, where the broker lost the route";
        Hurts 9 "operator.trimmed_before_read" operator::trimmed_before_read: "messages removed before a group read them are an event, and what follows comes";
        Hurts 9 "operator.trimmed_while_read" operator::trimmed_while_read: "messages removed while a member reads come all the same, or an event tells of them";
        Hurts 3 "operator.trimmed_elsewhere" operator::trimmed_elsewhere: "messages trimmed from one partition cost those held of another no attempt";
        Hurts 10 "operator.out_of_memory" operator::limits::out_of_memory: "a broker without memory takes no more, and lets deliver and ack what it holds; with memory all goes on";
        Hurts 10 "operator.disk_full" operator::limits::disk_full: "a broker whose disk is full takes no more; what is acked meanwhile is acked, at once or when there is room, and all goes on";
        Hurts 1 "operator.queue_full" operator::limits::queue_full: "one of two groups' queues is full: what it refuses is never said to be stored, what is confirmed comes to both";
        Hurts 9 "operator.ack_timeout" operator::ack_timeout: "a message that the broker takes back because it was not acked in time: an event says so, its holder's ack is stale, it comes again";
        Hurts 9 "operator.queue_not_started" operator::queue_not_started: "a broker that gives up on the queues of a new group, as its disk stalls: an event says so, and they are declared again";
        Hurts 9 "operator.credentials_revoked" operator::credentials_revoked: "a user that is removed: both sides end as Unauthorized within 10 s; nobody connects with that login or a wrong password, no password shows, and who is made again sends again";
        Hurts 9 "observe.cuts" observe::cuts: "a broker that is away is not up and its gauges are gone; lost and restored connections are counted";
        Hurts 2 "faults.history" fault_history::row: "a seeded history of sends, settlements and faults loses nothing confirmed, and nothing unexplained happens";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_points_exist() {
        let rows = manifest();
        let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len());
        assert!(rows.iter().all(|row| (1..=13).contains(&row.point) && !row.says.is_empty()));
    }
}

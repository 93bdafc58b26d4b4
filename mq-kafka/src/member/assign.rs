//! What happens when partitions come and go.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use mq_core::driver::{Lane, ReleaseGuard, Revocation};
use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::sync::oneshot;

use super::books::Ownership;
use super::poll::{Command, Queue};
use super::{Native, Shared};
use crate::error::from_native;

/// What comes after a rebalance, for who closes.
const THE_REST: &str = "the rest of the group, or the native client's end";

/// What the native consumer calls back, on the events thread.
pub(crate) struct MemberContext {
    shared: Arc<Shared>,
    poll: Mutex<mpsc::Sender<Command>>,
    native: OnceLock<Weak<Native>>,
    /// Another native consumer has taken this one's place.
    retired: AtomicBool,
}

impl MemberContext {
    pub(super) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<Command>) {
        let (poll, commands) = mpsc::channel();
        (
            Self { shared, poll: Mutex::new(poll), native: OnceLock::new(), retired: AtomicBool::new(false) },
            commands,
        )
    }

    /// Lets the context split partitions' queues off.
    pub(super) fn attach(&self, native: &Arc<Native>) {
        self.native.get_or_init(|| Arc::downgrade(native));
    }

    /// Leaves the books to another native consumer.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn tell(&self, command: Command) {
        // The poll thread ends only after this one told it to.
        drop(self.poll.lock().send(command));
        self.shared.wake_poller();
    }

    /// Drops the queues of lanes and waits until that is done.
    fn remove(&self, lanes: Vec<Ownership>) {
        let (done, removed) = mpsc::sync_channel(1);
        self.tell(Command::Remove(lanes, done));
        // An error says that the poll thread has ended, and its queues with it.
        let _ = removed.recv();
    }

    fn assign(&self, consumer: &Native, partitions: &mut TopicPartitionList) {
        let Some(native) = self.native.get().and_then(Weak::upgrade) else { return };
        let starts = self.shared.starts(consumer, partitions);
        let oldest = self.shared.oldest(consumer, partitions);
        for start in starts {
            let source = &self.shared.sources[start.source];
            let lane = source.lane(start.partition);
            let from = self.shared.present(&oldest, lane, start.tracker.position());
            let epoch = self.shared.books.lock().own(lane, start.tracker);
            match native.split_partition_queue(&source.topic, start.partition) {
                Some(queue) => self.tell(Command::Add(self.queue((lane, epoch), start.source, queue))),
                None => tracing::error!(target: "mq", topic = %source.topic, "a partition without a queue"),
            }
            if let Err(error) =
                partitions.set_partition_offset(&source.topic, start.partition, Offset::Offset(from))
            {
                self.shared.inner.context.events.failed("assign", &from_native(&error));
            }
        }
    }

    fn queue(
        &self,
        ownership: Ownership,
        source: usize,
        mut native: rdkafka::consumer::base_consumer::PartitionQueue<Self>,
    ) -> Queue {
        let ready = Arc::new(AtomicBool::new(true));
        let (flag, shared) = (ready.clone(), self.shared.clone());
        native.set_nonempty_callback(move || {
            flag.store(true, Ordering::Release);
            shared.wake_poller();
        });
        Queue { ownership, source, native, ready }
    }

    fn revoke(&self, consumer: &Native, cooperative: bool, partitions: &TopicPartitionList) {
        let lanes: Vec<Lane> =
            partitions.elements().iter().filter_map(|element| self.shared.lane(element)).collect();
        let lost = consumer.assignment_lost();
        if lost || cooperative {
            // The group has forgotten the member, which joins it anew; or what it gets instead comes next, be it nothing.
            self.shared.joined.store(false, Ordering::Release);
        }
        let leaving: Vec<Ownership> = {
            let mut books = self.shared.books.lock();
            lanes.iter().filter_map(|lane| Some((*lane, books.leave(*lane)?))).collect()
        };
        self.remove(leaving.clone());
        if lost {
            self.shared.lose(&lanes);
        } else {
            self.shared.hand_over(&leaving);
            self.shared.forget(&lanes);
        }
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.shared.link.log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Who was given up for want of a broker may tell of that for good.
        if !self.retired.load(Ordering::Acquire) {
            self.shared.link.error_event(&error, reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if !self.retired.load(Ordering::Acquire) {
            self.shared.link.statistics(statistics);
        }
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.retired.load(Ordering::Acquire) {
            if let Err(error) = consumer.unassign() {
                tracing::debug!(target: "mq", %error, "a consumer that was given up keeps its partitions");
            }
            return;
        }
        self.shared.waits_for("a rebalance");
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let none = TopicPartitionList::new();
        let applied = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.shared.joined.store(true, Ordering::Release);
            let taken = if self.shared.is_closed() {
                self.shared.refused.fetch_or(partitions.count() > 0, Ordering::AcqRel);
                &none
            } else {
                self.assign(consumer, partitions);
                partitions
            };
            if cooperative { consumer.incremental_assign(taken) } else { consumer.assign(taken) }
        } else {
            self.revoke(consumer, cooperative, partitions);
            let given = if self.shared.refused.load(Ordering::Acquire) { &none } else { partitions };
            if cooperative { consumer.incremental_unassign(given) } else { consumer.unassign() }
        };
        if let Err(error) = applied {
            self.shared.inner.context.events.failed("rebalance", &from_native(&error));
        }
        self.shared.waits_for(THE_REST);
    }
}

impl Shared {
    /// Gives lanes up in an orderly way: waits until core holds nothing of them, then commits them as given back.
    fn hand_over(&self, lanes: &[Ownership]) {
        if self.is_closed() {
            self.finish(
                &lanes.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(),
                Instant::now() + super::events::END,
            );
            return;
        }
        let deadline = Instant::now() + self.patience;
        let mut guards = Vec::with_capacity(lanes.len());
        for (lane, epoch) in lanes {
            let (done, released) = oneshot::channel();
            let release = Some(ReleaseGuard { within: self.patience, done });
            self.books.lock().revoke(Revocation { lane: *lane, epoch: *epoch, release });
            guards.push(released);
        }
        self.arrived.notify_one();
        wait_all(guards, deadline);
        let lanes: Vec<Lane> = lanes.iter().map(|(lane, _)| *lane).collect();
        self.finish(&lanes, Instant::now() + super::events::END);
    }

    /// Commits lanes as given back; returns whether the broker has it by `deadline`.
    pub(super) fn finish(&self, lanes: &[Lane], deadline: Instant) -> bool {
        let mut books = self.books.lock();
        books.finish(lanes);
        self.changed.notify_all();
        while !books.have_left(lanes) {
            if self.changed.wait_until(&mut books, deadline).timed_out() {
                return books.have_left(lanes);
            }
        }
        true
    }

    /// Forgets lanes that were handed over.
    fn forget(&self, lanes: &[Lane]) {
        let mut books = self.books.lock();
        for lane in lanes {
            books.lose(*lane);
        }
        drop(books);
        self.feed();
    }

    /// Forgets lanes that are gone, and tells core.
    pub(super) fn lose(&self, lanes: &[Lane]) {
        let mut books = self.books.lock();
        for lane in lanes {
            if let Some(epoch) = books.lose(*lane) {
                books.revoke(Revocation { lane: *lane, epoch, release: None });
            }
        }
        drop(books);
        self.arrived.notify_one();
        self.feed();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until core has dropped all guards, or the time is over.
fn wait_all(mut guards: Vec<oneshot::Receiver<std::convert::Infallible>>, deadline: Instant) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        guards.retain_mut(|guard| matches!(Pin::new(guard).poll(&mut context), Poll::Pending));
        let left = deadline.saturating_duration_since(Instant::now());
        if guards.is_empty() || left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

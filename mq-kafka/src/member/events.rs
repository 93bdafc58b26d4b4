//! The thread that polls for rebalances and errors, and brings the member up and down.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mq_core::{Error, ErrorKind, Event, Result};
use rdkafka::Message as _;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use super::commit::Course;
use super::gone::Watch;
use super::poll::Command;
use super::{MemberContext, Native, Shared, commit, partition_of, poll};
use crate::error::{from_native, is_permanent};
use crate::native::{leave, see_off};

/// How long an ending waits for the last commits.
pub(super) const END: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
const RELEASE: Duration = Duration::from_millis(500);
/// For so long, beyond the session, the native client may owe an answer to a commit. It gives up itself what its
/// broker does not answer in 10 s, and what waits for a coordinator when the session is over.
const OWED: Duration = Duration::from_secs(15);
/// How long a member that is closed while it joins, or while it gives some of its partitions to others, waits for the
/// rest of the group's answer. One that went before would stay in the group until the session ends (as a member to come,
/// KIP-394, or because the native client forgets to leave), and all others would wait for it.
const JOIN: Duration = Duration::from_secs(5);
/// How long leaving may take in all: the join, the commits, the goodbye, and what the native client waits for itself.
pub(super) const LEAVE: Duration =
    JOIN.saturating_add(END).saturating_add(JOIN).saturating_add(Duration::from_secs(10));

/// Starts the member's threads; the answer comes when it has left the group.
pub(super) fn start(shared: &Arc<Shared>) -> Result<oneshot::Receiver<Result<()>>> {
    let mut life = Life::begin(shared)?;
    let (ended, answer) = oneshot::channel();
    let shared = shared.clone();
    spawn("events", move || {
        loop {
            let end = serve(&shared, &life);
            if end == End::Closed {
                break;
            }
            life = match again(&shared, life, end) {
                Some(life) => life,
                None => return,
            };
        }
        shared.waits_for("the broker to take what is given back");
        let outcome = shared.give_back();
        shared.waits_for("the group's goodbye");
        // Whoever got no answer in all that time need not wait for another.
        let answered = shared.joined.load(Ordering::Acquire) && !shared.link.is_down();
        if leave(&life.native) && answered {
            see_off(&life.native, &shared.sources[0].topic, JOIN);
        }
        shared.waits_for("the native client's end");
        match outcome {
            Ok(()) => life.end(&shared),
            Err(_) => life.give_up(&shared),
        }
        // Whoever closed may have stopped waiting.
        drop(ended.send(outcome));
    })?;
    Ok(answer)
}

/// A native consumer with the threads that serve it.
struct Life {
    native: Arc<Native>,
    poll: JoinHandle<()>,
    commit: JoinHandle<()>,
    /// Loses its other side when the thread that commits has ended.
    over: mpsc::Receiver<Infallible>,
    course: Arc<Course>,
}

impl Life {
    fn begin(shared: &Arc<Shared>) -> Result<Self> {
        let (context, commands) = MemberContext::new(shared.clone());
        let native: Native =
            shared.config.create_with_context(context).map_err(|error| from_native(&error))?;
        let native = Arc::new(native);
        native.context().attach(&native);
        shared.joined.store(false, Ordering::Release);
        let topics: Vec<&str> = shared.sources.iter().map(|source| &*source.topic).collect();
        native.subscribe(&topics).map_err(|error| from_native(&error))?;
        let course = Arc::<Course>::default();
        let (running, over) = mpsc::channel();
        let commit = {
            let (shared, native, course) = (shared.clone(), native.clone(), course.clone());
            spawn("commit", move || {
                commit::run(&shared, &native, &course);
                drop(running);
            })?
        };
        let poll = {
            let shared = shared.clone();
            spawn("poll", move || poll::run(&shared, &commands))?
        };
        Ok(Self { native, poll, commit, over, course })
    }

    /// Ends the threads and leaves the group; gives up if the last commit is not answered in time.
    fn end(self, shared: &Shared) {
        self.course.end(shared);
        // Nothing is ever sent: the thread has ended when its side is gone.
        if self.over.recv_timeout(END) != Err(mpsc::RecvTimeoutError::Disconnected) {
            return self.give_up(shared);
        }
        self.native.context().tell(Command::Stop);
        join(self.poll, &shared.group);
        join(self.commit, &shared.group);
        // The last handle leaves the group and calls the context back while it does.
        drop(self.native);
    }

    /// Leaves what is not over to a thread of its own: a native client that has no broker left never answers the
    /// commit that it was asked for (librdkafka 2.12.1), and cannot be dropped as long as that is awaited.
    fn give_up(self, shared: &Shared) {
        self.native.context().retire();
        self.native.context().tell(Command::Stop);
        self.course.give_up(shared);
        join(self.poll, &shared.group);
        let (native, commit, group) = (self.native, self.commit, shared.group.clone());
        let left = spawn("release", move || {
            // Its goodbye may be what answers the commit.
            if !commit.is_finished() && native.close_queue().is_ok() {
                while !commit.is_finished() && !native.closed() {
                    native.poll(RELEASE);
                }
            }
            join(commit, &group);
            drop(native);
        });
        if let Err(error) = left {
            tracing::warn!(target: "mq", group = shared.group, %error, "a native client is not released");
        }
    }
}

fn join(thread: JoinHandle<()>, group: &str) {
    if thread.join().is_err() {
        tracing::error!(target: "mq", group, "a consumer's thread panicked");
    }
}

/// Why a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    /// The native consumer has no broker left to ask, or owes an answer for too long.
    Stranded,
    /// A topic was deleted.
    Gone,
}

/// Begins anew with nothing in hand: what was held goes to whoever owns its partition next.
fn again(shared: &Arc<Shared>, life: Life, end: End) -> Option<Life> {
    life.native.context().retire();
    let lanes = shared.books.lock().lanes();
    if end == End::Gone && shared.was_trimmed(&life.native) {
        // Nobody died: what is held counts no attempt. What cannot be said in time counts one.
        shared.finish(&lanes, Instant::now() + END);
    }
    shared.lose(&lanes);
    leave(&life.native);
    life.give_up(shared);
    if end == End::Gone {
        shared.make_again();
    }
    match Life::begin(shared) {
        Ok(life) => {
            shared
                .inner
                .context
                .events
                .emit(Event::Rebuilt { what: format!("consumer of group {}", shared.group) });
            Some(life)
        }
        Err(error) => {
            shared.fail(error.in_group(&shared.group));
            None
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("mq-kafka-{name}"))
        .spawn(run)
        .map_err(|error| Error::new(ErrorKind::Other, "no thread for a consumer").with_source(error))
}

fn serve(shared: &Shared, life: &Life) -> End {
    let owed = shared.inner.config.session_timeout + OWED;
    let mut watch = Watch::default();
    let mut closed = None;
    loop {
        if shared.is_closed() {
            let since = *closed.get_or_insert_with(Instant::now);
            let joined = shared.joined.load(Ordering::Acquire);
            if joined || shared.link.is_down() || since.elapsed() > JOIN {
                return End::Closed;
            }
        } else if watch.sees_a_topic_gone(shared) {
            return End::Gone;
        } else if shared.link.is_stranded() || life.course.is_owed(owed) {
            shared.link.reset();
            return End::Stranded;
        }
        match life.native.poll(POLL) {
            None => {}
            Some(Ok(record)) => {
                // Every partition has a queue of its own before it is assigned.
                let (topic, offset) = (record.topic(), record.offset());
                tracing::error!(target: "mq", topic, offset, "a message on the wrong queue");
            }
            Some(Err(error)) => shared.native_error(&error),
        }
    }
}

impl Shared {
    fn native_error(&self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let Some(code) = error.rdkafka_error_code() else { return };
        if fatal || is_permanent(code) {
            self.fail(from_native(error).in_group(&self.group));
        } else if from_native(error).kind() == ErrorKind::NotFound {
            self.doubtful.store(true, Ordering::Release);
            self.inner.context.events.failed("fetch", &from_native(error).in_group(&self.group));
        }
    }

    /// Whether messages were removed from a topic that is the same: what of it is committed counts.
    fn was_trimmed(&self, native: &Native) -> bool {
        let Some((source, ownership)) = self.removed.lock().take() else { return false };
        let Some(position) = self.books.lock().position(ownership) else { return false };
        let oldest = self.watermarks(native, &self.sources[source], partition_of(ownership.0));
        // A topic that was made anew starts at 0.
        oldest.is_ok_and(|(oldest, _)| oldest > position)
    }

    /// Commits all lanes as given back; bounded.
    fn give_back(&self) -> Result<()> {
        let lanes = self.books.lock().lanes();
        if self.finish(&lanes, Instant::now() + END) {
            return Ok(());
        }
        self.lose(&lanes);
        Err(Error::new(
            ErrorKind::Unavailable,
            "the broker did not confirm what was given back; it comes back when the session ends",
        ))
    }
}

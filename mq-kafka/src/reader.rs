//! Reading without a group: dead letters, a group's declaration, peeking. All of it blocks.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mq_core::{Error, ErrorKind, Result, Start};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientConfig, Message as _, TopicPartitionList};

use crate::codec::millis;
use crate::connection::ANSWER;
use crate::error::from_native;
use crate::groups::{Declaration, SETTINGS_KEY};

/// How long a spare reader has to show that it is alive.
const ALIVE: Duration = Duration::from_millis(500);
/// Readers that are kept for the next question.
const SPARE: usize = 2;

/// Native consumers that belong to no group and commit nothing.
pub(crate) struct Readers {
    config: ClientConfig,
    spare: Mutex<Vec<BaseConsumer>>,
}

impl Readers {
    pub(crate) fn new(mut config: ClientConfig) -> Self {
        config
            .set("statistics.interval.ms", "0")
            .set("group.id", "mq..reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384");
        Self { config, spare: Mutex::default() }
    }

    /// Takes the spare readers out, to be dropped elsewhere.
    pub(crate) fn take(&self) -> Vec<BaseConsumer> {
        std::mem::take(&mut *self.spare.lock())
    }

    fn with<T>(&self, question: impl FnOnce(&BaseConsumer) -> Result<T>) -> Result<T> {
        let spare = self.spare.lock().pop();
        // A spare one may have lost its brokers meanwhile.
        let spare =
            spare.filter(|reader: &BaseConsumer| reader.fetch_metadata(Some("mq..reader"), ALIVE).is_ok());
        let reader = match spare {
            Some(reader) => reader,
            None => self.config.create().map_err(|error| from_native(&error))?,
        };
        let answer = question(&reader);
        let mut spare = self.spare.lock();
        if answer.is_ok() && spare.len() < SPARE {
            spare.push(reader);
        }
        answer
    }

    /// Reads a topic from these offsets to the end, as it was when it was reached, or until `visit` breaks.
    pub(crate) fn scan(
        &self,
        topic: &str,
        from: &[(i32, Offset)],
        mut visit: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.with(|reader| {
            let mut assignment = TopicPartitionList::with_capacity(from.len());
            for (partition, offset) in from {
                assignment
                    .add_partition_offset(topic, *partition, *offset)
                    .map_err(|error| from_native(&error))?;
            }
            reader.assign(&assignment).map_err(|error| from_native(&error))?;
            let read = read(reader, from.len(), &mut visit);
            reader.unassign().map_err(|error| from_native(&error))?;
            read
        })
    }

    /// Reads what a group was declared with; `None` if there is no declaration.
    pub(crate) fn declaration(&self, dead: &str) -> Result<Option<Declaration>> {
        let mut found = None;
        let scanned = self.scan(dead, &[(0, Offset::Beginning)], |record| {
            if record.key() != Some(SETTINGS_KEY) {
                return ControlFlow::Continue(());
            }
            found = Some(Declaration::read(record.payload().unwrap_or_default()));
            ControlFlow::Break(())
        });
        match scanned {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(()) => found.transpose(),
        }
    }

    /// Returns the offsets of a start, one per partition.
    pub(crate) fn offsets(&self, topic: &str, partitions: i32, start: Start) -> Result<Vec<i64>> {
        match start {
            Start::Earliest => self.list(topic, partitions, Offset::Beginning),
            Start::At(at) => {
                let found = self.list(topic, partitions, Offset::Offset(millis(at)))?;
                let ends = self.list(topic, partitions, Offset::End)?;
                Ok(found
                    .into_iter()
                    .zip(ends)
                    .map(|(found, end)| if found < 0 { end } else { found })
                    .collect())
            }
            _ => self.list(topic, partitions, Offset::End),
        }
    }

    /// Asks for the offsets of one time; the broker takes the beginning and the end for times.
    fn list(&self, topic: &str, partitions: i32, at: Offset) -> Result<Vec<i64>> {
        self.with(|reader| {
            let mut times = TopicPartitionList::new();
            for partition in 0..partitions {
                times.add_partition_offset(topic, partition, at).map_err(|error| from_native(&error))?;
            }
            let found = reader.offsets_for_times(times, ANSWER).map_err(|error| from_native(&error))?;
            let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
                element.error().map_err(|error| from_native(&error))?;
                Ok(element.offset().to_raw().unwrap_or(-1))
            };
            found.elements().iter().map(offset).collect()
        })
    }

    /// Returns what a group committed: per partition of a topic the offset, if any, and its metadata.
    pub(crate) fn committed(
        &self,
        group: &str,
        topics: &[(&str, i32)],
    ) -> Result<Vec<(Option<i64>, String)>> {
        let mut config = self.config.clone();
        config.set("group.id", group);
        let native: BaseConsumer = config.create().map_err(|error| from_native(&error))?;
        let mut wanted = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                wanted.add_partition(topic, partition);
            }
        }
        let found = native.committed_offsets(wanted, ANSWER).map_err(|error| from_native(&error))?;
        let read = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            element.error().map_err(|error| from_native(&error))?;
            Ok(match element.offset() {
                Offset::Offset(offset) => (Some(offset), crate::member::metadata(element)),
                _ => (None, String::new()),
            })
        };
        found.elements().iter().map(read).collect()
    }
}

fn read(
    reader: &BaseConsumer,
    mut partitions: usize,
    visit: &mut impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut deadline = Instant::now() + ANSWER;
    while partitions > 0 {
        match reader.poll(Duration::from_millis(200)) {
            Some(Ok(record)) => {
                deadline = Instant::now() + ANSWER;
                if visit(&record).is_break() {
                    return Ok(());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => partitions -= 1,
            Some(Err(error)) if is_final(&error) => return Err(from_native(&error)),
            Some(Err(_)) | None if Instant::now() >= deadline => {
                return Err(Error::new(ErrorKind::Timeout, "the broker did not answer a read in time"));
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}

fn is_final(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    from_native(error).kind() == ErrorKind::Unauthorized
        || matches!(code, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition))
}

//! What a member asks the broker of the partitions it gets: where its group goes on, and what is still there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mq_core::driver::Lane;
use mq_core::{Event, Result};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionListElem};

use super::books::closed;
use super::{Native, Shared, Source, partition_of};
use crate::connection::ANSWER;
use crate::error::from_native;
use crate::groups::Declaration;
use crate::tracker::Tracker;

/// Where an ownership of a partition begins.
pub(super) struct Begin {
    pub(super) source: usize,
    pub(super) partition: i32,
    pub(super) tracker: Tracker,
}

impl Shared {
    pub(super) fn lane(&self, element: &TopicPartitionListElem<'_>) -> Option<Lane> {
        Some(self.sources[self.source(element.topic())?].lane(element.partition()))
    }

    /// Reads what earlier owners committed, until the broker answers or the member is closed.
    pub(super) fn starts(&self, consumer: &Native, partitions: &TopicPartitionList) -> Vec<Begin> {
        let mut pause = Duration::from_millis(20);
        while !self.is_closed() {
            match self.try_starts(consumer, partitions) {
                Ok(starts) => return starts,
                Err(_) if self.is_closed() => break,
                Err(error) => self.inner.context.events.failed("read positions", &error),
            }
            std::thread::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Vec::new()
    }

    fn try_starts(&self, consumer: &Native, partitions: &TopicPartitionList) -> Result<Vec<Begin>> {
        if partitions.count() == 0 {
            return Ok(Vec::new());
        }
        let committed =
            consumer.committed_offsets(partitions.clone(), ANSWER).map_err(|error| from_native(&error))?;
        let elements = committed.elements();
        let mut declared = HashMap::new();
        elements
            .iter()
            .filter_map(|element| Some((self.source(element.topic())?, element)))
            .map(|(source, element)| {
                element.error().map_err(|error| from_native(&error))?;
                let tracker = match element.offset() {
                    Offset::Offset(offset) if self.knows(consumer, element, offset)? => {
                        Tracker::resume(offset, &metadata(element))
                    }
                    _ => {
                        let source = &self.sources[source];
                        Tracker::resume(self.first(consumer, &mut declared, source, element.partition())?, "")
                    }
                };
                Ok(Begin { source, partition: element.partition(), tracker })
            })
            .collect()
    }

    /// Returns where a group begins in a partition in which it committed nothing: where it was
    /// declared to start; at the oldest message in its inbox, and in partitions that came later.
    fn first<'a>(
        &self,
        consumer: &Native,
        declared: &mut HashMap<&'a str, Option<Declaration>>,
        source: &'a Source,
        partition: i32,
    ) -> Result<i64> {
        if source.inbox {
            return Ok(self.watermarks(consumer, source, partition)?.0);
        }
        let declared = match declared.entry(&source.dead) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(self.inner.readers.declaration(&source.dead)?),
        };
        if let Some(declared) = declared
            && let Some(start) = usize::try_from(partition).ok().and_then(|index| declared.start.get(index))
        {
            // A start behind the end is of a topic that was deleted.
            let (low, high) =
                if *start == 0 { (0, 0) } else { self.watermarks(consumer, source, partition)? };
            return Ok(if *start > high { low } else { *start });
        }
        Ok(self.watermarks(consumer, source, partition)?.0)
    }

    /// Asks for the oldest offset that each partition has; without an answer the broker refuses
    /// what it does not have, and the member begins anew.
    pub(super) fn oldest(&self, consumer: &Native, partitions: &TopicPartitionList) -> HashMap<Lane, i64> {
        if partitions.count() == 0 || self.is_closed() {
            return HashMap::new();
        }
        let mut asked = partitions.clone();
        let answer = asked
            .set_all_offsets(Offset::Beginning)
            .and_then(|()| consumer.offsets_for_times(asked, ANSWER))
            .inspect_err(|error| self.inner.context.events.failed("read positions", &from_native(error)));
        let Ok(answer) = answer else { return HashMap::new() };
        let oldest = |element: TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) if element.error().is_ok() => Some((self.lane(&element)?, offset)),
            _ => None,
        };
        answer.elements().into_iter().filter_map(oldest).collect()
    }

    /// Returns where to fetch from: what the broker removed before the group read it is told and passed over.
    pub(super) fn present(&self, oldest: &HashMap<Lane, i64>, lane: Lane, position: i64) -> i64 {
        let Some(oldest) = oldest.get(&lane).copied().filter(|oldest| *oldest > position) else {
            return position;
        };
        let topic = self.source_of(lane).map_or("", |source| &source.topic);
        let (partition, group) = (partition_of(lane), &self.name);
        let what = format!(
            "offsets {position} to {} of {topic} partition {partition} were removed before group {group} read them",
            oldest - 1
        );
        self.inner.context.events.emit(Event::Lost { what });
        oldest
    }

    /// Whether a committed offset is of this topic, not of one of the same name that was deleted.
    fn knows(&self, consumer: &Native, element: &TopicPartitionListElem<'_>, offset: i64) -> Result<bool> {
        if offset == 0 || !self.renewed.load(Ordering::Acquire) {
            return Ok(true);
        }
        let Some(source) = self.source(element.topic()) else { return Ok(true) };
        Ok(offset <= self.watermarks(consumer, &self.sources[source], element.partition())?.1)
    }

    /// Asks for a partition's oldest offset and the next; not once the member is closed, which waits for the answer.
    pub(super) fn watermarks(
        &self,
        consumer: &Native,
        source: &Source,
        partition: i32,
    ) -> Result<(i64, i64)> {
        if self.is_closed() {
            return Err(closed());
        }
        consumer.fetch_watermarks(&source.topic, partition, ANSWER).map_err(|error| from_native(&error))
    }
}

/// Another program's metadata may be anything; the client panics at what is not UTF-8.
pub(crate) fn metadata(element: &TopicPartitionListElem<'_>) -> String {
    catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}

//! Who waits for which delivery reports: one completion per batch, nothing allocated per message.

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as Code;
use slab::Slab;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pending,
    Stored { partition: i32, offset: i64 },
    Failed(Code),
}

/// Called once, with one verdict per record of a batch.
pub(crate) type Done = Box<dyn FnOnce(Vec<Verdict>) + Send>;

struct Batch {
    verdicts: Vec<Verdict>,
    remaining: usize,
    done: Done,
}

/// Batches that wait for delivery reports.
#[derive(Default)]
pub(crate) struct Batches(Mutex<Slab<Batch>>);

/// Names a record: the batch above 32 bits, its index in the batch below.
pub(crate) type Ticket = usize;

impl Batches {
    /// Registers a batch; `len` is not 0.
    pub(crate) fn register(&self, len: usize, done: Done) -> Ticket {
        let batch = Batch { verdicts: vec![Verdict::Pending; len], remaining: len, done };
        self.0.lock().insert(batch) << 32
    }

    /// Records the verdict on one record of a batch.
    pub(crate) fn record(&self, ticket: Ticket, verdict: Verdict) {
        let mut batches = self.0.lock();
        let (id, index) = (ticket >> 32, ticket & 0xffff_ffff);
        let Some(batch) = batches.get_mut(id) else { return };
        batch.verdicts[index] = verdict;
        batch.remaining -= 1;
        if batch.remaining == 0 {
            let batch = batches.remove(id);
            drop(batches);
            (batch.done)(batch.verdicts);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_batch_is_done_when_its_last_record_is() {
        let batches = Batches::default();
        let (done, verdicts) = mpsc::channel();
        let other = batches.register(1, Box::new(|_| ()));
        let ticket = batches.register(2, Box::new(move |verdicts| done.send(verdicts).unwrap()));
        batches.record(ticket + 1, Verdict::Failed(Code::MessageTimedOut));
        assert!(verdicts.try_recv().is_err());
        batches.record(ticket, Verdict::Stored { partition: 1, offset: 2 });
        assert_eq!(
            verdicts.try_recv().unwrap(),
            [Verdict::Stored { partition: 1, offset: 2 }, Verdict::Failed(Code::MessageTimedOut)]
        );
        batches.record(other, Verdict::Pending);
        assert!(batches.0.lock().is_empty());
    }
}

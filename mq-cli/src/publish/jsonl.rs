//! Publishes one message per line, as a pipeline: reading, sending and reporting run side by side.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Instant;

use futures_util::FutureExt as _;
use mq::{ClientOptions, IN_FLIGHT, Message, MessageId, Publisher, Sending, TopicName};
use tokio::sync::mpsc;

use super::lines::{self, Line, Lines};
use super::pace::Pace;
use super::receipt::{Outcome, ReceiptLine};
use crate::end::End;
use crate::output::{Notes, Output};
use crate::progress::Progress;
use crate::session::{self, CLOSE, Session};
use crate::stop::Stop;

/// Receipts written between two looks at the clock and the screen.
const STRIDE: usize = 512;

/// What to publish, and how.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) topic: TopicName,
    pub(crate) file: OsString,
    pub(crate) rate: Option<NonZeroU32>,
    pub(crate) in_flight: Option<u32>,
}

/// A line on its way to its receipt.
#[derive(Debug)]
struct Entry {
    number: u64,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Malformed(Option<String>, String),
    Refused(MessageId, mq::Error),
    Sent(MessageId, Sending),
}

pub(crate) async fn run(session: &Session, job: Job) -> anyhow::Result<End> {
    let (input, size) = lines::open(&job.file)?;
    let window = job.in_flight.map_or(IN_FLIGHT.messages, |window| window as usize);
    let options = ClientOptions::default().in_flight(window, IN_FLIGHT.bytes);
    let opening = async {
        let client = session.connect_with(options).await?;
        let publisher = client.publisher(&job.topic).await?;
        anyhow::Ok((client, publisher))
    };
    let Some(opened) = session.stop.or(opening).await else { return Ok(End::Stopped) };
    let (client, publisher) = opened?;
    session::watch(&client);

    let (entries, answers) = mpsc::channel(window);
    let source = Source { input, publisher, pace: job.rate.map(Pace::new), entries, stop: &session.stop };
    let mut report = Report::new(&session.output, Progress::of_bytes(&session.output, size));
    let (sent, reported) = tokio::join!(source.send(), report.run(answers));
    report.summary();
    session::close(&client, CLOSE).await?;
    reported?;
    let end = sent?;
    Ok(if end == End::Done && report.failed() { End::Failed } else { end })
}

struct Source<'a> {
    input: Lines,
    publisher: Publisher,
    pace: Option<Pace>,
    entries: mpsc::Sender<Entry>,
    stop: &'a Stop,
}

impl Source<'_> {
    /// Sends what is read until it ends, or a stop is asked for.
    async fn send(mut self) -> anyhow::Result<End> {
        let stop = self.stop.clone();
        while let Some(chunk) = stop.or(self.input.recv()).await {
            let Some(chunk) = chunk else { return Ok(End::Done) };
            for line in chunk? {
                let number = line.number;
                match stop.or(self.line(line)).await {
                    Some(true) => {}
                    // Nobody reads the receipts any more, which the report says.
                    Some(false) => return Ok(End::Failed),
                    None => {
                        eprintln!("stopped before line {number}");
                        return Ok(End::Stopped);
                    }
                }
            }
        }
        Ok(End::Stopped)
    }

    /// Queues one line; returns whether its receipt is awaited. Dropped half-way, it was not sent.
    async fn line(&mut self, line: Line) -> bool {
        let Ok(place) = self.entries.reserve().await else { return false };
        let state = match line.message {
            Err((id, error)) => State::Malformed(id, error),
            Ok(draft) => {
                if let Some(pace) = &mut self.pace {
                    pace.turn().await;
                }
                enqueue(&self.publisher, draft.now()).await
            }
        };
        place.send(Entry { number: line.number, bytes: line.bytes, state });
        true
    }
}

async fn enqueue(publisher: &Publisher, message: Message) -> State {
    let id = message.id.clone();
    match publisher.enqueue(message).await {
        Ok(sending) => State::Sent(id, sending),
        Err(error) => State::Refused(id, error),
    }
}

/// Writes the receipts, in the order of the lines.
struct Report<'a> {
    output: &'a Output,
    progress: Progress,
    started: Instant,
    sent: u64,
    rejected: u64,
    unknown: u64,
    notes: Notes,
}

impl<'a> Report<'a> {
    fn new(output: &'a Output, progress: Progress) -> Self {
        let started = Instant::now();
        Self { output, progress, started, sent: 0, rejected: 0, unknown: 0, notes: Notes::default() }
    }

    async fn run(&mut self, mut answers: mpsc::Receiver<Entry>) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(STRIDE);
        while answers.recv_many(&mut batch, STRIDE).await > 0 {
            let (mut lines, mut bytes) = (0, 0);
            for entry in batch.drain(..) {
                lines += 1;
                bytes += entry.bytes;
                let receipt = self.receipt(entry).await?;
                self.write(&receipt)?;
            }
            if answers.is_empty() {
                self.output.flush()?;
            }
            self.progress.add(lines, bytes);
        }
        self.output.flush()
    }

    /// Waits for the answer; what is known already is shown meanwhile.
    async fn receipt(&self, entry: Entry) -> anyhow::Result<ReceiptLine> {
        let line = entry.number;
        let (id, verdict) = match entry.state {
            State::Malformed(id, error) => return Ok(ReceiptLine::malformed(line, id, &error)),
            State::Refused(id, error) => (id, Err(error)),
            State::Sent(id, mut sending) => match (&mut sending).now_or_never() {
                Some(verdict) => (id, verdict),
                None => {
                    self.output.flush()?;
                    (id, sending.await)
                }
            },
        };
        Ok(ReceiptLine::new(Some(line), Some(id.to_string()), verdict))
    }

    fn write(&mut self, receipt: &ReceiptLine) -> anyhow::Result<()> {
        match receipt.outcome {
            Outcome::Ok => self.sent += 1,
            Outcome::Rejected => self.rejected += 1,
            Outcome::Unknown => self.unknown += 1,
        }
        if self.output.json {
            return self.output.json(receipt);
        }
        if !receipt.is_ok()
            && let Some(words) = self.notes.add(&receipt.to_string())
        {
            self.progress.say(&words);
        }
        Ok(())
    }

    fn failed(&self) -> bool {
        self.rejected + self.unknown > 0
    }

    fn summary(&self) {
        self.progress.end();
        let took = self.started.elapsed().as_secs_f64();
        let Self { sent, rejected, unknown, .. } = self;
        let rate = *sent as f64 / took.max(1e-9);
        eprintln!("{sent} confirmed, {rejected} rejected, {unknown} unknown in {took:.2} s ({rate:.0}/s)");
    }
}

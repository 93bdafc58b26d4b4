//! Many threads on one outbox: sends that are awaited, dropped half-way, left alone for a while, or queued.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::driver::{Budget, Outgoing, Producer};
use crate::error::Result;
use crate::message::{Message, Receipt};
use crate::name::TopicName;
use crate::outbox::Outbox;
use crate::table::Label;
use crate::terms::Terms;

const TASKS: usize = 16;
const SENDS: usize = 1500;

/// Notes what it is given, in the order of the first polls, and answers after a while.
#[derive(Debug, Default)]
struct Noting(Mutex<Vec<String>>);

#[async_trait]
impl Producer for Noting {
    async fn send(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt>> {
        self.0.lock().extend(batch.iter().map(|outgoing| outgoing.message.id.to_string()));
        for _ in 0..fastrand::usize(..4) {
            tokio::task::yield_now().await;
        }
        batch.into_iter().map(|outgoing| Ok(Receipt::new(outgoing.message.id, None))).collect()
    }

    async fn close(&self) {}
}

/// What a task sent: for certain, or perhaps.
#[derive(Default)]
struct Sent(Vec<(usize, bool)>);

async fn send(outbox: &Arc<Outbox>, outgoing: Outgoing) -> Result<Receipt> {
    let permit = outbox.permit(Label::default(), 1, 1).await?;
    outbox.send(outgoing, permit).await
}

/// Polls once; returns whether it is done.
async fn once<F: Future>(mut future: Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Sends in one way or another, in the order of the numbers. With `idle`, some futures are polled once and
/// then left alone for a while, as the arms of a loop around `select!` are.
async fn task(outbox: Arc<Outbox>, task: usize, idle: bool) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut left_alone = Vec::new();
    for number in 0..SENDS {
        let topic = TopicName::new("t")?;
        let outgoing = Outgoing {
            topic,
            message: Message::with_id("", format!("{task}-{number}")),
            terms: Terms::default(),
        };
        match fastrand::u8(..4) {
            0 => {
                let mut sending = Box::pin(send(&outbox, outgoing));
                let done = once(sending.as_mut()).await;
                sent.0.push((number, done || idle));
                if idle && !done && fastrand::bool() {
                    left_alone.push(sending);
                }
            }
            1 => {
                let permit = outbox.permit(Label::default(), 1, 1).await?;
                drop(outbox.push(outgoing, permit));
                sent.0.push((number, true));
            }
            _ => {
                let receipt = send(&outbox, outgoing).await?;
                assert_eq!(receipt.id.to_string(), format!("{task}-{number}"), "another's answer");
                sent.0.push((number, true));
            }
        }
        if left_alone.len() > 3 {
            left_alone.swap_remove(fastrand::usize(..left_alone.len())).await?;
        }
    }
    for sending in left_alone {
        sending.await?;
    }
    Ok(sent)
}

/// Runs the tasks and checks that what was sent for certain came to the producer, once, each task's in order,
/// and that the window is whole at the end.
async fn stress(window: usize, idle: bool) {
    let producer = Arc::new(Noting::default());
    let budget = Budget { messages: window, bytes: window };
    let outbox = Outbox::start(producer.clone(), budget, Arc::default(), "test");
    let tasks = (0..TASKS).map(|number| tokio::spawn(task(outbox.clone(), number, idle)));
    let all = futures_util::future::join_all(tasks);
    let sent = tokio::time::timeout(Duration::from_secs(120), all).await.expect("it hangs");

    let whole =
        tokio::time::timeout(Duration::from_secs(10), outbox.permit(Label::default(), window, window)).await;
    drop(whole.expect("the window is not whole").unwrap());
    assert_eq!(outbox.pending(), 0);
    outbox.close();
    tokio::time::timeout(Duration::from_secs(10), outbox.closed()).await.expect("a call is left");

    let mut noted: HashMap<usize, Vec<usize>> = HashMap::new();
    for id in producer.0.lock().iter() {
        let (task, number) = id.split_once('-').unwrap();
        noted.entry(task.parse().unwrap()).or_default().push(number.parse().unwrap());
    }
    for (number, sent) in sent.into_iter().enumerate() {
        let sent = sent.unwrap().unwrap();
        let noted = noted.remove(&number).unwrap_or_default();
        assert!(noted.is_sorted_by(|a, b| a < b), "task {number}: out of order, or twice");
        let lost = sent.0.iter().find(|(number, certain)| *certain && noted.binary_search(number).is_err());
        assert_eq!(lost, None, "task {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn with_room_for_all_none_is_lost_whatever_its_caller_does() {
    stress(TASKS * SENDS, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn in_a_narrow_window_none_is_lost_and_none_waits_for_ever() {
    stress(3, false).await;
}

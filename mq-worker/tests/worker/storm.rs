//! Everything that can go wrong at once, in real time and on several threads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mq_core::Message;
use mq_worker::{Backoff, Failure, Handler, Key, State, Text, Worker};
use parking_lot::Mutex;

use crate::support::{client, dead};

const MESSAGES: usize = 1000;
const KEYS: usize = 20;
const MOMENT: Duration = Duration::from_millis(1);

#[derive(Clone, Default)]
struct Books(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    handled: HashSet<usize>,
    rejected: HashSet<usize>,
    seen: HashSet<usize>,
    /// What must not be; a panic would be one of many.
    wrong: Vec<String>,
    /// The last message of each key that was seen for the first time.
    last: HashMap<Vec<u8>, usize>,
    under_way: HashSet<Vec<u8>>,
}

impl Books {
    fn begin(&self, number: usize, key: &[u8]) {
        let books = &mut *self.0.lock();
        if !books.under_way.insert(key.to_vec()) {
            books.wrong.push(format!("{number}: two of its key at once"));
        }
        if books.seen.insert(number) {
            let last = books.last.insert(key.to_vec(), number);
            if last > Some(number) {
                books.wrong.push(format!("{number} after {last:?}"));
            }
        }
    }

    fn is_done(&self) -> bool {
        let books = self.0.lock();
        books.handled.union(&books.rejected).count() == MESSAGES
    }
}

/// A message of a key under way.
struct Turn(Books, Vec<u8>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.lock().under_way.remove(&self.1);
    }
}

async fn storm(Text(text): Text, Key(key): Key, State(books): State<Books>) -> Result<(), Failure> {
    let number: usize = text.parse()?;
    let _turn = Turn(books.clone(), key.to_vec());
    books.begin(number, &key);
    tokio::task::yield_now().await;
    match fastrand::u8(..20) {
        0 => panic!("a panic"),
        1 => return Err("an error".into()),
        2 => return Err(Failure::retry(MOMENT)),
        3 => return Err(Failure::defer(MOMENT)),
        4 => tokio::time::sleep(Duration::from_secs(60)).await,
        5 => {
            books.0.lock().rejected.insert(number);
            return Err(Failure::reject("a reject"));
        }
        _ => {}
    }
    books.0.lock().handled.insert(number);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_each_key_keeps_its_order() {
    let (client, books) = (client(), Books::default());
    let worker = || {
        Worker::new(&client, "g")
            .on("in", storm.concurrency(32).ordered().prefetch(64))
            .timeout(5 * MOMENT)
            .retry(Backoff::constant(MOMENT).attempts(100))
            .state(books.clone())
    };
    let doomed = tokio::spawn(worker().run());
    let report = worker().run_until(async {
        let publisher = client.publisher("in").await.unwrap();
        for number in 0..MESSAGES {
            let message = Message::new(number.to_string()).key((number % KEYS).to_string());
            publisher.send(message).await.unwrap();
            if number == MESSAGES / 2 {
                doomed.abort();
            }
        }
        let done = async {
            while !books.is_done() {
                tokio::time::sleep(MOMENT).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), done).await.expect("some were lost");
    });
    let report = report.await.unwrap();
    assert_eq!(books.0.lock().wrong, [""; 0]);
    assert_eq!((report.stale, report.given_back), (0, 0));
    let reasons = dead(&client, "in").await;
    assert!(reasons.iter().all(|letter| letter.envelope.death.as_ref().unwrap().reason == "a reject"));
    let stats = client.admin().stats(&"in".try_into().unwrap(), &"g".try_into().unwrap()).await.unwrap();
    assert_eq!(stats.in_flight, Some(0));
}

//! Many interleavings of the tasks and threads behind publishers and subscribers.
//!
//! The same source as everywhere, but locks, channels and tasks are shuttle's, which chooses who goes on at
//! each of their steps. A lost wake-up shows as a scenario that never ends. Time is not modelled: who sleeps
//! may go on at once, and a limit of time is never over.

mod slow;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mq_core::{
    AckMode, Client, ClientOptions, GroupName, GroupSettings, Message, Publisher, Subscriber, TopicName,
    ack_all,
};
use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Interleavings of each scenario, by each way of choosing them.
const TRIES: usize = 400;
/// Changes of who goes first, in an interleaving that is otherwise strict about it.
const CHANGES: usize = 3;
/// Steps in which every scenario ends; those that do take a few hundred.
const STEPS: usize = 100_000;
/// Bytes of a task's stack: nothing tells of one that is too small.
const STACK: usize = 1 << 20;
/// A limit of time.
const LIMIT: Duration = Duration::from_secs(10);

fn explore<F: Future<Output = ()> + 'static>(scenario: impl Fn() -> F + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::default();
        config.max_steps = MaxSteps::FailAfter(STEPS);
        config.stack_size = STACK;
        let scenario = scenario.clone();
        Runner::new(scheduler, config).run(move || block_on(scenario()));
    };
    run(Box::new(RandomScheduler::new(TRIES)));
    run(Box::new(PctScheduler::new(CHANGES, TRIES)));
}

fn client() -> Client {
    slow::client(ClientOptions::default())
}

async fn publisher(client: &Client) -> Publisher {
    client.publisher("t").await.unwrap()
}

async fn subscriber(client: &Client) -> Subscriber {
    client.subscriber("t", "g").open().await.unwrap()
}

fn sending(publisher: &Publisher, body: &'static str) -> JoinHandle<()> {
    let publisher = publisher.clone();
    spawn(async move { drop(publisher.send(Message::new(body)).await.unwrap()) })
}

async fn send_all(publisher: &Publisher, bodies: &[&'static str]) {
    for verdict in publisher.send_batch(bodies.iter().copied().map(Message::new).collect()).await {
        verdict.unwrap();
    }
}

/// Receives and acks so many; returns how often each body came.
async fn take(subscriber: &Subscriber, count: usize) -> BTreeMap<Vec<u8>, usize> {
    let mut came = BTreeMap::new();
    for _ in 0..count {
        let delivery = subscriber.receive().await.unwrap();
        *came.entry(delivery.payload().to_vec()).or_default() += 1;
        delivery.ack().await.unwrap();
    }
    came
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
}

async fn poll_once_and_drop(future: impl Future) {
    poll_once(pin!(future)).await;
}

fn names() -> (TopicName, GroupName) {
    (TopicName::new("t").unwrap(), GroupName::new("g").unwrap())
}

async fn is_empty(client: &Client) -> bool {
    let (topic, group) = names();
    let stats = client.admin().stats(&topic, &group).await.unwrap();
    (stats.ready, stats.in_flight) == (Some(0), Some(0))
}

fn once(bodies: &[&str]) -> BTreeMap<Vec<u8>, usize> {
    bodies.iter().map(|body| (body.as_bytes().to_vec(), 1)).collect()
}

#[test]
fn sends_that_meet_are_all_confirmed_and_come_once() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        let senders = ["a", "b"].map(|body| sending(&publisher, body));
        send_all(&publisher, &["c", "d"]).await;
        assert_eq!(take(&subscriber, 4).await, once(&["a", "b", "c", "d"]));
        for sender in senders {
            sender.await.unwrap();
        }
    });
}

#[test]
fn a_send_that_is_given_up_holds_nobody_up() {
    explore(async || {
        // Room for one: who is given up leaves it to the others.
        let options = ClientOptions::default().in_flight(1, 1 << 20);
        let client = slow::client(options);
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        let others = ["a", "b"].map(|body| sending(&publisher, body));
        // Perhaps while another one is sent.
        poll_once_and_drop(publisher.send(Message::new("given up"))).await;
        // Queued: only the answer is given up.
        poll_once_and_drop(publisher.enqueue(Message::new("queued")).await.unwrap()).await;
        for sender in others {
            sender.await.unwrap();
        }
        publisher.send(Message::new("c")).await.unwrap();
        let mut came = take(&subscriber, 4).await;
        if came.remove(&b"given up"[..]).is_some() {
            came.append(&mut take(&subscriber, 1).await);
        }
        assert_eq!(came, once(&["a", "b", "c", "queued"]));
    });
}

#[test]
fn a_send_whose_caller_goes_away_comes() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        // There is room, so it is queued when it is first polled.
        poll_once_and_drop(publisher.send(Message::new("a"))).await;
        assert_eq!(take(&subscriber, 1).await, once(&["a"]));
    });
}

#[test]
fn closing_waits_for_sends_under_way_and_ends() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        let sender = {
            let publisher = publisher.clone();
            spawn(async move { publisher.send(Message::new("a")).await.is_ok() })
        };
        let admin = client.admin();
        let closing = {
            let client = client.clone();
            spawn(async move { client.close(LIMIT).await.unwrap() })
        };
        closing.await.unwrap();
        let confirmed = sender.await.unwrap();
        assert!(subscriber.receive().await.is_err(), "closed with the client");
        let (topic, group) = names();
        let ready = admin.stats(&topic, &group).await.unwrap().ready;
        assert_eq!(ready, Some(u64::from(confirmed)));
    });
}

#[test]
fn each_of_several_receivers_is_woken() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        // Each keeps what it got, so that nothing else moves.
        let receivers = [0, 1, 2].map(|_| {
            let subscriber = subscriber.clone();
            spawn(async move { subscriber.receive().await.unwrap() })
        });
        let bodies = ["a", "b", "c"];
        send_all(&publisher, &bodies).await;
        let mut came = BTreeMap::new();
        for receiver in receivers {
            let delivery = receiver.await.unwrap();
            *came.entry(delivery.payload().to_vec()).or_default() += 1;
            delivery.ack().await.unwrap();
        }
        assert_eq!(came, once(&bodies));
    });
}

#[test]
fn who_waits_for_a_key_is_woken_when_it_is_free() {
    explore(async || {
        let client = client();
        let subscriber = client.subscriber("t", "g").ordered().open().await.unwrap();
        let publisher = publisher(&client).await;
        publisher.send(Message::new("0").key("another")).await.unwrap();
        // In hand until the end: what is done when hands are empty wakes everybody.
        let kept = subscriber.receive().await.unwrap();
        for body in ["1", "2"] {
            publisher.send(Message::new(body).key("k")).await.unwrap();
        }
        let receivers = [0, 1].map(|_| {
            let subscriber = subscriber.clone();
            spawn(async move {
                let delivery = subscriber.receive().await.unwrap();
                let body = delivery.payload().to_vec();
                delivery.ack().await.unwrap();
                body
            })
        });
        let mut came = Vec::new();
        for receiver in receivers {
            came.push(receiver.await.unwrap());
        }
        kept.ack().await.unwrap();
        came.sort();
        assert_eq!(came, [b"1", b"2"]);
    });
}

#[test]
fn a_send_that_is_not_polled_keeps_nobody_waiting() {
    explore(async || {
        let client = slow::client(ClientOptions::default().in_flight(1, 1 << 20));
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        let mut left_alone = pin!(publisher.send(Message::new("a")));
        // It has the only place in the window.
        poll_once(left_alone.as_mut()).await;
        sending(&publisher, "b").await.unwrap();
        assert_eq!(take(&subscriber, 2).await, once(&["a", "b"]));
    });
}

#[test]
fn an_answered_ack_makes_room_in_a_full_window() {
    explore(async || {
        let client = client();
        let subscriber = client.subscriber("t", "g").prefetch(1).open().await.unwrap();
        let publisher = publisher(&client).await;
        let bodies = ["a", "b", "c"];
        send_all(&publisher, &bodies).await;
        let mut acks = Vec::new();
        let mut came = BTreeMap::new();
        for _ in bodies {
            let delivery = subscriber.receive().await.unwrap();
            *came.entry(delivery.payload().to_vec()).or_default() += 1;
            acks.push(delivery.ack());
        }
        for ack in acks {
            ack.await.unwrap();
        }
        assert_eq!(came, once(&bodies));
    });
}

#[test]
fn receivers_of_one_subscriber_share_and_miss_nothing() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        let single = {
            let subscriber = subscriber.clone();
            spawn(async move { take(&subscriber, 1).await })
        };
        let given_up = {
            let subscriber = subscriber.clone();
            spawn(async move {
                // What it has got by then is given back.
                poll_once_and_drop(subscriber.receive()).await;
            })
        };
        for body in ["a", "b", "c"] {
            sending(&publisher, body).await.unwrap();
        }
        given_up.await.unwrap();
        let mut came = take(&subscriber, 2).await;
        came.append(&mut single.await.unwrap());
        assert_eq!(came, once(&["a", "b", "c"]));
        assert!(is_empty(&client).await);
    });
}

#[test]
fn acks_from_several_tasks_are_all_answered() {
    explore(async || {
        let client = client();
        let (subscriber, publisher) = (subscriber(&client).await, publisher(&client).await);
        for body in ["a", "b", "c", "d"] {
            publisher.send(Message::new(body)).await.unwrap();
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < 4 {
            deliveries.push(subscriber.receive().await.unwrap());
        }
        let batch = deliveries.split_off(2);
        let singles: Vec<_> =
            deliveries.into_iter().map(|delivery| spawn(async { delivery.ack().await.unwrap() })).collect();
        ack_all(batch).await.unwrap();
        for single in singles {
            single.await.unwrap();
        }
        assert!(is_empty(&client).await);
    });
}

#[test]
fn closing_under_load_gives_back_what_is_not_acked() {
    explore(async || {
        let client = client();
        let (leaving, publisher) = (subscriber(&client).await, publisher(&client).await);
        for body in ["a", "b", "c"] {
            publisher.send(Message::new(body)).await.unwrap();
        }
        let worker = {
            let leaving = leaving.clone();
            spawn(async move {
                let mut acked = BTreeMap::new();
                while let Ok(delivery) = leaving.receive().await {
                    let body = delivery.payload().to_vec();
                    if delivery.ack().await.is_ok() {
                        *acked.entry(body).or_default() += 1;
                    }
                }
                acked
            })
        };
        leaving.close(LIMIT).await.unwrap();
        let acked = worker.await.unwrap();
        let next = subscriber(&client).await;
        let mut came = take(&next, 3 - acked.len()).await;
        came.extend(acked);
        assert_eq!(came, once(&["a", "b", "c"]), "each once, with whom it was");
    });
}

#[test]
fn a_key_stays_in_order_when_its_lane_moves() {
    explore(async || {
        let client = client();
        let settings = GroupSettings::default().ordered();
        let join = || client.subscriber("t", "g").settings(settings.clone()).open();
        let (first, publisher) = (join().await.unwrap(), publisher(&client).await);
        let seen = Arc::new(shuttle::sync::Mutex::new(Vec::new()));
        let work = |subscriber: Subscriber| {
            let seen = seen.clone();
            spawn(async move {
                while let Ok(delivery) = subscriber.receive().await {
                    seen.lock().unwrap().push(delivery.payload().to_vec());
                    // Stale if the lane went: then it comes again.
                    drop(delivery.ack().await);
                }
            })
        };
        let working = [work(first.clone()), work(first.clone())];
        publisher.send(Message::new("1").key("k")).await.unwrap();
        let second = join().await.unwrap();
        let also_working = [work(second.clone()), work(second.clone())];
        for body in ["2", "3"] {
            publisher.send(Message::new(body).key("k")).await.unwrap();
        }
        first.close(LIMIT).await.unwrap();
        for working in working {
            working.await.unwrap();
        }
        while !is_empty(&client).await {
            shuttle::future::yield_now().await;
        }
        second.close(LIMIT).await.unwrap();
        for working in also_working {
            working.await.unwrap();
        }
        let mut seen = seen.lock().unwrap().clone();
        seen.dedup();
        assert_eq!(seen, [b"1", b"2", b"3"]);
    });
}

#[test]
fn at_most_once_reaches_one_of_two_receivers() {
    explore(async || {
        let client = client();
        let subscriber = client.subscriber("t", "g").ack_mode(AckMode::Auto).open().await.unwrap();
        let publisher = publisher(&client).await;
        let receivers = [0, 1].map(|_| {
            let subscriber = subscriber.clone();
            spawn(async move { subscriber.receive().await.unwrap().payload().to_vec() })
        });
        for body in ["a", "b"] {
            sending(&publisher, body).await.unwrap();
        }
        let mut came = Vec::new();
        for receiver in receivers {
            came.push(receiver.await.unwrap());
        }
        came.sort();
        assert_eq!(came, [b"a", b"b"]);
    });
}

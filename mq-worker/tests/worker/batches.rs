//! Several messages at once.

use std::time::Duration;

use mq_core::{Message, TopicName};
use mq_worker::{Attempt, Backoff, Failure, Id, Key, Publish, State, Text, Worker, batch, layers::Filter};

use crate::support::{Notes, SECOND, client, dead, epitaph, numbered, serve, texts};

#[tokio::test(start_paused = true)]
async fn a_batch_is_full_or_its_time_is_over() {
    async fn store(texts: Vec<Text>, State(notes): State<Notes>) {
        notes.add(texts.len().to_string());
    }
    let (client, notes) = (client(), Notes::default());
    let route = batch(store).size(10).within(5 * SECOND);
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let report = serve(&client, worker, numbered(25)).await;
    assert_eq!((report.handled, report.retried, report.dead), (25, 0, 0));
    assert_eq!(notes.all(), ["10", "10", "5"]);
    assert_eq!(notes.seconds(), [0, 0, 5]);
}

#[tokio::test(start_paused = true)]
async fn each_message_has_a_verdict_of_its_own() {
    async fn judge(orders: Vec<(Text, Attempt)>) -> Vec<Result<Option<Publish>, Failure>> {
        let verdict =
            |(Text(text), Attempt(attempt)): &(Text, Attempt)| match (text.parse::<u32>()? % 3, attempt) {
                (0, _) => Err(Failure::reject("divisible by three")),
                (1, 1) => Err(Failure::retry(SECOND)),
                _ => Ok(Some(Publish::new("out", Message::new(text.clone().into_bytes())))),
            };
        orders.iter().map(verdict).collect()
    }
    let client = client();
    let out = client.subscriber("out", "o").open().await.unwrap();
    let worker = Worker::new(&client, "g").on("in", batch(judge).size(9));
    let report = serve(&client, worker, numbered(9)).await;
    assert_eq!((report.handled, report.retried, report.dead), (6, 3, 3));
    assert_eq!(dead(&client, "in").await.len(), 3);
    let mut told = texts(&out).await;
    told.sort();
    assert_eq!(told, ["1", "2", "4", "5", "7", "8"]);
}

#[tokio::test(start_paused = true)]
async fn one_verdict_is_for_all() {
    async fn refuse(_: Vec<Text>) -> Result<(), Failure> {
        Err(Failure::reject("not today"))
    }
    async fn fail(_: Vec<Text>, State(notes): State<Notes>) -> anyhow::Result<()> {
        notes.add("tried");
        anyhow::bail!("down")
    }
    let client = client();
    let report = serve(&client, Worker::new(&client, "g").on("in", batch(refuse)), numbered(5)).await;
    assert_eq!(report.dead, 5);

    let notes = Notes::default();
    let twice = Backoff::constant(SECOND).attempts(2);
    let worker = Worker::new(&client, "h").on("in", batch(fail)).retry(twice).state(notes.clone());
    let report = serve(&client, worker, numbered(5)).await;
    assert_eq!((report.retried, report.dead, notes.all().len()), (5, 5, 2));
}

#[tokio::test(start_paused = true)]
async fn layers_go_around_each_message() {
    async fn store(texts: Vec<Text>, State(notes): State<Notes>) {
        notes.add(texts.iter().map(|text| text.0.to_string()).collect::<Vec<_>>().join(" "));
    }
    let (client, notes) = (client(), Notes::default());
    let even = Filter::new(|message| message.payload.last().is_some_and(|digit| digit % 2 == 0));
    let route = batch(store).size(3).route().layer(even);
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let report = serve(&client, worker, numbered(10)).await;
    assert_eq!((report.handled, report.skipped), (5, 5));
    assert_eq!(notes.all(), ["0 2 4", "6 8"]);
}

#[tokio::test(start_paused = true)]
async fn garbage_costs_attempts_and_not_the_worker() {
    async fn garbage(texts: Vec<Text>, State(notes): State<Notes>) -> Vec<()> {
        match notes.add("call") {
            1 => vec![(); texts.len() + 1],
            2 => panic!("on purpose"),
            3 => std::future::pending().await,
            _ => vec![(); texts.len()],
        }
    }
    let (client, notes) = (client(), Notes::default());
    let route = batch(garbage).size(4).route().timeout(60 * SECOND);
    let worker =
        Worker::new(&client, "g").on("in", route).retry(Backoff::constant(SECOND)).state(notes.clone());
    let report = serve(&client, worker, numbered(4)).await;
    assert_eq!((report.handled, report.retried, report.dead), (4, 12, 0));
    assert_eq!(notes.all().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_extracted_is_in_no_batch() {
    async fn store(keys: Vec<(Key, Id)>, State(notes): State<Notes>) {
        notes.add(keys.len().to_string());
    }
    let (client, notes) = (client(), Notes::default());
    let worker = Worker::new(&client, "g").on("in", batch(store)).state(notes.clone());
    let messages = [Message::new("a").key("k"), Message::new("b"), Message::new("c").key("k")];
    let report = serve(&client, worker, messages).await;
    assert_eq!((report.handled, report.dead), (2, 1));
    assert_eq!(notes.all(), ["2"]);
    assert!(epitaph(&client).await.0.contains("no key"));
    let topic = TopicName::new("in").unwrap();
    let stats = client.admin().stats(&topic, &mq_core::GroupName::new("g").unwrap()).await.unwrap();
    assert_eq!(stats.in_flight, Some(0));
}

#[tokio::test(start_paused = true)]
async fn of_an_ordered_topic_a_batch_has_one_message_of_each_key() {
    async fn store(keys: Vec<(Key, Text)>, State(notes): State<Notes>) {
        tokio::time::sleep(SECOND).await;
        let mut names: Vec<_> = keys.iter().map(|(key, text)| format!("{:?}{}", key.0, text.0)).collect();
        names.sort();
        notes.add(names.join(" "));
    }
    let (client, notes) = (client(), Notes::default());
    let route = batch(store).size(10).within(Duration::from_millis(100)).route().ordered();
    let worker = Worker::new(&client, "g").on("in", route).state(notes.clone());
    let messages: Vec<_> =
        (0..6).map(|number| Message::new((number / 2).to_string()).key(["a", "b"][number % 2])).collect();
    assert_eq!(serve(&client, worker, messages).await.handled, 6);
    assert_eq!(notes.all(), [r#"b"a"0 b"b"0"#, r#"b"a"1 b"b"1"#, r#"b"a"2 b"b"2"#]);
}

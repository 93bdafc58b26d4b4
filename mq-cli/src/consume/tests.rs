use clap::Parser as _;
use mq::{DeadLetter, Message, Page, Stats};
use tokio::sync::watch;

use super::*;
use crate::args::{Cli, Command};
use crate::stop::Stop;

/// A broker with a topic `t` and a group `g`, declared with three attempts.
struct Fixture {
    client: Client,
    session: Session,
    stop: watch::Sender<bool>,
}

impl Fixture {
    async fn new(bodies: &[&str]) -> Self {
        let client = mq::connect("memory://").await.unwrap();
        let (topic, group) = names();
        client.admin().ensure_topic(&topic, &mq::TopicSpec::default()).await.unwrap();
        let settings = GroupSettings::default().max_attempts(3);
        client.admin().ensure_group(&topic, &group, &settings).await.unwrap();
        let publisher = client.publisher("t").await.unwrap();
        for body in bodies {
            publisher.send(Message::new((*body).to_owned())).await.unwrap();
        }
        let (request, stop) = Stop::manual();
        let global = crate::args::Global { url: None, json: true, log_format: crate::args::LogFormat::Text };
        Self { client, session: Session::new(global, stop), stop: request }
    }

    async fn open(&self, flags: &[&str]) -> anyhow::Result<(Job<'_>, Option<String>)> {
        let line = ["mq", "consume", "t", "--group", "g"].into_iter().chain(flags.iter().copied());
        let Command::Consume(args) = Cli::try_parse_from(line)?.command else { unreachable!() };
        let exec = args.exec.clone();
        Ok((open(&self.session, self.client.clone(), args).await?, exec))
    }

    /// Runs one consumer. The client must outlive it, so only its subscriber is closed.
    async fn run(&self, flags: &[&str]) -> Ending {
        let (job, exec) = self.open(flags).await.unwrap();
        let mut report = Report::new(&job);
        let mut held = Vec::new();
        let ending = match exec {
            Some(command) => exec::run(&job, &command, &mut report).await,
            None => plain::run(&job, &mut report, &mut held).await,
        };
        let deadline = if held.is_empty() { CLOSE } else { Duration::ZERO };
        job.subscriber.close(deadline).await.unwrap();
        assert!(!report.failed());
        ending.unwrap()
    }

    async fn stats(&self) -> Stats {
        let (topic, group) = names();
        self.client.admin().stats(&topic, &group).await.unwrap()
    }

    async fn dead(&self) -> Vec<DeadLetter> {
        let (topic, group) = names();
        let page = Page { offset: 0, limit: 10 };
        self.client.admin().dead_letters(&topic, &group, page).await.unwrap()
    }
}

fn names() -> (TopicName, GroupName) {
    ("t".try_into().unwrap(), "g".try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_takes_no_more() {
    let fixture = Fixture::new(&["a", "b", "c"]).await;
    assert_eq!(fixture.run(&["--count", "2"]).await, Ending::Counted);
    assert_eq!(fixture.stats().await.ready, Some(1));
    assert_eq!(fixture.run(&["--count", "2", "--idle-exit", "50ms"]).await, Ending::Idle);
    assert_eq!(fixture.run(&["--timeout", "50ms"]).await, Ending::TimedOut);
    assert_eq!(fixture.stats().await.ready, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_it() {
    let fixture = Fixture::new(&[]).await;
    fixture.stop.send_replace(true);
    assert_eq!(fixture.run(&[]).await, Ending::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_given_back_uncounted() {
    let fixture = Fixture::new(&["a", "b"]).await;
    assert_eq!(fixture.run(&["--settle", "none", "--timeout", "100ms"]).await, Ending::TimedOut);
    assert_eq!(fixture.stats().await.ready, Some(2));
    let inbox = fixture.client.subscriber("t", "g").max_attempts(3).open().await.unwrap();
    let delivery = inbox.receive().await.unwrap();
    assert_eq!(delivery.attempt(), 1);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_by_flag() {
    let fixture = Fixture::new(&["a"]).await;
    assert_eq!(fixture.run(&["--settle", "defer", "--count", "2"]).await, Ending::Counted);
    assert!(fixture.dead().await.is_empty());
    let retry = ["--settle", "retry", "--reason", "no luck", "--idle-exit", "100ms"];
    assert_eq!(fixture.run(&retry).await, Ending::Idle);
    let dead = fixture.dead().await;
    assert_eq!((dead[0].envelope.attempt, dead[0].envelope.error.as_deref()), (3, Some("no luck")));

    let fixture = Fixture::new(&["a"]).await;
    fixture.run(&["--settle", "dead-letter", "--reason", "poison", "--count", "1"]).await;
    assert_eq!(fixture.dead().await[0].envelope.death.as_ref().unwrap().reason, "poison");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_decide() {
    let fixture = Fixture::new(&["0", "65", "75"]).await;
    let ending = fixture.run(&["--exec", "exit $(cat)", "--concurrency", "2", "--idle-exit", "200ms"]).await;
    assert_eq!(ending, Ending::Idle);
    let mut dead: Vec<_> = fixture.dead().await.iter().map(|letter| letter.envelope.attempt).collect();
    dead.sort_unstable();
    assert_eq!(dead, [1, 3]);
    let stats = fixture.stats().await;
    assert_eq!((stats.ready, stats.in_flight, stats.dead), (Some(0), Some(0), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_a_command_runs() {
    let fixture = Fixture::new(&[]).await;
    let (topic, group) = names();
    fixture.client.admin().delete_group(&topic, &group).await.unwrap();
    let settings = GroupSettings::default().lease(Duration::from_millis(200));
    fixture.client.admin().ensure_group(&topic, &group, &settings).await.unwrap();
    fixture.client.publisher("t").await.unwrap().send(Message::new("x")).await.unwrap();
    let flags =
        ["--exec", "sleep 1; test $MQ_ATTEMPT = 1 || exit 65", "--concurrency", "2", "--idle-exit", "300ms"];
    assert_eq!(fixture.run(&flags).await, Ending::Idle);
    assert!(fixture.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_joined_as_it_was_declared() {
    let fixture = Fixture::new(&[]).await;
    assert_eq!(fixture.run(&["--max-attempts", "3", "--timeout", "10ms"]).await, Ending::TimedOut);
    let error = fixture.open(&["--max-attempts", "4"]).await.unwrap_err();
    assert!(error.to_string().contains("max_attempts is 3, not 4"), "{error}");
    let error = fixture.open(&["--lease", "1ms"]).await.unwrap_err();
    assert!(error.to_string().contains("outside"), "{error}");
}

#[test]
fn nothing_is_fetched_that_nobody_handles() {
    let prefetch = |flags: &[&str]| {
        let line = ["mq", "consume", "t", "--broadcast"].into_iter().chain(flags.iter().copied());
        let Command::Consume(args) = Cli::try_parse_from(line).unwrap().command else { unreachable!() };
        super::prefetch(&args, args.exec.is_some())
    };
    assert_eq!(prefetch(&[]), 1000);
    assert_eq!(prefetch(&["--count", "3"]), 3);
    assert_eq!(prefetch(&["--exec", "true"]), 2);
    assert_eq!(prefetch(&["--exec", "true", "--concurrency", "8", "--count", "100"]), 16);
}

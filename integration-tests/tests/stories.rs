//! Stories from outside: the `mq` command and the brokers' own clients, as a shell would use them.

#[path = "stories/foreign.rs"]
mod foreign;
#[path = "stories/shell.rs"]
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mq_integration_tests::brokers::BrokerKind;
use serde_json::Value;

use foreign::Onlooker;
use shell::{Scene, millis_of, now};

/// Held by the story that measures times, which no other may disturb; shared by all others.
static TIMES: RwLock<()> = RwLock::new(());

/// How long a story waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);

fn beside_others(story: fn(BrokerKind) -> Result<()>, kind: BrokerKind) -> Result<()> {
    let _shared = TIMES.read().unwrap_or_else(PoisonError::into_inner);
    story(kind)
}

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m-{number:03}")).collect()
}

fn ids(lines: &[Value]) -> BTreeSet<String> {
    lines.iter().filter_map(|line| Some(line["id"].as_str()?.to_owned())).collect()
}

fn lines_of(ids: &[String]) -> String {
    ids.iter().map(|id| format!("{{\"id\":\"{id}\",\"body\":\"{id}\"}}\n")).collect()
}

const MAX_ATTEMPTS: usize = 3;

/// One of 200 messages kills the process of its handler each time. Somebody starts it again each time.
fn a_handler_kills_its_process(kind: BrokerKind) -> Result<()> {
    let scene = Scene::new(kind, "killer")?;
    let most = MAX_ATTEMPTS.to_string();
    scene.done(&["group", "create", &scene.topic, &scene.group, "--max-attempts", &most], "")?;
    let mut sent = bodies(200);
    sent[100] = "killer".to_owned();
    scene.done(&["publish", &scene.topic, "--jsonl", "-"], &lines_of(&sent))?;

    let (attempts, handled) = (scene.file("attempts"), scene.file("handled"));
    let command = format!(
        "if [ \"$MQ_ID\" = killer ]; then echo $MQ_ATTEMPT >> {attempts}; kill -9 $PPID; exit 1; fi; \
         echo $MQ_ID >> {handled}"
    );
    let read = |file: &str| -> BTreeSet<String> {
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    let mut deaths = 0;
    loop {
        let mut consumer =
            scene.start(&["consume", &scene.topic, "--group", &scene.group, "--exec", &command])?;
        let died = consumer.died_before(deadline, || {
            Ok(read(&handled).len() == sent.len() - 1 && !scene.dead_letters()?.is_empty())
        })?;
        if !died {
            consumer.ends_cleanly()?;
            break;
        }
        deaths += 1;
        ensure!(deaths <= MAX_ATTEMPTS, "the message killed {deaths} processes");
    }
    let letters = scene.dead_letters()?;
    ensure!(letters.len() == 1 && letters[0]["id"] == "killer", "an innocent died: {letters:?}");
    ensure!(letters[0]["attempts"] == MAX_ATTEMPTS, "{letters:?}");
    let expected: BTreeSet<String> = (1..=MAX_ATTEMPTS).map(|attempt| attempt.to_string()).collect();
    ensure!(deaths == MAX_ATTEMPTS && read(&attempts) == expected, "{deaths} deaths, {:?}", read(&attempts));
    let innocent: BTreeSet<String> = sent.into_iter().filter(|id| id != "killer").collect();
    ensure!(read(&handled) == innocent, "handled: {:?}", read(&handled));
    Ok(())
}

/// A consumer holds 100 messages and is killed with SIGKILL.
fn a_consumer_is_killed(kind: BrokerKind) -> Result<()> {
    let scene = Scene::new(kind, "killed")?;
    scene.done(&["group", "create", &scene.topic, &scene.group], "")?;
    let onlooker = Onlooker::new(&scene)?;
    let sent = bodies(100);
    scene.done(&["publish", &scene.topic, "--jsonl", "-"], &lines_of(&sent))?;
    let consume = ["consume", &scene.topic, "--group", &scene.group, "--json"];
    let holds: Vec<&str> = consume.into_iter().chain(["--settle", "none"]).collect();
    let mut consumer = scene.start(&holds)?;
    let held = consumer.lines(sent.len(), PATIENCE)?;
    ensure!(held.iter().all(|line| line["attempt"] == 1), "{held:?}");
    consumer.kill()?;

    let finishes: Vec<&str> = consume.into_iter().chain(["--count", "100", "--timeout", "60s"]).collect();
    let back = scene.done(&finishes, "")?;
    ensure!(back.len() == sent.len() && ids(&back) == ids(&held), "{} came back", ids(&back).len());
    for line in &back {
        ensure!(line["attempt"] == 2 && line["redelivered"] == true, "{line}");
    }
    ensure!(onlooker.stored()? == sent.len(), "others see {} messages", onlooker.stored()?);
    let nothing: Vec<&str> = consume.into_iter().chain(["--count", "1", "--idle-exit", "1s"]).collect();
    scene.ends(&nothing, 3)?;
    Ok(())
}

/// Two groups; the messages fail in one of them and are redriven.
fn a_redrive_is_the_failed_groups_own(kind: BrokerKind) -> Result<()> {
    let scene = Scene::new(kind, "redrive")?;
    let (topic, failed) = (&*scene.topic, &*scene.group);
    let other = format!("other-{failed}");
    scene.done(&["group", "create", topic, failed], "")?;
    scene.done(&["group", "create", topic, &other], "")?;
    let onlooker = Onlooker::new(&scene)?;
    let sent = bodies(50);
    scene.done(&["publish", topic, "--jsonl", "-"], &lines_of(&sent))?;
    let take = |group: &str, more: &[&str]| {
        let all = ["consume", topic, "--group", group, "--json", "--count", "50", "--timeout", "60s"];
        scene.done(&[&all[..], more].concat(), "")
    };
    take(failed, &["--settle", "dead-letter", "--reason", "broken"])?;
    ensure!(take(&other, &[])?.len() == sent.len(), "the other group missed something");
    let letters = scene.dead_letters()?;
    ensure!(letters.len() == sent.len(), "{} dead letters", letters.len());
    ensure!(letters.iter().all(|letter| letter["dead_reason"] == "broken"), "{letters:?}");

    let redriven = scene.done(&["dead", "redrive", topic, "--group", failed, "--all", "--json"], "")?;
    ensure!(redriven[0]["redriven"] == sent.len(), "{redriven:?}");
    let back = take(failed, &[])?;
    ensure!(ids(&back) == sent.iter().cloned().collect(), "not all came back");
    ensure!(back.iter().all(|line| line["attempt"] == 1), "{back:?}");
    scene.ends(&["consume", topic, "--group", &other, "--count", "1", "--idle-exit", "2s"], 3)?;
    ensure!(scene.dead_letters()?.is_empty(), "letters are left");
    ensure!(onlooker.stored()? == sent.len(), "others see {} messages", onlooker.stored()?);
    Ok(())
}

/// Out of a backlog, as `observe/BACKLOG.md` says: watch it, park the oldest, drain the rest, bring the parked back.
fn a_backlog_is_left_behind(kind: BrokerKind) -> Result<()> {
    let scene = Scene::new(kind, "backlog")?;
    let (topic, group) = (&*scene.topic, &*scene.group);
    scene.done(&["group", "create", topic, group], "")?;
    let sent = bodies(300);
    scene.done(&["publish", topic, "--jsonl", "-"], &lines_of(&sent))?;
    let mut watch = scene.start(&["stats", topic, "--group", group, "--watch", "--json"])?;
    // Two looks: the first has no rate yet.
    let looks = watch.lines(2, PATIENCE)?;
    ensure!(looks[0]["ready"] == 300 && looks[0]["drain_per_s"].is_null(), "{looks:?}");
    ensure!(looks[1]["drain_per_s"] == 0.0 && looks[1]["eta_s"].is_null(), "{looks:?}");

    let consume = |more: &[&str]| {
        let all = ["consume", topic, "--group", group, "--json", "--timeout", "60s"];
        scene.done(&[&all[..], more].concat(), "")
    };
    consume(&["--count", "100", "--settle", "dead-letter", "--reason", "parked"])?;
    let parked = scene.dead_letters()?;
    ensure!(
        parked.len() == 100 && parked.iter().all(|letter| letter["dead_reason"] == "parked"),
        "{parked:?}"
    );
    let members = ["consume", topic, "--group", group, "--json", "--concurrency", "8", "--exec", "true"];
    let mut members = [scene.start(&members)?, scene.start(&members)?];
    let deadline = Instant::now() + PATIENCE;
    let mut drained = false;
    loop {
        let look = watch.lines(1, PATIENCE)?.remove(0);
        drained |= look["drain_per_s"].as_f64().is_some_and(|rate| rate > 0.0);
        if look["ready"] == 0 && look["eta_s"] == 0.0 && look["in_flight"].as_u64().unwrap_or(0) == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "it is not left behind: {look}");
    }
    ensure!(drained, "no look saw it drain");
    watch.ends_cleanly()?;
    for member in &mut members {
        member.ends_cleanly()?;
    }
    scene.done(&["dead", "redrive", topic, "--group", group, "--all"], "")?;
    let back = consume(&["--count", "100"])?;
    ensure!(ids(&back) == ids(&parked) && back.iter().all(|line| line["attempt"] == 1), "{back:?}");
    ensure!(scene.dead_letters()?.is_empty(), "letters are left");
    Ok(())
}

const LONGEST: u64 = 60_000;
const LATE: i64 = 250;

/// A thousand messages, half of them due evenly over a minute, half of them mostly soon.
fn delays(seed: u64) -> Vec<u64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let even = (0..499).map(|_| rng.u64(1..=LONGEST)).collect::<Vec<_>>();
    let soon = (0..499).map(|_| (LONGEST as f64).powf(rng.f64()).round() as u64);
    let mut delays: Vec<u64> = soon.chain(even).chain([1, LONGEST]).collect();
    rng.shuffle(&mut delays);
    delays
}

/// The first delayed messages that a broker ever sees have RabbitMQ's adapter make its lanes, which takes
/// seconds, and come late by that; these do it before anything is measured. One on each lane up to a minute.
const FIRST: [u64; 9] = [1_500, 2_500, 3_500, 5_000, 9_000, 13_000, 17_000, 33_000, 49_000];

fn mixed_delays(kind: BrokerKind, seed: u64) -> Result<String> {
    let scene = Scene::new(kind, "delays")?;
    let delays = delays(seed);
    let count = (1 + FIRST.len() + delays.len()).to_string();
    let consume = ["consume", &scene.topic, "--group", &scene.group, "--json", "--timeout", "150s"];
    scene.done(&["group", "create", &scene.topic, &scene.group], "")?;
    let mut consumer = scene.start(&[&consume[..], &["--count", &count]].concat())?;
    scene.done(&["publish", &scene.topic, "ready"], "")?;
    consumer.lines(1, PATIENCE)?;
    let first = FIRST.iter().map(|delay| format!("{{\"body\":\"first\",\"delay\":\"{delay}ms\"}}\n"));
    scene.done(&["publish", &scene.topic, "--jsonl", "-"], &first.collect::<String>())?;

    let mut given = BTreeMap::new();
    scene.feed(&["publish", &scene.topic, "--jsonl", "-"], |input| {
        for (number, delay) in delays.iter().enumerate() {
            given.insert(number.to_string(), now() + i64::try_from(*delay)?);
            writeln!(input, "{{\"id\":\"{number}\",\"body\":\"{delay}\",\"delay\":\"{delay}ms\"}}")?;
            input.flush()?;
        }
        Ok(())
    })?;
    let mut came = consumer.lines(FIRST.len() + delays.len(), Duration::from_millis(LONGEST) + PATIENCE)?;
    came.retain(|line| line["body"] != "first");
    ensure!(consumer.wait(PATIENCE)? == Some(0), "the consumer failed");
    ensure!(ids(&came).len() == delays.len(), "{} of {} came", ids(&came).len(), delays.len());
    let mut late = Vec::with_capacity(came.len());
    for line in &came {
        // A delay that ran out before the message was sent is not sent with it.
        let due = if line.get("deliver_at").is_some() { "deliver_at" } else { "published_at" };
        let (due, received) = (millis_of(line, due)?, millis_of(line, "received_at")?);
        let id = line["id"].as_str().context("no id")?;
        // The delay counts from when the command read the line, which was after it was written.
        ensure!(due >= given[id], "seed {seed}: due too early: {line}");
        ensure!(received >= due, "seed {seed}: {} ms early: {line}", due - received);
        late.push(received - due);
    }
    late.sort_unstable();
    let at = |part: usize| late[late.len() * part / 100 - 1];
    let figures =
        format!("{}: late by {} ms p50, {} ms p99, {} ms at most", kind.name(), at(50), at(99), at(100));
    ensure!(at(99) <= LATE, "seed {seed}: {figures}");
    Ok(figures)
}

/// Takes a minute and a few seconds, for the longest delay is a minute; the brokers share it, and
/// nothing else runs.
#[test]
fn a_thousand_mixed_delays() -> Result<()> {
    let _alone = TIMES.write().unwrap_or_else(PoisonError::into_inner);
    let seed = fastrand::u64(..1 << 32);
    let told = std::thread::scope(|scope| {
        let running = BrokerKind::ALL.map(|kind| scope.spawn(move || mixed_delays(kind, seed)));
        running.map(|story| story.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked"))))
    });
    for told in told {
        eprintln!("{}", told?);
    }
    Ok(())
}

#[test]
fn a_handler_kills_its_process_on_kafka() -> Result<()> {
    beside_others(a_handler_kills_its_process, BrokerKind::Kafka)
}

#[test]
fn a_handler_kills_its_process_on_rabbitmq() -> Result<()> {
    beside_others(a_handler_kills_its_process, BrokerKind::RabbitMq)
}

#[test]
fn a_handler_kills_its_process_on_redis() -> Result<()> {
    beside_others(a_handler_kills_its_process, BrokerKind::Redis)
}

#[test]
fn a_consumer_is_killed_on_kafka() -> Result<()> {
    beside_others(a_consumer_is_killed, BrokerKind::Kafka)
}

#[test]
fn a_consumer_is_killed_on_rabbitmq() -> Result<()> {
    beside_others(a_consumer_is_killed, BrokerKind::RabbitMq)
}

#[test]
fn a_consumer_is_killed_on_redis() -> Result<()> {
    beside_others(a_consumer_is_killed, BrokerKind::Redis)
}

#[test]
fn a_redrive_is_the_failed_groups_own_on_kafka() -> Result<()> {
    beside_others(a_redrive_is_the_failed_groups_own, BrokerKind::Kafka)
}

#[test]
fn a_redrive_is_the_failed_groups_own_on_rabbitmq() -> Result<()> {
    beside_others(a_redrive_is_the_failed_groups_own, BrokerKind::RabbitMq)
}

#[test]
fn a_redrive_is_the_failed_groups_own_on_redis() -> Result<()> {
    beside_others(a_redrive_is_the_failed_groups_own, BrokerKind::Redis)
}

#[test]
fn a_backlog_is_left_behind_on_kafka() -> Result<()> {
    beside_others(a_backlog_is_left_behind, BrokerKind::Kafka)
}

#[test]
fn a_backlog_is_left_behind_on_rabbitmq() -> Result<()> {
    beside_others(a_backlog_is_left_behind, BrokerKind::RabbitMq)
}

#[test]
fn a_backlog_is_left_behind_on_redis() -> Result<()> {
    beside_others(a_backlog_is_left_behind, BrokerKind::Redis)
}

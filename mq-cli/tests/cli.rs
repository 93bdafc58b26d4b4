//! The command as a shell sees it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn mq(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq"));
    command.args(args).env_remove("MQ_URL").env_remove("MQ_LOG").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    mq(args).output().unwrap()
}

fn run_with(input: &str, args: &[&str]) -> Output {
    let mut child =
        mq(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn memory<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(["--url", "memory://"]).collect()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts the exit code and what stderr says.
fn ends(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in {stderr}");
}

#[test]
fn a_receipt() {
    let output = run(&memory(&["publish", "orders", "hello", "--id", "m-1", "--key", "k", "--json"]));
    ends(&output, 0, "m-1: confirmed");
    let receipt = &lines(&output)[0];
    assert_eq!(
        (&receipt["id"], &receipt["outcome"], &receipt["error"]),
        (&"m-1".into(), &"ok".into(), &Value::Null)
    );
}

#[test]
fn a_message_that_is_refused() {
    let output = run(&memory(&["publish", "orders", "x", "--header", "mq-id=1", "--json"]));
    ends(&output, 1, "reserved");
    assert_eq!(lines(&output)[0]["outcome"], "rejected");
    ends(&run(&memory(&["publish", "orders", "x", "--subject", "a..b"])), 1, "empty word");
}

#[test]
fn a_body_from_stdin_is_taken_as_it_is() {
    ends(&run_with("a\nb\n", &memory(&["publish", "orders"])), 0, "confirmed");
}

#[test]
fn lines_are_answered_in_their_order() {
    let mut input: String =
        (1..=1000).map(|i| format!("{{\"id\":\"m-{i}\",\"body\":{{\"n\":{i}}}}}\n")).collect();
    input.push_str("{\"id\":\"bad\",\"bdy\":1}\nnot json\n{\"id\":\"last\",\"body\":\"\"}\n");
    let output = run_with(&input, &memory(&["publish", "orders", "--jsonl", "--in-flight", "16", "--json"]));
    ends(&output, 1, "1001 confirmed, 2 rejected, 0 unknown");
    let receipts = lines(&output);
    assert_eq!(receipts.len(), 1003);
    for (receipt, number) in receipts.iter().zip(1..) {
        assert_eq!(receipt["line"], number);
    }
    assert_eq!((&receipts[999]["id"], &receipts[999]["outcome"]), (&"m-1000".into(), &"ok".into()));
    assert_eq!((&receipts[1000]["id"], &receipts[1000]["outcome"]), (&"bad".into(), &"rejected".into()));
    let error = receipts[1000]["error"].as_str().unwrap();
    assert!(error.starts_with("line 1001: unknown field `bdy`"), "{error}");
    assert!(receipts[1001]["error"].as_str().unwrap().starts_with("line 1002: "));
    assert_eq!((&receipts[1001]["id"], &receipts[1002]["id"]), (&Value::Null, &"last".into()));
}

#[test]
fn a_malformed_line_is_named_to_people_too() {
    let output = run_with("{\"key\":\"k\"}\n", &memory(&["publish", "orders", "--jsonl"]));
    ends(&output, 1, "line 1: no body: give \"body\" or \"body_base64\"");
    assert!(output.stdout.is_empty());
    ends(&run(&memory(&["publish", "orders", "--jsonl", "/no/such/file"])), 1, "cannot open /no/such/file");
}

#[test]
fn a_rate_is_kept() {
    let input = "{\"body\":\"x\"}\n".repeat(50);
    let start = Instant::now();
    ends(&run_with(&input, &memory(&["publish", "orders", "--jsonl", "--rate", "100/s"])), 0, "50 confirmed");
    assert!(start.elapsed() >= Duration::from_millis(480), "{:?}", start.elapsed());
}

#[test]
fn a_consumer_that_runs_short_says_so() {
    let base = ["consume", "orders", "--group", "g"];
    let with = |more: &[&'static str]| run(&memory(&[&base[..], more].concat()));
    ends(&with(&["--count", "1", "--idle-exit", "50ms"]), 3, "0 received");
    ends(&with(&["--count", "1", "--timeout", "50ms"]), 3, "0 received");
    ends(&with(&["--idle-exit", "50ms"]), 0, "0 received");
}

#[test]
fn a_signal_ends_a_consumer_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let child = mq(&memory(&["consume", "orders", "--group", "g", "--json"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let kill = ["-c", "kill $0 $1", signal, &child.id().to_string()];
        assert!(Command::new("sh").args(kill).status().unwrap().success());
        ends(&child.wait_with_output().unwrap(), 130, "0 received");
    }
}

#[test]
fn topology_as_json() {
    let created = run(&memory(&["topic", "create", "orders", "--ordered", "--json"]));
    ends(&created, 0, "");
    assert_eq!(
        (&lines(&created)[0]["topic"], &lines(&created)[0]["partitions"]),
        (&"orders".into(), &8.into())
    );
    let group = run(&memory(&["group", "create", "orders", "billing", "--lease", "1m", "--json"]));
    assert_eq!(
        (&lines(&group)[0]["lease_ms"], &lines(&group)[0]["group"]),
        (&60000.into(), &"billing".into())
    );
    assert!(lines(&run(&memory(&["topic", "list", "--json"]))).is_empty());
    ends(&run(&memory(&["topic", "describe", "orders"])), 1, "not found");
    ends(&run(&memory(&["stats", "orders", "--group", "g"])), 1, "not found");
    ends(&run(&memory(&["dead", "list", "orders", "--group", "g"])), 1, "not found");
    ends(&run(&memory(&["peek", "orders"])), 1, "not found");
}

#[test]
fn wrong_usage_names_the_fix() {
    for (args, says) in [
        (&["publish", "orders", "x"][..], "give --url or set MQ_URL"),
        (&["publish", "orders", "x", "--url", "rediss2://h"], "nearest known scheme is rediss://"),
        (&["publish", "orders", "x", "--url", "localhost"], "write one like redis://"),
        (&["publish", "orders", "x", "--url", "memory://?no_such_key=1"], "no_such_key"),
        (&["publish", "a b", "x"], "allowed are letters, digits"),
        (&["publish", "orders", "x", "--delay", "soon"], "write one like 250ms"),
        (&["publish", "orders", "x", "--at", "soon"], "write one like 2026-"),
        (&["publish", "orders", "x", "--delay", "1s", "--at", "2030-01-01T00:00:00Z"], "cannot be used with"),
        (&["publish", "orders", "x", "--header", "h"], "write name=value"),
        (&["publish", "orders", "--jsonl", "-", "--key", "k"], "cannot be used with"),
        (&["publish", "orders", "x", "--rate", "1/s"], "cannot be used with"),
        (&["publish", "orders", "--in-flight", "8"], "--jsonl"),
        (&["publish", "orders", "--jsonl", "-", "--rate", "fast"], "like 500/s"),
        (&["publish", "orders", "x", "--expires", "1s"], "unexpected argument"),
        (&["consume", "orders"], "--group"),
        (&["consume", "orders", "--group", "g", "--broadcast"], "cannot be used with"),
        (&["consume", "orders", "--group", "g", "--start", "oldest"], "neither earliest nor latest"),
        (&["consume", "orders", "--group", "g", "--exec", "true", "--settle", "ack"], "cannot be used with"),
        (&["consume", "orders", "--group", "g", "--reason", "r"], "--settle dead-letter"),
        (&["consume", "orders", "--group", "g", "--lease", "1ms", "--url", "memory://"], "outside"),
        (&["dead", "purge", "orders", "--group", "g"], "--all"),
        (&["topic", "create", "orders", "--partitions", "0", "--url", "memory://"], "use at least 1"),
    ] {
        let output = run(args);
        ends(&output, 2, says);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_password_is_not_shown() {
    let output =
        mq(&["publish", "orders", "x", "--help"]).env("MQ_URL", "amqp://me:canary@h").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("canary"));
    let output = run(&["publish", "orders", "x", "--url", "amqp://me:canary@127.0.0.1:1/v?no_such_key=1"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("canary"));
}

/// Runs commands on a broker that is not there.
#[cfg(any(feature = "redis-stream", feature = "rabbitmq", feature = "kafka"))]
fn closed_port(scheme: &str) {
    let commands = [
        &["publish", "orders", "x"][..],
        &["consume", "orders", "--group", "g"],
        &["topic", "describe", "orders"],
    ];
    for command in commands {
        let url = format!("{scheme}://127.0.0.1:1");
        let start = Instant::now();
        let output = run(&[command, &["--url", &url]].concat());
        ends(&output, 1, "error: ");
        assert!(start.elapsed() < Duration::from_secs(6), "{command:?}: {:?}", start.elapsed());
    }
}

#[cfg(feature = "redis-stream")]
#[test]
fn a_closed_port_of_redis_is_said_in_time() {
    closed_port("redis");
}

#[cfg(feature = "rabbitmq")]
#[test]
fn a_closed_port_of_rabbitmq_is_said_in_time() {
    closed_port("amqp");
}

#[cfg(feature = "kafka")]
#[test]
fn a_closed_port_of_kafka_is_said_in_time() {
    closed_port("kafka");
}

#[test]
fn completions() {
    let output = run(&["completions", "bash"]);
    ends(&output, 0, "");
    assert!(String::from_utf8_lossy(&output.stdout).contains("_mq"));
}

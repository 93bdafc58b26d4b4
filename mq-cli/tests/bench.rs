//! `mq bench` as a shell sees it.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq"));
    command.args(["bench", "--url", "memory://"]).args(args);
    command.env_remove("MQ_URL").env_remove("MQ_LOG").stdin(Stdio::null()).output().unwrap()
}

fn figures(args: &[&str]) -> Value {
    let output = bench(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One line, and nothing else.
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn each_throughput_is_of_all_messages() {
    for mode in ["publish", "consume", "end-to-end"] {
        let figures = figures(&["--mode", mode, "--count", "3000", "--size", "100"]);
        assert_eq!(
            (&figures["mode"], &figures["backend"], &figures["count"], &figures["size"]),
            (&mode.into(), &"memory".into(), &3000.into(), &100.into())
        );
        let number = |name: &str| figures[name].as_f64().unwrap();
        let rate = 3000.0 / number("seconds");
        assert!((number("messages_per_second") / rate - 1.0).abs() < 1e-6, "{figures}");
        assert!((number("bytes_per_second") / (rate * 100.0) - 1.0).abs() < 1e-6, "{figures}");
        assert_eq!(figures["confirm_ms"], Value::Null);
    }
}

#[test]
fn latencies_are_in_order() {
    for more in [&[][..], &["--rate", "1000/s"][..]] {
        let figures = figures(&[&["--mode", "latency", "--count", "300"][..], more].concat());
        for what in ["confirm_ms", "delivery_ms"] {
            let of = |name: &str| figures[what][name].as_f64().unwrap();
            let quantiles = [0.0, of("p50"), of("p90"), of("p99"), of("max")];
            assert!(quantiles.is_sorted() && quantiles[1] > 0.0, "{what}: {figures}");
        }
    }
}

#[test]
fn a_rate_is_kept() {
    for mode in ["publish", "end-to-end", "latency"] {
        let start = Instant::now();
        let figures = figures(&["--mode", mode, "--count", "100", "--rate", "200/s"]);
        assert!(start.elapsed() >= Duration::from_millis(490), "{mode}: {figures}");
        assert!(figures["messages_per_second"].as_f64().unwrap() <= 205.0, "{mode}: {figures}");
    }
}

#[test]
fn people_read_a_table() {
    let output = bench(&["--mode", "latency", "--count", "10"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["messages", "10 of 256 bytes", "messages/s", "to received, p99"] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    for args in [
        &["--mode", "consume", "--rate", "5/s"][..],
        &["--count", "0"],
        &["--size", "7"],
        &["--mode", "sideways"],
    ] {
        assert_eq!(bench(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_message_over_the_limit_is_said() {
    let output = bench(&["--size", "20000000", "--count", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("the limit is"), "{stderr}");
}

//! Runs the program as a user does, on memory.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-processing"));
    command.args(args).output().expect("the program starts")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("stdout is no JSON object: {error}\n{}", errors(output)))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a file of its own for a test.
fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("order-processing-{}-{name}.csv", std::process::id()));
    std::fs::write(&path, content).expect("the file can be written");
    path
}

#[test]
fn every_order_is_accounted_for_and_the_result_is_the_same_each_time() {
    let [first, second] = [(); 2].map(|()| {
        let output = run(&["--limit", "2000", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        json(&output)
    });
    let count = |name: &str| first[name].as_u64().unwrap_or_else(|| panic!("no count {name}"));
    assert_eq!(count("orders"), 2000);
    assert_eq!(count("orders"), count("completed") + count("dead"));
    assert_eq!((count("lost"), count("out_of_order"), count("rejected")), (0, 0, 0));
    assert_eq!(count("promotions"), 12);
    assert!(count("dead") >= 1 && count("retried") >= 20, "{first}");
    assert_eq!(first["digest"].as_str().map(str::len), Some(64));
    assert_eq!(first["digest"], second["digest"]);
    assert_ne!(first["run"], second["run"]);
    let stages: Vec<_> =
        first["stages"].as_array().into_iter().flatten().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["inventory", "payment", "notification", "analytics"]);
}

#[test]
fn a_wrong_row_is_reported_with_its_line_and_the_others_are_processed() {
    let path = file(
        "wrong-row",
        "order_id,date,customer_id,quantity,amount_usd\n\
         1,1997-01-01,00001,1,11.77\n\
         2,1997-01-01,00001,1,eleven\n\
         3,1997-01-02,00001,1,0.00\n",
    );
    let output = run(&["--data", path.to_str().expect("a UTF-8 path"), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error = errors(&output);
    assert!(error.contains("line 3: amount_usd \"eleven\" is not an amount; write it like 11.77"), "{error}");
    let report = json(&output);
    assert_eq!((report["orders"].as_u64(), report["completed"].as_u64()), (Some(2), Some(2)));
    assert_eq!((report["rejected"].as_u64(), report["charged_cents"].as_u64()), (Some(1), Some(1177)));
}

#[test]
fn a_file_without_orders_ends_at_once() {
    let path = file("empty", "order_id,date,customer_id,quantity,amount_usd\n");
    let output = run(&["--data", path.to_str().expect("a UTF-8 path"), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(json(&output)["orders"].as_u64(), Some(0));
}

#[test]
fn wrong_input_names_the_fix() {
    let header = file("header", "id,day\n1,2\n");
    let header = header.to_str().expect("a UTF-8 path");
    let cases: [(&[&str], &str); 5] = [
        (&["--data", "/nonexistent.csv"], "name a readable file with --data"),
        (&["--data", header], "order_id,date,customer_id,quantity,amount_usd"),
        (&["--url", "radish://localhost"], "nearest known scheme is redis://"),
        (&["--url", "memory://?colour=red"], "colour"),
        (&["--run", "not/good"], "choose another --run"),
    ];
    for (args, fix) in cases {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(errors(&output).contains(fix), "{args:?}: {}", errors(&output));
    }
}

#[cfg(not(feature = "rabbitmq"))]
#[test]
fn a_broker_that_is_not_compiled_in_names_its_feature() {
    let output = run(&["--url", "amqp://localhost"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).contains("-p order-processing --features rabbitmq -- --url"),
        "{}",
        errors(&output)
    );
}

#[test]
fn a_killed_run_on_memory_says_that_it_cannot_be_continued() {
    let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("order-processing-killed-{}", std::process::id()));
    let args = ["--limit", "500", "--state", state.to_str().expect("a UTF-8 path"), "--json"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-processing"));
    let killed =
        command.args(args).env("ORDER_PROCESSING_KILL_AT", "payment:100").output().expect("it starts");
    assert_eq!(killed.status.code(), None, "it was killed: {}", errors(&killed));
    let journal = std::fs::read(state.join("payment.journal")).expect("the journal is there");
    assert_eq!(journal.iter().filter(|byte| **byte == b'\n').count(), 99);
    assert_ne!(journal.last(), Some(&b'\n'), "the last line is torn");
    let again = run(&args);
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("use another --run or --state, or a broker"), "{}", errors(&again));
    std::fs::remove_dir_all(state).expect("the folder can be removed");
}

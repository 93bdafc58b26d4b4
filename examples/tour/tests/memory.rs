//! Every program runs, is short, and is listed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Each program by its file, and where cargo built it; the first service waits for a signal and is not run.
const PROGRAMS: [(&str, &str); 16] = [
    ("handlers", env!("CARGO_BIN_EXE_handlers")),
    ("dispatch", env!("CARGO_BIN_EXE_dispatch")),
    ("order", env!("CARGO_BIN_EXE_order")),
    ("retries", env!("CARGO_BIN_EXE_retries")),
    ("layers", env!("CARGO_BIN_EXE_layers")),
    ("breaker", env!("CARGO_BIN_EXE_breaker")),
    ("batches", env!("CARGO_BIN_EXE_batches")),
    ("adaptive", env!("CARGO_BIN_EXE_adaptive")),
    ("shaping", env!("CARGO_BIN_EXE_shaping")),
    ("publishing", env!("CARGO_BIN_EXE_publishing")),
    ("once", env!("CARGO_BIN_EXE_once")),
    ("codecs", env!("CARGO_BIN_EXE_codecs")),
    ("compression", env!("CARGO_BIN_EXE_compression")),
    ("draining", env!("CARGO_BIN_EXE_draining")),
    ("metrics", env!("CARGO_BIN_EXE_metrics")),
    ("tracing", env!("CARGO_BIN_EXE_tracing")),
];

#[test]
fn every_program_shows_what_it_says() {
    let runs = PROGRAMS.map(|(name, program)| {
        thread::spawn(move || (name, Command::new(program).env_remove("MQ_URL").output().unwrap()))
    });
    for run in runs {
        let (name, output) = run.join().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {out}{err}");
        assert!((1..=2).contains(&out.lines().count()), "{name} prints a line or two: {out}");
    }
}

#[test]
fn each_is_short_and_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(root.join("src/bin")).unwrap() {
        let path = file.unwrap().path();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 60, "{} has {lines} lines", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(readme.contains(&format!("[`{name}`](src/bin/{name}.rs)")), "no {name}");
        names.insert(name);
    }
    let programs = PROGRAMS.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(names, programs.chain(["first_service".to_owned()]).collect());
}

#[test]
fn the_first_service_is_the_readmes_and_under_20_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let service = std::fs::read_to_string(root.join("src/bin/first_service.rs")).unwrap();
    let (_, service) = service.split_once("\n\n").unwrap();
    for readme in ["../../README.md", "../../mq-worker/README.md"] {
        let text = std::fs::read_to_string(root.join(readme)).unwrap();
        assert!(text.contains(service), "{readme} shows another first service");
    }
    // All there is to type, from nothing to a running handler.
    let readme = std::fs::read_to_string(root.join("../../README.md")).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("A first service")).unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let typed: usize = blocks.map(|block| block.trim_end().lines().count() - 1).sum();
    assert!(typed < 20, "{typed} lines");
}

//! Every example runs, and asserts what it shows; the README lists them all.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Each program by its file, and where cargo built it.
const PROGRAMS: [(&str, &str); 14] = [
    ("confirmed", env!("CARGO_BIN_EXE_confirmed")),
    ("at_least_once", env!("CARGO_BIN_EXE_at_least_once")),
    ("counted", env!("CARGO_BIN_EXE_counted")),
    ("leased", env!("CARGO_BIN_EXE_leased")),
    ("delayed", env!("CARGO_BIN_EXE_delayed")),
    ("ordered", env!("CARGO_BIN_EXE_ordered")),
    ("isolated", env!("CARGO_BIN_EXE_isolated")),
    ("inspectable", env!("CARGO_BIN_EXE_inspectable")),
    ("never_silent", env!("CARGO_BIN_EXE_never_silent")),
    ("bounded", env!("CARGO_BIN_EXE_bounded")),
    ("cancel_safe", env!("CARGO_BIN_EXE_cancel_safe")),
    ("drained", env!("CARGO_BIN_EXE_drained")),
    ("interoperable", env!("CARGO_BIN_EXE_interoperable")),
    // The rest of point 1.
    ("atomic", env!("CARGO_BIN_EXE_atomic")),
];

/// Runs them side by side, as different processes of one machine would.
#[test]
fn every_example_shows_what_it_says() {
    let runs = PROGRAMS.map(|(name, program)| {
        thread::spawn(move || (name, Command::new(program).env_remove("MQ_URL").output().unwrap()))
    });
    for run in runs {
        let (name, output) = run.join().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {out}{err}");
        assert!((1..=4).contains(&out.lines().count()), "{name} prints a line or two: {out}");
    }
}

#[test]
fn there_is_a_short_one_for_each_point() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeSet::new();
    for file in std::fs::read_dir(root.join("src/bin")).unwrap() {
        let path = file.unwrap().path();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 60, "{} has {lines} lines", path.display());
        files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(files, BTreeSet::from(PROGRAMS.map(|(name, _)| name.to_owned())));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for (point, (name, _)) in (1..=13).chain([1]).zip(PROGRAMS) {
        let row = format!("| {point} | [`{name}`](src/bin/{name}.rs) |");
        assert!(readme.contains(&row), "no {row:?}");
    }
}

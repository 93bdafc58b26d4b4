//! Prometheus beside the order-processing example: what an operator sees, to look at and as a check.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_tools::install_bare;
use crate::process::{self, Background, is_installed};

/// Where the example serves its metrics: the target in `observe/prometheus.yml`.
const METRICS: &str = "127.0.0.1:9464";
/// Where Prometheus serves.
const PROMETHEUS: &str = "127.0.0.1:17090";
/// By when a person is to see curves.
const LIMIT: Duration = Duration::from_secs(120);
/// What a person is to see, and `--check` waits for.
const CURVES: [&str; 3] = [
    r#"sum by (topic) (rate(mq_published_total{outcome="confirmed"}[30s]))"#,
    r#"sum by (group) (rate(mq_settled_total{outcome="acked"}[30s]))"#,
    "max by (topic, group) (mq_group_ready_messages)",
];

/// Where to run, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The broker of the example
    #[arg(long, default_value = "memory://")]
    url: String,
    /// Orders a second
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Ends once every query of the dashboard and the alerts was evaluated and the main curves have values; fails
    /// after two minutes
    #[arg(long)]
    check: bool,
}

/// Starts both and runs until Ctrl-C.
pub(crate) fn observe(options: &Options) -> Result<()> {
    ensure()?;
    process::check(&mut process::cargo([
        "build",
        "--workspace",
        "--all-features",
        "--bin",
        "order-processing",
    ]))?;
    let _prometheus = prometheus()?;
    if options.check {
        let _example = Background::start(&mut example(options)?)?;
        return check();
    }
    eprintln!("metrics:    http://{METRICS}/metrics");
    eprintln!("Prometheus: http://{PROMETHEUS}/graph?{}", graphs());
    eprintln!("alerts:     http://{PROMETHEUS}/alerts");
    eprintln!("Grafana, where you have one: add that Prometheus, import observe/dashboard.json");
    loop {
        process::check(&mut example(options)?)?;
    }
}

/// Checks the rules and their tests, without starting anything.
pub(crate) fn rules() -> Result<Vec<Command>> {
    ensure()?;
    let promtool = |args: [&str; 3]| {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(process::root().join("observe"));
        command
    };
    Ok(vec![promtool(["check", "config", "prometheus.yml"]), promtool(["test", "rules", "alerts_test.yml"])])
}

fn ensure() -> Result<()> {
    if is_installed("prometheus") && is_installed("promtool") {
        return Ok(());
    }
    install_bare(&["prometheus"]).context("no prometheus and promtool on the search path")
}

fn prometheus() -> Result<Background> {
    let folder = process::target_directory()?.join("observe");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let log = std::fs::File::create(folder.join("prometheus.log"))?;
    let data = folder.join("data");
    match std::fs::remove_dir_all(&data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", data.display()));
        }
        _ => {}
    }
    let mut command = Command::new("prometheus");
    command.arg(flag("config.file", &process::root().join("observe/prometheus.yml")));
    command.arg(flag("storage.tsdb.path", &data));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    command.stdout(log.try_clone()?).stderr(log);
    let started = Background::start(&mut command)?;
    let said = folder.join("prometheus.log");
    let serves = || query("vector(1)").is_ok_and(|answer| !answer.is_empty());
    if wait_for(Duration::from_secs(30), serves) {
        return Ok(started);
    }
    bail!("Prometheus does not serve at {PROMETHEUS}; see {}", said.display())
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn example(options: &Options) -> Result<Command> {
    let mut command = process::built("debug/order-processing")?;
    command.args(["--url", &options.url, "--metrics", METRICS, "--rate", &options.rate.to_string()]);
    Ok(command)
}

/// The curves' queries as parameters of Prometheus' page of graphs.
fn graphs() -> String {
    let encode = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    let graph = |(number, query): (usize, &&str)| {
        format!("g{number}.expr={}&g{number}.tab=0&g{number}.range_input=5m", encode(query))
    };
    CURVES.iter().enumerate().map(graph).collect::<Vec<_>>().join("&")
}

/// Asks Prometheus; the answer is a line a series.
fn query(query: &str) -> Result<String> {
    let url = format!("http://{PROMETHEUS}");
    process::output(Command::new("promtool").args(["query", "instant", &url, query]))
}

fn check() -> Result<()> {
    let start = Instant::now();
    for curve in CURVES {
        let has_values = || query(curve).is_ok_and(|answer| answer.lines().any(|line| !line.is_empty()));
        if !wait_for(LIMIT.saturating_sub(start.elapsed()), has_values) {
            bail!("after {:.0} s there is no value of {curve}", start.elapsed().as_secs_f64());
        }
    }
    eprintln!("curves after {:.0} s", start.elapsed().as_secs_f64());
    let queries = queries(&process::root().join("observe/dashboard.json"))?;
    let mut with_values = 0;
    for asked in &queries {
        let answer = query(asked).with_context(|| format!("a query of the dashboard is wrong: {asked}"))?;
        with_values += usize::from(!answer.trim().is_empty());
    }
    eprintln!("{} queries of the dashboard evaluated, {with_values} of them with values", queries.len());
    Ok(())
}

/// The dashboard's queries, with all topics and groups chosen.
fn queries(dashboard: &PathBuf) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(dashboard)?;
    let dashboard: serde_json::Value = serde_json::from_str(&text).context("reading the dashboard")?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.filter_map(|target| target["expr"].as_str()).map(|query| {
        query.replace("$topic", ".*").replace("$group", ".*").replace("$__rate_interval", "30s")
    });
    Ok(queries.collect())
}

fn wait_for(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_has_queries_and_no_variable_is_left_in_them() {
        let queries = queries(&process::root().join("observe/dashboard.json")).unwrap();
        assert!(queries.len() > 20 && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    }

    #[test]
    fn prometheus_scrapes_where_the_example_serves() {
        let config = std::fs::read_to_string(process::root().join("observe/prometheus.yml")).unwrap();
        assert!(config.contains(METRICS));
        assert!(graphs().starts_with("g0.expr=sum%20by%20%28topic%29"), "{}", graphs());
    }
}

//! A defect as a file: a few words about it, then a patch.
//!
//! ```text
//! breaks: point 3: a retry is not counted
//! crate: mq-core
//! detector: test mq-core policy::tests::attempts_end_in_a_dead_letter_with_their_number
//! detector: row memory attempts.exactly_max_attempts
//!
//! --- a/mq-core/src/policy.rs
//! +++ b/mq-core/src/policy.rs
//! …
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// What must notice a defect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detector {
    /// A unit test of a crate, by its full name.
    Test { package: String, name: String },
    /// A row of the suite on one backend.
    Row { backend: String, case: String },
}

impl Detector {
    fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["test", package, name] => Ok(Self::Test { package: package.into(), name: name.into() }),
            ["row", backend, case] => Ok(Self::Row { backend: backend.into(), case: case.into() }),
            _ => bail!("write `test PACKAGE NAME` or `row BACKEND CASE`, not `{text}`"),
        }
    }

    /// Whether it runs against a broker.
    pub(crate) fn needs_broker(&self) -> bool {
        matches!(self, Self::Row { backend, .. } if backend != "memory")
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { package, name } => write!(f, "{package} {name}"),
            Self::Row { backend, case } => write!(f, "{backend}::{case}"),
        }
    }
}

/// A defect that can be planted.
#[derive(Clone, Debug)]
pub(crate) struct Defect {
    pub(crate) name: String,
    /// The guarantee that no longer holds.
    pub(crate) breaks: String,
    package: String,
    pub(crate) detectors: Vec<Detector>,
    pub(crate) file: PathBuf,
    /// What its patch changes.
    pub(crate) files: Vec<String>,
}

impl Defect {
    fn parse(file: &Path, text: &str) -> Result<Self> {
        let name = file.file_stem().context("no name")?.to_string_lossy().into_owned();
        let (head, patch) = text.split_once("\n\n").context("an empty line stands before the patch")?;
        let (mut breaks, mut package, mut detectors) = (None, None, Vec::new());
        for line in head.lines() {
            let (field, value) = line.split_once(": ").with_context(|| format!("no field: `{line}`"))?;
            match field {
                "breaks" => breaks = Some(value.to_owned()),
                "crate" => package = Some(value.to_owned()),
                "detector" => detectors.push(Detector::parse(value)?),
                _ => bail!("`{field}` is none of breaks, crate, detector"),
            }
        }
        ensure!(!detectors.is_empty(), "nothing is named that must notice it");
        let package = package.context("no crate")?;
        let files: Vec<String> =
            patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::to_owned).collect();
        ensure!(!files.is_empty(), "no patch");
        let inside = |file: &String| file.starts_with(&format!("{package}/"));
        ensure!(files.iter().all(inside), "it changes more than {package}");
        let breaks = breaks.context("no breaks")?;
        Ok(Self { name, breaks, package, detectors, file: file.into(), files })
    }

    /// Whether one of the filters selects it; none select all.
    pub(crate) fn matches(&self, filters: &[String]) -> bool {
        let selects = |filter: &String| self.name.contains(filter) || self.package.contains(filter);
        filters.is_empty() || filters.iter().any(selects)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.package, self.breaks)?;
        self.detectors.iter().try_for_each(|detector| write!(f, "\n    {detector}"))
    }
}

/// Reads all defects of a folder, by name.
pub(crate) fn load(folder: &Path) -> Result<Vec<Defect>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        files.push(entry?.path());
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "patch"));
    files.sort();
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file)?;
        Defect::parse(file, &text).with_context(|| format!("reading {}", file.display()))
    };
    files.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "breaks: point 1\ncrate: mq-core\ndetector: row memory a.b\n\n\
                        --- a/mq-core/src/x.rs\n+++ b/mq-core/src/x.rs\n";

    fn parse(text: &str) -> Result<Defect> {
        Defect::parse(Path::new("lost_nack.patch"), text)
    }

    #[test]
    fn a_defect_is_read() {
        let defect = parse(GOOD).unwrap();
        assert_eq!((defect.name.as_str(), defect.breaks.as_str()), ("lost_nack", "point 1"));
        assert_eq!(defect.detectors, [Detector::Row { backend: "memory".into(), case: "a.b".into() }]);
        assert!(defect.matches(&["nack".into()]) && !defect.matches(&["kafka".into()]));
    }

    #[test]
    fn what_nobody_is_to_notice_or_what_changes_more_is_refused() {
        assert!(parse(&GOOD.replace("detector: row memory a.b\n", "")).is_err());
        assert!(parse(&GOOD.replace("row memory a.b", "memory a.b")).is_err());
        assert!(parse(&GOOD.replace("b/mq-core/", "b/integration-tests/")).is_err());
        assert!(parse("breaks: point 1\ncrate: mq-core\ndetector: row memory a.b\n\nnothing").is_err());
    }

    #[test]
    fn the_defects_of_this_workspace_can_be_read() {
        let defects = load(&crate::process::root().join("xtask/mutants")).unwrap();
        assert!(!defects.is_empty());
    }
}

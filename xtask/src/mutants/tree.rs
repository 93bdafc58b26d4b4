//! The copy of this workspace that defects are planted in.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::defect::Defect;
use crate::process;

/// A copy, with cargo's target folder and logs beside it.
#[derive(Debug)]
pub(crate) struct Tree {
    folder: PathBuf,
    /// Locked: two runs would plant in one copy.
    _lock: File,
}

impl Tree {
    /// Makes the copy, or brings it up to date: only what differs is written, so that cargo builds
    /// only that again.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().context("another run of `cargo xtask mutants` is under way")?;
        let tree = Self { folder: folder.to_owned(), _lock: lock };
        fs::create_dir_all(tree.root())?;
        fs::create_dir_all(tree.logs())?;
        tree.copy()?;
        Ok(tree)
    }

    /// The copy's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Where cargo builds it.
    pub(crate) fn target(&self) -> PathBuf {
        self.folder.join("build")
    }

    /// Where what was run tells of itself.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    fn copy(&self) -> Result<()> {
        let files = listed()?;
        for file in &files {
            let (from, to) = (process::root().join(file), self.root().join(file));
            let wanted = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
            if fs::read(&to).is_ok_and(|have| have == wanted) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&to, wanted).with_context(|| format!("writing {}", to.display()))?;
        }
        self.forget_others(&files)
    }

    /// Removes what was copied before and is not there any more.
    fn forget_others(&self, files: &BTreeSet<String>) -> Result<()> {
        let list = self.folder.join("files");
        for file in fs::read_to_string(&list).unwrap_or_default().lines() {
            let copy = self.root().join(file);
            if !files.contains(file) && copy.exists() {
                fs::remove_file(&copy).with_context(|| format!("removing {}", copy.display()))?;
            }
        }
        let lines: Vec<&str> = files.iter().map(String::as_str).collect();
        fs::write(&list, lines.join("\n")).with_context(|| format!("writing {}", list.display()))
    }

    /// Fails if the patch does not apply to what is there.
    pub(crate) fn check(&self, defect: &Defect) -> Result<()> {
        self.patch(defect, &["--check"])
    }

    /// Plants a defect until it is undone. The original is not looked at again: work may go on there.
    pub(crate) fn plant(&self, defect: &Defect) -> Result<Planted> {
        let keep = |file: &String| {
            let path = self.root().join(file);
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((path, text))
        };
        let originals = defect.files.iter().map(keep).collect::<Result<_>>()?;
        self.patch(defect, &[])?;
        Ok(Planted { originals })
    }

    fn patch(&self, defect: &Defect, options: &[&str]) -> Result<()> {
        let mut git = Command::new("git");
        git.arg("apply").args(options).arg(&defect.file).current_dir(self.root());
        // The copy lies inside a repository, which must not be taken for the patch's.
        git.env("GIT_CEILING_DIRECTORIES", &self.folder);
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            git.env_remove(variable);
        }
        process::output(&mut git)
            .map(drop)
            .with_context(|| format!("the defect {} does not apply any more", defect.name))
    }
}

/// A defect in the copy.
#[derive(Debug)]
pub(crate) struct Planted {
    originals: Vec<(PathBuf, Vec<u8>)>,
}

impl Planted {
    /// Makes the copy as it was.
    pub(crate) fn undo(self) -> Result<()> {
        for (path, text) in self.originals {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

/// The workspace's files: those git knows and those it would take, as far as they are there.
fn listed() -> Result<BTreeSet<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(process::root());
    let listed = process::output(&mut git)?;
    let there = |file: &&str| !file.is_empty() && process::root().join(file).is_file();
    Ok(listed.split('\0').filter(there).map(str::to_owned).collect())
}

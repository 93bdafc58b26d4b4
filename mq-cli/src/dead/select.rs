//! Which dead letters are meant.

use mq::{Admin, DeadLetter, MessageId, Page, Selection};

use super::Args;
use crate::end::Usage;

/// Dead letters read at once.
const PAGE: usize = 200;

/// A choice of dead letters.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Select {
    /// Those with this id; may be repeated
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    id: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Those whose reason contains this text; * stands for anything
    #[arg(long, value_name = "PATTERN", conflicts_with = "all")]
    reason: Option<String>,
    /// At most this many of them, the oldest first
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Select {
    /// Refuses a command that would mean all of them because nothing was said.
    pub(crate) fn require(&self) -> Result<(), Usage> {
        if self.all || self.reason.is_some() || !self.id.is_empty() {
            return Ok(());
        }
        Err(Usage("which dead letters? give --id ID, --reason PATTERN or --all".into()))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> {
        self.id.iter().map(|id| MessageId::from(id.as_str()))
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        let id = || self.ids().any(|id| id == letter.message.id);
        let reason = |pattern: &String| {
            let reason = letter.envelope.death.as_ref().map(|death| &*death.reason);
            matches(pattern, reason.unwrap_or_default())
        };
        (self.id.is_empty() || id()) && self.reason.as_ref().is_none_or(reason)
    }
}

/// Returns whether `text` contains the pieces of `pattern` in their order.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    pattern.split('*').all(|piece| {
        let found = rest.find(piece);
        found.inspect(|at| rest = &rest[at + piece.len()..]).is_some()
    })
}

/// Reads the chosen dead letters page by page.
pub(crate) struct Letters<'a> {
    admin: &'a Admin,
    args: &'a Args,
    offset: usize,
    left: usize,
    found: Vec<MessageId>,
}

impl<'a> Letters<'a> {
    pub(crate) fn new(admin: &'a Admin, args: &'a Args) -> Self {
        let left = args.select.limit.unwrap_or(usize::MAX);
        Self { admin, args, offset: 0, left, found: Vec::new() }
    }

    /// Returns the next ones, `None` at the end.
    pub(crate) async fn page(&mut self) -> mq::Result<Option<Vec<DeadLetter>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let page = Page { offset: self.offset, limit: PAGE };
        let Args { topic, group, select } = self.args;
        let mut letters = self.admin.dead_letters(topic, group, page).await?;
        if letters.is_empty() {
            return Ok(None);
        }
        self.offset += letters.len();
        letters.retain(|letter| select.takes(letter));
        letters.truncate(self.left);
        self.left -= letters.len();
        self.found.extend(letters.iter().map(|letter| letter.message.id.clone()));
        Ok(Some(letters))
    }

    /// Returns the ids seen so far.
    pub(crate) fn found(&self) -> &[MessageId] {
        &self.found
    }
}

/// Returns the selection for a change, and the ids it is known to hold.
pub(crate) async fn selection(admin: &Admin, args: &Args) -> mq::Result<(Selection, Vec<MessageId>)> {
    if args.select.all && args.select.limit.is_none() {
        return Ok((Selection::All, Vec::new()));
    }
    let mut letters = Letters::new(admin, args);
    while letters.page().await?.is_some() {}
    Ok((Selection::Ids(letters.found.clone()), letters.found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in
            [("max", "max attempts"), ("m*att", "max attempts"), ("*", ""), ("max attempts", "max attempts")]
        {
            assert!(matches(pattern, text), "{pattern}");
        }
        for (pattern, text) in [("poison", "max attempts"), ("att*max", "max attempts"), ("a", "")] {
            assert!(!matches(pattern, text), "{pattern}");
        }
    }

    #[test]
    fn nothing_said_is_not_all() {
        assert!(Select::default().require().unwrap_err().0.contains("--all"));
        assert!(Select { all: true, ..Select::default() }.require().is_ok());
    }
}

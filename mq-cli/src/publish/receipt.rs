//! The receipt of one message.

use std::fmt;

use mq::{Receipt, Result};
use serde::Serialize;

use crate::end::text;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// Stored nowhere, for certain.
    Rejected,
    /// May have been stored.
    Unknown,
}

/// A receipt as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct ReceiptLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    id: Option<String>,
    pub(crate) outcome: Outcome,
    error: Option<String>,
    position: Option<String>,
}

impl ReceiptLine {
    pub(crate) fn new(line: Option<u64>, id: Option<String>, verdict: Result<Receipt>) -> Self {
        match verdict {
            Ok(receipt) => Self {
                line,
                id: Some(receipt.id.to_string()),
                outcome: Outcome::Ok,
                error: None,
                position: receipt.position.map(|position| position.to_string()),
            },
            Err(error) => {
                let unknown = error.is_unknown_outcome();
                let outcome = if unknown { Outcome::Unknown } else { Outcome::Rejected };
                Self { line, id, outcome, error: Some(text(&error)), position: None }
            }
        }
    }

    /// Makes the receipt of a line that is no message.
    pub(crate) fn malformed(line: u64, id: Option<String>, error: &str) -> Self {
        let error = Some(format!("line {line}: {error}"));
        Self { line: Some(line), id, outcome: Outcome::Rejected, error, position: None }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

impl fmt::Display for ReceiptLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.as_deref().unwrap_or("-");
        if let (Some(line), true) = (self.line, self.id.is_some()) {
            write!(f, "line {line}, ")?;
        }
        match (self.outcome, &self.error, &self.position) {
            (Outcome::Ok, _, Some(position)) => write!(f, "{id}: confirmed at {position}"),
            (Outcome::Ok, ..) => write!(f, "{id}: confirmed"),
            (_, Some(error), _) if self.id.is_none() => f.write_str(error),
            (_, error, _) => write!(f, "{id}: {}", error.as_deref().unwrap_or("not confirmed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq::{Error, ErrorKind, MessageId, Position};

    #[test]
    fn receipts_as_json() {
        let position = Position { partition: 0, offset: 17, sub: Some(1) };
        let json = |receipt: &ReceiptLine| serde_json::to_string(receipt).unwrap();
        let stored = Receipt::new(MessageId::from("a"), Some(position));
        assert_eq!(
            json(&ReceiptLine::new(Some(1), Some("a".into()), Ok(stored))),
            r#"{"line":1,"id":"a","outcome":"ok","error":null,"position":"0:17-1"}"#
        );
        let lost = Error::new(ErrorKind::UnknownOutcome, "no answer");
        assert_eq!(
            json(&ReceiptLine::new(None, Some("a".into()), Err(lost))),
            r#"{"id":"a","outcome":"unknown","error":"outcome unknown: no answer","position":null}"#
        );
        let malformed = ReceiptLine::malformed(3, None, "no body");
        assert!(json(&malformed).contains(r#""outcome":"rejected","error":"line 3: no body""#));
        assert_eq!(malformed.to_string(), "line 3: no body");
    }
}

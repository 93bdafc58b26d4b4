//! Help for reading a backend's configuration from a URL.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use crate::error::{Error, ErrorKind, Result};

/// The query of a URL, taken key by key; what is left over is an error.
#[derive(Debug)]
pub struct Query {
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Query {
    /// Reads the query of `url`.
    #[must_use]
    pub fn new(url: &Url) -> Self {
        Self { values: url.query_pairs().into_owned().collect(), known: Vec::new() }
    }

    /// Takes the value of `key`.
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// Takes the value of `key` as a duration such as `250ms`, `30s`, `5m` or `36h`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the key and shows the forms.
    pub fn take_duration(&mut self, key: &'static str) -> Result<Option<Duration>> {
        self.take(key)
            .map(|text| {
                parse_duration(&text)
                    .map_err(|error| Error::new(error.kind(), format!("URL key {key}: {}", error.message())))
            })
            .transpose()
    }

    /// Takes the value of `key` as a number.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the key.
    pub fn take_number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<Option<T>> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("URL key {key}: {text:?} is not a number in range"),
            )),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the first key that nobody took and the nearest known one.
    pub fn finish(self) -> Result<()> {
        let Some(unknown) = self.values.keys().next() else { return Ok(()) };
        let hint = match nearest(unknown, &self.known) {
            Some(known) => format!("did you mean {known:?}?"),
            None => "this URL takes no keys".to_owned(),
        };
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("unknown URL key {unknown:?}; {hint} (known: {})", self.known.join(", ")),
        ))
    }
}

/// Returns the candidate that needs the fewest edits to become `word`.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates.iter().copied().min_by_key(|candidate| distance(word, candidate))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

/// Parses a duration such as `250ms`, `1.5s`, `5m`, `36h` or `7d`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] shows the forms.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => f64::NAN,
    } * number.parse::<f64>().unwrap_or(f64::NAN);
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        Error::new(
            ErrorKind::InvalidInput,
            format!("{text:?} is not a duration; write one like 250ms, 30s, 5m or 36h"),
        )
    })
}

/// Returns `url` with its password replaced, for messages to people.
#[must_use]
pub fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // Only fails for URLs that cannot have a password.
        let _ = shown.set_password(Some("***"));
    }
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_name_the_nearest() {
        let url = Url::parse("redis://h/0?sesion_timeout=5s").unwrap();
        let mut query = Query::new(&url);
        assert_eq!(query.take_duration("session_timeout").unwrap(), None);
        assert_eq!(query.take("pool"), None);
        let error = query.finish().unwrap_err();
        assert!(error.to_string().contains("did you mean \"session_timeout\""), "{error}");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("36h").unwrap(), Duration::from_secs(129_600));
        for bad in ["", "5", "-1s", "s", "1 week", "NaNs"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = redact(&Url::parse("amqp://me:canary@h/v").unwrap());
        assert!(!shown.contains("canary") && shown.contains("me"));
    }
}

//! Values as people write them on a command line, and times as they read them.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use mq::{Start, Timestamp};

/// Reads a duration such as `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    mq::config::parse_duration(text).map_err(|error| error.message().to_owned())
}

/// Reads an RFC 3339 time.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("{text:?} is not an RFC 3339 time; write one like 2026-03-01T12:00:00Z"))?;
    let millis = u64::try_from(time.as_millisecond());
    millis.map(Timestamp::from_millis).map_err(|_| format!("{text:?} is before 1970"))
}

/// Writes a time as RFC 3339, in UTC, to the millisecond.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let time = i64::try_from(at.as_millis()).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    format!("{:.3}", time.unwrap_or(jiff::Timestamp::MAX))
}

/// Returns this moment.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Reads where to begin.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => time(text).map(Start::At).map_err(|error| format!("neither earliest nor latest, and {error}")),
    }
}

/// Reads a header `name=value`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not a header; write name=value")),
    }
}

/// Reads a rate such as `500/s`.
pub(crate) fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| format!("{text:?} is not a rate; write whole messages a second, like 500/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = time("2026-03-01T13:00:00.25+01:00").unwrap();
        assert_eq!(rfc3339(at), "2026-03-01T12:00:00.250Z");
        assert_eq!(time(&rfc3339(at)), Ok(at));
        assert!(time("tomorrow").unwrap_err().contains("like 2026-"));
        assert!(time("1969-01-01T00:00:00Z").unwrap_err().contains("1970"));
        assert!(rfc3339(Timestamp::from_millis(u64::MAX)).starts_with("9999-"));
    }

    #[test]
    fn starts() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("2026-03-01T12:00:00Z"), Ok(Start::At(Timestamp::from_millis(1_772_366_400_000))));
        assert!(start("oldest").unwrap_err().contains("neither earliest nor latest"));
    }

    #[test]
    fn headers_and_rates() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(header("a="), Ok(("a".into(), String::new())));
        assert!(header("a").is_err() && header("=b").is_err());
        assert_eq!(rate("500/s").map(NonZeroU32::get), Ok(500));
        assert_eq!(rate("7").map(NonZeroU32::get), Ok(7));
        assert!(rate("0/s").is_err() && rate("5/m").is_err());
    }
}

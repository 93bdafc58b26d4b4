//! What a native client says of its connections.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mq_core::{Error, ErrorKind, Event, Events};
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::from_code;

/// While the login is refused, one batch in such a time is sent to see whether it still is.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The state of a native client's connections, as its error events tell.
#[derive(Debug)]
pub(crate) struct Link {
    what: &'static str,
    events: Events,
    down: AtomicBool,
    /// Whether the broker refused the login last.
    refused: AtomicBool,
    /// When it was last tried whether it still does.
    tried: Mutex<Option<Instant>>,
    /// Statistics in a row that name no broker.
    brokerless: AtomicU32,
    last: Mutex<Option<(Code, String)>>,
}

impl Link {
    pub(crate) fn new(what: &'static str, events: Events) -> Self {
        Self {
            what,
            events,
            down: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            tried: Mutex::new(None),
            brokerless: AtomicU32::new(0),
            last: Mutex::new(None),
        }
    }

    /// Takes an error event of the native client.
    pub(crate) fn error_event(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if code != Code::AllBrokersDown {
            *self.last.lock() = Some((code, reason.to_owned()));
            self.login_refused(from_code(code).kind() == ErrorKind::Unauthorized, reason);
        } else if !self.down.swap(true, Ordering::Relaxed) {
            self.events.emit(Event::Disconnected { what: self.what, reason: reason.to_owned() });
        }
    }

    fn login_refused(&self, refused: bool, reason: &str) {
        let before = self.refused.swap(refused, Ordering::Relaxed);
        if refused && !before {
            *self.tried.lock() = Some(Instant::now());
            self.events.failed("log in", &Error::new(ErrorKind::Unauthorized, reason));
        }
    }

    /// Whether not to send what comes now, for the login is refused. The native client would keep it until it times
    /// out, and tells of the same refusal once in 30 s: so some have to be sent to find out whether it is over.
    pub(crate) fn refuses(&self) -> bool {
        if !self.refused.load(Ordering::Relaxed) {
            return false;
        }
        let mut tried = self.tried.lock();
        let refuses = tried.is_some_and(|tried| tried.elapsed() < TRY_AGAIN);
        if !refuses {
            *tried = Some(Instant::now());
        }
        refuses
    }

    /// The broker answered.
    pub(crate) fn answered(&self) {
        if self.refused.load(Ordering::Relaxed) {
            self.refused.store(false, Ordering::Relaxed);
        }
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            self.events.emit(Event::Connected { what: self.what });
        }
    }

    /// Whether no broker can be reached.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Takes the native client's statistics.
    pub(crate) fn statistics(&self, json: &[u8]) {
        if names_a_broker(json) {
            self.brokerless.store(0, Ordering::Relaxed);
        } else {
            self.brokerless.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the native client has no broker left to ask. It forgets them all when the last one,
    /// on its way down, says that the cluster has none, and finds no way back by itself.
    pub(crate) fn is_stranded(&self) -> bool {
        self.brokerless.load(Ordering::Relaxed) > 1
    }

    /// Begins anew with another native client.
    pub(crate) fn reset(&self) {
        self.brokerless.store(0, Ordering::Relaxed);
    }

    /// Returns the last error event that says why.
    pub(crate) fn last_error(&self) -> Option<(Code, String)> {
        self.last.lock().clone()
    }

    pub(crate) fn log_line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug => {
                tracing::trace!(target: "mq::kafka", what = self.what, facility, message);
            }
            _ => tracing::debug!(target: "mq::kafka", what = self.what, facility, message),
        }
    }
}

/// Whether the part of the statistics on brokers has one that was configured or learned.
fn names_a_broker(json: &[u8]) -> bool {
    let has = |part: &[u8], needle: &[u8]| part.windows(needle.len()).any(|window| window == needle);
    let topics = b"\"topics\":";
    let end = json.windows(topics.len()).position(|window| window == topics).unwrap_or(json.len());
    has(&json[..end], b"\"source\":\"learned\"") || has(&json[..end], b"\"source\":\"configured\"")
}

impl ClientContext for Link {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.error_event(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.statistics(statistics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_stands_until_it_is_tried_again_or_something_is_answered() {
        let link = Link::new("test", Events::default());
        let refusal = || link.error_event(&KafkaError::Global(Code::Authentication), "no such user");
        assert!(!link.refuses());
        refusal();
        assert!(link.refuses());
        *link.tried.lock() = Instant::now().checked_sub(TRY_AGAIN);
        assert!(!link.refuses(), "one may try");
        assert!(link.refuses(), "and no other");
        link.answered();
        assert!(!link.refuses());
        refusal();
        link.error_event(&KafkaError::Global(Code::BrokerTransportFailure), "gone");
        assert!(!link.refuses(), "a broker that is not there refuses nobody");
    }

    #[test]
    fn a_client_without_brokers_is_stranded() {
        let link = Link::new("test", Events::default());
        let alive =
            br#"{"brokers":{ "h:1/1": { "nodeid":1, "source":"learned", "state":"DOWN" } }, "topics":{ } }"#;
        let alone = br#"{"brokers":{ ":0/internal": { "nodeid":-1, "source":"internal" } }, "topics":{ "a\"source\":\"learned\"": 1 } }"#;
        link.statistics(alone);
        assert!(!link.is_stranded());
        link.statistics(alone);
        assert!(link.is_stranded());
        link.statistics(alive);
        assert!(!link.is_stranded());
    }
}

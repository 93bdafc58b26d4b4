//! What the broker and its client say, as the one error type.

use lapin::ErrorKind as Native;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use mq_core::{Error, ErrorKind};

/// Translates an error of the native client.
pub(crate) fn from_native(error: lapin::Error) -> Error {
    let (kind, message) = match error.kind() {
        Native::ChannelsLimitReached => {
            (ErrorKind::Unavailable, "the connection has no channel left".to_owned())
        }
        Native::InvalidProtocolVersion(_) => {
            (ErrorKind::Unsupported, "the broker does not speak AMQP 0-9-1".to_owned())
        }
        Native::InvalidChannel(_) | Native::InvalidChannelState(..) => {
            (ErrorKind::Unavailable, "the channel is closed".to_owned())
        }
        Native::InvalidConnectionState(_) => (ErrorKind::Unavailable, "the connection is closed".to_owned()),
        Native::IOError(cause) => (io_kind(cause.kind()), "the broker cannot be reached".to_owned()),
        Native::RuntimeShutdownError(_) => (ErrorKind::Closed, "the runtime is shutting down".to_owned()),
        Native::ParsingError(_) => {
            (ErrorKind::Unavailable, "the broker's reply could not be read".to_owned())
        }
        Native::ProtocolError(error) => return from_protocol(error),
        Native::SerialisationError(_) => (ErrorKind::InvalidInput, "a frame could not be written".to_owned()),
        Native::AuthProviderError(_) => {
            (ErrorKind::Unauthorized, "the credentials could not be presented".to_owned())
        }
        Native::MissingHeartbeatError => {
            (ErrorKind::Unavailable, "the broker gave no sign of life".to_owned())
        }
        Native::FutureCompleted | Native::NoDefaultRuntime => {
            (ErrorKind::Other, "the client library was used wrongly".to_owned())
        }
        _ => (ErrorKind::Other, "the client library failed".to_owned()),
    };
    Error::new(kind, message).with_source(error)
}

fn io_kind(kind: std::io::ErrorKind) -> ErrorKind {
    match kind {
        std::io::ErrorKind::TimedOut => ErrorKind::Timeout,
        std::io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
        _ => ErrorKind::Unavailable,
    }
}

fn from_protocol(error: &AMQPError) -> Error {
    let text = error.get_message().to_string();
    let kind = match error.kind() {
        AMQPErrorKind::Soft(soft) => match soft {
            AMQPSoftError::CONTENTTOOLARGE => ErrorKind::InvalidInput,
            AMQPSoftError::NOROUTE => ErrorKind::NotFound,
            AMQPSoftError::NOCONSUMERS => ErrorKind::Unavailable,
            AMQPSoftError::ACCESSREFUSED => ErrorKind::Unauthorized,
            AMQPSoftError::NOTFOUND => ErrorKind::NotFound,
            AMQPSoftError::RESOURCELOCKED => ErrorKind::Unavailable,
            AMQPSoftError::PRECONDITIONFAILED if text.contains("inequivalent") => ErrorKind::Mismatch,
            AMQPSoftError::PRECONDITIONFAILED if text.contains("larger than") => ErrorKind::InvalidInput,
            AMQPSoftError::PRECONDITIONFAILED if text.contains("timed out") => ErrorKind::Timeout,
            AMQPSoftError::PRECONDITIONFAILED => ErrorKind::Other,
        },
        AMQPErrorKind::Hard(hard) => match hard {
            AMQPHardError::CONNECTIONFORCED | AMQPHardError::INTERNALERROR | AMQPHardError::RESOURCEERROR => {
                ErrorKind::Unavailable
            }
            AMQPHardError::INVALIDPATH => ErrorKind::NotFound,
            AMQPHardError::NOTALLOWED if text.contains("not found") => ErrorKind::NotFound,
            AMQPHardError::NOTALLOWED => ErrorKind::Unauthorized,
            AMQPHardError::NOTIMPLEMENTED => ErrorKind::Unsupported,
            AMQPHardError::FRAMEERROR
            | AMQPHardError::SYNTAXERROR
            | AMQPHardError::COMMANDINVALID
            | AMQPHardError::CHANNELERROR
            | AMQPHardError::UNEXPECTEDFRAME => ErrorKind::Other,
        },
    };
    Error::new(kind, format!("the broker says: {text}"))
}

/// Returns whether the broker said that an exchange or a queue is not there.
pub(crate) fn is_missing(error: &lapin::Error) -> bool {
    soft(error) == Some(&AMQPSoftError::NOTFOUND)
}

/// Returns what the broker said about a declaration that differs from what is there.
pub(crate) fn inequivalent(error: &lapin::Error) -> Option<String> {
    match error.kind() {
        Native::ProtocolError(native) if soft(error) == Some(&AMQPSoftError::PRECONDITIONFAILED) => {
            Some(native.get_message().to_string()).filter(|text| text.contains("inequivalent"))
        }
        _ => None,
    }
}

/// Returns whether the broker could not start a queue and removed it: a disk that stalls for some seconds is enough.
pub(crate) fn is_unstarted(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && error.to_string().contains("INTERNAL_ERROR - Cannot declare")
}

/// Returns whether the broker closed a channel and nothing more.
pub(crate) fn is_soft(error: &lapin::Error) -> bool {
    soft(error).is_some()
}

fn soft(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        Native::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Returns whether waiting may help: everything but credentials, permissions and wrong settings.
pub(crate) fn heals(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::Unauthorized
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
            | ErrorKind::Mismatch
            | ErrorKind::NotFound
            | ErrorKind::Closed
    )
}

/// Makes the error of a reply that did not come in time.
pub(crate) fn timed_out(what: &str, after: std::time::Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what}: no reply from the broker within {after:?}"))
}

/// Makes the error of a handle that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the handle was closed")
}

/// Makes the error of a settlement whose delivery is no longer this member's.
pub(crate) fn stale() -> Error {
    Error::new(ErrorKind::StaleDelivery, "the delivery is no longer this consumer's; it is delivered again")
}

/// Makes the error of a message that the broker may or may not have.
pub(crate) fn unknown(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::UnknownOutcome, why)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    fn protocol(id: u16, text: &str) -> lapin::Error {
        Native::ProtocolError(AMQPError::from_id(id, text.into()).unwrap()).into()
    }

    #[test]
    fn every_reply_code_has_a_kind() {
        for (id, text, kind) in [
            (311, "CONTENT_TOO_LARGE", ErrorKind::InvalidInput),
            (312, "NO_ROUTE", ErrorKind::NotFound),
            (313, "NO_CONSUMERS", ErrorKind::Unavailable),
            (403, "ACCESS_REFUSED - Login was refused", ErrorKind::Unauthorized),
            (404, "NOT_FOUND - no queue 'q' in vhost '/'", ErrorKind::NotFound),
            (405, "RESOURCE_LOCKED", ErrorKind::Unavailable),
            (406, "PRECONDITION_FAILED - inequivalent arg 'type'", ErrorKind::Mismatch),
            (
                406,
                "PRECONDITION_FAILED - message size 2 is larger than configured max size 1",
                ErrorKind::InvalidInput,
            ),
            (
                406,
                "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out.",
                ErrorKind::Timeout,
            ),
            (406, "PRECONDITION_FAILED - unknown delivery tag 1", ErrorKind::Other),
            (320, "CONNECTION_FORCED", ErrorKind::Unavailable),
            (402, "INVALID_PATH", ErrorKind::NotFound),
            (501, "FRAME_ERROR", ErrorKind::Other),
            (502, "SYNTAX_ERROR", ErrorKind::Other),
            (503, "COMMAND_INVALID", ErrorKind::Other),
            (504, "CHANNEL_ERROR", ErrorKind::Other),
            (505, "UNEXPECTED_FRAME", ErrorKind::Other),
            (506, "RESOURCE_ERROR", ErrorKind::Unavailable),
            (530, "NOT_ALLOWED - vhost v not found", ErrorKind::NotFound),
            (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", ErrorKind::Unauthorized),
            (540, "NOT_IMPLEMENTED", ErrorKind::Unsupported),
            (541, "INTERNAL_ERROR", ErrorKind::Unavailable),
        ] {
            let error = from_native(protocol(id, text));
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn every_client_error_has_a_kind() {
        for (native, kind) in [
            (Native::ChannelsLimitReached, ErrorKind::Unavailable),
            (Native::InvalidChannel(1), ErrorKind::Unavailable),
            (Native::InvalidChannelState(lapin::ChannelState::Closed, "x"), ErrorKind::Unavailable),
            (Native::InvalidConnectionState(lapin::ConnectionState::Closed), ErrorKind::Unavailable),
            (Native::IOError(Arc::new(io::ErrorKind::ConnectionRefused.into())), ErrorKind::Unavailable),
            (Native::IOError(Arc::new(io::ErrorKind::TimedOut.into())), ErrorKind::Timeout),
            (Native::IOError(Arc::new(io::ErrorKind::InvalidInput.into())), ErrorKind::InvalidInput),
            (Native::RuntimeShutdownError(Arc::new(io::ErrorKind::Other.into())), ErrorKind::Closed),
            (Native::AuthProviderError("x".into()), ErrorKind::Unauthorized),
            (Native::MissingHeartbeatError, ErrorKind::Unavailable),
            (Native::FutureCompleted, ErrorKind::Other),
            (Native::NoDefaultRuntime, ErrorKind::Other),
        ] {
            let shown = format!("{native:?}");
            assert_eq!(from_native(native.into()).kind(), kind, "{shown}");
        }
    }

    #[test]
    fn a_queue_that_could_not_be_started_is_known() {
        let unstarted = |id, text| is_unstarted(&from_native(protocol(id, text)));
        assert!(unstarted(541, "INTERNAL_ERROR - Cannot declare quorum queue 'q': cluster_not_formed"));
        assert!(!unstarted(541, "INTERNAL_ERROR"));
        assert!(!unstarted(404, "NOT_FOUND - Cannot declare"));
    }

    #[test]
    fn missing_and_inequivalent_are_told_apart() {
        assert!(is_missing(&protocol(404, "NOT_FOUND")));
        assert!(!is_missing(&protocol(406, "PRECONDITION_FAILED")));
        assert!(inequivalent(&protocol(406, "PRECONDITION_FAILED - inequivalent arg")).is_some());
        assert!(inequivalent(&protocol(406, "PRECONDITION_FAILED - unknown delivery tag")).is_none());
    }
}

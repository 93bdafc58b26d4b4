//! The one place where the client's errors become this library's.

use mq_core::{Error, ErrorKind};
use redis::{ErrorKind as Native, RedisError, ServerError, ServerErrorKind as Server};

/// What an error says of the connection it came from.
pub(crate) fn breaks_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error()
}

/// Turns an error of the client into ours; the detail never holds credentials.
pub(crate) fn from_native(error: &RedisError) -> Error {
    let kind = match error.kind() {
        Native::AuthenticationFailed => authentication(error),
        Native::Io if error.is_timeout() => ErrorKind::Timeout,
        Native::Io | Native::ClusterConnectionNotFound => ErrorKind::Unavailable,
        Native::InvalidClientConfig | Native::EmptySentinelList => ErrorKind::InvalidInput,
        Native::Server(kind) => server(kind, error.detail().unwrap_or_default()),
        Native::Extension => extension(error.code().unwrap_or_default()),
        Native::RESP3NotSupported => ErrorKind::Unsupported,
        Native::Parse | Native::UnexpectedReturnType => ErrorKind::Malformed,
        Native::MasterNameNotFoundBySentinel | Native::NoValidReplicasFoundBySentinel => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Other,
    };
    Error::new(kind, error.to_string())
}

/// Turns a reply that is an error into ours.
pub(crate) fn from_reply(error: ServerError) -> Error {
    from_native(&error.into())
}

/// The verdict on a message whose command the server answered with an error: stored nowhere.
pub(crate) fn refused(error: ServerError) -> Error {
    let error = from_reply(error);
    match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::NotFound | ErrorKind::Unavailable => error,
        _ => error.with_kind(ErrorKind::Rejected),
    }
}

/// The verdict on a message that was handed to the connection and never answered.
pub(crate) fn unanswered(error: &Error) -> Error {
    error.duplicate().with_kind(ErrorKind::UnknownOutcome)
}

/// A server that is not ready to check credentials refuses them as well.
fn authentication(error: &RedisError) -> ErrorKind {
    let text = error.to_string();
    if ["LOADING", "MASTERDOWN", "BusyLoading"].iter().any(|word| text.contains(word)) {
        ErrorKind::Unavailable
    } else {
        ErrorKind::Unauthorized
    }
}

fn server(kind: Server, detail: &str) -> ErrorKind {
    match kind {
        Server::BusyLoading
        | Server::MasterDown
        | Server::ClusterDown
        | Server::TryAgain
        | Server::ReadOnly
        | Server::Moved
        | Server::Ask
        | Server::NotBusy => ErrorKind::Unavailable,
        Server::NoPerm => ErrorKind::Unauthorized,
        Server::CrossSlot => ErrorKind::Unsupported,
        Server::ResponseError if detail.contains("NOGROUP") => ErrorKind::NotFound,
        Server::ResponseError if detail.contains("unknown command") => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    }
}

fn extension(code: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" | "DENIED" => ErrorKind::Unauthorized,
        "NOGROUP" => ErrorKind::NotFound,
        "WRONGTYPE" => ErrorKind::Mismatch,
        "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "UNBLOCKED" => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Error {
        let line = format!("-{text}\r\n");
        match redis::parse_redis_value(line.as_bytes()) {
            Ok(redis::Value::ServerError(error)) => from_reply(error),
            Ok(other) => panic!("{other:?} is not an error"),
            Err(error) => from_native(&error),
        }
    }

    #[test]
    fn every_row_of_replies() {
        for (text, kind) in [
            ("ERR something", ErrorKind::Other),
            ("ERR unknown command 'XADD'", ErrorKind::Unsupported),
            ("EXECABORT no", ErrorKind::Other),
            ("LOADING Redis is loading", ErrorKind::Unavailable),
            ("NOSCRIPT No matching script", ErrorKind::Other),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Unavailable),
            ("ASK 3999 127.0.0.1:6381", ErrorKind::Unavailable),
            ("TRYAGAIN later", ErrorKind::Unavailable),
            ("CLUSTERDOWN down", ErrorKind::Unavailable),
            ("CROSSSLOT keys", ErrorKind::Unsupported),
            ("MASTERDOWN link", ErrorKind::Unavailable),
            ("READONLY replica", ErrorKind::Unavailable),
            ("NOTBUSY none", ErrorKind::Unavailable),
            ("NOPERM no", ErrorKind::Unauthorized),
            ("NOAUTH Authentication required.", ErrorKind::Unauthorized),
            ("WRONGPASS invalid", ErrorKind::Unauthorized),
            ("NOGROUP No such key", ErrorKind::NotFound),
            ("WRONGTYPE wrong kind", ErrorKind::Mismatch),
            ("OOM command not allowed", ErrorKind::Unavailable),
            ("MISCONF snapshots", ErrorKind::Unavailable),
            ("NOREPLICAS not enough", ErrorKind::Unavailable),
            ("BUSY script", ErrorKind::Unavailable),
            ("UNBLOCKED the stream key no longer exists", ErrorKind::Unavailable),
        ] {
            assert_eq!(reply(text).kind(), kind, "{text}");
        }
    }

    #[test]
    fn every_row_of_the_client() {
        let io = |kind| RedisError::from(std::io::Error::from(kind));
        for (error, kind) in [
            (io(std::io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable),
            (io(std::io::ErrorKind::BrokenPipe), ErrorKind::Unavailable),
            (io(std::io::ErrorKind::TimedOut), ErrorKind::Timeout),
            ((Native::AuthenticationFailed, "no").into(), ErrorKind::Unauthorized),
            ((Native::InvalidClientConfig, "url").into(), ErrorKind::InvalidInput),
            ((Native::EmptySentinelList, "none").into(), ErrorKind::InvalidInput),
            ((Native::RESP3NotSupported, "old").into(), ErrorKind::Unsupported),
            ((Native::Parse, "bytes").into(), ErrorKind::Malformed),
            ((Native::UnexpectedReturnType, "type").into(), ErrorKind::Malformed),
            ((Native::ClusterConnectionNotFound, "node").into(), ErrorKind::Unavailable),
            ((Native::MasterNameNotFoundBySentinel, "name").into(), ErrorKind::Unavailable),
            ((Native::NoValidReplicasFoundBySentinel, "name").into(), ErrorKind::Unavailable),
            ((Native::Client, "misuse").into(), ErrorKind::Other),
        ] {
            assert_eq!(from_native(&error).kind(), kind, "{error}");
        }
    }

    #[test]
    fn a_refused_command_stored_nothing() {
        let Ok(redis::Value::ServerError(error)) = redis::parse_redis_value(b"-OOM used memory\r\n") else {
            panic!("an error reply");
        };
        let error = refused(error);
        assert!(error.is_retryable() && !error.is_unknown_outcome(), "{error}");
    }
}

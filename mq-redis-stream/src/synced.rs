//! Sends that wait until the server has written them to its disk.

use std::time::Duration;

use mq_core::{Error, ErrorKind, Result};

use crate::connection::{Link, Live};
use crate::entry::{array, integer, text, unexpected};

/// The part of an answer's time that the server may wait for its disk.
const PATIENCE: f64 = 0.8;

/// Passes if the server can tell when a write is on its disk.
///
/// # Errors
/// `InvalidInput` with the setting to change, `Unsupported` for an old server.
pub(crate) async fn check(link: &Link) -> Result<()> {
    let info =
        text(link.query(redis::cmd("INFO").arg("server").arg("persistence")).await?).unwrap_or_default();
    let config = link.query(redis::cmd("CONFIG").arg("GET").arg("appendfsync")).await;
    // Whoever may not read the configuration finds out when a send times out.
    let fsync = config.ok().and_then(|reply| array(reply).into_iter().nth(1)).and_then(text);
    judge(&info, fsync.as_deref())
}

fn judge(info: &str, fsync: Option<&str>) -> Result<()> {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let version = value("redis_version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next(), parts.next()) < (Some(7), Some(2)) {
        let text = format!("Redis {version} has no WAITAOF; `Durability::Synced` needs 7.2 or later");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if value("aof_enabled") != Some("1") {
        let text = "the server writes no append-only file; set `appendonly yes`, or ask for `Durability::Replicated`";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    if fsync == Some("no") {
        let text = "the server leaves its disk to the operating system; set `appendfsync everysec` or `always`, or ask for `Durability::Replicated`";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Waits until all that was written on this connection is on the server's disk.
///
/// # Errors
/// What is written may not be on disk.
pub(crate) async fn wait(link: &Link, live: Live) -> Result<()> {
    let within: Duration = link.response_timeout().mul_f64(PATIENCE);
    let mut cmd = redis::cmd("WAITAOF");
    cmd.arg(1).arg(0).arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    match array(link.query_on(live, &cmd).await?).first().and_then(integer) {
        Some(1..) => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Timeout,
            format!("stored, and not on the server's disk within {within:?}; see its appendfsync"),
        )),
        None => Err(unexpected("WAITAOF")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_judged_by_their_settings() {
        let text = |version, aof| format!("# Server\r\nredis_version:{version}\r\naof_enabled:{aof}\r\n");
        let info = |version, aof| judge(&text(version, aof), Some("everysec"));
        assert!(info("7.2.4", 1).is_ok() && info("8.0.0", 1).is_ok() && info("10.1", 1).is_ok());
        assert_eq!(info("7.0.15", 1).unwrap_err().kind(), ErrorKind::Unsupported);
        let error = info("7.4.0", 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().contains("appendonly yes"));
        assert!(judge(&text("7.2.0", 1), None).is_ok());
        assert_eq!(judge(&text("7.2.0", 1), Some("no")).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(judge("", None).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

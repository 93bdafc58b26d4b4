//! `memory://`.

use mq_core::config::Query;
use mq_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use url::Url;

/// Settings of the in-memory broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The largest message, in bytes. Default 16 MiB. URL key `max_message_size`.
    pub max_message_size: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_message_size: 16 << 20 }
    }
}

impl MemoryConfig {
    /// Reads a URL such as `memory://` or `memory://?max_message_size=1048576`.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown key, or a host or path, which mean nothing here.
    pub fn from_url(url: &Url) -> Result<Self> {
        if url.host_str().is_some_and(|host| !host.is_empty()) || !matches!(url.path(), "" | "/") {
            let text = "memory:// takes no host and no path; every `connect` makes a broker of its own";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let mut query = Query::new(url);
        let default = Self::default();
        let max_message_size = query.take_number("max_message_size")?.unwrap_or(default.max_message_size);
        query.finish()?;
        Ok(Self { max_message_size })
    }
}

//! How to reach the server.

use std::fmt;
use std::time::Duration;

use mq_core::config::Query;
use mq_core::{Error, ErrorKind, Result};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use serde::{Deserialize, Serialize};
use url::Url;

/// The configuration of the Redis Streams backend; a URL ends in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RedisStreamConfig {
    /// Host name or address. Default `localhost`.
    pub host: String,
    /// Port. Default 6379.
    pub port: u16,
    /// The number of the database. Default 0.
    pub database: i64,
    /// User name; `None` is the default user.
    pub username: Option<String>,
    /// Password. Never shown.
    pub password: Option<String>,
    /// Whether to use TLS (`rediss://`).
    pub tls: bool,
    /// How long a member may be silent before its messages go to others. Default 10 s.
    pub session_timeout: Duration,
    /// How long making a connection may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 10 s.
    pub response_timeout: Duration,
    /// The largest message, in bytes of its payload, key, subject and headers. Default 16 MiB.
    pub max_message_size: usize,
}

impl Default for RedisStreamConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 6379,
            database: 0,
            username: None,
            password: None,
            tls: false,
            session_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            max_message_size: 16 << 20,
        }
    }
}

impl fmt::Debug for RedisStreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreamConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("tls", &self.tls)
            .field("session_timeout", &self.session_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("max_message_size", &self.max_message_size)
            .finish()
    }
}

impl RedisStreamConfig {
    /// Reads `redis[s]://[user[:password]@]host[:port][/database][?key=value…]`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names what is wrong; an unknown key names the nearest known one.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        let mut query = Query::new(url);
        if let Some(session) = query.take_duration("session_timeout")? {
            config.session_timeout = session;
        }
        if let Some(timeout) = query.take_duration("connect_timeout")? {
            config.connect_timeout = timeout;
        }
        if let Some(timeout) = query.take_duration("response_timeout")? {
            config.response_timeout = timeout;
        }
        if let Some(size) = query.take_number("max_message_size")? {
            config.max_message_size = size;
        }
        query.finish()?;
        config.read_address(url)?;
        config.validate()?;
        Ok(config)
    }

    /// The client knows how a URL is decoded; its query is ours.
    fn read_address(&mut self, url: &Url) -> Result<()> {
        if !matches!(url.scheme(), "redis" | "rediss") {
            return Err(invalid(format!("scheme {:?} is not redis or rediss", url.scheme())));
        }
        let mut bare = url.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        let native = bare.into_connection_info().map_err(|error| invalid(error.to_string()))?;
        match native.addr() {
            ConnectionAddr::Tcp(host, port) => (self.host, self.port) = (host.clone(), *port),
            ConnectionAddr::TcpTls { host, port, .. } => {
                (self.host, self.port, self.tls) = (host.clone(), *port, true);
            }
            _ => return Err(invalid("only TCP addresses are supported".into())),
        }
        let settings = native.redis_settings();
        self.database = settings.db();
        self.username = settings.username().map(Into::into);
        self.password = settings.password().map(Into::into);
        Ok(())
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.session_timeout < Duration::from_millis(300) {
            return Err(invalid(format!(
                "session_timeout is {:?}; use at least 300ms",
                self.session_timeout
            )));
        }
        for (name, value) in
            [("connect_timeout", self.connect_timeout), ("response_timeout", self.response_timeout)]
        {
            if value.is_zero() {
                return Err(invalid(format!("{name} is 0; use at least 1ms")));
            }
        }
        Ok(())
    }

    pub(crate) fn native(&self) -> Result<ConnectionInfo> {
        let (host, port) = (self.host.clone(), self.port);
        let address = if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(self.database);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let native = address.into_connection_info().map_err(|error| invalid(error.to_string()))?;
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        Ok(native.set_redis_settings(settings).set_tcp_settings(tcp))
    }
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<RedisStreamConfig> {
        RedisStreamConfig::from_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn every_part_of_a_url_is_read() {
        let config =
            read("rediss://me:ca%40nary@h:7/3?session_timeout=5s&connect_timeout=1s&response_timeout=2s&max_message_size=9")
                .unwrap();
        assert_eq!((config.host.as_str(), config.port, config.database, config.tls), ("h", 7, 3, true));
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("me"), Some("ca@nary")));
        assert_eq!(config.session_timeout, Duration::from_secs(5));
        assert_eq!(config.connect_timeout, Duration::from_secs(1));
        assert_eq!(config.response_timeout, Duration::from_secs(2));
        assert_eq!(config.max_message_size, 9);
        assert!(!format!("{config:?}").contains("nary"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, says) in [
            ("redis://h?sesion_timeout=5s", "did you mean \"session_timeout\""),
            ("redis://h?session_timeout=1ms", "at least 300ms"),
            ("redis://h/x", "database"),
            ("http://h", "not redis"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

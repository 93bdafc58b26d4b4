//! Configuration, from a URL or as data.

use std::fmt;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use mq_core::config::Query;
use mq_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use url::Url;

/// How to reach a broker, and how hard to lean on it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RabbitMqConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps`, without a query. Default `amqp://localhost`.
    pub url: String,
    /// The name shown in the broker's list of connections. Default `mq`.
    pub name: String,
    /// How the user is authenticated: `plain` (default), `amqplain` or `external`.
    pub auth_mechanism: String,
    /// A file of PEM certificates to trust instead of the system's, for `amqps`.
    pub ca_file: Option<String>,
    /// How long a connection may take, the first and each later try. Default 10 s, as long as the broker itself allows.
    pub connect_timeout: Duration,
    /// How long any reply may take. Default 15 s: the broker takes 10 s to give up on a new queue when its disk stalls.
    pub request_timeout: Duration,
    /// How long a send or a relocation waits for its confirmation. Default 10 s. A large batch of delayed messages goes
    /// in parts of half a window, one after the other; once one is not confirmed in time the others are not sent.
    pub publish_timeout: Duration,
    /// After how long without a sign of life a connection is given up. Default 10 s.
    pub heartbeat: Duration,
    /// Channels to publish on; messages of a key stay on one. Default 4.
    pub publish_channels: usize,
    /// The most unconfirmed messages on a channel. Default 512.
    pub publish_window: usize,
    /// The largest message, in bytes; the broker's own limit is 16 MiB unless it is told otherwise.
    pub max_message_size: usize,
}

impl Default for RabbitMqConfig {
    fn default() -> Self {
        Self {
            url: "amqp://localhost".into(),
            name: "mq".into(),
            auth_mechanism: "plain".into(),
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(15),
            publish_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            publish_channels: 4,
            publish_window: 512,
            max_message_size: 16 << 20,
        }
    }
}

impl fmt::Debug for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).map_or_else(|_| "***".into(), |url| mq_core::config::redact(&url));
        f.debug_struct("RabbitMqConfig")
            .field("url", &url)
            .field("name", &self.name)
            .field("auth_mechanism", &self.auth_mechanism)
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("publish_timeout", &self.publish_timeout)
            .field("heartbeat", &self.heartbeat)
            .field("publish_channels", &self.publish_channels)
            .field("publish_window", &self.publish_window)
            .field("max_message_size", &self.max_message_size)
            .finish()
    }
}

impl RabbitMqConfig {
    /// Reads a URL such as `amqp://user:password@host/vhost?publish_timeout=30s`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names what is wrong; an unknown key comes with the nearest known one.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        let mut query = Query::new(url);
        if let Some(name) = query.take("name") {
            config.name = name;
        }
        if let Some(mechanism) = query.take("auth_mechanism") {
            config.auth_mechanism = mechanism;
        }
        config.ca_file = query.take("ca_file");
        for (key, slot) in [
            ("connect_timeout", &mut config.connect_timeout),
            ("request_timeout", &mut config.request_timeout),
            ("publish_timeout", &mut config.publish_timeout),
            ("heartbeat", &mut config.heartbeat),
        ] {
            if let Some(value) = query.take_duration(key)? {
                *slot = value;
            }
        }
        for (key, slot) in [
            ("publish_channels", &mut config.publish_channels),
            ("publish_window", &mut config.publish_window),
            ("max_message_size", &mut config.max_message_size),
        ] {
            if let Some(value) = query.take_number(key)? {
                *slot = value;
            }
        }
        query.finish()?;
        let mut bare = url.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        config.url = bare.into();
        config.validate()?;
        Ok(config)
    }

    /// Checks the values.
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        if self.publish_channels == 0 || self.publish_channels > 64 {
            return wrong(format!("publish_channels is {}; use 1 to 64", self.publish_channels));
        }
        if self.publish_window == 0 || self.publish_window > 65_536 {
            return wrong(format!("publish_window is {}; use 1 to 65536", self.publish_window));
        }
        for (key, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("publish_timeout", self.publish_timeout),
        ] {
            if value.is_zero() {
                return wrong(format!("{key} is 0; use at least 1ms"));
            }
        }
        self.uri().map(|_| ())
    }

    /// Returns the address for the native client. It holds the password: never format it.
    pub(crate) fn uri(&self) -> Result<AMQPUri> {
        let wrong = |text: &str| Error::new(ErrorKind::InvalidInput, text);
        let url = Url::parse(&self.url)
            .map_err(|error| wrong("the broker's URL cannot be read").with_source(error))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let mut uri: AMQPUri = self
            .url
            .parse()
            .map_err(|_| wrong("the broker's URL must look like amqp://user:password@host/vhost"))?;
        uri.authority.host = host.unwrap_or("localhost").trim_matches(['[', ']']).to_owned();
        if uri.authority.userinfo.username.is_empty() && url.username().is_empty() {
            uri.authority.userinfo =
                lapin::uri::AMQPUserInfo { username: "guest".into(), password: "guest".into() };
        }
        if url.path().trim_matches('/').is_empty() {
            uri.vhost = "/".into();
        }
        let heartbeat = self.heartbeat.as_secs_f64().ceil().clamp(0.0, 65_535.0);
        uri.query.heartbeat = Some(heartbeat as u16);
        uri.query.auth_mechanism = Some(
            self.auth_mechanism
                .parse()
                .map_err(|_| wrong("auth_mechanism must be plain, amqplain or external"))?,
        );
        Ok(uri)
    }

    /// Returns whether the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.uri().is_ok_and(|uri| uri.scheme == AMQPScheme::AMQPS)
    }

    /// Returns the trusted certificates for the native client.
    pub(crate) fn tls(&self) -> Result<OwnedTLSConfig> {
        let cert_chain = match &self.ca_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, format!("ca_file {path:?} cannot be read"))
                    .with_source(error)
            })?),
            None => None,
        };
        Ok(OwnedTLSConfig { identity: None, cert_chain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<RabbitMqConfig> {
        RabbitMqConfig::from_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn addresses() {
        for (url, host, port, vhost, user, password) in [
            ("amqp://localhost", "localhost", 5672, "/", "guest", "guest"),
            ("amqp://h/", "h", 5672, "/", "guest", "guest"),
            ("amqp://u:p%40@127.0.0.1:5673/%2f", "127.0.0.1", 5673, "/", "u", "p@"),
            ("amqps://u:p@[::1]/a%2fb", "::1", 5671, "a/b", "u", "p"),
        ] {
            let uri = parse(url).unwrap().uri().unwrap();
            assert_eq!((uri.authority.host.as_str(), uri.authority.port), (host, port));
            assert_eq!(uri.vhost, vhost);
            assert_eq!(uri.authority.userinfo.username, user);
            assert_eq!(uri.authority.userinfo.password, password);
        }
    }

    #[test]
    fn keys_are_read_and_checked() {
        let config = parse("amqp://h?publish_timeout=30s&publish_channels=2&heartbeat=500ms").unwrap();
        assert_eq!(config.publish_timeout, Duration::from_secs(30));
        assert_eq!(config.uri().unwrap().query.heartbeat, Some(1));
        assert_eq!(config.publish_channels, 2);
        let error = parse("amqp://h?publish_timout=30s").unwrap_err();
        assert!(error.to_string().contains("publish_timeout"), "{error}");
        for bad in
            ["amqp://h?publish_channels=0", "amqp://h?auth_mechanism=magic", "amqp://h?publish_window=x"]
        {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = parse("amqp://u:canary@h").unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }
}

//! How to reach a Kafka cluster, and how this backend behaves on it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mq_core::config::Query;
use mq_core::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};
use url::Url;

/// The settings of a connection to Kafka.
///
/// ```
/// use mq_kafka::KafkaConfig;
/// let config = KafkaConfig::from_url(&"kafka://broker-1:9092?brokers=broker-2:9092".parse()?)?;
/// assert_eq!(config.brokers, ["broker-1:9092", "broker-2:9092"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// Brokers to ask for the cluster, each `host:port`.
    pub brokers: Vec<String>,
    /// Whether to use TLS (`kafkas://`).
    pub tls: bool,
    /// A file of PEM certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Who logs in, if anybody.
    pub sasl: Option<Sasl>,
    /// What the broker's logs and metrics call this client.
    pub client_id: String,
    /// How long a member may be silent before the broker gives its partitions to others. Default 10 s.
    pub session_timeout: Duration,
    /// How long a send may take before its outcome is unknown. Default 15 s.
    pub send_timeout: Duration,
    /// How long a send waits for others to share its request. Default 0: what waits while a
    /// request is on its way goes with the next.
    pub linger: Duration,
    /// `none`, `lz4`, `zstd`, `gzip` or `snappy`. Default `lz4`.
    pub compression: String,
    /// Partitions of a topic that is created without a number. Default 8.
    pub partitions: u32,
    /// Replicas of topics that are created; `None` takes the broker's default.
    pub replication: Option<u16>,
    /// The largest message, in bytes; topics are created to take it. Default 2 MiB.
    pub max_message_size: usize,
}

/// Who logs in.
#[derive(Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The name.
    pub user: String,
    /// The password; never shown.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanism", &self.mechanism)
            .field("user", &self.user)
            .field("password", &"***")
            .finish()
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("sasl", &self.sasl)
            .field("client_id", &self.client_id)
            .field("session_timeout", &self.session_timeout)
            .field("send_timeout", &self.send_timeout)
            .field("linger", &self.linger)
            .field("compression", &self.compression)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("max_message_size", &self.max_message_size)
            .finish()
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".into()],
            tls: false,
            ca: None,
            sasl: None,
            client_id: "mq".into(),
            session_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(15),
            linger: Duration::ZERO,
            compression: "lz4".into(),
            partitions: 8,
            replication: None,
            max_message_size: 2 << 20,
        }
    }
}

const COMPRESSIONS: [&str; 5] = ["none", "lz4", "zstd", "gzip", "snappy"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

impl KafkaConfig {
    /// Reads the settings from a URL such as `kafka://user:password@host:9092?session_timeout=6s`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names what is wrong; an unknown key comes with the nearest known one.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self { tls: scheme(url)?, ..Self::default() };
        if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
            config.brokers = vec![format!("{host}:{}", url.port().unwrap_or(9092))];
        }
        if !matches!(url.path(), "" | "/") {
            return Err(invalid(format!("a Kafka URL has no path, but this one has {:?}", url.path())));
        }
        let mut query = Query::new(url);
        if let Some(more) = query.take("brokers") {
            config.brokers.extend(more.split(',').map(str::to_owned));
        }
        config.sasl = login(url, query.take("sasl"))?;
        config.ca = query.take("ca").map(PathBuf::from);
        replace(&mut config.client_id, query.take("client_id"));
        replace(&mut config.session_timeout, query.take_duration("session_timeout")?);
        replace(&mut config.send_timeout, query.take_duration("send_timeout")?);
        replace(&mut config.linger, query.take_duration("linger")?);
        replace(&mut config.compression, query.take("compression"));
        replace(&mut config.partitions, query.take_number("partitions")?);
        config.replication = query.take_number("replication")?;
        replace(&mut config.max_message_size, query.take_number("max_message_size")?);
        query.finish()?;
        config.validate()?;
        Ok(config)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] names the setting.
    pub fn validate(&self) -> Result<()> {
        if self.brokers.is_empty() {
            return Err(invalid("no broker is named"));
        }
        one_of("compression", &self.compression, &COMPRESSIONS)?;
        if let Some(sasl) = &self.sasl {
            one_of("sasl", &sasl.mechanism, &MECHANISMS)?;
        }
        in_range("session_timeout", self.session_timeout, 1, 300)?;
        in_range("send_timeout", self.send_timeout, 1, 900)?;
        if self.linger > Duration::from_secs(60) {
            return Err(invalid(format!("linger is {:?}; the limit is 60s", self.linger)));
        }
        if !(1..=1024).contains(&self.partitions) {
            return Err(invalid(format!("partitions is {}; use 1 to 1024", self.partitions)));
        }
        if !(1024..=900 << 20).contains(&self.max_message_size) {
            return Err(invalid(format!(
                "max_message_size is {}; use 1 KiB to 900 MiB",
                self.max_message_size
            )));
        }
        Ok(())
    }

    /// Returns what every native client of this connection is made with.
    pub(crate) fn native(&self) -> ClientConfig {
        let mut native = ClientConfig::new();
        native
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", &self.client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            .set("statistics.interval.ms", "2000")
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "500")
            .set("topic.metadata.refresh.fast.interval.ms", "20")
            .set("topic.metadata.propagation.max.ms", "5000")
            .set("message.max.bytes", self.wire_limit().to_string())
            .set("security.protocol", self.protocol());
        if let Some(ca) = &self.ca {
            native.set("ssl.ca.location", ca.to_string_lossy());
        }
        if let Some(sasl) = &self.sasl {
            native
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.user)
                .set("sasl.password", &sasl.password);
        }
        native
    }

    /// The largest record batch: a message and what this library and Kafka add to it.
    pub(crate) fn wire_limit(&self) -> usize {
        self.max_message_size + (64 << 10)
    }

    fn protocol(&self) -> &'static str {
        match (self.tls, self.sasl.is_some()) {
            (false, false) => "plaintext",
            (false, true) => "sasl_plaintext",
            (true, false) => "ssl",
            (true, true) => "sasl_ssl",
        }
    }
}

fn scheme(url: &Url) -> Result<bool> {
    match url.scheme() {
        "kafka" => Ok(false),
        "kafkas" => Ok(true),
        other => Err(invalid(format!("the scheme is {other:?}; Kafka's are kafka and kafkas (TLS)"))),
    }
}

fn login(url: &Url, mechanism: Option<String>) -> Result<Option<Sasl>> {
    if url.username().is_empty() {
        return match mechanism {
            Some(_) => Err(invalid("URL key sasl needs a user and a password: kafka://user:password@host")),
            None => Ok(None),
        };
    }
    Ok(Some(Sasl {
        mechanism: mechanism.unwrap_or_else(|| "PLAIN".into()),
        user: unescape(url.username())?,
        password: unescape(url.password().unwrap_or_default())?,
    }))
}

/// Decodes `%xx`; what it decodes is a secret, so errors don't show it.
fn unescape(text: &str) -> Result<String> {
    let broken = || invalid("the user or password of the URL has a '%' that is not an escape of UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or_else(broken)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

fn one_of(what: &str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(invalid(format!("{what} is {value:?}; use one of {}", known.join(", "))))
}

fn in_range(what: &str, value: Duration, from: u64, to: u64) -> Result<()> {
    if (Duration::from_secs(from)..=Duration::from_secs(to)).contains(&value) {
        return Ok(());
    }
    Err(invalid(format!("{what} is {value:?}; use {from}s to {to}s")))
}

fn replace<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<KafkaConfig> {
        KafkaConfig::from_url(&url.parse().unwrap())
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            "kafkas://me:p%40ss@a:1?brokers=b:2,c:3&sasl=SCRAM-SHA-256&ca=/ca.pem&client_id=x&session_timeout=6s\
             &send_timeout=20s&linger=2ms&compression=zstd&partitions=3&replication=2&max_message_size=4096",
        )
        .unwrap();
        assert_eq!(config.brokers, ["a:1", "b:2", "c:3"]);
        let sasl = config.sasl.as_ref().unwrap();
        assert_eq!((sasl.user.as_str(), sasl.password.as_str()), ("me", "p@ss"));
        assert_eq!(config.protocol(), "sasl_ssl");
        assert_eq!(config.session_timeout, Duration::from_secs(6));
        assert_eq!((config.partitions, config.replication, config.max_message_size), (3, Some(2), 4096));
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (url, says) in [
            ("redis://h", "kafkas"),
            ("kafka://h/topic", "no path"),
            ("kafka://h?sesion_timeout=6s", "session_timeout"),
            ("kafka://h?compression=rar", "lz4"),
            ("kafka://h?sasl=PLAIN", "user"),
            ("kafka://h?partitions=0", "1 to 1024"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = read("kafka://me:canary@h").unwrap();
        assert!(!format!("{config:?}").contains("canary"));
        assert!(!read("kafka://me:canary%zz@h").unwrap_err().to_string().contains("canary"));
    }
}

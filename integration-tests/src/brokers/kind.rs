//! The three kinds of broker: image, port, URL, and whether one serves.
//!
//! Uses the standard library alone, because `xtask` compiles this very file.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Names a broker that runs in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokerKind {
    /// Apache Kafka, one node in `KRaft` mode.
    Kafka,
    /// RabbitMQ with the management and consistent-hash-exchange plugins.
    RabbitMq,
    /// Redis with an append-only file and without eviction.
    Redis,
}

impl BrokerKind {
    /// All kinds, in the order URLs are listed.
    pub const ALL: [Self; 3] = [Self::Kafka, Self::RabbitMq, Self::Redis];

    /// Returns the lower-case name used for containers, folders and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::RabbitMq => "rabbitmq",
            Self::Redis => "redis",
        }
    }

    /// Returns the name and tag of the image that `cargo xtask setup` provides.
    #[must_use]
    pub fn image(self) -> (&'static str, &'static str) {
        match self {
            Self::Kafka => ("mq-test/kafka", "4.3"),
            Self::RabbitMq => ("mq-test/rabbitmq", "4"),
            Self::Redis => ("mq-test/redis", "8"),
        }
    }

    /// Returns the port the broker listens on inside its container, unless told otherwise.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Kafka => 9092,
            Self::RabbitMq => 5672,
            Self::Redis => 6379,
        }
    }

    /// Returns the URL of a broker on this machine.
    #[must_use]
    pub fn url(self, port: u16) -> String {
        match self {
            Self::Kafka => format!("kafka://127.0.0.1:{port}"),
            Self::RabbitMq => format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// Returns the environment variable that points tests at a broker already running.
    #[must_use]
    pub fn url_variable(self) -> &'static str {
        match self {
            Self::Kafka => "MQ_TEST_KAFKA_URL",
            Self::RabbitMq => "MQ_TEST_RABBITMQ_URL",
            Self::Redis => "MQ_TEST_REDIS_URL",
        }
    }

    /// Asks the broker at a local port, in its own protocol, whether it serves clients.
    ///
    /// Redis must answer `PING`; RabbitMQ must open the AMQP handshake; Kafka's metadata must name
    /// a broker, which it does once the node may serve partitions. Blocks for up to 2 s a step.
    ///
    /// # Errors
    ///
    /// Says what came instead, or which step failed.
    pub fn probe(self, port: u16) -> io::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
        match self {
            Self::Kafka => probe_kafka(&mut stream),
            Self::RabbitMq => probe_rabbitmq(&mut stream),
            Self::Redis => probe_redis(&mut stream),
        }
    }

    /// Probes again and again until the broker serves. Blocks.
    ///
    /// # Errors
    ///
    /// The last probe's error, once `limit` has passed.
    pub fn wait_until_ready(self, port: u16, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let Err(error) = self.probe(port) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(unready(self, port, limit, &error));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn unready(kind: BrokerKind, port: u16, limit: Duration, last: &io::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{} at 127.0.0.1:{port} does not serve after {} s: {last}", kind.name(), limit.as_secs()),
    )
}

fn unexpected(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    io::Error::other(format!("unexpected answer {text:?}"))
}

fn probe_redis(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"+PONG\r\n" { Ok(()) } else { Err(unexpected(&answer)) }
}

fn probe_rabbitmq(stream: &mut TcpStream) -> io::Result<()> {
    // Protocol header in; out comes a method frame (type 1, channel 0, four bytes of length)
    // with Connection.Start (class 10, method 10).
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    if answer[..3] == [1, 0, 0] && answer[7..] == [0, 10, 0, 10] { Ok(()) } else { Err(unexpected(&answer)) }
}

fn probe_kafka(stream: &mut TcpStream) -> io::Result<()> {
    // Metadata (key 3) version 4, correlation id 7, no client id, no topics, no auto creation.
    const REQUEST: [u8; 19] = [0, 0, 0, 15, 0, 3, 0, 4, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0, 0];
    stream.write_all(&REQUEST)?;
    // Out: length, correlation id, throttle time, number of brokers; the rest is not needed.
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    if answer[4..8] != [0, 0, 0, 7] {
        return Err(unexpected(&answer));
    }
    if answer[12..] == [0; 4] {
        return Err(io::Error::other("the metadata names no broker yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        port
    }

    #[test]
    fn a_redis_that_still_loads_is_not_ready() {
        assert!(BrokerKind::Redis.probe(answering(b"+PONG\r\n")).is_ok());
        let error = BrokerKind::Redis.probe(answering(b"-LOADING Redis is loading\r\n"));
        assert!(error.unwrap_err().to_string().contains("-LOADIN"));
    }

    #[test]
    fn a_kafka_without_a_broker_in_its_metadata_is_not_ready() {
        let ready = b"\0\0\0\x20\0\0\0\x07\0\0\0\0\0\0\0\x01";
        assert!(BrokerKind::Kafka.probe(answering(ready)).is_ok());
        let fenced = b"\0\0\0\x20\0\0\0\x07\0\0\0\0\0\0\0\0";
        let error = BrokerKind::Kafka.probe(answering(fenced)).unwrap_err();
        assert!(error.to_string().contains("names no broker"));
    }

    #[test]
    fn a_rabbitmq_of_another_protocol_version_is_not_ready() {
        let start = b"\x01\0\0\0\0\x01\xf0\0\x0a\0\x0a";
        assert!(BrokerKind::RabbitMq.probe(answering(start)).is_ok());
        let header = b"AMQP\0\0\x09\x01....";
        assert!(BrokerKind::RabbitMq.probe(answering(header)).is_err());
    }

    #[test]
    fn a_closed_port_is_named_in_the_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = BrokerKind::Redis.wait_until_ready(port, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}

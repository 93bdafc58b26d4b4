//! A connection for reads, whose replies are decoded where they arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mq_core::{Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::RedisStreamConfig;
use crate::connection::checked;
use crate::entry::{integer, unexpected};
use crate::error::{from_native, from_reply};
use crate::resp;

/// Room for what one read of the socket brings.
const CHUNK: usize = 64 << 10;
/// A buffer that grew larger than this is given back.
const LARGE: usize = 1 << 20;

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection to the server.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    silence: Duration,
    number: i64,
}

impl Wire {
    /// Connects; the server answers everything within `silence`.
    pub(crate) async fn open(config: &RedisStreamConfig, silence: Duration) -> Result<Self> {
        let tcp = TcpStream::connect((config.host.as_str(), config.port)).await.map_err(broken)?;
        tcp.set_nodelay(true).map_err(broken)?;
        let stream = if config.tls { secure(config, tcp).await? } else { Stream::Plain(tcp) };
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let mut wire = Self { stream, input, output, silence, number: 0 };
        wire.greet(config).await?;
        Ok(wire)
    }

    async fn greet(&mut self, config: &RedisStreamConfig) -> Result<()> {
        let mut pipeline = Pipeline::new();
        if let Some(password) = &config.password {
            let auth = pipeline.cmd("AUTH");
            if let Some(username) = &config.username {
                auth.arg(username.as_str());
            }
            auth.arg(password.as_str());
        }
        if config.database != 0 {
            pipeline.cmd("SELECT").arg(config.database);
        }
        pipeline.cmd("CLIENT").arg("ID");
        for cmd in pipeline.cmd_iter() {
            self.push(cmd);
        }
        self.flush().await?;
        for place in 0..pipeline.len() {
            let reply = checked(self.value().await?);
            if place == 0 && config.password.is_some() {
                reply.map_err(unauthorized)?;
            } else {
                self.number = integer(&reply?).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// The connection's number on the server.
    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// Adds a command to what is sent next.
    pub(crate) fn push(&mut self, cmd: &Cmd) {
        self.output.extend_from_slice(&cmd.get_packed_command());
    }

    /// Sends what was added.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            let output = &mut self.output;
            let write = async {
                match &mut self.stream {
                    Stream::Plain(stream) => stream.write_buf(output).await,
                    Stream::Tls(stream) => {
                        let written = stream.write_buf(output).await?;
                        stream.flush().await?;
                        Ok(written)
                    }
                }
            };
            within(self.silence, write).await?;
        }
        Ok(())
    }

    /// What arrived and was not consumed.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.input.advance(bytes);
    }

    /// Waits until more arrives.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if self.input.is_empty() && self.input.capacity() > LARGE {
            self.input = BytesMut::new();
        }
        self.input.reserve(CHUNK);
        let input = &mut self.input;
        let read = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.read_buf(input).await,
                Stream::Tls(stream) => stream.read_buf(input).await,
            }
        };
        within(self.silence, read).await
    }

    /// Reads a whole reply with the client's parser.
    pub(crate) async fn value(&mut self) -> Result<Value> {
        loop {
            if let Some(length) = resp::length(&self.input)? {
                let value = redis::parse_redis_value(&self.input[..length]);
                self.input.advance(length);
                return value.map_err(|error| from_native(&error));
            }
            self.fill().await?;
        }
    }

    /// Consumes an error reply of this length.
    pub(crate) fn refusal(&mut self, length: usize) -> Error {
        let value = redis::parse_redis_value(&self.input[..length]);
        self.input.advance(length);
        match value {
            Ok(Value::ServerError(error)) => from_reply(error),
            Ok(_) => unexpected("a read"),
            Err(error) => from_native(&error),
        }
    }
}

async fn within(silence: Duration, io: impl Future<Output = std::io::Result<usize>>) -> Result<()> {
    match tokio::time::timeout(silence, io).await {
        Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0)) => Err(Error::new(ErrorKind::Unavailable, "the server closed the connection")),
        Ok(Err(error)) => Err(broken(error)),
        Err(_) => Err(Error::new(ErrorKind::Timeout, format!("the server was silent for {silence:?}"))),
    }
}

fn broken(error: std::io::Error) -> Error {
    from_native(&error.into())
}

/// A server that is not ready to check credentials refuses them as well.
fn unauthorized(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable => error,
        _ => error.with_kind(ErrorKind::Unauthorized),
    }
}

/// Shakes hands as the client does: the system's certificates, no name but the host's.
async fn secure(config: &RedisStreamConfig, tcp: TcpStream) -> Result<Stream> {
    let invalid = |error: String| Error::new(ErrorKind::InvalidInput, error);
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(invalid(error.to_string()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in found.certs {
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(config.host.clone()).map_err(|error| invalid(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(broken)?;
    Ok(Stream::Tls(Box::new(stream)))
}

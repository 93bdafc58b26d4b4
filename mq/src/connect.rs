//! From a URL to a client.

use std::sync::Arc;

use url::Url;

use mq_core::driver::{Backend, Context};
use mq_core::{Capabilities, Client, ClientOptions, Error, ErrorKind, Result};

/// A backend as this build knows it.
struct Scheme {
    /// Its schemes.
    schemes: &'static [&'static str],
    /// The feature that compiles it in.
    feature: &'static str,
    /// What it can do; `None` if it is not compiled in.
    capabilities: Option<&'static Capabilities>,
}

const SCHEMES: [Scheme; 4] = [
    Scheme {
        schemes: &["memory"],
        feature: "memory",
        #[cfg(feature = "memory")]
        capabilities: Some(&mq_memory::CAPABILITIES),
        #[cfg(not(feature = "memory"))]
        capabilities: None,
    },
    Scheme {
        schemes: &["kafka", "kafkas"],
        feature: "kafka",
        #[cfg(feature = "kafka")]
        capabilities: Some(&mq_kafka::CAPABILITIES),
        #[cfg(not(feature = "kafka"))]
        capabilities: None,
    },
    Scheme {
        schemes: &["amqp", "amqps"],
        feature: "rabbitmq",
        #[cfg(feature = "rabbitmq")]
        capabilities: Some(&mq_rabbitmq::CAPABILITIES),
        #[cfg(not(feature = "rabbitmq"))]
        capabilities: None,
    },
    Scheme {
        schemes: &["redis", "rediss"],
        feature: "redis-stream",
        #[cfg(feature = "redis-stream")]
        capabilities: Some(&mq_redis_stream::CAPABILITIES),
        #[cfg(not(feature = "redis-stream"))]
        capabilities: None,
    },
];

/// Returns what each backend of this build can do.
#[must_use]
pub fn backends() -> Vec<&'static Capabilities> {
    SCHEMES.iter().filter_map(|scheme| scheme.capabilities).collect()
}

/// Connects to the broker that `url` names, with default options.
///
/// # Errors
/// `InvalidInput` for a URL that is wrong, with what is known and which feature to enable; `Unavailable` or
/// `Unauthorized` within 5 s if the broker can't be reached or refuses the credentials; within 10 s if it takes the
/// connection and never answers.
pub async fn connect(url: impl AsRef<str>) -> Result<Client> {
    connect_with(url, ClientOptions::default(), Context::default()).await
}

/// Connects with options, and with a clock and event hooks of the caller's; the in-flight window is the options'.
///
/// # Errors
/// As for [`connect`].
pub async fn connect_with(url: impl AsRef<str>, options: ClientOptions, context: Context) -> Result<Client> {
    let context = Context { in_flight: options.in_flight, ..context };
    Ok(Client::of(backend(url, context).await?, options))
}

/// Connects without making a client, for who puts something around the driver; [`Client::of`] makes a client of it.
///
/// # Errors
/// As for [`connect`].
pub async fn backend(url: impl AsRef<str>, context: Context) -> Result<Arc<dyn Backend>> {
    let url = Url::parse(url.as_ref()).map_err(|error| {
        let text =
            "not a URL; write one like redis://localhost:6379, and percent-encode what a password needs";
        Error::new(ErrorKind::InvalidInput, text).with_source(error)
    })?;
    open(&url, context).await
}

#[cfg_attr(
    not(any(feature = "memory", feature = "kafka", feature = "rabbitmq", feature = "redis-stream")),
    expect(unused_variables, clippy::unused_async, reason = "no backend is compiled in")
)]
async fn open(url: &Url, context: Context) -> Result<Arc<dyn Backend>> {
    match url.scheme() {
        #[cfg(feature = "memory")]
        "memory" => Ok(Arc::new(mq_memory::MemoryBackend::connect(url, context).await?)),
        #[cfg(feature = "kafka")]
        "kafka" | "kafkas" => Ok(Arc::new(mq_kafka::KafkaBackend::connect(url, context).await?)),
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => Ok(Arc::new(mq_rabbitmq::RabbitMqBackend::connect(url, context).await?)),
        #[cfg(feature = "redis-stream")]
        "redis" | "rediss" => Ok(Arc::new(mq_redis_stream::RedisStreamBackend::connect(url, context).await?)),
        unknown => Err(unknown_scheme(unknown)),
    }
}

fn unknown_scheme(scheme: &str) -> Error {
    let compiled: Vec<&str> = SCHEMES
        .iter()
        .filter(|known| known.capabilities.is_some())
        .flat_map(|known| known.schemes)
        .copied()
        .collect();
    let compiled = if compiled.is_empty() { "nothing".to_owned() } else { compiled.join(", ") };
    let fix = match SCHEMES.iter().find(|known| known.schemes.contains(&scheme)) {
        Some(known) => format!("enable the feature {:?} of the crate mq", known.feature),
        None => {
            let all: Vec<&str> = SCHEMES.iter().flat_map(|known| known.schemes).copied().collect();
            let near = mq_core::config::nearest(scheme, &all).unwrap_or_default();
            format!("the nearest known scheme is {near}://")
        }
    };
    Error::new(
        ErrorKind::InvalidInput,
        format!("unknown URL scheme {scheme:?}: compiled in are {compiled}; {fix}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unknown_scheme_says_what_is_known() {
        let error = connect("rediss2://h").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("nearest known scheme is rediss://"), "{error}");
        assert_eq!(connect("no url").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[cfg(not(feature = "kafka"))]
    #[tokio::test]
    async fn a_known_scheme_that_is_not_compiled_in_names_its_feature() {
        let error = connect("kafka://h:9092").await.unwrap_err();
        assert!(error.to_string().contains("enable the feature \"kafka\""), "{error}");
    }
}

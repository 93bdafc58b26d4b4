//! The backend: connects and hands out producer, consumers and administration.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, Error, ErrorKind, Event, Result};
use parking_lot::Mutex;
use redis::Pipeline;
use tokio::sync::Notify;
use url::Url;

use crate::CAPABILITIES;
use crate::admin::StreamAdmin;
use crate::config::RedisStreamConfig;
use crate::connection::{Connector, Link, checked};
use crate::consumer::StreamConsumer;
use crate::entry::{array, text};
use crate::lanes::Lanes;
use crate::member::{Member, Phase, State, Subscribed, fresh_name};
use crate::names::GroupKeys;
use crate::producer::StreamProducer;
use crate::topology::{self, Missing, Registry, no_topic};

/// The oldest server this works with.
const OLDEST: u32 = 7;

/// A Redis server with streams.
#[derive(Debug)]
pub struct RedisStreamBackend {
    config: RedisStreamConfig,
    context: Context,
    connector: Arc<Connector>,
    registry: Arc<Registry>,
    admin: Arc<Link>,
}

impl RedisStreamBackend {
    /// Connects to the server of `url`, see [`RedisStreamConfig::from_url`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for the URL; `Unauthorized`, `Unavailable` or `Unsupported` for
    /// the server, within the connect timeout.
    pub async fn connect(url: &Url, context: Context) -> Result<Self> {
        Self::with_config(RedisStreamConfig::from_url(url)?, context).await
    }

    /// Connects to the server of `config`.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn with_config(config: RedisStreamConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let connector = Arc::new(Connector::new(config.clone(), context.events.clone())?);
        let admin = Arc::new(Link::new(&connector, "administration"));
        admin.connect().await?;
        let backend = Self { config, context, connector, registry: Arc::default(), admin };
        backend.look_at_server().await?;
        Ok(backend)
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &RedisStreamConfig {
        &self.config
    }

    async fn look_at_server(&self) -> Result<()> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("CONFIG").arg("GET").arg("maxmemory-policy");
        let mut replies = self.admin.pipeline(&pipeline).await?.into_iter();
        let server = checked(replies.next().unwrap_or_default());
        let version = server.ok().and_then(text).as_deref().and_then(major_version);
        if let Some(version) = version.filter(|version| *version < OLDEST) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the server is Redis {version}; this backend needs {OLDEST}.0 or later"),
            ));
        }
        // Not everyone may ask for the configuration.
        let policy = replies.next().map(array).unwrap_or_default().into_iter().nth(1).and_then(text);
        if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
            let reason = format!(
                "the server's maxmemory-policy is {policy}: when memory is full it deletes messages; set noeviction"
            );
            self.context.events.emit(Event::Failed { what: "check of the server", reason });
        }
        Ok(())
    }

    async fn subscribe(&self, options: &ConsumerOptions) -> Result<Vec<Subscribed>> {
        let mut subscribed = Vec::with_capacity(options.subscriptions.len());
        let mut first = 0;
        for subscription in &options.subscriptions {
            let (topic, group, settings) = (&subscription.topic, &options.group, &subscription.settings);
            self.registry.forget(topic);
            let keys = topology::find_topic(&self.admin, &self.registry, topic).await?;
            let partitions = keys.ok_or_else(|| no_topic(topic))?.partitions;
            topology::ensure_group(&self.admin, &self.registry, topic, group, settings, Missing::Fail)
                .await?;
            subscribed.push(Subscribed {
                topic: topic.clone(),
                keys: GroupKeys::new(topic, partitions, group),
                settings: settings.clone(),
                first,
                settled: AtomicBool::new(true),
                takeover: AtomicBool::new(false),
            });
            first += 2 * partitions;
        }
        Ok(subscribed)
    }
}

fn major_version(info: &str) -> Option<u32> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    version.split('.').next()?.trim().parse().ok()
}

#[async_trait]
impl Backend for RedisStreamBackend {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn context(&self) -> &Context {
        &self.context
    }

    fn max_message_size(&self) -> usize {
        self.config.max_message_size
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>> {
        let link = Link::new(&self.connector, "producer");
        let producer = StreamProducer::open(link, self.registry.clone(), self.context.clone()).await?;
        Ok(Arc::new(producer))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        let subscribed = self.subscribe(&options).await?;
        let lanes = Member::lay_out(&subscribed);
        let streams = (0..).zip(&lanes).map(|(lane, info)| (info.stream.clone(), lane)).collect();
        let state = State {
            name: fresh_name(self.context.clock.now()),
            phase: Phase::Live,
            lanes: Lanes::new(lanes.len()),
            revoked: Vec::new(),
            recover: false,
        };
        let member = Member {
            group: options.group,
            subscribed,
            lanes,
            streams,
            session: self.config.session_timeout,
            registry: self.registry.clone(),
            connector: self.connector.clone(),
            context: self.context.clone(),
            control: Link::new(&self.connector, "consumer"),
            state: Mutex::new(state),
            changed: Notify::new(),
            duty: Notify::new(),
        };
        Ok(Arc::new(StreamConsumer::open(Arc::new(member)).await?))
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(StreamAdmin::new(self.admin.clone(), self.registry.clone(), self.context.clone())))
    }

    async fn close(&self) {
        self.admin.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("# Server\r\nredis_version:8.0.2\r\nredis_git_sha1:0\r\n"), Some(8));
        assert_eq!(major_version("nothing"), None);
    }
}

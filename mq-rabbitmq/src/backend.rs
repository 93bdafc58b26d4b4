//! The backend: three connections and what runs on them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{Admin, Backend, Consumer, ConsumerOptions, Context, Producer};
use mq_core::{Capabilities, Result};
use tokio::sync::OnceCell;
use url::Url;

use crate::CAPABILITIES;
use crate::admin::RabbitAdmin;
use crate::config::RabbitMqConfig;
use crate::connection::Link;
use crate::consumer::RabbitConsumer;
use crate::delay::Delay;
use crate::forward::Forwarder;
use crate::producer::RabbitProducer;
use crate::publish::{Mode, Publisher};
use crate::settle::Copier;
use crate::starts::Starts;
use crate::topology::Topology;

/// What all parts of a client share.
pub(crate) struct Shared {
    pub(crate) config: Arc<RabbitMqConfig>,
    pub(crate) context: Context,
    /// Publishes only: the broker blocks such a connection when it runs out of room.
    pub(crate) publish: Arc<Link>,
    /// Consumes, and is never blocked.
    pub(crate) consume: Arc<Link>,
    /// Declares, looks, and is never blocked.
    pub(crate) ask: Arc<Link>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) delay: Arc<Delay>,
    pub(crate) copier: Copier,
    pub(crate) forwarder: Arc<Forwarder>,
}

impl Shared {
    fn new(config: RabbitMqConfig, context: Context) -> Self {
        let config = Arc::new(config);
        let events = context.events.clone();
        let publish = Link::new("publishing", config.clone(), events.clone());
        let consume = Link::new("consuming", config.clone(), events.clone());
        let ask = Link::for_questions(config.clone(), events.clone());
        let topology = Arc::new(Topology::new(ask.clone(), config.request_timeout, events.clone()));
        let delay = Arc::new(Delay::new(topology.clone(), context.clock.clone()));
        let starts = Starts::new(topology.clone(), events.clone());
        let courier = Publisher::start(
            &publish,
            &topology,
            Mode::Checked,
            config.publish_window,
            config.publish_timeout,
        );
        let copier = Copier { courier, delay: delay.clone(), topology: topology.clone(), starts, events };
        Self { config, context, publish, consume, ask, topology, delay, copier, forwarder: Arc::default() }
    }

    /// Starts another publisher that notices what reaches no queue.
    pub(crate) fn courier(&self, within: Duration) -> Publisher {
        Publisher::start(&self.publish, &self.topology, Mode::Checked, self.config.publish_window, within)
    }

    /// Starts a publisher to topics.
    pub(crate) fn publisher(&self) -> Publisher {
        let config = &self.config;
        Publisher::start(
            &self.publish,
            &self.topology,
            Mode::Pipelined,
            config.publish_window,
            config.publish_timeout,
        )
    }
}

/// A client's connections to a RabbitMQ broker.
pub struct RabbitMqBackend {
    shared: Arc<Shared>,
    producer: OnceCell<Arc<RabbitProducer>>,
}

impl fmt::Debug for RabbitMqBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqBackend").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl RabbitMqBackend {
    /// Connects to the broker that `url` names.
    ///
    /// # Errors
    /// `InvalidInput` for a URL that is wrong, `Unauthorized` for credentials that are,
    /// `Unavailable` for a broker that cannot be reached, within 10 s.
    pub async fn connect(url: &Url, context: Context) -> Result<Self> {
        Self::connect_with(RabbitMqConfig::from_url(url)?, context).await
    }

    /// Connects as `config` says.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_with(config: RabbitMqConfig, context: Context) -> Result<Self> {
        config.validate()?;
        let shared = Arc::new(Shared::new(config, context));
        tokio::try_join!(shared.publish.connect(), shared.consume.connect(), shared.ask.connect())?;
        Ok(Self { shared, producer: OnceCell::new() })
    }
}

#[async_trait]
impl Backend for RabbitMqBackend {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn context(&self) -> &Context {
        &self.shared.context
    }

    fn max_message_size(&self) -> usize {
        self.shared.config.max_message_size
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>> {
        let make = || async { Arc::new(RabbitProducer::new(self.shared.clone())) };
        let producer = self.producer.get_or_init(make).await;
        Ok(producer.clone())
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(RabbitConsumer::open(self.shared.clone(), options).await?))
    }

    async fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(RabbitAdmin::new(self.shared.clone())))
    }

    async fn close(&self) {
        self.shared.forwarder.close().await;
        if let Some(producer) = self.producer.get() {
            producer.close().await;
        }
        self.shared.copier.courier.close().await;
        tokio::join!(self.shared.publish.close(), self.shared.consume.close(), self.shared.ask.close());
    }
}

//! What an operator can do to a broker with its own tools, behind the library's back.

use anyhow::{Context as _, Result};
use mq::{GroupName, TopicName};

use crate::brokers::{Broker, BrokerKind};

/// The user whose rights are taken away.
pub(super) const USER: &str = "operator-made";
/// That user's password; it must show nowhere.
pub(super) const PASSWORD: &str = "canary-of-the-operator";

/// Where Kafka's own tools reach it inside its container: what it advertises is for the outside.
const INTERNAL_PORT: u16 = 9093;

/// Hurts a broker by its own tools. `Ok(false)`: this kind of broker has nothing like it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator<'b>(pub(super) &'b Broker);

impl Operator<'_> {
    async fn sh(self, script: String) -> Result<()> {
        self.0.exec(["sh", "-c", &script]).await.map(drop).with_context(|| format!("running {script}"))
    }

    async fn redis(self, command: String) -> Result<bool> {
        self.sh(format!("redis-cli -e {command}")).await.map(|()| true)
    }

    async fn rabbitmq(self, command: String) -> Result<bool> {
        self.sh(format!("rabbitmqctl -q {command}")).await.map(|()| true)
    }

    async fn kafka(self, tool: &str, arguments: String) -> Result<bool> {
        let java = format!("java -cp '/opt/kafka/libs/*' {tool}");
        self.sh(format!("{java} --bootstrap-server localhost:{INTERNAL_PORT} {arguments}"))
            .await
            .map(|()| true)
    }

    /// Tells what the broker itself knows of a topic and who consumes it.
    pub(super) async fn tell(self, topic: &TopicName) -> Result<String> {
        if self.0.kind() != BrokerKind::RabbitMq {
            return Ok(String::new());
        }
        let exchange = format!(r#"rabbit_misc:r(<<"/">>, exchange, <<"{topic}">>)"#);
        let counters = "[maps:to_list(maps:get([{protocol, amqp091} | Of], O)) \
            || Of <- [[], [{queue_type, rabbit_quorum_queue}]]]";
        let routed = format!(
            "O = rabbit_global_counters:overview(), \
             {{rabbit_db_topic_exchange:match({exchange}, <<\"any\">>, #{{}}), {counters}}}."
        );
        let script = format!(
            "for what in 'list_bindings source_name destination_name routing_key' \
             'list_queues name state messages consumers' 'list_consumers queue_name active prefetch_count'; \
             do echo \"$what:\"; rabbitmqctl -q $what | grep {topic}; done; \
             echo routed:; rabbitmqctl -q eval '{routed}'; true"
        );
        self.0.exec(["sh", "-c", &script]).await
    }

    /// Deletes what holds a group's share of a topic.
    pub(super) async fn delete_group(self, topic: &TopicName, group: &GroupName) -> Result<bool> {
        match self.0.kind() {
            BrokerKind::Redis => self.redis(format!("XGROUP DESTROY {topic} {group}")).await,
            BrokerKind::RabbitMq => self.rabbitmq(format!("delete_queue {topic}..{group}")).await,
            BrokerKind::Kafka => {
                self.kafka(
                    "org.apache.kafka.tools.TopicCommand",
                    format!("--delete --topic {topic}..{group}..inbox"),
                )
                .await
            }
        }
    }

    /// Removes the route from a topic to a group's queue, and ends all connections.
    pub(super) async fn remove_route(self, topic: &TopicName, group: &GroupName) -> Result<bool> {
        if self.0.kind() != BrokerKind::RabbitMq {
            return Ok(false);
        }
        let resource = |kind, name: &str| format!(r#"{{resource, <<"/">>, {kind}, <<"{name}">>}}"#);
        let (from, to) =
            (resource("exchange", topic.as_str()), resource("queue", &format!("{topic}..{group}")));
        let binding = format!(r##"{{binding, {from}, <<"#">>, {to}, []}}"##);
        let remove = format!(r#"ok = rabbit_binding:remove({binding}, <<"operator">>)"#);
        let end = r#"rabbit_networking:close_connections(rabbit_networking:connections(), "removed")"#;
        self.rabbitmq(format!("eval '{remove}, {end}.'")).await
    }

    /// Deletes all there is.
    pub(super) async fn delete_all(self) -> Result<bool> {
        match self.0.kind() {
            BrokerKind::Redis => self.redis("FLUSHALL".into()).await,
            BrokerKind::RabbitMq => {
                self.rabbitmq("stop_app".into()).await?;
                self.rabbitmq("reset".into()).await?;
                self.rabbitmq("start_app".into()).await
            }
            BrokerKind::Kafka => {
                self.kafka("org.apache.kafka.tools.TopicCommand", "--delete --topic '[^_].*'".into()).await
            }
        }
    }

    /// Removes a topic's messages, read or not. RabbitMQ tells nobody of a purged queue.
    pub(super) async fn trim(self, topic: &TopicName) -> Result<bool> {
        match self.0.kind() {
            BrokerKind::Redis => self.redis(format!("XTRIM {topic} MAXLEN 0")).await,
            BrokerKind::RabbitMq => Ok(false),
            BrokerKind::Kafka => {
                let json = format!(
                    r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":-1}}],"version":1}}"#
                );
                self.sh(format!("echo '{json}' > /tmp/trim.json")).await?;
                self.kafka(
                    "org.apache.kafka.tools.DeleteRecordsCommand",
                    "--offset-json-file /tmp/trim.json".into(),
                )
                .await
            }
        }
    }

    /// Sets the memory the broker may use to nothing, or back to what it was.
    pub(super) async fn starve(self, starve: bool) -> Result<bool> {
        match self.0.kind() {
            BrokerKind::Redis => {
                self.redis(format!("CONFIG SET maxmemory {}", if starve { "1" } else { "0" })).await
            }
            BrokerKind::RabbitMq => {
                let mark = if starve { "0.0001" } else { "0.6" };
                self.rabbitmq(format!("set_vm_memory_high_watermark {mark}")).await
            }
            BrokerKind::Kafka => Ok(false),
        }
    }

    /// Fills the disk, or makes room again. Kafka ends itself when it cannot write.
    pub(super) async fn fill_disk(self, fill: bool) -> Result<bool> {
        match (self.0.kind(), fill) {
            (BrokerKind::Redis, true) => {
                self.move_redis_to("/dev/shm").await?;
                // Until there is no room: that is how it ends.
                self.sh("cat /dev/zero > /dev/shm/full || true".into()).await?;
                Ok(true)
            }
            (BrokerKind::Redis, false) => {
                self.sh("rm /dev/shm/full".into()).await?;
                self.move_redis_to("/var/lib/mq").await?;
                Ok(true)
            }
            (BrokerKind::RabbitMq, fill) => {
                let free = if fill { "1000000GB" } else { "50MB" };
                self.rabbitmq(format!("set_disk_free_limit {free}")).await
            }
            (BrokerKind::Kafka, _) => Ok(false),
        }
    }

    /// Has Redis keep its append-only file elsewhere.
    async fn move_redis_to(self, folder: &str) -> Result<()> {
        self.redis("CONFIG SET appendonly no".into()).await?;
        self.redis(format!("CONFIG SET dir {folder}")).await?;
        self.redis("CONFIG SET appendonly yes".into()).await?;
        let written = "redis-cli INFO persistence | grep -q aof_rewrite_in_progress:0";
        let good = "redis-cli INFO persistence | grep -q aof_last_bgrewrite_status:ok";
        self.sh(format!("for n in $(seq 100); do {written} && break; sleep 0.1; done; {good}")).await
    }

    /// Sets how many messages a group's queue takes before it refuses more; `None` takes the limit away.
    pub(super) async fn limit(self, topic: &TopicName, group: &GroupName, most: Option<u32>) -> Result<bool> {
        if self.0.kind() != BrokerKind::RabbitMq {
            return Ok(false);
        }
        let command = match most {
            Some(most) => format!(
                r#"set_policy --apply-to queues mq-limit '^{topic}\.\.{group}$' '{{"max-length":{most},"overflow":"reject-publish"}}'"#
            ),
            None => "clear_policy mq-limit".into(),
        };
        self.rabbitmq(command).await
    }

    /// Has the broker end, within 2 s, the channels that keep a message of a group for a second; `false` undoes
    /// it. It holds for channels that are opened afterwards.
    pub(super) async fn time_acks_out(self, topic: &TopicName, group: &GroupName, on: bool) -> Result<bool> {
        if self.0.kind() != BrokerKind::RabbitMq {
            return Ok(false);
        }
        let (tick, policy) = match on {
            true => (
                500,
                format!(
                    r#"set_policy --apply-to queues mq-acks '^{topic}\.\.{group}$' '{{"consumer-timeout":1000}}'"#
                ),
            ),
            false => (60_000, "clear_policy mq-acks".into()),
        };
        self.rabbitmq(format!("eval 'application:set_env(rabbit, channel_tick_interval, {tick}).'")).await?;
        self.rabbitmq(policy).await
    }

    /// Has nothing written of queues that are new, as by a disk that stalls, until `stall` is false: after some
    /// seconds the broker gives up on them.
    pub(super) async fn stall_new_queues(self, stall: bool) -> Result<bool> {
        if self.0.kind() != BrokerKind::RabbitMq {
            return Ok(false);
        }
        let what = if stall { "suspend" } else { "resume" };
        self.rabbitmq(format!("eval 'ok = sys:{what}(ra_log_meta).'")).await
    }

    /// Makes [`USER`], who may do everything.
    pub(super) async fn make_user(self) -> Result<()> {
        match self.0.kind() {
            BrokerKind::Redis => {
                self.redis(format!("ACL SETUSER {USER} reset on '>{PASSWORD}' '~*' '&*' '+@all'")).await?;
            }
            BrokerKind::RabbitMq => {
                // One that a row left behind when it failed is there already.
                let again = format!("rabbitmqctl -q change_password {USER} {PASSWORD}");
                self.rabbitmq(format!("add_user {USER} {PASSWORD} || {again}")).await?;
                self.rabbitmq(format!("set_permissions {USER} '.*' '.*' '.*'")).await?;
            }
            BrokerKind::Kafka => {
                self.kafka_user(format!("--add-config 'SCRAM-SHA-256=[password={PASSWORD}]'")).await?;
            }
        }
        Ok(())
    }

    /// Removes [`USER`] and ends the user's connections, Kafka's within 3 s.
    pub(super) async fn remove_user(self) -> Result<()> {
        match self.0.kind() {
            BrokerKind::Redis => self.redis(format!("ACL DELUSER {USER}")).await?,
            BrokerKind::RabbitMq => {
                self.rabbitmq(format!("delete_user {USER}")).await?;
                self.rabbitmq(format!("close_all_user_connections {USER} removed")).await?
            }
            BrokerKind::Kafka => self.kafka_user("--delete-config SCRAM-SHA-256".into()).await?,
        };
        Ok(())
    }

    async fn kafka_user(self, change: String) -> Result<bool> {
        self.kafka(
            "kafka.admin.ConfigCommand",
            format!("--alter --entity-type users --entity-name {USER} {change}"),
        )
        .await
    }

    /// Lets writes reach the disk while a row asks for that.
    pub(super) async fn sync(self, on: bool) -> Result<()> {
        if self.0.kind() == BrokerKind::Redis {
            let value = if on { "everysec" } else { "no" };
            self.redis(format!("CONFIG SET appendfsync {value}")).await?;
        }
        Ok(())
    }
}

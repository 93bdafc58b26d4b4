#!/bin/sh
# MQ_PORT: what clients dial, at the address MQ_BIND; the two ports above it are the broker's own, and at the third
# users log in (SCRAM-SHA-256).
# MQ_ADVERTISED, MQ_ADVERTISED_USERS: host:port as clients see it (a proxy in between needs another one).
# The class path's star is for Java, so the shell must not expand it.
set -euf

port=${MQ_PORT:-9092}
config=/var/lib/mq/server.properties
cp=/opt/kafka/libs/*

cat /etc/mq/server.properties >"$config"
cat >>"$config" <<CONF
listeners=CLIENT://${MQ_BIND:-0.0.0.0}:$port,USERS://${MQ_BIND:-0.0.0.0}:$((port + 3)),INTERNAL://127.0.0.1:$((port + 1)),CONTROLLER://127.0.0.1:$((port + 2))
advertised.listeners=CLIENT://${MQ_ADVERTISED:-127.0.0.1:$port},USERS://${MQ_ADVERTISED_USERS:-127.0.0.1:$((port + 3))},INTERNAL://127.0.0.1:$((port + 1))
controller.quorum.voters=1@127.0.0.1:$((port + 2))
CONF

if [ ! -f /var/lib/mq/data/meta.properties ]; then
    java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$cp" kafka.tools.StorageTool \
        format --cluster-id bXEtdGVzdC1rYWZrYS0wMQ --config "$config"
fi
exec java -Xms512m -Xmx512m -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
    -cp "$cp" kafka.Kafka "$config"

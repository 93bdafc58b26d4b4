#!/bin/sh
# MQ_PORT: AMQP; MQ_MANAGEMENT_PORT: HTTP API and pages; MQ_BIND: the address of both.
# RABBITMQ_DIST_PORT and ERL_EPMD_PORT are
# read by RabbitMQ itself; set them when the container shares the host's network.
set -eu
cat >"$RABBITMQ_CONFIG_FILE" <<CONF
listeners.tcp.default = ${MQ_BIND:-0.0.0.0}:${MQ_PORT:-5672}
management.tcp.ip = ${MQ_BIND:-0.0.0.0}
management.tcp.port = ${MQ_MANAGEMENT_PORT:-15672}
loopback_users = none
log.console = true
log.console.level = info
log.file = false
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.absolute = 1GB
CONF
# Debian's own command keeps signals and the log to itself.
server=/usr/lib/rabbitmq/bin/rabbitmq-server
[ -x "$server" ] || server=rabbitmq-server
exec "$server"

#!/bin/sh
# MQ_PORT: the port to listen on. MQ_BIND: the address.
set -eu
exec redis-server /etc/mq/redis.conf --port "${MQ_PORT:-6379}" --bind "${MQ_BIND:-0.0.0.0}"

"""Real servers for tests and demos: Kafka, Redis and NATS as plain processes on 127.0.0.1, and faulty proxies.

Not part of the shipped package. `README.md` beside this file shows how tests use it.
"""

from services.errors import MissingToolError, ServiceError, StartError
from services.kafka import KafkaCluster, Tls
from services.nats import NatsServer
from services.proxy import KafkaProxy, ProxyCounts
from services.redis import RedisServer
from services.tcp import TcpProxy
from services.wire import PartitionState

__all__ = [
    "KafkaCluster",
    "KafkaProxy",
    "MissingToolError",
    "NatsServer",
    "PartitionState",
    "ProxyCounts",
    "RedisServer",
    "ServiceError",
    "StartError",
    "TcpProxy",
    "Tls",
]

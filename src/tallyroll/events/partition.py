"""Which partition a key belongs to: the murmur2 hash of Kafka's Java client, bit for bit.

Source: ``org.apache.kafka.common.utils.Utils.murmur2`` and ``BuiltInPartitioner``: positive(murmur2(key)) mod partitions.
"""

from __future__ import annotations

from functools import lru_cache

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash as an unsigned integer."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * _M) & _MASK
        k ^= k >> 24
        h = (h * _M) & _MASK ^ (k * _M) & _MASK
    tail = data[whole:]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=65_536)  # keys repeat; 65,536 of about 150 bytes each bound it to some 10 MB
def partition_for(key: bytes, partitions: int) -> int:
    """The partition that every Kafka client with the murmur2 partitioner puts ``key`` into."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions

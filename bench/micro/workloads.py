"""The one list: what `python -m bench micro` and `pytest bench/micro` measure: whole roads first, then their parts."""

from bench.micro.operations import (
    batch,
    broadcast,
    buffer,
    codec,
    delimiter,
    header,
    joins,
    ledger,
    mailbox,
    object_pool,
    outbox,
    packet,
    pool,
    rate,
    receiver,
    routes,
    stream,
    turns,
)
from bench.micro.workload import Workload

WORKLOADS: list[Workload] = [
    *stream.WORKLOADS,
    *batch.WORKLOADS,
    *codec.WORKLOADS,
    *receiver.WORKLOADS,
    *broadcast.WORKLOADS,
    *buffer.WORKLOADS,
    *delimiter.WORKLOADS,
    *outbox.WORKLOADS,
    *header.WORKLOADS,
    *packet.WORKLOADS,
    *pool.WORKLOADS,
    *object_pool.WORKLOADS,
    *joins.WORKLOADS,
    *routes.WORKLOADS,
    *ledger.WORKLOADS,
    *rate.WORKLOADS,
    *turns.WORKLOADS,
    *mailbox.WORKLOADS,
]

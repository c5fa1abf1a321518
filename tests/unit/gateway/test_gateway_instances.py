"""Instances that are gone, late, busy or asleep, and changes of the table, as callers see them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from gatewayworld import Serve, World, error, until, world

from tidemill.domain.serving.routes import Backend
from tidemill.serving.gateway import dispatch


async def test_an_instance_that_cannot_be_reached_is_passed_by() -> None:
    async with world("blue", "gone") as w:
        await w.backings["gone"].stop()
        both = (w.target("blue"), w.target("gone"))
        w.route(instances=both)
        line = await w.open()
        for _ in range(20):
            line.send()
            assert (await line.answer()).status == 200
        line.close()


async def test_one_that_is_not_ready_is_passed_by_and_waited_for() -> None:
    async with world("blue", "cold") as w:
        cold = w.backings["cold"]
        ready, cold.answer = (
            cold.answer,
            b"HTTP/1.1 503 X\r\nx-tidemill-not-ready: 1\r\nContent-Length: 2\r\n\r\nno",
        )
        w.route(instances=(w.target("blue"), w.target("cold")))
        for _ in range(6):
            assert (await w.ask()).status == 200
        w.route(instances=(w.target("cold"),), queue_wait_s=60.0)
        asked = asyncio.create_task(w.ask())
        await until(lambda: len(cold.heads) > 1)
        cold.answer = ready
        assert (await asked).status == 200


async def test_killed_under_way_it_is_said_and_others_are_not_hurt() -> None:
    async with world() as w:
        blue = w.backings["blue"]
        blue.gate.clear()
        asked = asyncio.create_task(w.ask())
        await until(lambda: blue.heads)
        await blue.stop()
        assert (await asked).status == 502
        w.route(queue_wait_s=60.0)
        later = asyncio.create_task(w.ask())  # waits for it to come back
        blue.gate.set()
        await blue.start()
        assert (await later).status == 200


async def test_nobody_comes_back_in_time() -> None:
    async with world() as w:
        await w.backings["blue"].stop()
        w.route(queue_wait_s=0.2)
        answer = await w.ask()
        assert (answer.status, error(answer.body)[0]) == (503, "NoInstance")


def once_then(w: World, then: str) -> Serve:
    """Its first connection answers once; the next request there is read, or left, and the connection ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        blue = w.backings["blue"]
        first = blue.connections == 1
        while True:
            await blue.read(reader)
            writer.write(blue.answer)
            await writer.drain()
            if first and then == "read":
                await blue.read(reader)
                return
            if first:
                writer.transport.pause_reading()
                await blue.gate.wait()
                await asyncio.sleep(0.05)
                writer.transport.abort()
                return

    return serve


@pytest.mark.parametrize("then", ["read", "left"])
async def test_a_kept_connection_that_was_closed_meanwhile(then: str) -> None:
    """What may be sent twice is; what nobody read is sent again, whatever it is."""
    async with world() as w:
        blue = w.backings["blue"]
        blue.serve = once_then(w, then)
        blue.gate.clear()
        assert (await w.ask()).status == 200
        method = "GET" if then == "read" else "POST"
        asked = asyncio.create_task(w.ask(b"" if method == "GET" else b"again", method))
        blue.gate.set()
        assert (await asked).status == 200
        assert blue.connections == 2


async def test_a_post_that_was_read_is_not_sent_twice() -> None:
    async with world() as w:
        w.backings["blue"].serve = once_then(w, "read")
        assert (await w.ask()).status == 200
        assert (await w.ask()).status == 502
        assert len(w.backings["blue"].heads) == 2


async def test_late_answers_are_408_and_the_instance_is_let_go() -> None:
    async with world() as w:
        w.backings["blue"].gate.clear()
        w.route(timeout_s=0.2)
        answer = await w.ask()
        assert (answer.status, error(answer.body)[0]) == (408, "RequestTimeout")
        assert w.gateway.report()["in_flight"] == {}


async def test_a_caller_that_hangs_up_frees_the_instance() -> None:
    async with world() as w:
        w.backings["blue"].gate.clear()
        line = await w.open()
        line.send()
        await until(lambda: w.backings["blue"].heads)
        assert w.gateway.report()["in_flight"] == {"blue-0": 1}
        line.close()
        await until(lambda: not w.gateway.report()["in_flight"])


async def test_more_than_an_instance_takes_wait_and_then_are_told() -> None:
    async with world() as w:
        blue = w.backings["blue"]
        blue.gate.clear()
        w.route(max_concurrent=2, queue_wait_s=0.3)
        asked = [asyncio.create_task(w.ask()) for _ in range(4)]
        await until(lambda: sum(one.done() for one in asked) == 2)
        refused = [one.result() for one in asked if one.done()]
        assert {one.status for one in refused} == {429}
        assert "max_concurrent_requests_per_instance" in error(refused[0].body)[1]
        await until(lambda: len(blue.heads) == 2)
        blue.gate.set()
        assert sorted([(await one).status for one in asked]) == [200, 200, 429, 429]
        assert len(blue.heads) == 2


async def test_those_that_wait_go_on_when_one_is_free() -> None:
    async with world() as w:
        blue = w.backings["blue"]
        blue.gate.clear()
        w.route(max_concurrent=1, queue_wait_s=60.0)
        asked = [asyncio.create_task(w.ask(b"%d" % n)) for n in range(5)]
        await until(lambda: blue.heads)
        blue.gate.set()
        assert {(await one).status for one in asked} == {200}
        assert sorted(blue.bodies) == [b"0", b"1", b"2", b"3", b"4"]


# --- changes of the table


async def test_requests_for_what_sleeps_are_held_and_told_at_once() -> None:
    async with world() as w:
        target = w.target("blue")
        w.route(instances=(), wake=True)
        w.news.clear()
        asked = [asyncio.create_task(w.ask()) for _ in range(10)]
        await until(lambda: w.gateway.report()["held"] == {"blue": 10})
        assert True in w.news
        w.route(instances=(target,), wake=True)
        assert {(await one).status for one in asked} == {200}
        assert w.gateway.report()["held"] == {}


async def test_what_sleeps_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "WAKE_S", 0.2)
    async with world() as w:
        w.route(instances=(), wake=True)
        assert (await w.ask()).status == 503


async def test_an_instance_that_leaves_ends_what_it_has() -> None:
    async with world("blue", "green") as w:
        blue = w.backings["blue"]
        blue.gate.clear()
        asked = asyncio.create_task(w.ask())
        await until(lambda: blue.heads)
        w.set(replace(w.endpoint, deployments=(Backend("blue", "blue", instances=(w.target("green"),)),)))
        assert w.gateway.report()["in_flight"] == {"blue-0": 1}
        assert (await w.ask()).status == 200
        assert len(w.backings["green"].heads) == 1
        w.news.clear()
        blue.gate.set()
        assert (await asked).status == 200
        assert w.gateway.report()["in_flight"] == {}
        assert True in w.news  # at once


async def test_a_deleted_deployment_tells_those_that_wait() -> None:
    async with world() as w:
        w.route(instances=(), wake=True)
        asked = asyncio.create_task(w.ask())
        await until(lambda: w.gateway.report()["held"])
        w.set(replace(w.endpoint, deployments=()))
        assert (await asked).status == 404


async def test_thirty_two_callers_and_a_table_that_changes() -> None:
    """Instances come and go, traffic moves: nobody sees it."""
    async with world("blue", "green") as w:
        ended = asyncio.Event()
        statuses: Counter[int] = Counter()

        async def call() -> None:
            line = await w.open()
            while not ended.is_set():
                line.send(b"x" * 300)
                statuses[(await line.answer()).status] += 1
            line.close()

        callers = [asyncio.create_task(call()) for _ in range(32)]
        number = 0
        while number < 60 or sum(statuses.values()) <= 300:
            assert not any(one.done() for one in callers)
            number += 1
            share = number * 7 % 101
            instances = tuple(
                w.target("blue" if (number + at) % 2 else "green", number + at) for at in range(2)
            )
            w.route(traffic={"blue": share, "green": 100 - share}, instances=instances)
            await asyncio.sleep(0.01)
        ended.set()
        await asyncio.gather(*callers)
        assert set(statuses) == {200}

"""What callers see of the gateway, and instances of callers."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from gatewayworld import KEY, PATH, error, until, world


async def test_forwarded_with_what_the_instance_may_know() -> None:
    async with world() as w:
        line = await w.open()
        for _ in range(3):
            line.send(b'{"a": 1}', x_ms_client_request_id="mine", Connection="x-drop, keep-alive", X_Drop="1")
            answer = await line.answer()
            assert (answer.status, answer.body) == (200, b"ok")
            assert answer.headers["azureml-model-deployment"] == "blue"
        line.close()
        blue = w.backings["blue"]
        assert blue.connections == 1  # it is kept
        assert blue.bodies == [b'{"a": 1}'] * 3
        head = blue.heads[0].decode().lower()
        assert head.startswith("post /score http/1.1\r\n")
        assert "x-ms-client-request-id: mine\r\n" in head
        assert "x-forwarded-for: 127.0.0.1\r\n" in head
        assert "x-request-id: " in head
        for gone in ("authorization", KEY, "x-drop", "connection:"):
            assert gone not in head


async def test_heads_and_bodies_in_pieces_of_any_size() -> None:
    """Clients send them apart, and the same head again and again."""
    async with world() as w:
        line = await w.open()
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
        head += b"Content-Length: 6\r\n\r\n"
        for size in (len(head), 7, len(head) + 3, 1000, len(head)):
            data = head + b"a%05d" % size
            for at in range(0, len(data), size):
                line.raw(data[at : at + size])
                await asyncio.sleep(0.005)
            assert (await line.answer()).status == 200
            assert w.backings["blue"].bodies[-1] == b"a%05d" % size
        line.raw(head + b"first." + head + b"second" + head)
        assert [(await line.answer()).status for _ in range(2)] == [200, 200]
        line.raw(b"third.")
        assert (await line.answer()).status == 200
        assert w.backings["blue"].bodies[-3:] == [b"first.", b"second", b"third."]
        w.route(digests=())  # the key counts no more: the same head is looked at again
        line.raw(head + b"fourth")
        assert (await line.answer()).status == 401
        line.close()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (PATH + "?a=b", "/score?a=b"),
        ("/endpoints/SUB/Group/WS/EP/score", "/score"),
        ("/endpoints/sub/group/ws/ep", "/"),
        ("/endpoints/sub/group/ws/ep/swagger.json", "/swagger.json"),
        ("http://x:1/endpoints/sub/group/ws/ep/v2/models/m/infer", "/v2/models/m/infer"),
    ],
)
async def test_paths_below_an_endpoint(path: str, asked: str) -> None:
    async with world() as w:
        assert (await w.ask(path=path)).status == 200
        assert w.backings["blue"].heads[0].split(b" ")[1].decode() == asked


async def test_score_of_a_container_has_its_own_path() -> None:
    async with world() as w:
        w.route(score_path="/v1/predict")
        await w.ask(path=PATH + "?x=1")
        assert w.backings["blue"].heads[0].startswith(b"POST /v1/predict?x=1 ")


@pytest.mark.parametrize(
    ("given", "status", "code", "word"),
    [
        ({"path": "/"}, 404, "NotFound", "/endpoints/"),
        ({"path": "/endpoints/sub/group/ws/none/score"}, 404, "EndpointNotFound", "'none'"),
        ({"key": ""}, 401, "Unauthorized", "Authorization"),
        ({"key": "wrong"}, 401, "InvalidKey", "endpoint keys"),
        ({"key": KEY + " "}, 200, "", ""),
        ({"key": "other"}, 200, "", ""),
        ({"azureml_model_deployment": "red"}, 404, "DeploymentNotFound", "'red'"),
    ],
)
async def test_refused_with_the_reason(given: dict, status: int, code: str, word: str) -> None:
    async with world() as w:
        answer = await w.ask(**given)
        assert answer.status == status
        if code:
            assert error(answer.body)[0] == code
            assert word in error(answer.body)[1]
            assert not w.backings["blue"].heads
        assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_basic_is_no_bearer() -> None:
    async with world() as w:
        line = await w.open()
        line.raw(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {KEY}\r\n\r\n".encode())
        assert (await line.answer()).status == 401
        line.close()


async def test_tokens_are_asked_for_and_may_take_a_while() -> None:
    async with world() as w:
        w.route(auth="AADToken")
        assert (await w.ask(key=KEY)).status == 403
        w.allowed.add("token")
        assert (await w.ask(key="token")).status == 200
        line = await w.open()
        line.send(b"x" * 1000, key="token")
        line.send(b"y" * 1000, key="token")  # before its turn
        assert (await line.answer()).status == 200
        assert (await line.answer()).status == 200
        line.close()
        assert w.backings["blue"].bodies[-2:] == [b"x" * 1000, b"y" * 1000]


async def test_split_is_exact_over_each_hundred_and_named_ones_do_not_count() -> None:
    async with world("blue", "green") as w:
        w.route(traffic={"blue": 90, "green": 10})
        line = await w.open()
        seen: Counter[str] = Counter()
        for number in range(200):
            line.send()
            seen[(await line.answer()).headers["azureml-model-deployment"]] += 1
            if number == 50:  # the same shares again: the deck goes on
                w.route(traffic={"blue": 90, "green": 10})
            line.send(azureml_model_deployment="GREEN")
            assert (await line.answer()).headers["azureml-model-deployment"] == "green"
        assert seen == {"blue": 180, "green": 20}
        w.route(traffic={})
        line.send()
        assert error((await line.answer()).body)[0] == "NoTraffic"
        line.close()


async def test_an_error_of_the_model_is_told_from_one_of_the_gateway() -> None:
    async with world() as w:
        w.backings["blue"].answer = b"HTTP/1.1 500 Oh No\r\nContent-Length: 3\r\n\r\nbad"
        answer = await w.ask()
        assert (answer.status, answer.body) == (424, b"bad")
        assert answer.headers["ms-azureml-model-error-statuscode"] == "500"
        assert answer.headers["ms-azureml-model-error-reason"] == "Oh No"
        assert w.gateway.live.deployments["blue"].metrics.errors == 1


async def test_head_expect_and_chunks() -> None:
    async with world() as w:
        w.backings["blue"].answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        line = await w.open()
        line.send(b"", "HEAD")
        assert (await line.answer("HEAD")).headers["content-length"] == "2"
        line.send(b"", "GET")
        await asyncio.sleep(0)
        w.backings[
            "blue"
        ].answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\n\r\n"
        line.close()
        line = await w.open()
        line.raw(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        line.raw(b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.raw(b"four")
        answer = await line.answer()
        assert (answer.body, answer.headers["transfer-encoding"]) == (b"ok", "chunked")
        assert b"expect" not in w.backings["blue"].heads[-1].lower()
        line.raw(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        line.raw(b"Transfer-Encoding: chunked\r\n\r\n3;ext\r\nabc\r\n2\r\n")
        line.raw(b"de\r\n0\r\n\r\n")
        assert (await line.answer()).body == b"ok"
        assert w.backings["blue"].bodies[-1] == b"abcde"
        assert b"transfer-encoding" not in w.backings["blue"].heads[-1].lower()  # it was read whole
        line.close()


async def test_heads_of_any_length_one_after_another() -> None:
    """A Content-Length that answers a HEAD is followed by nothing."""
    async with world() as w:
        line = await w.open()
        for length in (2, 2, 1000, 3, 1000):
            w.backings["blue"].answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
            line.send(b"", method="HEAD")
            answer = await line.answer("HEAD")
            assert (answer.status, answer.headers["content-length"]) == (200, str(length))
        w.backings["blue"].answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        line.send()
        assert (await line.answer()).body == b"ok"


async def test_old_callers_get_answers_that_end_with_the_connection() -> None:
    async with world() as w:
        w.backings[
            "blue"
        ].answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        line = await w.open()
        line.raw(
            f"GET {PATH} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\nConnection: keep-alive\r\n\r\n".encode()
        )
        said = await line.ended()
        assert said.endswith(b"\r\n\r\nok")
        assert b"transfer-encoding" not in said.lower()


async def test_answers_that_end_with_the_instances_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await w.backings["blue"].read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await writer.drain()

    async with world() as w:
        w.backings["blue"].serve = serve
        assert (await w.ask()).body == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
async def test_answers_that_are_none_are_502(answer: bytes) -> None:
    async with world() as w:
        w.backings["blue"].answer = answer
        said = await w.ask()
        assert (said.status, error(said.body)[0]) == (502, "BadGateway")


async def test_what_is_left_after_an_answer_is_nobodys() -> None:
    async with world() as w:
        w.backings[
            "blue"
        ].answer = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        )
        line = await w.open()
        for _ in range(3):
            line.send()
            assert (await line.answer()).body == b"ok"
        line.close()
        assert w.backings["blue"].connections == 3


async def test_private_ones_answer_on_their_machine_only() -> None:
    async with world() as w:
        w.route(public=False)
        assert (await w.ask()).status == 200


# --- mirrors


async def test_mirrored_requests_never_delay_an_answer() -> None:
    async with world("blue", "shadow") as w:
        w.backings["shadow"].gate.clear()
        w.route(mirror=(("shadow", 50),), traffic={"blue": 100})
        line = await w.open()
        for number in range(100):
            line.send(b"%d" % number)
            assert (await line.answer()).headers["azureml-model-deployment"] == "blue"
        line.close()
        shadow = w.backings["shadow"]
        await until(lambda: len(shadow.heads) == 50)
        assert set(shadow.bodies) <= set(w.backings["blue"].bodies)
        shadow.gate.set()
        await until(lambda: not w.gateway.report()["in_flight"])


async def test_a_mirror_that_is_gone_hurts_nobody() -> None:
    async with world("blue", "shadow") as w:
        await w.backings["shadow"].stop()
        w.route(mirror=(("shadow", 100),), traffic={"blue": 100}, queue_wait_s=0.05)
        for _ in range(5):
            assert (await w.ask()).status == 200
        await until(lambda: not w.gateway.dispatcher.active)


async def test_the_stop_waits_for_what_is_under_way() -> None:
    async with world() as w:
        blue = w.backings["blue"]
        blue.gate.clear()
        asked = asyncio.create_task(w.ask())
        idle = await w.open()
        await until(lambda: blue.heads)
        stopping = asyncio.create_task(w.gateway.drain(60))
        assert await idle.ended() == b""
        blue.gate.set()
        answer = await asked
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await stopping

"""Tests of HttpRunner against hostile servers: broken, slow, endless and explosive ones."""

import base64
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import AnyByteStream, SocketAttribute, SocketStream

from runners.http.addresses import Address
from schemas import Limits, Status
from tests.integration.http_support import (
    BROKEN,
    OPEN,
    PATIENCE,
    SHORT,
    Certificate,
    Connection,
    HttpServer,
    Names,
    Recorder,
    accepting,
    closed_port,
    fetch,
    finished,
    full_backlog,
    greet,
    make_certificate,
    open_descriptors,
    prepared,
    raw,
    redirecting,
    serving,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Have a certificate that nobody trusts."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_name_that_does_not_exist() -> None:
    """Nothing was sent; another try may help."""
    result = await fetch("http://no-such-host.invalid/", method="POST")
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "dns_error")
    assert (result.retryable, result.side_effect) == (True, None)
    assert result.error.startswith("the host 'no-such-host.invalid' was not found: ")


async def test_a_name_server_that_is_silent() -> None:
    """Resolving is part of connecting, and has its time."""

    async def silent(host: str, port: int) -> Sequence[Address]:
        await anyio.sleep_forever()
        raise AssertionError

    result = await fetch("http://silent.test/", resolver=silent, connect_timeout=SHORT)
    assert (result.error_code, result.error) == ("dns_error", "the host 'silent.test' was not resolved within 0.3 s")


async def test_a_port_where_nobody_listens() -> None:
    """The system's own words are in the sentence."""
    result = await fetch(f"http://127.0.0.1:{closed_port()}/", method="POST")
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "connect_error")
    assert (result.retryable, result.side_effect, result.http) == (True, None, None)
    assert "refused" in result.error


async def test_a_name_without_an_address() -> None:
    """There is nowhere to connect to."""
    result = await fetch("http://empty.test/", resolver=Names(empty_test=[[]]))
    assert (result.error_code, result.error) == ("dns_error", "the host 'empty.test' has no address")


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
@pytest.mark.parametrize(("method", "retryable", "effect"), [("GET", True, None), ("POST", False, "unknown")])
async def test_a_redirect_that_leads_nowhere(host: str, method: str, retryable: Any, effect: str | None) -> None:
    """The first request was sent, and has perhaps done what it should."""
    async with serving(redirecting(f"http://{host}:{closed_port()}/", "303 See Other")) as server:
        result = await fetch(server.url(), method=method, follow_redirects=True)
    assert (result.status, result.error_code) == ("failed", "connect_error" if host == "127.0.0.1" else "dns_error")
    assert (result.retryable, result.side_effect) == (retryable, effect)


async def test_a_server_that_does_not_accept() -> None:
    """Connecting has a time of its own."""
    with full_backlog() as port:
        result = await fetch(f"http://127.0.0.1:{port}/", connect_timeout=SHORT)
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "connect_timeout")
    assert (result.retryable, result.error) == (True, "the server could not be connected to in time")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "the server does not keep to HTTP: Receive buffer too long"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1_000_000, "the server does not keep to HTTP: Receive buffer too long"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the server does not keep to HTTP: illegal status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n", "the server does not keep to HTTP: bad Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the server does not keep to HTTP: "),
    ],
)
@pytest.mark.parametrize(("method", "retryable"), [("GET", True), ("POST", False)])
async def test_an_answer_that_is_no_http(answer: bytes, sentence: str, method: str, retryable: Any) -> None:
    """Neither endless headers nor another protocol get far."""
    async with serving(raw(answer)) as server:
        result = await fetch(server.url(), method=method)
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "http_protocol")
    assert result.error.startswith(sentence)
    assert result.retryable == retryable


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        (b"", "waited for the response"),
        (b"HTTP/1.1 200 O", "waited for the response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "received the body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "received the body"),
    ],
)
@pytest.mark.parametrize(("method", "retryable", "effect"), [("GET", True, None), ("POST", False, "unknown")])
async def test_a_connection_that_breaks(
    answer: bytes, stage: str, method: str, retryable: Any, effect: str | None
) -> None:
    """What came until then is kept; what a POST has done nobody knows."""
    async with serving(raw(answer)) as server:
        result = await fetch(server.url(), method=method)
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "read_error")
    assert result.error == f"the connection broke while the task {stage}"
    assert (result.retryable, result.side_effect) == (retryable, effect)
    assert result.output == ("half" if stage == "received the body" else "")


async def test_a_connection_that_is_reset() -> None:
    """The rude way to break it."""

    async def reset(stream: AnyByteStream) -> None:
        await stream.receive()
        assert isinstance(stream, SocketStream)
        linger = struct.pack("ii", 1, 0)
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with accepting(reset) as server:
        result = await fetch(server.url())
    assert (result.error_code, result.retryable) == ("read_error", True)


async def test_a_server_that_falls_silent() -> None:
    """Between two reads there is a time, too, and the sentence names its parameter."""

    async def stall(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await connection.gone()

    async with serving(stall) as server:
        result = await fetch(server.url(), read_timeout=SHORT)
    assert (result.error_code, result.output) == ("read_error", "half")
    assert result.error == "no byte moved within the `read_timeout` while the task received the body"


async def test_a_server_that_does_not_listen() -> None:
    """Of a body that is too large for the buffers on the way, some must move, too."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        result = await fetch(url, method="POST", body="x" * 20_000_000, read_timeout=SHORT)
    assert (result.error_code, result.retryable, result.side_effect) == ("read_error", False, "unknown")
    assert result.error == "no byte moved within the `read_timeout` while the task sent the request"


async def test_an_error_that_comes_before_the_whole_request_was_sent() -> None:
    """A server that answers early and closes is heard."""

    async def refuse(stream: AnyByteStream) -> None:
        await stream.receive(100)
        await stream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")

    async with accepting(refuse) as server:
        result = await fetch(server.url(), method="POST", body="x" * 10_000_000)
    assert result.error_code in {"http_status", "read_error"}, "a reset may overtake the answer"


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_a_certificate_that_nobody_signed(certificate: Certificate) -> None:
    """It is not accepted, and another try would not help."""
    async with serving(greet, certificate.context) as server:
        result = await fetch(server.url(host="localhost"))
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "tls_error")
    assert (result.retryable, server.requests) == (False, [])
    assert result.error == "the certificate of the server is not trusted: self-signed certificate (verify_code 18)"


async def test_a_task_s_own_certificate(certificate: Certificate) -> None:
    """In the profile `open` a task says whom to trust; the name is still checked, also at a pinned address."""
    async with serving(greet, certificate.context) as server:
        options = {"verify": certificate.pem, "policy": OPEN}
        names = Names(named_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
        trusted = await fetch(server.url(host="named.test"), resolver=names, **options)
        mistaken = await fetch(server.url(host="other.test"), resolver=names, **options)
    assert (trusted.status, trusted.output) == (Status.SUCCESS, "hello\n")
    assert trusted.http is not None
    assert "tls" in trusted.http.elapsed
    assert (mistaken.error_code, len(server.requests)) == ("tls_error", 1)
    assert "Hostname mismatch" in mistaken.error


async def test_the_server_name_is_the_url_s(certificate: Certificate) -> None:
    """SNI is the name, although the connection is made to an address."""
    seen: list[str | None] = []
    certificate.context.sni_callback = lambda _socket, name, _context: seen.append(name)
    try:
        async with serving(greet, certificate.context) as server:
            await fetch(
                server.url(host="named.test"), resolver=Names(named_test=[["127.0.0.1"]]), verify=False, policy=OPEN
            )
    finally:
        certificate.context.sni_callback = None
    assert seen == ["named.test"]


async def test_verification_can_be_left_out_where_the_profile_allows_it(certificate: Certificate) -> None:
    """That is `open` alone."""
    async with serving(greet, certificate.context) as server:
        assert (await fetch(server.url(), verify=False, policy=OPEN)).status is Status.SUCCESS


async def test_certificates_that_are_none() -> None:
    """They are refused before anything is sent."""
    result = await fetch("https://127.0.0.1/", verify="no certificate", policy=OPEN)
    assert (result.status, result.error_code) == ("error", "invalid_task")
    assert result.error == "in `args`: `verify` holds no PEM certificates"


async def test_a_handshake_that_is_broken_off() -> None:
    """Nothing was sent, and nothing is known against the server: another try may help."""

    async def hang_up(stream: AnyByteStream) -> None:
        await stream.receive()

    async with accepting(hang_up) as server:
        result = await fetch(f"https://127.0.0.1:{server.port}/", method="POST")
    assert (result.error_code, result.retryable, result.side_effect) == ("tls_error", True, None)
    assert result.error == "the server broke off the TLS handshake"


async def test_a_server_without_tls() -> None:
    """It answers a handshake with HTTP."""

    async def answer(stream: AnyByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with accepting(answer) as server:
        result = await fetch(f"https://127.0.0.1:{server.port}/")
    assert (result.error_code, result.retryable) == ("tls_error", False)


async def test_a_handshake_that_does_not_end() -> None:
    """It is part of connecting."""

    async def stall(stream: AnyByteStream) -> None:
        await anyio.sleep_forever()

    async with accepting(stall) as server:
        result = await fetch(f"https://127.0.0.1:{server.port}/", connect_timeout=SHORT)
    assert (result.error_code, result.error) == ("connect_timeout", "the TLS handshake did not end in time")


@pytest.mark.parametrize("verb", ["stop", "kill"])
async def test_a_handshake_that_is_stopped(verb: str) -> None:
    """Its connection is closed, too."""
    begun, gone = anyio.Event(), anyio.Event()

    async def stall(stream: AnyByteStream) -> None:
        await stream.receive()
        begun.set()
        with pytest.raises(BROKEN):
            await stream.receive()
        gone.set()

    async with accepting(stall) as server, anyio.create_task_group() as tasks:
        runner = prepared(f"https://127.0.0.1:{server.port}/", method="POST")
        tasks.start_soon(finished, runner)
        with anyio.fail_after(PATIENCE):
            await begun.wait()
            getattr(runner, verb)()
            await gone.wait()
    assert runner.result is not None
    assert (runner.result.status, runner.result.side_effect) == (Status.CANCELED, None)
    assert runner.result.error.endswith(" while it made the connection secure")


async def test_a_redirect_from_https_to_http_is_not_followed(certificate: Certificate) -> None:
    """What was secure stays secure."""
    async with serving(greet) as plain, serving(redirecting(plain.url()), certificate.context) as server:
        result = await fetch(server.url(), follow_redirects=True, verify=certificate.pem, policy=OPEN)
    assert (result.error_code, plain.connections) == ("redirect_blocked", 0)
    assert result.error == "a redirect was not followed: it leads from https to http"


# -- time --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def endless(beginning: bytes, piece: bytes, pause: float = 0.0) -> AsyncIterator[HttpServer]:
    """Have a server that sends a beginning, and then one piece after the other for ever, `pause` seconds apart."""

    async def handle(connection: Connection) -> None:
        await connection.send(beginning)
        while True:
            await connection.send(piece)
            await anyio.sleep(pause)

    async with serving(handle) as server:
        yield server


@pytest.mark.parametrize(
    ("beginning", "piece", "stage"),
    [
        (b"", b"H", "waited for the response"),
        (b"HTTP/1.1 200 OK\r\n", b"x", "waited for the response"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", "waited for the response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x", "received the body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", "received the body"),
    ],
    ids=["status line", "header", "endless 1xx", "body", "chunks"],
)
async def test_a_slow_server_does_not_stretch_the_time_out(beginning: bytes, piece: bytes, stage: str) -> None:
    """One deadline counts for everything, however much keeps coming; the sentence says what it was at."""
    async with endless(beginning, piece, pause=0.01) as server:
        result = await fetch(server.url(), seconds=SHORT)
        with anyio.fail_after(PATIENCE):
            await server.left.wait()
    assert (result.status, result.error_class, result.error_code) == ("timeout", "timeout", "timeout")
    assert result.error == f"the task ran longer than its time-out of 0.3 s while it {stage}"
    assert result.duration < PATIENCE * 1000


async def test_a_flood_of_1xx_does_not_stretch_the_time_out() -> None:
    """Not even as fast as they can be sent."""

    async with endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000) as server:
        result = await fetch(server.url(), seconds=SHORT)
    assert (result.status, result.error_code) == ("timeout", "timeout")


async def test_a_time_out_while_connecting() -> None:
    """The deadline counts from the first attempt."""
    with full_backlog() as port:
        result = await fetch(f"http://127.0.0.1:{port}/", method="POST", seconds=SHORT)
    assert (result.status, result.side_effect, result.http) == ("timeout", None, None)
    assert result.error == "the task ran longer than its time-out of 0.3 s while it connected"


@pytest.mark.parametrize("verb", ["stop", "kill"])
@pytest.mark.parametrize(
    ("beginning", "stage"),
    [(b"", "waited for the response"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "received the body")],
)
@pytest.mark.parametrize(("method", "effect"), [("GET", None), ("POST", "unknown")])
async def test_stop_and_kill_close_the_connection(
    verb: str, beginning: bytes, stage: str, method: str, effect: str | None
) -> None:
    """At once, whatever the grace; what a POST has done nobody knows."""
    begun, gone = anyio.Event(), anyio.Event()

    async def hang(connection: Connection) -> None:
        await connection.send(beginning)
        begun.set()
        await connection.gone()
        gone.set()

    async with serving(hang) as server, anyio.create_task_group() as tasks:
        runner = prepared(server.url(), method=method)
        tasks.start_soon(finished, runner)
        with anyio.fail_after(PATIENCE):
            await begun.wait()
            if beginning:
                assert isinstance(runner.context.reporter, Recorder)
                await runner.context.reporter.wrote.wait()
            getattr(runner, verb)(by="me")
            await gone.wait()
    result = runner.result
    assert result is not None
    assert (result.status, result.error_code) == ("canceled", "stopped" if verb == "stop" else "killed")
    assert result.side_effect == effect
    assert result.error == f"the task was {result.error_code} by me while it {stage}"
    assert result.output == ("half" if beginning else "")
    assert (result.http is not None) == bool(beginning)


# -- size and encodings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "status", "code"), [("truncate", "success", None), ("fail", "failed", "body_limit")])
@pytest.mark.parametrize("limit", [1000, 1_000_000])
async def test_an_endless_body_is_read_up_to_the_limit(mode: str, status: str, code: str | None, limit: int) -> None:
    """Then the connection is closed, nothing drained."""
    async with endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536) as server:
        result = await fetch(server.url(), output_limit=limit, on_body_limit=mode)
        with anyio.fail_after(PATIENCE):
            await server.left.wait()
    assert (result.status, result.error_code) == (status, code)
    assert (result.streams.stdout.bytes, result.streams.stdout.truncated) == (limit, True)
    assert (result.output_complete, result.streams.stdout.sha256) == (False, None)
    assert result.warnings == (f"the body has more than {limit} bytes: the rest was not received",)
    assert (result.error, result.side_effect) == (result.warnings[0] if code else "", None)
    assert len(result.output) == min(limit, 131072)


async def test_a_body_of_just_the_limit_is_whole() -> None:
    """The limit is what may be kept."""
    async with serving(lambda connection: connection.answer(body=b"x" * 1000)) as server:
        result = await fetch(server.url(), output_limit=1000, on_body_limit="fail")
    assert (result.status, result.streams.stdout.truncated, result.output_complete) == (Status.SUCCESS, False, True)


def bare_deflate(data: bytes) -> bytes:
    """Return what some servers call deflate."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello\n")),
        ("X-GZIP", gzip.compress(b"hel") + gzip.compress(b"lo\n")),
        ("deflate", zlib.compress(b"hello\n")),
        ("deflate", bare_deflate(b"hello\n")),
        ("identity", b"hello\n"),
        (" , identity", b"hello\n"),
    ],
)
async def test_one_encoding_is_undone(encoding: str, body: bytes) -> None:
    """Although none was asked for."""
    async with serving(lambda connection: connection.answer(body=body, Content_Encoding=encoding)) as server:
        result = await fetch(server.url())
    assert (result.status, result.output) == (Status.SUCCESS, "hello\n")
    assert result.http is not None
    assert result.http.decoded


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip, gzip", gzip.compress(gzip.compress(b"hello"))), ("br", b"\x8b\x02\x80"), ("gzip,deflate", b"\0")],
)
async def test_other_encodings_are_left_alone(encoding: str, body: bytes) -> None:
    """The body is kept as it came, and the Result says so."""
    async with serving(lambda connection: connection.answer(body=body, Content_Encoding=encoding)) as server:
        result = await fetch(server.url())
    assert (result.status, result.streams.stdout.encoding) == (Status.SUCCESS, "base64")
    assert base64.b64decode(result.output) == body
    assert result.http is not None
    assert not result.http.decoded


@pytest.mark.parametrize(("mode", "code"), [("truncate", None), ("fail", "body_limit")])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_does_not_go_off(encoding: str, mode: str, code: str | None) -> None:
    """Of 64 MiB of nothing only the beginning is unpacked."""
    nothing = b"\0" * 2**26
    bomb = gzip.compress(nothing) if encoding == "gzip" else zlib.compress(nothing)
    async with serving(lambda connection: connection.answer(body=bomb, Content_Encoding=encoding)) as server:
        result = await fetch(server.url(), on_body_limit=mode)
    assert (result.error_code, result.output_complete, result.streams.stdout.truncated) == (code, False, True)
    assert 2**20 < result.streams.stdout.bytes < 2**23
    assert result.warnings == ("the body becomes more than 100 times larger when decoded: the rest was not received",)


async def test_a_bomb_in_a_bomb_is_left_packed() -> None:
    """Two layers are not even looked into."""
    bomb = gzip.compress(gzip.compress(b"\0" * 2**24))
    async with serving(lambda connection: connection.answer(body=bomb, Content_Encoding="gzip, gzip")) as server:
        result = await fetch(server.url())
    assert (result.status, result.streams.stdout.bytes) == (Status.SUCCESS, len(bomb))


async def test_an_endless_body_that_comes_to_nothing_is_limited_too() -> None:
    """What is received counts, not only what becomes of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    async with endless(head, gzip.compress(b"") * 1000) as server:
        result = await fetch(server.url(), output_limit=200_000)
    assert (result.status, result.streams.stdout.bytes, result.output_complete) == (Status.SUCCESS, 0, False)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"no gzip at all", "the body is not valid gzip"),
        (gzip.compress(b"hello")[:-6], "the body ends before its gzip does"),
    ],
)
async def test_a_body_that_is_not_in_its_encoding(body: bytes, sentence: str) -> None:
    """The server does not keep to the protocol."""
    async with serving(lambda connection: connection.answer(body=body, Content_Encoding="gzip")) as server:
        result = await fetch(server.url())
    assert (result.status, result.error_class, result.error_code) == ("failed", "network", "http_protocol")
    assert result.error == sentence


# -- limits and what a request has no use for --------------------------------------------------------------------------


async def test_limits_that_no_request_can_be_held_to_are_reported_so() -> None:
    """Only the output is limited; the rest is said to be enforced by none."""
    limits = Limits(memory=2**20, output=1000)  # type: ignore[arg-type]
    async with serving(greet) as server:
        result = await fetch(server.url(), task={"limits": limits})
        required = await fetch(server.url(), task={"limits": limits, "limits_policy": "require"})
    assert {name: one.enforced_by for name, one in result.limits.items()} == {"memory": "none", "output": "worker"}
    assert (required.status, required.error_code) == ("error", "limit_unsupported")
    assert server.connections == 1


async def test_many_requests_leave_nothing_behind() -> None:
    """Descriptors and threads are as before, whatever became of the requests."""

    async def various(connection: Connection) -> None:
        match connection.request.line.split()[1]:
            case "/break":
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            case "/long":
                await connection.answer(body=b"x" * 500_000)
            case "/hang":
                await connection.gone()
            case _:
                await connection.answer(body=b"hello")

    async with serving(various) as server:
        await fetch(server.url(host="localhost"))
        before = open_descriptors()
        for _ in range(50):
            for path, options in {
                "/": {},
                "/break": {},
                "/long": {"output_limit": 1000},
                "/hang": {"read_timeout": 0.01},
            }.items():
                await fetch(server.url(path, host="localhost"), **options)
        assert server.connections == 201
        with anyio.fail_after(PATIENCE):
            while open_descriptors() > before:  # noqa: ASYNC110 - the server's ends send no event
                await anyio.sleep(0.01)

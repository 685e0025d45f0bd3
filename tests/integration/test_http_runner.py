"""Tests of HttpRunner against real servers: what is sent, what is made of the answer, and where it may go."""

import base64
import json
from typing import Any

import anyio
import pytest

from runners.context import Policy
from schemas import Cause, Status
from tests.integration.http_support import (
    METADATA,
    PATIENCE,
    STRICT,
    Connection,
    Names,
    Recorder,
    closed_port,
    fetch,
    finished,
    greet,
    prepared,
    raw,
    redirecting,
    serving,
)

pytestmark = pytest.mark.anyio


# -- the answer --------------------------------------------------------------------------------------------------------


async def test_a_response_becomes_the_result() -> None:
    """Body, status, headers, URL and the time of each phase are there; a request has no exit code."""
    async with serving(greet) as server:
        result = await fetch(server.url("/path?q=1#part"))
    assert (result.status, result.output, result.exit_code, result.error) == (Status.SUCCESS, "hello\n", None, "")
    assert result.http is not None
    assert (result.http.status_code, result.http.url) == (200, server.url("/path?q=1"))
    assert result.http.headers == {"content-length": "6"}
    assert result.http.elapsed.keys() == {"dns", "connect", "request", "response", "body", "total"}
    assert sum(result.http.elapsed.values()) <= 2.01 * result.http.elapsed["total"]
    assert result.termination is not None
    assert (result.termination.cause, result.streams.stdout.truncated) == (Cause.EXIT, False)
    assert (result.http.decoded, result.output_complete, result.side_effect) == (True, True, None)


async def test_the_request_is_what_the_task_says() -> None:
    """Method, path, headers and body arrive; `Host` is the URL's; nothing of ours is added that could surprise."""
    async with serving(greet) as server:
        await fetch(server.url("/x?a=b"), method="put", headers={"X-One": " 1 "}, body="text ü")
    request = server.requests[0]
    assert (request.line, request.body) == ("PUT /x?a=b HTTP/1.1", "text ü".encode())
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "jetrunner",
        "x-one": "1",
        "content-length": "7",
    }


@pytest.mark.parametrize(
    ("parameters", "body", "content_type"),
    [
        ({"body": {"a": [1, None]}}, b'{"a":[1,null]}', "application/json"),
        ({"body": [1]}, b"[1]", "application/json"),
        ({"body": 0}, b"0", "application/json"),
        ({"body": {"a": 1}, "headers": {"content-type": "application/x"}}, b'{"a":1}', "application/x"),
        ({"body": '{"message": "hello"}'}, b'{"message": "hello"}', None),
        ({"body_base64": "/wA="}, b"\xff\0", None),
        ({}, b"", None),
    ],
)
async def test_a_body_is_text_json_or_bytes(parameters: dict[str, Any], body: bytes, content_type: str | None) -> None:
    """A string is sent as it stands, bytes as base64 says, any other value as JSON."""
    async with serving(greet) as server:
        await fetch(server.url(), method="POST", **parameters)
    assert server.requests[0].body == body
    assert server.requests[0].headers.get("content-type") == content_type
    assert server.requests[0].headers["content-length"] == str(len(body))


async def test_the_start_is_told_without_credentials() -> None:
    """A `started` event names the URL."""
    async with serving(greet) as server:
        runner = prepared(server.url("/?token=hush-hush", host="me:secret-word@127.0.0.1"))
        await finished(runner)
    assert isinstance(runner.context.reporter, Recorder)
    assert runner.context.reporter.start == {"url": server.url("/?token=[REDACTED]")}


@pytest.mark.parametrize(
    ("status", "expected", "ended"),
    [
        ("204 No Content", None, Status.SUCCESS),
        ("404 Not Found", None, Status.FAILED),
        ("404 Not Found", [200, "400-404"], Status.SUCCESS),
        ("200 OK", 201, Status.FAILED),
        ("503 Service Unavailable", "2xx,5xx", Status.SUCCESS),
        ("302 Found", None, Status.FAILED),
        ("304 Not Modified", "3xx", Status.SUCCESS),
    ],
)
async def test_a_status_is_a_success_if_it_is_expected(status: str, expected: Any, ended: Status) -> None:
    """By default 200 to 299 are; any other fails the task, and the sentence says both."""
    async with serving(lambda connection: connection.answer(status)) as server:
        result = await fetch(server.url(), **({} if expected is None else {"expected_status": expected}))
    assert result.status is ended
    assert result.http is not None
    assert result.http.status_code == int(status[:3])
    if ended is Status.FAILED:
        assert (result.error_class, result.error_code) == ("execution", "http_status")
        assert result.error == f"the server answered {status}; expected was {expected or '200-299'}"


@pytest.mark.parametrize(
    ("status", "parameters", "retryable"),
    [
        *((f"{status} X", {}, True) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((f"{status} X", {}, False) for status in (301, 400, 401, 404, 409, 410)),
        ("503 X", {"method": "PUT"}, True),
        ("503 X", {"method": "DELETE"}, True),
        ("503 X", {"method": "POST"}, False),
        ("503 X", {"method": "PATCH"}, False),
        ("503 X", {"method": "POST", "headers": {"Idempotency-Key": "mine"}}, True),
    ],
)
async def test_another_try_is_worth_it_where_it_may_help_and_does_no_harm(
    status: str, parameters: dict[str, Any], retryable: Any
) -> None:
    """Temporary statuses are retryable, if the request is idempotent: by its method, or by a key of the task's own."""
    async with serving(lambda connection: connection.answer(status)) as server:
        result = await fetch(server.url(), **parameters)
    assert (result.error_code, result.retryable) == ("http_status", retryable)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("soon", None)])
async def test_the_server_says_when_to_come_back(header: str, seconds: float | None) -> None:
    """`Retry-After`, in seconds or as a date, is in the Result."""
    async with serving(lambda connection: connection.answer("503 Busy", Retry_After=header)) as server:
        result = await fetch(server.url())
    assert (result.retryable, result.retry_after) == (True, seconds)


async def test_a_binary_body_is_base64() -> None:
    """What is no text is kept all the same."""
    async with serving(lambda connection: connection.answer(body=b"\xff\0x")) as server:
        result = await fetch(server.url())
    assert (result.streams.stdout.encoding, base64.b64decode(result.output)) == ("base64", b"\xff\0x")


async def test_a_body_is_passed_on_as_it_comes() -> None:
    """The first part is out while the server still holds back the second."""
    second = anyio.Event()

    async def handle(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await second.wait()
        await connection.send(b"6\r\nsecond\r\n0\r\n\r\n")

    async with serving(handle) as server, anyio.create_task_group() as tasks:
        runner = prepared(server.url())
        tasks.start_soon(finished, runner)
        assert isinstance(runner.context.reporter, Recorder)
        with anyio.fail_after(PATIENCE):
            await runner.context.reporter.wrote.wait()
        assert (runner.context.reporter.stdout, runner.status) == (b"first", Status.RUNNING)
        second.set()
    assert runner.result is not None
    assert runner.result.output == "firstsecond"


async def test_a_response_without_a_length_ends_with_its_connection() -> None:
    """As HTTP/1.0 has it."""
    async with serving(raw(b"HTTP/1.0 200 OK\r\n\r\nall of it")) as server:
        result = await fetch(server.url())
    assert (result.status, result.output) == (Status.SUCCESS, "all of it")


# -- what is not shown -------------------------------------------------------------------------------------------------


async def test_secrets_of_the_request_are_not_in_the_result() -> None:
    """A server that echoes credentials does not get them into output, headers or URL."""

    async def echo(connection: Connection) -> None:
        seen = json.dumps(connection.request.headers).encode()
        await connection.answer(body=seen, X_Echo=connection.request.headers["authorization"])

    async with serving(echo) as server:
        cookies = "session=s3ss10n-value; b=c"
        given = {"Authorization": "Bearer abcdef-123456", "Cookie": cookies, "X-Api-Key": "key-12345"}
        result = await fetch(server.url(), headers=given)
        assert server.requests[0].headers["authorization"] == "Bearer abcdef-123456"
    for secret in ("abcdef-123456", "s3ss10n-value", "key-12345"):
        assert secret not in str(result)
    assert result.http is not None
    assert "[REDACTED]" in result.http.headers["x-echo"]


async def test_the_url_s_user_and_password_become_a_header() -> None:
    """They are sent as basic authorization, and shown nowhere."""

    async def echo(connection: Connection) -> None:
        await connection.answer(body=base64.b64decode(connection.request.headers["authorization"].split()[1]))

    async with serving(echo) as server:
        result = await fetch(server.url(host="me:p%40ss-word@127.0.0.1"))
    assert server.requests[0].headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss-word').decode()}"
    assert (result.output, result.http and result.http.url) == ("me:[REDACTED]", server.url())


async def test_a_response_s_own_secrets_are_not_shown() -> None:
    """Cookies, tokens, and what a link is signed with."""
    link = "https://me:pass-word@example.org/x?a=1&X-Amz-Signature=0123456789"
    headers = {"Set_Cookie": "a=b", "X_Auth_Token": "t0ken", "Content_Location": link, "ETag": "1"}
    async with serving(lambda connection: connection.answer(**headers)) as server:
        result = await fetch(server.url())
    assert result.http is not None
    assert result.http.headers == {
        "set-cookie": "[REDACTED]",
        "x-auth-token": "[REDACTED]",
        "content-location": "https://example.org/x?a=1&X-Amz-Signature=[REDACTED]",
        "etag": "1",
        "content-length": "0",
    }


async def test_16_kib_of_headers_are_kept() -> None:
    """What is beyond is left out, with a warning."""
    headers = {f"x-{number:02}": "v" * 1000 for number in range(40)}
    async with serving(lambda connection: connection.answer(**headers)) as server:
        result = await fetch(server.url())
    assert result.http is not None
    assert len(result.http.headers) == 16
    assert result.warnings == ("response headers beyond 16384 bytes are left out",)


async def test_proxies_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would move the connection out of the guard."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    async with serving(greet) as server:
        assert (await fetch(server.url())).status is Status.SUCCESS


async def test_a_trace_is_handed_on() -> None:
    """The context's headers are in the request, unless the task gives its own."""
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
    async with serving(greet) as server:
        await fetch(server.url(), trace=trace)
        await fetch(server.url(), trace=trace, headers={"Traceparent": "mine"})
    assert [server.requests[0].headers.get(name) for name in trace] == [*trace.values()]
    assert server.requests[1].headers["traceparent"] == "mine"


@pytest.mark.parametrize(
    ("method", "headers", "key"),
    [
        ("GET", {}, None),
        ("PUT", {}, None),
        ("DELETE", {}, None),
        ("POST", {}, "t-1"),
        ("PATCH", {}, "t-1"),
        ("POST", {"idempotency-key": "mine"}, "mine"),
    ],
)
async def test_a_request_that_is_not_idempotent_has_a_key(method: str, headers: dict[str, str], key: str) -> None:
    """It is the task's id, so that the server can tell another attempt from another task."""
    async with serving(greet) as server:
        await fetch(server.url(), method=method, headers=headers)
    assert server.requests[0].headers.get("idempotency-key") == key


# -- redirects ---------------------------------------------------------------------------------------------------------


async def test_redirects_are_not_followed_unless_asked_for() -> None:
    """The redirect itself is the answer."""
    async with serving(redirecting("/elsewhere")) as server:
        result = await fetch(server.url())
    assert (result.error_code, len(server.requests)) == ("http_status", 1)
    assert result.http is not None
    assert (result.http.status_code, result.http.headers["location"]) == (302, "/elsewhere")


async def test_even_a_location_that_is_no_url_is_reported_as_it_is() -> None:
    """Nobody asked where it leads."""
    async with serving(redirecting("http://[oops")) as server:
        result = await fetch(server.url(), expected_status="302")
    assert result.status is Status.SUCCESS


@pytest.mark.parametrize(
    ("status", "method", "arrives"),
    [
        ("301 X", "GET", "GET"),
        ("301 X", "POST", "GET"),
        ("302 X", "POST", "GET"),
        ("303 X", "PUT", "GET"),
        ("303 X", "HEAD", "HEAD"),
        ("307 X", "POST", "POST"),
        ("308 X", "PUT", "PUT"),
    ],
)
async def test_a_redirect_within_an_origin_takes_headers_along(status: str, method: str, arrives: str) -> None:
    """Method and body change as RFC 9110 has it; the Result tells the last URL."""

    async def handle(connection: Connection) -> None:
        if connection.request.line.split()[1] == "/a":
            await connection.answer(status, Location="b?x=1", Set_Cookie="seen=yes")
        else:
            await connection.answer(body=b"" if method == "HEAD" else b"there")

    async with serving(handle) as server:
        body = {} if method in {"GET", "HEAD"} else {"body": "data"}
        result = await fetch(server.url("/a"), method=method, headers={"X-Mine": "1"}, follow_redirects=True, **body)
    last = server.requests[1]
    assert last.line == f"{arrives} /b?x=1 HTTP/1.1"
    assert last.body == (b"data" if arrives in {"POST", "PUT"} else b"")
    assert (last.headers["x-mine"], last.headers["cookie"]) == ("1", "seen=yes")
    assert ("idempotency-key" in last.headers) == (arrives == "POST")
    assert (result.status, result.http and result.http.url) == (Status.SUCCESS, server.url("/b?x=1"))


async def test_another_origin_gets_none_of_the_task_s_headers() -> None:
    """Only what may be told to anybody: `Accept*`, `Content-Type` and `User-Agent`."""
    headers = {
        "Authorization": "Bearer abcdef-123456",
        "Cookie": "a=bcdefghi",
        "X-Mine": "1",
        "Accept": "text/x",
        "User-Agent": "me",
    }
    async with serving(greet) as other, serving(redirecting(other.url())) as server:
        url = server.url(host="me:pass-word@127.0.0.1")
        result = await fetch(url, headers=headers, follow_redirects=1)
    assert result.status is Status.SUCCESS
    assert "authorization" in server.requests[0].headers
    assert other.requests[0].headers == {
        "host": f"127.0.0.1:{other.port}",
        "accept": "text/x",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "me",
    }


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("ftp://127.0.0.1/", "its `Location` must begin with http:// or https://"),
        ("file:///etc/passwd", "its `Location` must begin with http:// or https://"),
        ("http://127.0.0.1:0/", "its `Location` has the port 0, which is not one of 1 to 65535"),
        ("http://[oops", "its `Location` has the host '%5boops', which cannot be one"),
        (f"http://{METADATA}/latest", f"{METADATA} is blocked: no task may reach metadata addresses"),
        (f"http://[::ffff:{METADATA}]/", f"({METADATA}) is blocked: no task may reach metadata addresses"),
        ("http://0.0.0.0:{port}/", "0.0.0.0 is blocked: no task may reach unspecified addresses"),
        ("http://10.0.0.1/", "10.0.0.1 is blocked: only the task's own URL may lead to private addresses"),
        ("http://[fe80::1]/", "fe80::1 is blocked: no task may reach link-local addresses"),
    ],
)
async def test_a_redirect_that_leads_astray_is_not_followed(location: str, sentence: str) -> None:
    """Scheme, port and address are checked again for each hop; nothing is sent."""
    async with serving(greet) as victim, serving(redirecting(location.replace("{port}", str(victim.port)))) as server:
        result = await fetch(server.url(), follow_redirects=True)
    assert (result.status, result.error_class, result.error_code) == ("failed", "execution", "redirect_blocked")
    assert result.error.startswith("a redirect was not followed: ")
    assert result.error.endswith(sentence)
    assert (result.retryable, victim.connections) == (False, 0)
    assert result.http is not None
    assert result.http.status_code == 302


async def test_a_redirect_within_a_class_is_followed() -> None:
    """The task's own URL has led to loopback; another port there is no further inside."""
    async with serving(greet) as other, serving(redirecting(other.url(host="localhost"))) as server:
        result = await fetch(server.url(), follow_redirects=True)
    assert (result.status, other.connections) == (Status.SUCCESS, 1)


@pytest.mark.parametrize("status", ["307 X", "308 X"])
async def test_a_body_is_not_given_to_another_origin(status: str) -> None:
    """The server it was meant for has no say in that."""
    async with serving(greet) as other, serving(redirecting(other.url(), status)) as server:
        result = await fetch(server.url(), method="POST", body="data", follow_redirects=True)
    assert (result.error_code, other.connections) == ("redirect_blocked", 0)
    assert result.error == "a redirect was not followed: it would give the body to another origin"


@pytest.mark.parametrize(("given", "requests"), [(True, 6), (2, 3), (5, 6)])
async def test_redirects_have_an_end(given: Any, requests: int) -> None:
    """A loop is left after five, or as many as the task says."""
    async with serving(redirecting("/again")) as server:
        result = await fetch(server.url(), follow_redirects=given)
    assert (result.status, result.error_code, len(server.requests)) == ("failed", "too_many_redirects", requests)
    assert result.error == f"there were more than {requests - 1} redirects; the last led to {server.url('/again')}"


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["0.0.0.0", METADATA, "[::]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "224.0.0.1"]
)
async def test_some_addresses_no_task_may_reach(host: str) -> None:
    """Whatever the URL: not a byte is sent there."""
    async with serving(greet) as server:
        result = await fetch(server.url(host=host))
    assert (result.status, result.error_class, result.error_code) == ("failed", "execution", "address_blocked")
    assert (result.retryable, result.http, server.connections) == (False, None, 0)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost"])
async def test_an_address_in_disguise_is_what_it_resolves_to(host: str) -> None:
    """The guard sees addresses, not how they are written."""
    async with serving(greet) as server:
        assert (await fetch(server.url(host=host))).status is Status.SUCCESS
        refused = await fetch(server.url(host=host), policy=STRICT)
    assert (refused.error_code, server.connections) == ("address_blocked", 1)


async def test_a_name_is_resolved_once_and_its_address_is_kept_to() -> None:
    """A name that means something else the next time changes nothing; `Host` is the name."""
    names = Names(rebinding_test=[["127.0.0.1"], [METADATA]])
    async with serving(greet) as server:
        result = await fetch(server.url(host="rebinding.test"), resolver=names)
    assert (result.status, names.asked) == (Status.SUCCESS, ["rebinding.test"])
    assert server.requests[0].headers["host"] == f"rebinding.test:{server.port}"


async def test_a_redirect_is_resolved_again_and_vetted_again() -> None:
    """The same name may be harmless at first."""
    names = Names(rebinding_test=[["127.0.0.1"], [METADATA]])
    async with serving(redirecting("/again")) as server:
        result = await fetch(server.url(host="rebinding.test"), resolver=names, follow_redirects=True)
    assert (result.error_code, names.asked, server.connections) == ("redirect_blocked", ["rebinding.test"] * 2, 1)


async def test_all_addresses_of_a_name_are_vetted() -> None:
    """One bad one is enough, wherever it stands."""
    names = Names(mixed_test=[["127.0.0.1", METADATA]])
    async with serving(greet) as server:
        result = await fetch(server.url(host="mixed.test"), resolver=names)
    assert (result.error_code, server.connections) == ("address_blocked", 0)
    assert result.error == f"mixed.test ({METADATA}) is blocked: no task may reach metadata addresses"


async def test_the_next_address_is_tried_if_one_does_not_answer() -> None:
    """A host may have an address that leads nowhere."""
    names = Names(two_test=[["127.0.0.2", "127.0.0.1"]])
    async with serving(greet) as server:
        assert (await fetch(server.url(host="two.test"), resolver=names)).status is Status.SUCCESS


async def test_where_the_worker_is_connected_no_task_may_go() -> None:
    """Its own NATS server and Docker engine take no requests from tasks."""
    async with serving(greet) as server:
        policy = Policy(own_endpoints=(f"localhost:{server.port}",))
        result = await fetch(server.url(), policy=policy)
    assert (result.error_code, server.connections) == ("address_blocked", 0)
    assert result.error == "127.0.0.1 is blocked: the worker itself is connected there"


async def test_strict_leaves_the_public_and_what_is_listed() -> None:
    """Networks of `allow_cidrs` and hosts of `allow_hosts` are open, whatever their port."""
    async with serving(greet) as server:
        closed = await fetch(server.url(), policy=STRICT)
        by_network = await fetch(server.url(), policy=Policy(profile="strict", allow_cidrs=("127.0.0.0/8",)))
        by_host = await fetch(server.url(), policy=Policy(profile="strict", allow_hosts=("127.0.0.1",)))
        other_host = await fetch(server.url(), policy=Policy(profile="strict", allow_hosts=("example.org",)))
    assert (closed.status, closed.error_code) == ("failed", "address_blocked")
    assert (by_network.status, by_host.status) == (Status.SUCCESS, Status.SUCCESS)
    assert (other_host.status, other_host.error_code) == ("error", "policy_denied")
    assert other_host.error == "the host '127.0.0.1' is not on runners.http.allow_hosts"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("profile", "parameters", "sentence"),
    [
        ("standard", {"verify": False}, "the profile `standard` allows no `verify` but true"),
        ("strict", {"verify": "PEM"}, "the profile `strict` allows no `verify` but true"),
        ("standard", {"follow_redirects": 6}, "the profile `standard` allows `follow_redirects` up to 5"),
        ("strict", {"follow_redirects": True}, "the profile `strict` allows `follow_redirects` up to 0"),
    ],
)
async def test_the_profile_bounds_what_a_task_may_ask_for(profile: Any, parameters: Any, sentence: str) -> None:
    """It is refused before anything is sent."""
    async with serving(greet) as server:
        result = await fetch(server.url(), policy=Policy(profile=profile), **parameters)
    assert (result.status, result.error_class, result.error_code) == ("error", "parameter", "policy_denied")
    assert (result.error, result.start_time, server.connections) == (sentence, None, 0)

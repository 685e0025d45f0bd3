"""Probes, asked of a real worker over HTTP, and what systemd is told of it."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx
import pytest

from consumer.errors import ConfigError
from consumer.groups import collapsed
from consumer.health.http import LONGEST_HEAD, MAX_CONNECTIONS
from consumer.health.systemd import Notifier
from tests.integration.conftest import PATIENCE, Probe, Server, Site, eventually

pytestmark = pytest.mark.anyio

HERE: Final = {"listen": "127.0.0.1:0"}


def base(caplog: pytest.LogCaptureFixture) -> str:
    """Return where the worker has said that it answers."""
    said = re.findall(r"probes are answered on (http://\S+)/readyz", caplog.text)
    assert said, caplog.text
    return str(said[-1])


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    """Hear what a worker says of its address."""
    caplog.set_level("INFO")


async def ready(url: str) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/readyz")
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


async def exchange(url: str, request: bytes) -> bytes:
    """Say something that is not necessarily HTTP, and return all that is answered before they hang up."""
    host, port = url.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request)
        answer = b""
        with anyio.fail_after(PATIENCE), suppress(anyio.BrokenResourceError):
            async for chunk in stream:
                answer += chunk
        return answer


async def test_a_worker_at_work_is_ready(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It says what it takes, and how much it has."""
    probe = Probe()
    async with site.worker(probe.registry, health=HERE, worker={"categories": ["probe"]}) as worker:
        await site.submit("probe", "t1", args={"hold": True})
        await probe.until("t1")

        async def is_ready() -> dict[str, Any] | None:
            status, told = await ready(base(caplog))
            return told if status == 200 else None

        told = await eventually(is_ready)
        probe.release()
    assert told is not None
    assert (told["status"], told["worker"], told["busy"], told["draining"]) == ("ready", worker.name, 1, False)
    assert told["categories"] == {"probe": {"pulling": True, "slots": 8, "obstacle": None}}


async def test_a_draining_worker_lives_but_is_not_ready(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Orchestrators send nothing more to it, and do not kill it either."""
    probe = Probe()
    async with site.worker(probe.registry, health=HERE, worker={"categories": ["probe"]}) as worker:
        await site.submit("probe", "t1", args={"hold": True})
        await probe.until("t1")
        worker.drain()
        status, told = await ready(base(caplog))
        async with httpx.AsyncClient() as client:
            lives = [(await client.get(f"{base(caplog)}{path}")).status_code for path in ("/livez", "/healthz")]
        probe.release()
    assert (status, told["status"], told["reason"]) == (503, "not ready", "the worker is draining")
    assert lives == [200, 200]


async def test_a_worker_without_its_server_is_not_ready(
    own_site: Site, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is back; all the while it lives, so that an outage of the server restarts no worker."""
    async with own_site.worker(health=HERE):
        server.kill()

        async def reason() -> str | None:
            status, told = await ready(base(caplog))
            return told["reason"] if status == 503 else None

        assert await eventually(reason) == "there is no connection to the server"
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{base(caplog)}/livez")).status_code == 200
        server.start()

        async def is_ready() -> bool:
            return (await ready(base(caplog)))[0] == 200

        await eventually(is_ready)


async def test_metrics_are_scraped_if_they_are_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Where they are not, that is said."""
    async with httpx.AsyncClient() as client:
        async with site.worker(health=HERE, metrics={"prometheus": True}):
            answer = await client.get(f"{base(caplog)}/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert 'jetrunner_worker_slots{category="command"' in answer.text
        async with site.worker(health=HERE):
            answer = await client.get(f"{base(caplog)}/metrics")
            assert (answer.status_code, answer.text) == (404, "set metrics.prometheus = true\n")


async def test_only_what_is_asked_in_form_is_answered(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Everything else is refused with the status for it, and nobody is kept waiting."""
    async with site.worker(health=HERE):
        url = base(caplog)
        for request, status in {
            b"GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n": 200,
            b"HEAD /livez HTTP/1.0\r\n\r\n": 200,
            b"POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi": 405,
            b"GET /nothing HTTP/1.1\r\n\r\n": 404,
            b"SSH-2.0-x\r\n\r\n": 400,
            b"\xff\x00\r\n\r\n": 400,
            b"GET /" + b"x" * 2 * LONGEST_HEAD + b" HTTP/1.1\r\n\r\n": 431,
        }.items():
            answer = await exchange(url, request)
            assert answer.startswith(b"HTTP/1.1 %d " % status), request
        assert (await exchange(url, b"HEAD /livez HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_idlers_neither_pile_up_nor_stay(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond a few connections the next is hung up on; those that say nothing are let go in time."""
    async with site.worker(health=HERE):
        host, port = base(caplog).removeprefix("http://").split(":")
        idlers = [await anyio.connect_tcp(host, int(port)) for _ in range(MAX_CONNECTIONS)]
        assert not await exchange(base(caplog), b"GET /livez HTTP/1.1\r\n\r\n")
        for idler in idlers:
            with anyio.fail_after(PATIENCE), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await idler.receive()
            await idler.aclose()
        assert (await ready(base(caplog)))[0] == 200


async def test_an_address_that_is_taken(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A configured one is an error that names it; an unconfigured one is another worker's, most likely."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"`health.listen`: .*{re.escape(listen)}"), collapsed():
            async with site.worker(health={"listen": listen}):
                pass
    for listen, reason in {"127.0.0.1:99999": "port must be 0-65535", "no.such.host.invalid:1": "[Nn]ame"}.items():
        with pytest.raises(ConfigError, match=reason), collapsed():
            async with site.worker(health={"listen": listen}):
                pass
    async with site.worker(health={}), site.worker(health={}):
        pass
    assert "probes cannot be answered on 127.0.0.1:9090" in caplog.text
    async with site.worker(health={"enabled": False}):
        pass
    assert caplog.text.count("takes tasks of") == 3


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Be systemd: its address, as in `NOTIFY_SOCKET`, and its socket."""
    address = f"@jetrunner-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(PATIENCE)
        yield address, listening


async def test_systemd_is_told(site: Site, systemd: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready, alive, and stopping."""
    address, listening = systemd
    for name, value in {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())}.items():
        monkeypatch.setenv(name, value)
    heard: list[bytes] = []

    async def hear(state: bytes) -> None:
        while not heard or heard[-1] != state:
            heard.append(await anyio.to_thread.run_sync(listening.recv, 64))

    async with site.worker():
        await hear(b"READY=1")
        await hear(b"WATCHDOG=1")
    await hear(b"STOPPING=1")
    assert heard.count(b"READY=1") == heard.count(b"STOPPING=1") == 1


async def test_a_watchdog_of_someone_else_s_is_not_fed(systemd: tuple[str, socket.socket]) -> None:
    """It is meant for the process with that pid; ours may be its child (the keeper's), not more."""
    address, listening = systemd
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1" if os.getppid() != 1 else "2"}
    await Notifier.of(environ).watch()
    listening.settimeout(0)
    with pytest.raises(BlockingIOError):
        listening.recv(64)
    Notifier.of({"NOTIFY_SOCKET": "/nowhere"}).ready()

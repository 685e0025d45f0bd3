"""Alerts on NATS and at a webhook over real HTTP, from several workers of which one looks."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import anyio
import msgspec
import pytest
from msgspec import structs
from nats.micro import add_service

from consumer.alerts.election import Election
from consumer.alerts.evaluation import Record
from consumer.jetstream import last_message
from consumer.overview import SERVICE, CategoryOverview
from schemas import decode
from schemas.alert import Alert, AlertState
from tests.integration.conftest import PATIENCE, Listener, Probe, Site, eventually

pytestmark = pytest.mark.anyio

INTERVAL: Final = 0.1


class Sink:
    """A webhook: keeps what it gets, and answers with the next of `answers`, then with 204."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.answers: list[int] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = sink.answers.pop(0) if sink.answers else 204
                if status == 204:
                    sink.alerts.append(decode(Alert, body))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/T0P-S3CR3T"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()

    async def until(self, count: int) -> list[Alert]:
        """Wait for so many alerts."""

        async def there() -> bool:
            return len(self.alerts) >= count

        await eventually(there)
        return self.alerts


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Have a webhook."""
    opened = Sink()
    yield opened
    opened.close()


def settings(sink: Sink | None = None, **rules: dict[str, Any]) -> dict[str, Any]:
    enabled = {name: {"enabled": True, **rule} for name, rule in rules.items()}
    return {"interval": INTERVAL, "webhooks": [sink.url] if sink is not None else [], **enabled}


def alerts(listener: Listener) -> list[Alert]:
    return [decode(Alert, message.data) for message in listener.messages]


async def looks(site: Site) -> Record:
    """Return the record of alerts."""
    stored = await last_message(site.connection, site.subjects.cache_stream, site.subjects.cache("alerts"))
    return msgspec.json.decode(stored.data, type=Record) if stored is not None else Record()


def led_by(site: Site, *workers: str) -> Callable[[], Awaitable[bool]]:
    async def led() -> bool:
        return (await looks(site)).leader in workers

    return led


async def test_a_dead_letter_is_told_once_by_several_workers_and_recovers(site: Site, sink: Sink) -> None:
    """On its subject and at the webhook; once it lasts no longer, that is told once, too."""
    listener = await site.listen(site.subjects.alert("*"))
    rules = settings(sink, dead={"window": 2})
    async with site.worker(alerts=rules), site.worker(alerts=rules), site.worker(alerts=rules):
        await site.publish("command", b"not JSON")
        await sink.until(2)
        await listener.count(2)
        await anyio.sleep(5 * INTERVAL)  # nothing else comes: there is no event for that
    assert [alert.state for alert in sink.alerts] == [AlertState.FIRING, AlertState.RECOVERED]
    assert alerts(listener) == sink.alerts
    assert {message.subject for message in listener.messages} == {site.subjects.alert("dead")}
    firing = sink.alerts[0]
    assert (firing.rule, firing.category, firing.prefix) == ("dead", "command", site.subjects.prefix)
    assert firing.text.startswith("command: 1 given up, the last one because: ")


async def test_whoever_looks_next_knows_what_was_told(site: Site, sink: Sink) -> None:
    """The one who looks ends; another one goes on at once, and says nothing twice."""
    rules = settings(sink, dead={"window": 3})
    async with site.worker(alerts=rules) as second:
        async with site.worker(alerts=rules) as first:
            await eventually(led_by(site, first.name, second.name))
            await site.publish("command", b"not JSON")
            await sink.until(1)
        async with site.worker(alerts=rules) as third:
            second.drain()
            await eventually(led_by(site, third.name))
            await sink.until(2)
    assert [alert.state for alert in sink.alerts] == [AlertState.FIRING, AlertState.RECOVERED]


async def test_someone_takes_over_from_who_is_gone_without_a_word(site: Site) -> None:
    """A record that nobody writes any more is anybody's, and only one gets it."""
    async with site.worker():
        pass  # the streams are there
    gone = Election(site.connection, site.subjects, "gone", INTERVAL)
    await gone.win()
    others = [Election(site.connection, site.subjects, name, INTERVAL) for name in ("a", "b")]
    won: list[str] = []

    async def win(each: Election) -> None:
        await each.win()
        won.append(each.record.leader)

    async with anyio.create_task_group() as tasks:
        for each in others:
            tasks.start_soon(win, each)
        await eventually(led_by(site, "a", "b"))
        winner = (await looks(site)).leader
        for _ in range(10):  # the winner goes on; the other one must not win
            await anyio.sleep(INTERVAL)
            await next(each for each in others if each.record.leader == winner).write(Record())
        tasks.cancel_scope.cancel()
    assert won == [winner]
    assert not await gone.write(structs.replace(gone.record))


async def test_an_error_rate_is_told_and_recovers_as_tasks_end_well_again(site: Site, sink: Sink) -> None:
    """Tasks that were canceled count neither way; what was before the one who looks is read back."""
    rules = settings(sink, error_rate={"window": 600, "threshold": 0.5, "least": 4})
    async with site.worker():
        for number in range(4):
            await site.submit("command", f"bad{number}", command="false")
        for number in range(4):
            await site.result(f"bad{number}")
    async with site.worker(alerts=rules):
        (firing,) = await sink.until(1)
        for number in range(5):
            await site.submit("command", f"good{number}", command="true")
        _, recovered = await sink.until(2)
    assert firing.text == "command: 4 of 4 tasks ended badly within 600 s"
    assert recovered.incident == firing.incident


async def test_an_old_queue_is_told_and_recovers_when_it_moves(site: Site, sink: Sink) -> None:
    """What runs is not old, whatever it takes; what waits behind it is."""
    probe = Probe()
    only = {"categories": ["probe"]}
    async with site.worker(
        probe.registry, worker={**only, "max_concurrency": 1}, alerts=settings(sink, queue_age={"older_than": 0.5})
    ):
        await site.submit("probe", "runs", args={"hold": True})
        await probe.until("runs")
        await anyio.sleep(1)  # longer than it may wait
        assert not sink.alerts
        await site.submit("probe", "waits")
        (firing,) = await sink.until(1)
        probe.release()
        await sink.until(2)
    assert firing.text.startswith("probe: a task has waited for ")


async def test_an_obstacle_of_any_worker_is_told(site: Site, sink: Sink) -> None:
    """As that worker's service tells it."""
    lacks = CategoryOverview(category="docker", slots=1, busy=0, obstacle="there is no engine")
    about = {"worker": "w9", "prefix": site.subjects.prefix, "host": "h", "pid": "1", "started": "2026-11-24T00:00:00Z"}
    async with site.worker(worker={"categories": ["command"]}, alerts=settings(sink, breaker={"lasts": 0})):
        service = await add_service(
            site.raw, name=SERVICE, version="0.1.0", metadata=about, stats_handler=lambda _: msgspec.to_builtins(lacks)
        )
        await service.add_endpoint(name="run-docker", subject=f"{site.subjects.prefix}.x", handler=_ignore)
        (firing,) = await sink.until(1)
        await service.stop()
        await sink.until(2)
    assert (firing.category, firing.text) == ("docker", "docker: no tasks are taken by w9: there is no engine")


async def _ignore(_: object) -> None:
    return


async def test_a_webhook_that_fails_is_tried_again_and_given_up(
    site: Site, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried three times; a redirect is a failure, too. The log names the host, and not the rest of the URL."""
    listener = await site.listen(site.subjects.alert("dead"))
    sink.answers = [503, 307]
    async with site.worker(alerts=settings(sink, dead={})):
        await site.publish("command", b"not JSON")
        await sink.until(1)
    sink.answers = [500] * 4
    async with site.worker(alerts=settings(sink, dead={"window": 0})):
        await eventually(lambda: _said(caplog, "was not taken by 127.0.0.1: it answered 500 Internal Server Error"))
    assert sink.answers == [500]
    assert [alert.state for alert in alerts(listener)] == [AlertState.FIRING, AlertState.RECOVERED]
    assert "T0P-S3CR3T" not in caplog.text


async def _said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text

"""Log lines: which task they are about, what they say as data, and what they never say."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from consumer.cli.logs import configure
from consumer.message import rebuilt
from consumer.request import TaskRequest, read_request
from consumer.story import ending, telling
from schemas import Result, Status, Subjects, utc_now
from schemas.result import Usage

SECRET = "correct-horse-battery"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Leave the loggers of this process as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ("consumer", "runners", "nats", "docker", "httpx")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Have what is written to stderr, which is no terminal."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure("debug")
    assert isinstance(sys.stderr, io.StringIO)
    return sys.stderr


def lines(stderr: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def request(**task: object) -> TaskRequest:
    payload = json.dumps({"id": "t1", "command": "x", **task}).encode()
    delivery = "$JS.ACK.S.command.1.7.3.1700000000000000000.0"
    return read_request(rebuilt("p.tasks.command", delivery, payload, {"traceparent": TRACEPARENT}), Subjects("p"), ())


def test_a_line_within_a_delivery_names_its_task(stderr: io.StringIO) -> None:
    """Also one of a library that knows nothing of tasks; outside of a delivery there is nothing to name."""
    with telling(request()):
        logging.getLogger("nats.aio").warning("slow")
    logging.getLogger("consumer.worker").info("idle")
    inside, outside = lines(stderr)
    assert {name: inside[name] for name in ("task_id", "category", "attempt", "trace_id")} == {
        "task_id": "t1",
        "category": "command",
        "attempt": 1,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    assert "task_id" not in outside


def test_data_is_told_as_fields(stderr: io.StringIO) -> None:
    """What is given about one task counts more than what is known from where the line was written."""
    now = utc_now()
    usage = Usage(cpu_user=0.5, cpu_system=0.25, max_rss=1024)
    result = Result(
        task_id="t2", category="command", status=Status.FAILED, start_time=now, end_time=now, duration=12,
        exit_code=0, error_code="exit_code", worker="w", usage=usage,
    )  # fmt: skip
    with telling(request()):
        data = {"task_id": "t2", **ending(result, now - timedelta(seconds=2))}
        logging.getLogger("consumer.x").info("it ended", extra=data)
    (line,) = lines(stderr)
    assert (line["task_id"], line["status"], line["duration_ms"], line["queue_wait_ms"]) == ("t2", "failed", 12, 2000)
    assert (line["exit_code"], line["error_code"], line["usage"]["max_rss"]) == (0, "exit_code", 1024)


@pytest.mark.parametrize("field", ["secret_env", "env"])
def test_a_task_s_secrets_are_in_no_line_about_it(stderr: io.StringIO, field: str) -> None:
    """Neither in messages, nor in data or tracebacks, whoever writes them."""
    with telling(request(**{field: {"API_TOKEN": SECRET}})):
        logging.getLogger("consumer.x").info("runs %s", SECRET, extra={"detail": f"<{SECRET}>"})
        try:
            int(SECRET)
        except ValueError:
            logging.getLogger("docker.api").exception("failed")
    assert SECRET not in stderr.getvalue()
    told, failed = lines(stderr)
    assert (told["message"], told["detail"]) == ("runs [REDACTED]", "<[REDACTED]>")
    assert "ValueError: invalid literal for int() with base 10: '[REDACTED]'" in failed["exception"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"https://x.example/a?sig={SECRET}&b=1", "https://x.example/a?[REDACTED]"),
        (f"nats://me:{SECRET}@n1:4222", "nats://[REDACTED]@n1:4222"),
        (f"nats://{SECRET}@n1:4222", "nats://[REDACTED]@n1:4222"),
        (f"http://me:{SECRET}@x.example?{SECRET}#top", "http://[REDACTED]@x.example?[REDACTED]#top"),
        ("http://x.example/a@b", "http://x.example/a@b"),
    ],
)
def test_urls_lose_what_may_be_secret(stderr: io.StringIO, url: str, told: str) -> None:
    """Credentials and queries are nobody's business."""
    logging.getLogger("httpx").info("HTTP Request: GET %s", url)
    assert lines(stderr)[0]["message"] == f"HTTP Request: GET {told}"


def test_libraries_tell_their_steps_on_demand_only(stderr: io.StringIO) -> None:
    """Debug is for ours and what we stand on; nothing tells the headers of a request."""
    chatty = [("httpx", logging.INFO), ("nats.aio.client", logging.DEBUG), ("docker.api", logging.DEBUG)]
    for name, level in [*chatty, ("httpcore.http11", logging.DEBUG), ("urllib3.connectionpool", logging.INFO)]:
        logging.getLogger(name).log(level, "step")
    assert [line["logger"] for line in lines(stderr)] == [name for name, _ in chatty]
    configure("info")
    stderr.truncate(0)
    for name, level in chatty:
        logging.getLogger(name).log(level, "step")
    assert not stderr.getvalue()


def test_a_person_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the task's id where the message has none."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    configure("info")
    with telling(request()):
        logging.getLogger("consumer.x").info("slow")
        logging.getLogger("consumer.x").info("task t1 is slow", extra={"status": "failed"})
    slow, named = terminal.getvalue().splitlines()
    assert slow.endswith("INFO    slow (task t1)")
    assert named.endswith("INFO    task t1 is slow")

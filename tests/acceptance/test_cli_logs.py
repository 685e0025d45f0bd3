"""What a worker says of its tasks on stderr, as JSON, since no terminal is there."""

import json
from typing import Any

from consumer.client import Client
from schemas import Task
from tests.acceptance.conftest import Running, Site

SECRET = "correct-horse-battery"
PASSWORD = "staple-of-nobody"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines(worker: Running, task_id: str) -> list[dict[str, Any]]:
    """Return what was said about a task."""
    told = [json.loads(line) for line in worker.said.splitlines()]
    return [line for line in told if line.get("task_id") == task_id]


def test_a_task_s_start_and_end_are_told(idle_site: Site) -> None:
    """One line each, with what is known of the task as fields; an end that is not good says what went wrong."""
    with idle_site.worker() as worker:
        idle_site.jetrunner("run", "command", "--id", "good", "--", "true", TRACEPARENT=TRACEPARENT)
        idle_site.jetrunner("run", "command", "--id", "bad", "--", "sh", "-c", "exit 3")
    start, end = lines(worker, "good")
    about = {"category": "command", "attempt": 1, "trace_id": TRACEPARENT[3:35], "level": "INFO"}
    assert about.items() <= start.items()
    assert about.items() <= end.items()
    assert (end["status"], end["exit_code"]) == ("success", 0)
    assert end["duration_ms"] >= 0
    assert end["queue_wait_ms"] >= 0
    assert end["usage"]["cpu_user"] >= 0
    _, end = lines(worker, "bad")
    assert (end["level"], end["status"], end["exit_code"], end["error_code"]) == (
        "WARNING",
        "failed",
        3,
        "exit_nonzero",
    )
    assert "exit code 3" in end["message"]


def test_no_secret_is_told_even_when_debugging(idle_site: Site) -> None:
    """Neither the server's password nor what a task was entrusted with, whatever it does with it."""
    url = idle_site.environ["JETRUNNER_NATS_URL"].replace("nats://", f"nats://me:{PASSWORD}@")
    env: dict[str, Any] = {"secret_env": {"KEY": SECRET}, "env": {"API_TOKEN": SECRET}}
    prints = Task(id="prints", command="sh", args=["-c", 'echo "$KEY"; echo "$API_TOKEN" >&2; exit 1'], **env)
    names = Task(id="names", command=f"/nowhere/{SECRET}", **env)

    async def run(client: Client) -> None:
        for task in (prints, names):
            await client.wait(await client.submit("command", task))

    with idle_site.worker("--log-level", "debug", JETRUNNER_NATS_URL=url) as worker:
        idle_site.call(run)
    assert "[REDACTED]" in lines(worker, "names")[-1]["message"]
    assert len(lines(worker, "prints")) >= 2
    assert SECRET not in worker.said.decode()
    assert PASSWORD not in worker.said.decode()

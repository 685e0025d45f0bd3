"""Traces and metrics as people switch them on and off: the command, its environment, an end without a collector."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from schemas import Result, decode
from tests.acceptance.conftest import Site
from tests.collector import CONSUMER, SOON, Collector, collecting

UI = "http://jaeger.example:16686"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Have a collector."""
    with collecting() as own:
        yield own


def traced(collector: Collector) -> dict[str, str]:
    """Return the environment of those that are traced."""
    return {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp, "JETRUNNER_METRICS_ENABLED": "false"}


def test_a_command_and_its_worker_tell_one_story(idle_site: Site, collector: Collector) -> None:
    """`run` prints where the story can be read; it begins with the command line's own span."""
    environ = traced(collector)
    with idle_site.worker(**environ):
        done = idle_site.jetrunner("run", "command", "--", "true", JETRUNNER_TRACING_UI_URL=f"{UI}/", **environ)
        ended = collector.trace(
            done.stderr.strip().rpartition("/")[2], lambda trace: trace.one(trace_name(idle_site, "process"))
        )
    assert done.code == 0
    publish, process = ended.one(trace_name(idle_site, "publish")), ended.one(trace_name(idle_site, "process"))
    assert f"trace: {UI}/trace/{publish.trace_id}\n" in done.stderr
    assert (publish.service, process.service) == ("jetrunner-cli", "jetrunner-worker")
    assert (publish.parent, process.parent, process.kind) == ("", publish.span_id, CONSUMER)


def trace_name(site: Site, operation: str) -> str:
    return f"{operation} {site.subjects.task('command')}"


def test_every_command_that_has_a_result_says_where_its_trace_is(idle_site: Site) -> None:
    """A publisher's trace is named also where nothing is recorded; without `ui_url` nothing is said."""
    trace_id, ui = "0af7651916cd43dd8448eb211c80319c", {"JETRUNNER_TRACING_UI_URL": UI}
    own = {"TRACEPARENT": f"00-{trace_id}-b7ad6b7169203331-01"}
    with idle_site.worker():
        submitted = idle_site.jetrunner("submit", "command", "--", "true", **ui, **own)
        task_id = submitted.out.strip()
        for done in (
            submitted,
            idle_site.jetrunner("follow", task_id, **ui),
            idle_site.jetrunner("result", task_id, "--wait", **ui),
        ):
            assert f"trace: {UI}/trace/{trace_id}" in done.stderr
        silent = idle_site.jetrunner("result", task_id)
        assert "trace:" not in silent.stderr
        assert decode(Result, silent.stdout).trace_id == trace_id


def test_nothing_is_imported_when_off(idle_site: Site) -> None:
    """Neither the worker nor the command line loads OpenTelemetry, its protobuf or its HTTP library."""
    program = """
import sys, anyio, os
from consumer import cli
from consumer.worker import Worker
from consumer.config import load
from consumer.connection import ConnectOptions
from runners.registry import default_registry
async def main():
    config = load(None, os.environ)
    worker = Worker(config, ConnectOptions(servers=(config.nats.url,)), default_registry())
    async with anyio.create_task_group() as tasks:
        await tasks.start(worker.serve)
        code = await anyio.to_thread.run_sync(cli.main, ["submit", "command", "--id", "task", "--", "true"])
        code += await anyio.to_thread.run_sync(cli.main, ["result", "task", "--wait", "-o", "output"])
        worker.drain()
    loaded = {name.partition(".")[0] for name in sys.modules}
    print(code, sorted(loaded & {"opentelemetry", "google", "requests", "urllib3", "prometheus_client"}))
anyio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=idle_site.environ, timeout=30, check=False
    )
    assert done.stdout == "task\n0 []\n", done.stderr


@pytest.mark.parametrize("hangs", [False, True])
def test_a_worker_ends_in_time_without_a_collector(idle_site: Site, hangs: bool) -> None:  # noqa: FBT001 - a parameter
    """Refused or never answered, what is left is given up after 2 s; tasks do not notice."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        if not hangs:
            silent.close()
        port = silent.getsockname()[1] if hangs else 9
        with idle_site.worker(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **SOON) as worker:
            done = idle_site.jetrunner("run", "command", "--", "true")
            begun = time.monotonic()
            worker.process.terminate()
            assert worker.process.wait(20) == 0
    assert done.code == 0
    assert time.monotonic() - begun < 5
    complaints = [line for line in worker.said.decode().splitlines() if "opentelemetry" in line]
    assert len(complaints) <= 6
    assert "Traceback" not in worker.said.decode()


def test_a_missing_extra_is_one_sentence(idle_site: Site) -> None:
    """Whoever wants metrics to be scraped learns what to install."""
    program = "import sys; sys.modules['prometheus_client'] = None; from consumer import cli; sys.exit(cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "worker"],
        capture_output=True,
        text=True,
        env={**idle_site.environ, "JETRUNNER_METRICS_PROMETHEUS": "true", "JETRUNNER_WORKER_KEEPER": "false"},
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "jetrunner: metrics.prometheus needs an extra that is not installed: pip install 'jetrunner[prometheus]'"
    )

"""Container tasks from the command line: `jetrunner` as a process, its worker, and a real engine."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from runners.process.keeper import GRACE
from tests.acceptance.conftest import PATIENCE, Site
from tests.conftest import IMAGE, client


@pytest.fixture
def docker_site(idle_site: Site, engine_url: str, tmp_path: Path) -> Site:
    """Have a site of the test's own whose workers know the engine."""
    idle_site.environ |= {"DOCKER_HOST": engine_url, "TMPDIR": str(tmp_path)}
    return idle_site


def containers(url: str, *, everything: bool = True) -> list[str]:
    """Return the ids of workers' containers."""
    with client(url) as docker:
        found = docker.containers(all=everything, filters={"label": "jetrunner.lock"})
        return [container["Id"] for container in found]


def test_run_is_as_with_a_command(docker_site: Site, engine_url: str) -> None:
    """Output, states and exit code are the container's; nothing is left of it."""
    with docker_site.worker():
        done = docker_site.jetrunner("run", "docker", IMAGE, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out) == (7, "out\n")
    assert "started container " in done.stderr
    assert "err\n" in done.stderr
    assert done.stderr.splitlines()[-1] == "jetrunner: the container ended with exit code 7"
    assert containers(engine_url) == []


@pytest.mark.skipif(sys.platform != "linux", reason="keepers are Linux's")
def test_a_killed_workers_containers_are_gone_with_its_keeper(docker_site: Site, engine_url: str) -> None:
    """`kill -9` of the worker's session: the keeper sees to what runs elsewhere."""
    with docker_site.start("worker") as worker:
        worker.read_until("takes tasks of")
        submitted = docker_site.jetrunner("submit", "docker", IMAGE, "--", "sleep", "600")
        assert submitted.code == 0
        deadline = time.monotonic() + PATIENCE
        while not containers(engine_url, everything=False):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        inner = int(worker_pid(worker.process.pid))
        os.kill(inner, signal.SIGKILL)
        assert worker.process.wait(GRACE + PATIENCE) == 137
    assert containers(engine_url) == []


def worker_pid(pid: int) -> str:
    """Return the pid of a keeper's worker."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:  # noqa: PTH123 - one line of procfs
        return file.read().split()[0]

"""Tasks whose worker and keeper were both killed are ended by the next worker on the host."""

import signal
import socket
import subprocess
import sys

import pytest

from runners.process import end_abandoned, worker_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads procfs")

PATIENCE = 15


def task_of(worker: str) -> "subprocess.Popen[bytes]":
    """Start what looks like a worker's task."""
    return subprocess.Popen(["sleep", "600"], env={"TASK_INSTANCE": worker, "TASK_ID": "t"}, start_new_session=True)


def dead_worker() -> str:
    """Return the name of a worker that has been, and is no more."""
    with subprocess.Popen(["true"]) as process:
        pid = process.pid
    return f"{socket.gethostname()}-{pid}-abcdef"


def test_a_dead_workers_task_is_ended() -> None:
    """Nobody else will end it."""
    with task_of(dead_worker()) as task:
        assert task.pid in end_abandoned()
        assert task.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize(
    "worker",
    [worker_name(), "elsewhere-999999999-abcdef", "no-name", ""],
    ids=["living", "another host's", "similar", "nobody's"],
)
def test_other_tasks_are_left_alone(worker: str) -> None:
    """A living worker's tasks, another host's, and processes that only look similar go on."""
    with task_of(worker) as task:
        try:
            assert task.pid not in end_abandoned()
            assert task.poll() is None
        finally:
            task.kill()

"""`jetrunner worker health`, asked of a worker that is a process of its own, and of none."""

import json
import re
import socket
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Site

ANYWHERE = {"JETRUNNER_HEALTH_LISTEN": "0.0.0.0:0"}


def test_a_worker_s_health_is_an_exit_code(idle_site: Site) -> None:
    """0 while it is ready, and 1 with a sentence once nobody answers; stdout stays empty."""
    with idle_site.worker(**ANYWHERE) as worker:
        told = [json.loads(line)["message"] for line in worker.said.splitlines()]
        port = next(found[1] for line in told if (found := re.search(r"http://0\.0\.0\.0:(\d+)/readyz", line)))
        listen = f"0.0.0.0:{port}"
        ready = idle_site.jetrunner("worker", "health", "--listen", listen)
    assert (ready.code, ready.out, ready.stderr) == (0, "", "ready\n")
    gone = idle_site.jetrunner("worker", "health", JETRUNNER_HEALTH_LISTEN=f"127.0.0.1:{port}")
    assert gone.code == 1
    assert gone.stderr.startswith(f"jetrunner: the worker is not ready: nobody answers on 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("listen", "complaint"), [("127.0.0.1:0", "takes a free port"), ("nowhere", "but must be an address such as")]
)
def test_an_address_that_leads_nowhere_is_a_usage_error(idle_site: Site, listen: str, complaint: str) -> None:
    """The sentence names the key."""
    done = idle_site.jetrunner("worker", "health", "--listen", listen)
    assert done.code == 2
    assert complaint in done.stderr
    assert "listen" in done.stderr


def test_systemd_hears_of_a_worker_below_its_keeper(idle_site: Site, tmp_path: Path) -> None:
    """The worker speaks for the service, though its pid is not the service's; its tasks cannot."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        with idle_site.worker(NOTIFY_SOCKET=str(tmp_path / "notify")):
            assert systemd.recv(64) == b"READY=1"
            assert "NOTIFY_SOCKET" not in idle_site.jetrunner("run", "command", "--", "env").out
        assert systemd.recv(64) == b"STOPPING=1"

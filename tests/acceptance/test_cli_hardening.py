"""What a worker's processes are deprived of."""

from pathlib import Path

from tests.acceptance.conftest import Server, Site

SHOW = "umask; ulimit -c; grep NoNewPrivs /proc/self/status | cut -f2"


def test_processes_are_hardened(server: Server, tmp_path: Path) -> None:
    """No files for others, no core dumps, no new privileges: for every task, and at no cost."""
    site = Site(server, tmp_path, prefix="hardened")
    with site.worker():
        done = site.jetrunner("run", "command", "-q", "--", "/bin/sh", "-c", SHOW)
    assert (done.code, done.lines) == (0, ["0077", "0", "1"])


def test_a_variable_that_is_not_allowed(server: Server, tmp_path: Path) -> None:
    """A task that would have code loaded into its program is refused before it starts."""
    site = Site(server, tmp_path, prefix="preload")
    with site.worker():
        done = site.jetrunner("run", "command", "-q", "--env", "LD_PRELOAD=/x.so", "--", "true")
    assert done.code == 3
    assert "the profile `standard` allows no variable `LD_PRELOAD` (rule process.env)" in done.stderr


def test_strict_refuses_root(server: Server, tmp_path: Path) -> None:
    """A worker that is root does not start with the profile `strict`, and says why."""
    site = Site(server, tmp_path, prefix="strict")
    done = site.jetrunner("worker", JETRUNNER_PROFILE="strict")
    assert done.code == 2
    assert done.stderr.splitlines()[-1].startswith("jetrunner: the profile `strict` lets no task run as root")

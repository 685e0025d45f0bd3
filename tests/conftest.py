"""A Docker engine for all tests that need one: the one that runs, or one of our own; never a registry's image."""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import pytest
import requests

from runners.docker.engine import DEFAULT_URL

IMAGE: Final = "jetrunner-test:latest"
"""busybox, and a USER signal to be stopped with under the tag `usr1`."""
ENGINE_PATIENCE: Final = 30.0
"""Seconds that an engine may take to start or end."""
APPLETS: Final = (
    "sh",
    "echo",
    "sleep",
    "ls",
    "cat",
    "true",
    "false",
    "env",
    "id",
    "dd",
    "seq",
    "stat",
    "touch",
    "grep",
)


class Dockerd:
    """An engine of our own, to be frozen, ended and started again with what it kept."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/docker.sock"
        self._directory = directory
        self._command = [
            "dockerd",
            *("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")),
            *("--host", self.url, "--pidfile", str(directory / "pid"), "--storage-driver", "vfs"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        ]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + ENGINE_PATIENCE
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._directory / "log").read_text()[-1000:])
            time.sleep(0.02)

    def freeze(self) -> None:
        """Let it stand still, its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, and the containers that it runs."""
        self.thaw()
        self._process.terminate()
        self._process.wait(ENGINE_PATIENCE)

    def remove(self) -> None:
        """End it, and remove what it kept."""
        self.stop()
        for line in Path("/proc/mounts").read_text().splitlines():
            if (mount := line.split()[1]).startswith(str(self._directory)):
                subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self._directory)


def answers(url: str) -> bool:
    """Tell whether an engine answers; no look at one that is not there, of which the library leaks a socket."""
    if not Path(url.removeprefix("unix://")).is_socket():
        return False
    try:
        with client(url) as engine:
            return bool(engine.ping())
    except (docker.errors.DockerException, requests.RequestException):
        return False


@contextmanager
def client(url: str) -> Iterator[Any]:
    """Talk to an engine."""
    engine = docker.APIClient(base_url=url, timeout=30)
    try:
        yield engine
    finally:
        engine.close()


def import_image(url: str) -> None:
    """Make the test image of the busybox that is here."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("bin", "tmp", "etc", "proc", "dev", "sys"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        archive.add(str(shutil.which("busybox")), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    repository, tag = IMAGE.split(":")
    with client(url) as engine:
        engine.import_image_from_data(content.getvalue(), repository=repository, tag=tag)
        container = engine.create_container(IMAGE, "true")
        config = {"StopSignal": "SIGUSR1", "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["default"]}
        engine.commit(container, repository=repository, tag="usr1", conf=config)
        engine.remove_container(container)


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """Have an engine of the tests' own, which they may end."""
    missing = [tool for tool in ("dockerd", "busybox") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        _do_without("an engine of our own needs root" if not missing else f"there is no {' and no '.join(missing)}")
    if subprocess.run(["ldd", str(shutil.which("busybox"))], capture_output=True, check=False).returncode == 0:
        _do_without("busybox is not the static one, and the image holds nothing else")
    directory = Path(tempfile.mkdtemp(prefix="dockerd-"))  # a socket's path has to be short
    try:
        engine = Dockerd(directory)
    except RuntimeError as error:
        shutil.rmtree(directory, ignore_errors=True)
        _do_without(f"dockerd did not start: {error}")
    try:
        import_image(engine.url)
        yield engine
    finally:
        engine.remove()


@pytest.fixture(scope="session")
def engine_url(request: pytest.FixtureRequest) -> str:
    """Say where an engine that has the test image answers: the one that runs here, else our own."""
    url = os.environ.get("DOCKER_HOST") or DEFAULT_URL
    if answers(url) and shutil.which("busybox"):
        import_image(url)
        return url
    own: Dockerd = request.getfixturevalue("dockerd")
    return own.url


def _do_without(reason: str) -> None:
    """Skip what needs an engine, and say why."""
    pytest.skip(f"no Docker engine: {reason} (start one, or set DOCKER_HOST)")

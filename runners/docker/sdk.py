"""The Docker engine by the `docker` package: every call blocks, has a time limit, and fails with our errors.

Loaded only when a task needs it, and called only on the engine's own threads.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import requests
import urllib3.exceptions

from runners.errors import DockerUnavailableError, DockerUnresponsiveError

from .reconcile import Listed
from .spec import Facts
from .verdict import CONFLICT, NOT_FOUND, ContainerState, RefusedError

API_TIMEOUT: Final = 10.0
"""Seconds that the engine may take to answer."""
START_TIMEOUT: Final = 30.0
"""Seconds that creating and starting a container may take: file systems are copied, networks are made."""
PULL_SILENCE: Final = 120.0
"""Seconds that a pull may say nothing."""

_ATTACHED: Final = {"stdout": 1, "stderr": 1, "stream": 1}


class Sdk:
    """A connection to one engine.

    Raises, from each of its methods:
        DockerUnavailableError: the engine cannot be reached.
        DockerUnresponsiveError: it does not answer in time.
        RefusedError: it answers with an error.
    """

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections
        with _translated():
            self._client = self._connect("auto", API_TIMEOUT)
            self._slow = self._connect(self._client.api_version, START_TIMEOUT)

    def _connect(self, version: str, timeout: float) -> Any:
        return _Client(base_url=self._url, version=version, timeout=timeout, max_pool_size=self._connections)

    def close(self) -> None:
        """Close what is open."""
        self._client.close()
        self._slow.close()

    def ping(self) -> None:
        """Return if the engine answers."""
        with _translated():
            self._client.ping()

    def facts(self) -> Facts:
        """Ask what it can do."""
        with _translated():
            info = self._client.info()
        return Facts(
            memory=info.get("MemoryLimit", True),
            pids=info.get("PidsLimit", True),
            cpus=info.get("CpuCfsQuota", True),
            root=info.get("DockerRootDir", Facts().root),
        )

    def create(self, body: Mapping[str, Any], name: str) -> str:
        """Create a container; return its id."""
        with _translated():
            created = self._slow.create_container_from_config(dict(body), name)
        return str(created["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with _translated():
            self._slow.start(container)

    def attach(self, container: str, *, stdin: bool) -> socket.socket:
        """Return a socket of the container's streams, non-blocking and the caller's own."""
        with _translated():
            attached: socket.socket = self._client.take_streams(container, {**_ATTACHED, "stdin": int(stdin)})
        attached.setblocking(False)  # noqa: FBT003 - it takes no keyword
        return attached

    def wait(self, container: str, seconds: float) -> bool:
        """Wait so long for a container to end; tell whether it has."""
        try:
            with _translated():
                self._client.wait(container, timeout=seconds)
        except DockerUnresponsiveError:
            return False
        return True

    def inspect(self, container: str) -> ContainerState:
        """Ask what a container is at."""
        with _translated():
            return ContainerState.of(self._client.inspect_container(container))

    def labels(self, container: str) -> Mapping[str, str]:
        """Return a container's labels."""
        with _translated():
            return self._client.inspect_container(container)["Config"]["Labels"] or {}

    def stop(self, container: str, seconds: int) -> None:
        """Send a container its stop signal and wait for its end, with SIGKILL after so many seconds."""
        with _translated(settled=(NOT_FOUND,)):
            self._client.stop(container, timeout=seconds)

    def kill(self, container: str) -> bool:
        """Kill a container; tell whether it was there to be killed."""
        try:
            with _translated():
                self._client.kill(container)
        except RefusedError as error:
            if error.status in (NOT_FOUND, CONFLICT):
                return False
            raise
        return True

    def remove(self, container: str) -> None:
        """Remove a container, running or not, and its anonymous volumes; one that is gone is fine."""
        with _translated(settled=(NOT_FOUND, CONFLICT)):
            self._slow.remove_container(container, force=True, v=True)

    def list(self, label: str, *, name: str | None = None) -> list[Listed]:
        """Return the containers that have a label, and a name if it is given, running or not."""
        filters = {"label": label} if name is None else {"label": label, "name": f"^/{name}$"}
        with _translated():
            found = self._client.containers(all=True, filters=filters)
        return [
            Listed(
                id=one["Id"], names=tuple(name.removeprefix("/") for name in one["Names"] or ()), labels=one["Labels"]
            )
            for one in found
        ]

    def pull(self, image: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Pull an image, `latest` without a tag; `take` is given what the engine says, and may raise to end it."""
        with _translated():
            client = self._connect(self._client.api_version, PULL_SILENCE)
        try:
            with _translated():
                lines = client.pull(image, stream=True, decode=True)
                for line in lines:
                    take(line)
        finally:
            client.close()


class _Client(docker.APIClient):  # type: ignore[misc]
    """A client without calls that may last for ever, and with attached sockets that one can close."""

    def take_streams(self, container: str, params: Mapping[str, int]) -> socket.socket:
        """Attach, and take the socket out of the library's hands: it would be closed only with its garbage."""
        url, headers = self._url("/containers/{0}/attach", container), {"Connection": "Upgrade", "Upgrade": "tcp"}
        response = self._post(url, headers=headers, params=params, stream=True)
        try:
            return socket.socket(fileno=os.dup(self._get_raw_response_socket(response).fileno()))
        finally:
            response.close()

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("timeout") is None:  # pull asks for none
            kwargs["timeout"] = self.timeout
        return kwargs


@contextmanager
def _translated(settled: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn the library's errors into ours; a refusal that is `settled` means that there is nothing left to do."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in settled:
            raise RefusedError(error.status_code or 0, str(error.explanation or error)) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, docker.errors.DockerException, OSError) as error:
        if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
            raise DockerUnresponsiveError("the Docker engine does not answer in time") from None
        raise DockerUnavailableError(f"the Docker engine cannot be reached: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Return what the system said below all that libraries wrapped it in."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return (isinstance(seen, OSError) and seen.strerror) or str(error) or type(error).__name__

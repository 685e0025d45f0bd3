"""Where the worker itself is connected, so that no task's request is sent there. Pure."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_DOCKER_PORT: Final = 2375


def own_endpoints(nats_server: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return `host:port` of the NATS server, and of the Docker engine if that is reached over TCP."""
    docker = urlsplit(environ.get("DOCKER_HOST", ""))
    try:
        engine = f"{docker.hostname}:{docker.port or _DOCKER_PORT}" if docker.scheme == "tcp" else ""
    except ValueError:  # a port that is none
        engine = ""
    return tuple(endpoint for endpoint in (nats_server, engine) if endpoint)

"""`jetrunner worker health`: ask the worker on this machine whether it is ready, where there is no curl."""

import http.client
import os
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Final

from msgspec import DecodeError, Struct, json

from consumer.config import load
from consumer.errors import ConfigError, NotReadyError
from consumer.health.monitor import address

_WITHIN: Final = 5.0
_LONGEST: Final = 2**20
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a worker may listen on


class _Answer(Struct):
    reason: str | None = None


def health(*, listen: str | None = None, config: Path | None = None) -> None:
    """Ask the worker here whether it is ready; exit with 0 if it is, else with 1.

    Parameters
    ----------
    listen
        Where it answers, as host:port; else as `health.listen` says.
    config
        Configuration file (TOML).
    """
    changes = {} if listen is None else {"JETRUNNER_HEALTH_LISTEN": listen}
    host, port = address(load(config, {**os.environ, **changes}).health)
    if port == 0:
        raise ConfigError("`health.listen` takes a free port: say with --listen which one the worker has logged")
    if (reason := _ask(_ANYWHERE.get(host, host), port)) is not None:
        raise NotReadyError(f"the worker is not ready: {reason}")
    print("ready", file=sys.stderr)


def _ask(host: str, port: int) -> str | None:
    """Return why the worker is not ready; None if it is."""
    connection = http.client.HTTPConnection(host, port, timeout=_WITHIN)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(_LONGEST)
    except (OSError, http.client.HTTPException) as error:
        return f"nobody answers on {host}:{port}: {error}"
    finally:
        connection.close()
    if answer.status == HTTPStatus.OK:
        return None
    try:
        told = json.decode(body, type=_Answer).reason
    except DecodeError:
        told = None
    return told or f"{host}:{port} answers {answer.status}, and is no worker"

"""What a worker answers to probes: that it lives, whether it is ready, and its metrics."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Final

import anyio.to_thread
import msgspec

from consumer.errors import ConfigError
from consumer.telemetry import Telemetry

from .http import Answer, Page, serving
from .readiness import Readiness
from .settings import HealthConfig

HOST: Final = "127.0.0.1"
PORT: Final = 9090
"""Where probes are answered unless `health.listen` says otherwise."""

_JSON: Final = "application/json"

logger = logging.getLogger(__name__)


@asynccontextmanager
async def monitored(config: HealthConfig, look: Callable[[], Readiness], telemetry: Telemetry) -> AsyncIterator[None]:
    """Answer probes while the body lasts, if that is configured.

    Raises:
        ConfigError: the configured address cannot be had. If none is configured, and the default one is taken, there
            is a warning instead: several workers on one machine need no configuration.
    """
    async with AsyncExitStack() as stack:
        if config.enabled:
            await _listen(stack, config, _pages(look, telemetry))
        yield


async def _listen(stack: AsyncExitStack, config: HealthConfig, pages: Mapping[str, Page]) -> None:
    wanted, wanted_port = address(config)
    try:
        host, port = await stack.enter_async_context(serving(wanted, wanted_port, pages))
    except (OSError, OverflowError) as error:
        reason = f"probes cannot be answered on {wanted}:{wanted_port}: {_in_words(error)}"
        if config.listen is not None:
            raise ConfigError(f"`health.listen`: {reason}") from None
        logger.warning("%s; set health.listen, or health.enabled = false", reason)
    else:
        logger.info("probes are answered on http://%s/readyz", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _in_words(error: OSError | OverflowError) -> str:
    """Return the reason alone: the event loop's own text is about the address again; a name's is no errno."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(error)


def _pages(look: Callable[[], Readiness], telemetry: Telemetry) -> Mapping[str, Page]:
    async def live() -> Answer:
        return Answer(HTTPStatus.OK, b'{"status":"live"}\n', _JSON)

    async def ready() -> Answer:
        readiness = look()
        told = {"status": "ready" if readiness.reason is None else "not ready", "reason": readiness.reason}
        body = msgspec.json.encode(told | msgspec.to_builtins(readiness)) + b"\n"
        return Answer(HTTPStatus.OK if readiness.reason is None else HTTPStatus.SERVICE_UNAVAILABLE, body, _JSON)

    async def metrics() -> Answer:
        exposition = await anyio.to_thread.run_sync(telemetry.exposition)
        if exposition is None:
            return Answer(HTTPStatus.NOT_FOUND, b"set metrics.prometheus = true\n")
        content_type, body = exposition
        return Answer(HTTPStatus.OK, body, content_type)

    return {"/livez": live, "/healthz": live, "/readyz": ready, "/metrics": metrics}


def address(config: HealthConfig) -> tuple[str, int]:
    """Return the configured host and port."""
    if config.listen is None:
        return HOST, PORT
    host, _, port = config.listen.rpartition(":")
    return host.strip("[]"), int(port)

"""`jetrunner runners`: which categories there are, by whom, with which parameters, and whether they can run."""

from typing import Annotated, Any, Final

from msgspec import Struct, inspect, structs

from consumer.config import Config, RunnerConfig
from consumer.plugins import find_runners
from runners.plugins import PluginError, probe
from runners.registry import Registry
from schemas import Duration, Limits, encode

from . import OK
from .rendering import OUTPUT, Format, print_list, short
from .session import Connecting

_COLUMNS: Final = ("CATEGORY", "SOURCE", "PARAMETERS", "AT ONCE", "TIMEOUT", "LIMITS", "READY")


class RunnerState(Struct, frozen=True, kw_only=True):
    """One category; `parameters` tells of each whether a task must give it."""

    category: str
    source: str
    parameters: dict[str, bool]
    max_concurrency: int
    default_timeout: Duration
    max_timeout: Duration
    resource_limits: Limits
    ready: bool
    reason: str | None


def runners(*, output: Annotated[Format, OUTPUT] = "table", connecting: Connecting | None = None) -> int:
    """Say which runners there are, their parameters and limits, and whether they can run.

    Parameters
    ----------
    output
        How to print them; `id` prints nothing but the categories.
    """
    config = (connecting or Connecting()).load()
    registry = find_runners(config)
    found = [_state(registry, category, config) for category in registry]
    print_list(output, found, _COLUMNS, _row, lambda each: each.category)
    return OK


def _state(registry: Registry, category: str, config: Config) -> RunnerState:
    settings = config.runner(category)
    parameters: dict[str, bool] = {}
    try:
        runner = probe(registry, category)
        parameters, obstacle = _parameters(runner.params_type), runner.unready() or _obstacle(registry, category)
    except PluginError as error:
        obstacle = str(error)
    return RunnerState(
        category=category,
        source=registry.source(category),
        parameters=parameters,
        max_concurrency=_at_once(settings, config),
        default_timeout=settings.default_timeout,
        max_timeout=settings.max_timeout,
        resource_limits=settings.resource_limits,
        ready=obstacle is None,
        reason=obstacle,
    )


def _obstacle(registry: Registry, category: str) -> str | None:
    facility = registry.facility(category)
    return None if facility is None else facility.obstacle


def _at_once(settings: RunnerConfig, config: Config) -> int:
    return min(settings.max_concurrency, config.worker.max_concurrency or settings.max_concurrency)


def _parameters(params_type: type[Any]) -> dict[str, bool]:
    described = inspect.type_info(params_type)
    if not isinstance(described, inspect.StructType):
        return {}
    return {field.encode_name: field.required for field in described.fields}


def _row(state: RunnerState) -> tuple[str, ...]:
    limits = {name: value for name, value in structs.asdict(state.resource_limits).items() if value is not None}
    return (
        state.category,
        state.source,
        " ".join(name if required else f"[{name}]" for name, required in state.parameters.items()),
        str(state.max_concurrency),
        short(state.default_timeout),
        " ".join(f"{name}={encode(value).decode()}" for name, value in limits.items()),
        "yes" if state.ready else f"no: {state.reason}",
    )

"""Configuration: one typed Struct per section, defaults written once, filled from TOML and variables (contract 7).

The Structs are the only list of the keys: what a file or variable may say, and what an error suggests, follows from
them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from msgspec import Meta, Struct, field, inspect, structs

from runners.context import PoolSettings
from schemas import Duration, Limits, SchemaError, Size, convert
from schemas.subjects import DEFAULT_REPLY_PREFIXES
from schemas.task import Category

from .alerts.settings import AlertsConfig
from .errors import ConfigError
from .health.settings import HealthConfig

MAX_ACK_PENDING: Final = 20_000
"""Tasks of a category that all workers together may have: far more than they take."""
DEFAULT_FILE: Final = Path("jetrunner.toml")
FILE_VARIABLE: Final = "JETRUNNER_CONFIG"

_PREFIX: Final = "JETRUNNER_"
_RUNNERS_PREFIX: Final = "JETRUNNER_RUNNERS_"
_CATEGORY: Final = "<category>"
_LONGEST_FOUND: Final = 80
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_QUANTITIES: Final = {
    Duration: 'a duration in seconds or such as "1m30s", at most ten years',
    Size: 'a size in bytes or such as "64MiB", at most 2**53',
}

_Prefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$(?!\n)", description="one token of A-Z a-z 0-9 _ -")]
_Url = Annotated[str, Meta(pattern=r"^https?://[^\s/]", description="a URL that begins with http:// or https://")]
_Key = tuple[str, ...]


class NatsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server is, and how streams and consumers are made there."""

    url: str | None = None
    """Server URLs, separated by commas; None: a context, `NATS_URL`, or the embedded server."""
    context: str | None = None
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    ack_wait: Duration = field(default_factory=lambda: Duration(30))


class WorkerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker takes on, and how it ends."""

    categories: tuple[Category, ...] | None = None
    """None: every registered category."""
    max_concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Tasks of all categories at once; None: no bound but the categories' own."""
    grace: Duration = field(default_factory=lambda: Duration(10))
    drain_timeout: Duration = field(default_factory=lambda: Duration(30))
    drain_window: Duration = field(default_factory=lambda: Duration(2))
    keeper: bool = True


class RunnerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a category runs at once, for how long, and what it may do."""

    max_concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 8
    """Tasks at once on one worker."""
    max_ack_pending: Annotated[int, Meta(ge=1, le=1_000_000)] = MAX_ACK_PENDING
    """Tasks at once on all workers together; of the category's consumer, when it is made."""
    default_timeout: Duration = field(default_factory=lambda: Duration(3600))
    max_timeout: Duration = field(default_factory=lambda: Duration(86400))
    resource_limits: Limits = Limits()
    pool: PoolSettings = PoolSettings()
    """Of a plain function's processes."""
    allow: tuple[str, ...] = ()
    script_roots: tuple[str, ...] = ()
    volume_roots: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_cidrs: tuple[str, ...] = ()


class TracingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks are traced, and where the traces go; what is not said here is up to the `OTEL_*` variables."""

    enabled: bool | None = None
    """None: if `endpoint` or `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector."""
    endpoint: _Url | None = None
    """Base URL of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`."""
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Share of the traces that begin here which are recorded; publishers decide about theirs."""
    ignore_remote_sampling: bool = False
    """Let `sample_ratio` decide about the traces of publishers that record none, too."""
    max_parent_age: Duration = field(default_factory=lambda: Duration(600))
    """A task that begins so long after its publication gets a trace of its own, linked to the publisher's."""
    ui_url: _Url | None = None
    """Where people look at traces, such as `http://127.0.0.1:16686`: the command line prints `<ui_url>/trace/<id>`."""


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How metrics leave a worker: pushed to a collector, scraped by Prometheus, or both."""

    enabled: bool | None = None
    """Whether they are pushed; None: as with `tracing.enabled`."""
    endpoint: _Url | None = None
    interval: Duration | None = None
    """Between two pushes; None: `OTEL_METRIC_EXPORT_INTERVAL`, or a minute."""
    prometheus: bool = False
    """Whether they can be scraped; needs the extra `prometheus`."""
    boundaries: tuple[float, ...] = (
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        *(30, 60, 300, 900, 3600, 14400),
    )
    """Of the histograms of durations, in seconds."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    subject_prefix: _Prefix = "jetrunner"
    profile: Literal["open", "standard", "strict"] = "standard"
    plugins: tuple[str, ...] = ()
    reply_prefixes: tuple[str, ...] = DEFAULT_REPLY_PREFIXES
    manage_streams: bool = True
    unknown_category_after: Duration = field(default_factory=lambda: Duration(10))
    nats: NatsConfig = field(default_factory=NatsConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    runners: dict[Category, RunnerConfig] = {}
    tracing: TracingConfig = field(default_factory=TracingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)

    def runner(self, category: str) -> RunnerConfig:
        """Return the settings of a category."""
        return self.runners.get(category) or _DEFAULT_RUNNER


_DEFAULT_RUNNER = RunnerConfig()


class Setting(NamedTuple):
    """A key, its value, and the file or variable that it came from; None for a default."""

    key: str
    value: object
    origin: str | None


class _Given(NamedTuple):
    value: object
    origin: str


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration file, and overlay it with the `JETRUNNER_*` variables.

    The file is `path`, else the one that `JETRUNNER_CONFIG` names, else `jetrunner.toml` here, if there is one.

    The variable of a key is `JETRUNNER_<SECTION>_<KEY>`, without a section for the top level, and
    `JETRUNNER_RUNNERS_<CATEGORY>_<KEY>` for a category's; the longest known key wins. Its category is the one whose
    section in the file has that name, whatever the case and with `-` and `_` alike; else the lower-cased name. A list
    is separated by commas, or a TOML array. An empty value is an empty list, or takes an optional value back.

    Raises:
        ConfigError: a named file cannot be read, or a key or value is wrong; the text says which, and where.
    """
    try:
        return convert(_nest(_gather(path, environ)), Config)
    except SchemaError as error:
        raise ConfigError(str(error)) from None


def settings(path: Path | None, environ: Mapping[str, str]) -> list[Setting]:
    """Return every value of `load`, the sections of categories included, and where it came from.

    Raises:
        ConfigError: as `load`.
    """
    origins = {key: given.origin for key, given in _gather(path, environ).items()}
    return [Setting(_dotted(key), value, origins.get(key)) for key, value in _values(load(path, environ))]


def _gather(path: Path | None, environ: Mapping[str, str]) -> dict[_Key, _Given]:
    file = _find(path, environ)
    table = _parse(file) if file else {}
    given = {key: _Given(value, str(file)) for key, value in _flatten(table, str(file))}
    given.update(_from_environ(environ, _categories(table)))
    for key, value in given.items():
        _check(key, value)
    return given


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _parse(file: Path) -> dict[str, object]:
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file} is not valid TOML: not UTF-8 (at line {line})") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = len(text.splitlines()) or 1
        reason = str(error).replace("at end of document", f"at the end, line {last}")
        raise ConfigError(f"{file} is not valid TOML: {reason[0].lower()}{reason[1:]}") from None


def _flatten(table: Mapping[str, object], origin: str, above: _Key = ()) -> Iterator[tuple[_Key, object]]:
    for name, value in table.items():
        key = (*above, name)
        if _pattern(key) in _KEYS:
            yield key, value
        elif _pattern(key) not in _SECTIONS:
            raise ConfigError(f"{origin}: unknown key `{_dotted(key)}`{_likely_key(key)}")
        elif isinstance(value, dict):
            yield from _flatten(value, origin, key)
        else:
            raise ConfigError(f"{origin}: `{_dotted(key)}` is {_found(value)}, but must be a table")


def _categories(table: Mapping[str, object]) -> list[str]:
    sections = table.get("runners")
    return [*sections] if isinstance(sections, dict) else []


def _from_environ(environ: Mapping[str, str], categories: list[str]) -> Iterator[tuple[_Key, _Given]]:
    for name, text in sorted(environ.items()):
        if name.startswith(_PREFIX) and name != FILE_VARIABLE:
            key = _VARIABLES.get(name) or _runner_key(name, categories)
            yield key, _Given(_read(text.strip(), inspect.type_info(_KEYS[_pattern(key)])), name)


def _runner_key(variable: str, categories: list[str]) -> _Key:
    rest = variable.removeprefix(_RUNNERS_PREFIX)
    for suffix in sorted(_RUNNER_VARIABLES, key=len, reverse=True):
        category = rest.removesuffix(f"_{suffix}")
        if variable != rest != category:
            return ("runners", _category(category, categories, variable), *_RUNNER_VARIABLES[suffix])
    raise ConfigError(f"unknown variable {variable}{_likely_variable(variable)}")


def _category(name: str, categories: list[str], variable: str) -> str:
    alike = [category for category in categories if _folded(category) == _folded(name)]
    if len(alike) > 1 and name.lower() not in alike:
        meant = " or ".join(f"[runners.{category}]" for category in alike)
        raise ConfigError(f"{variable} could mean {meant}: set it in the file")
    return alike[0] if len(alike) == 1 else name.lower()


def _folded(category: str) -> str:
    return category.lower().replace("-", "_")


def _read(text: str, type_: inspect.Type) -> object:
    """Return what a variable's text would be in a file; what cannot be read stays text, which the check refuses."""
    match type_:
        case inspect.UnionType(types=types):
            inner = next(inner for inner in types if not isinstance(inner, inspect.NoneType))
            return _read(text, inner) if text else None
        case inspect.BoolType():
            return _BOOLEANS.get(text.lower(), text)
        case inspect.IntType() | inspect.FloatType() | inspect.CustomType():
            return _number(text)
        case inspect.VarTupleType():
            return _list(text)
    return text


def _number(text: str) -> object:
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def _list(text: str) -> object:
    if not text.startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return tomllib.loads(f"list = {text}")["list"]
    except tomllib.TOMLDecodeError:
        return text


def _check(key: _Key, given: _Given) -> None:
    pattern = _pattern(key)
    _require(given.value, _KEYS[pattern], f"{given.origin}: `{_dotted(key)}`")
    if _CATEGORY in pattern:
        _require(key[1], Category, f"{given.origin}: the category")
    if pattern[-1] == "allow_cidrs" and isinstance(given.value, list):
        for network in given.value:
            _check_network(network, f"{given.origin}: `{_dotted(key)}`")


def _check_network(text: str, what: str) -> None:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{what} has {text!r}, but must hold networks such as 10.0.0.0/8") from None


def _require(value: object, type_: Any, what: str) -> None:
    try:
        convert(value, type_)
    except SchemaError:
        allowed = _allowed(inspect.type_info(type_))
        raise ConfigError(f"{what} is {_found(value)}, but must be {allowed}") from None


def _found(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_FOUND else f"{text[:_LONGEST_FOUND]}…"


def _allowed(type_: inspect.Type) -> str:
    words = "text"
    match type_:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            words = description
        case inspect.UnionType(types=types):
            words = " or ".join(_allowed(inner) for inner in types if not isinstance(inner, inspect.NoneType))
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType():
            words = f"a whole number{_range(type_)}"
        case inspect.FloatType():
            words = f"a number{_range(type_)}"
        case inspect.LiteralType(values=values):
            words = f"one of {', '.join(map(str, values))}"
        case inspect.VarTupleType(item_type=item):
            words = f"a list, each item {_allowed(item)}"
        case inspect.CustomType(cls=cls):
            words = _QUANTITIES[cls]
    return words


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    bounds = {"at least": type_.ge, "more than": type_.gt, "at most": type_.le, "less than": type_.lt}
    words = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    return f", {words}" if words else ""


def _likely_key(key: _Key) -> str:
    pattern = _pattern(key)
    siblings = [known[-1] for known in (*_KEYS, *_SECTIONS) if known[:-1] == pattern[:-1]]
    elsewhere = [known for known in _KEYS if known[-1] == key[-1].lower()]
    if near := get_close_matches(key[-1].lower(), siblings, n=1):
        return f"; did you mean `{_dotted((*key[:-1], near[0]))}`?"
    return f"; did you mean `{_dotted(elsewhere[0])}`?" if elsewhere else ""


def _likely_variable(variable: str) -> str:
    rest = variable.removeprefix(_RUNNERS_PREFIX)
    if rest in _RUNNER_VARIABLES:
        return f"; did you mean {_RUNNERS_PREFIX}<CATEGORY>_{rest}?"
    words = rest.split("_")
    categories = ["_".join(words[:end]) for end in range(1, len(words))]
    of_runners = [f"{_RUNNERS_PREFIX}{category}_{key}" for category in categories for key in _RUNNER_VARIABLES]
    near = get_close_matches(variable, [*_VARIABLES, FILE_VARIABLE, *of_runners], n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _nest(given: Mapping[_Key, _Given]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, (value, _) in given.items():
        section = root
        for name in key[:-1]:
            section = section.setdefault(name, {})
        section[key[-1]] = value
    return root


def _dotted(key: _Key) -> str:
    return ".".join(key)


def _pattern(key: _Key) -> _Key:
    return ("runners", _CATEGORY, *key[2:]) if key[0] == "runners" and len(key) > 1 else key


def _keys(type_: Any, above: _Key = ()) -> Iterator[tuple[_Key, Any]]:
    if get_origin(type_) is dict:
        yield from _keys(get_args(type_)[1], (*above, _CATEGORY))
    elif isinstance(type_, type) and issubclass(type_, Struct):
        for each in structs.fields(type_):
            yield from _keys(each.type, (*above, each.name))
    else:
        yield above, type_


def _values(value: object, above: _Key = ()) -> Iterator[tuple[_Key, object]]:
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _values(getattr(value, name), (*above, name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _values(inner, (*above, name))
    else:
        yield above, value


def _variable(key: _Key) -> str:
    return "_".join(key).upper()


_KEYS: Final = dict(_keys(Config))
"""The type of each key."""
_SECTIONS: Final = frozenset(key[:end] for key in _KEYS for end in range(1, len(key)))
_VARIABLES: Final = {f"{_PREFIX}{_variable(key)}": key for key in _KEYS if _CATEGORY not in key}
_RUNNER_VARIABLES: Final = {_variable(key[2:]): key[2:] for key in _KEYS if _CATEGORY in key}
"""The keys of any category, by the end of their variables' names."""

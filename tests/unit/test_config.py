"""The configuration: which file is read, what variables change, and errors that say what is wrong and where."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec import Struct, structs

from consumer.config import Config, NatsConfig, RunnerConfig, WorkerConfig, load, settings
from consumer.errors import ConfigError
from runners.context import PoolSettings
from schemas import Duration, Limits, Size

NO_VARIABLES: dict[str, str] = {}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, name: str = "my.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def problem(path: Path | None = None, **environ: str) -> str:
    """Return what `load` complains about, and check that `settings` agrees."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    with pytest.raises(ConfigError) as again:
        settings(path, environ)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def origins(path: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return where the values came from that are no defaults."""
    return {each.key: each.origin for each in settings(path, environ) if each.origin is not None}


def test_settings() -> None:
    """Every key has its value in force, and where it came from."""
    path = written("[nats]\nreplicas = 3\n[runners.my-own]\nallow = ['a']")
    known = {each.key: each[1:] for each in settings(path, {"JETRUNNER_PROFILE": "strict"})}
    assert known["nats.replicas"] == (3, "my.toml")
    assert known["profile"] == ("strict", "JETRUNNER_PROFILE")
    assert known["worker.keeper"] == (True, None)
    assert known["runners.my-own.allow"] == (("a",), "my.toml")
    assert known["runners.my-own.max_concurrency"] == (8, None)
    assert set(keys_of(Config)) <= {*known}


def keys_of(section: type[Struct], above: str = "") -> Iterator[str]:
    """Return the dotted keys of a Struct, except those by category."""
    for field in structs.fields(section):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from keys_of(field.type, f"{above}{field.name}.")
        elif field.name != "runners":
            yield f"{above}{field.name}"


# Which file


def test_without_file_and_variables_everything_has_its_default() -> None:
    """Nothing has to be configured."""
    assert load(None, NO_VARIABLES) == Config()
    assert origins(None, NO_VARIABLES) == {}


def test_the_named_file_wins_over_the_variable_and_the_usual_file() -> None:
    """`--config`, then `JETRUNNER_CONFIG`, then `./jetrunner.toml`."""
    written('subject_prefix = "usual"', "jetrunner.toml")
    environ = {"JETRUNNER_CONFIG": str(written('subject_prefix = "variable"', "variable.toml"))}
    named = written('subject_prefix = "named"', "named.toml")
    assert load(named, environ).subject_prefix == "named"
    assert load(None, environ).subject_prefix == "variable"
    assert load(None, NO_VARIABLES).subject_prefix == "usual"


def test_an_empty_name_of_a_file_is_none() -> None:
    """`JETRUNNER_CONFIG=` leaves the usual file."""
    written('subject_prefix = "usual"', "jetrunner.toml")
    assert load(None, {"JETRUNNER_CONFIG": ""}).subject_prefix == "usual"


def test_a_named_file_must_exist() -> None:
    """A file that was asked for is not passed over, even if the usual one is there."""
    written("", "jetrunner.toml")
    missing = "the configuration file gone.toml cannot be read: No such file or directory"
    assert problem(Path("gone.toml")) == missing
    assert problem(JETRUNNER_CONFIG="gone.toml") == missing


def test_a_directory_is_no_file() -> None:
    """Whatever keeps the file from being read is named."""
    Path("jetrunner.toml").mkdir()
    assert problem() == "the configuration file jetrunner.toml cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a = 1\nb = ", 2),
        (b"plugins = [\n'a',\n", 2),
        (b"a = 1\nb\nc = 2\n", 2),
        (b"[nats]\nurl = 'a'\nurl = 'b'", 3),
        (b"a = 1\nb = '\xff'", 2),
        (b"=", 1),
    ],
)
def test_a_syntax_error_names_file_and_line(text: bytes, line: int) -> None:
    """What is not TOML is told with its place."""
    Path("my.toml").write_bytes(text)
    assert re.fullmatch(rf"my\.toml is not valid TOML: [^\n]+ \(at .*\bline {line}\b.*\)", problem(Path("my.toml")))


@pytest.mark.parametrize("network", ["10.0.0.0/33", "example.org", ""])
def test_a_network_that_is_none(network: str) -> None:
    """It is refused when the worker starts, not when the first task comes."""
    refused = f"my.toml: `runners.http.allow_cidrs` has {network!r}, but must hold networks such as 10.0.0.0/8"
    assert problem(written(f"[runners.http]\nallow_cidrs = ['10.1.2.3/8', {network!r}]")) == refused


# The file


def test_a_file_may_say_everything() -> None:
    """Each section, with durations and sizes as people write them."""
    path = written("""
        subject_prefix = "ci"
        profile = "strict"
        unknown_category_after = "1m30s"
        manage_streams = false
        [nats]
        url = "nats://a,nats://b"
        replicas = 3
        [worker]
        categories = ["command", "GPU"]
        grace = 2.5
        [runners.GPU]
        max_concurrency = 2
        allow = ["/usr/bin/*"]
        [runners.GPU.resource_limits]
        memory = "64MiB"
        cpus = 2
    """)
    assert load(path, NO_VARIABLES) == Config(
        subject_prefix="ci",
        profile="strict",
        unknown_category_after=Duration(90),
        manage_streams=False,
        nats=NatsConfig(url="nats://a,nats://b", replicas=3),
        worker=WorkerConfig(categories=("command", "GPU"), grace=Duration(2.5)),
        runners={
            "GPU": RunnerConfig(
                max_concurrency=2,
                allow=("/usr/bin/*",),
                resource_limits=Limits(memory=Size(64 * 2**20), cpus=2.0),
            )
        },
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[nats]\nulr = 'x'", "unknown key `nats.ulr`; did you mean `nats.url`?"),
        ("[wroker]\ngrace = 1", "unknown key `wroker`; did you mean `worker`?"),
        ("URL = 'x'", "unknown key `URL`; did you mean `nats.url`?"),
        ("drain_timeout = 1", "unknown key `drain_timeout`; did you mean `worker.drain_timeout`?"),
        ("[worker]\ndrain-timeout = 1", "unknown key `worker.drain-timeout`; did you mean `worker.drain_timeout`?"),
        ("[runners.x]\nalow = []", "unknown key `runners.x.alow`; did you mean `runners.x.allow`?"),
        (
            "[runners.x.resource_limits]\nmem = 1",
            "unknown key `runners.x.resource_limits.mem`; did you mean `runners.x.resource_limits.memory`?",
        ),
        ("zzz = 1", "unknown key `zzz`"),
        ("[nats.zzz]\nx = 1", "unknown key `nats.zzz`"),
    ],
)
def test_an_unknown_key_is_named_with_the_likely_one(text: str, complaint: str) -> None:
    """A slip is found, whether in the letters or in the section."""
    assert problem(written(text)) == f"my.toml: {complaint}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nats = 3", "`nats` is 3, but must be a table"),
        ("[runners]\ncommand = []", "`runners.command` is [], but must be a table"),
        ("subject_prefix = 'a.b'", "`subject_prefix` is 'a.b', but must be one token of A-Z a-z 0-9 _ -"),
        ("subject_prefix = true", "`subject_prefix` is true, but must be one token of A-Z a-z 0-9 _ -"),
        ("profile = 'lax'", "`profile` is 'lax', but must be one of open, standard, strict"),
        ("manage_streams = 1", "`manage_streams` is 1, but must be true or false"),
        ("plugins = 'a'", "`plugins` is 'a', but must be a list, each item text"),
        ("[nats]\nurl = 4222", "`nats.url` is 4222, but must be text"),
        ("[nats]\nreplicas = 6", "`nats.replicas` is 6, but must be a whole number, at least 1 and at most 5"),
        (f"[nats]\nreplicas = {10**30}", f"`nats.replicas` is {10**30}, but must be a whole number, at least 1 and"),
        (
            "[worker]\ngrace = 'soon'",
            "`worker.grace` is 'soon', but must be a duration in seconds or such as \"1m30s\",",
        ),
        ("[worker]\ngrace = -1", "`worker.grace` is -1, but must be a duration"),
        ("[worker]\ngrace = nan", "`worker.grace` is nan, but must be a duration"),
        (
            "[worker]\ncategories = ['a b']",
            "`worker.categories` is ['a b'], but must be a list, each item 1 to 64 char",
        ),
        ("[runners.'a b']\nallow = []", "the category is 'a b', but must be 1 to 64 characters of A-Z a-z 0-9 _ -"),
        (
            "[runners.x.resource_limits]\nmemory = '1Mb'",
            "`runners.x.resource_limits.memory` is '1Mb', but must be a size in bytes or such as \"64MiB\",",
        ),
        (
            "[runners.x.resource_limits]\ncpus = 0",
            "`runners.x.resource_limits.cpus` is 0, but must be a number, more than 0 and at most 4096",
        ),
        (f"[nats]\nreplicas = '{'x' * 200}'", f"`nats.replicas` is '{'x' * 79}…, but must be"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(text: str, complaint: str) -> None:
    """File, key, what was found, what is allowed."""
    assert problem(written(text)).startswith(f"my.toml: {complaint}")


# The variables


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("SUBJECT_PREFIX", "ci", "subject_prefix", "ci"),
        ("UNKNOWN_CATEGORY_AFTER", "20", "unknown_category_after", 20),
        ("NATS_URL", " nats://a:4222 ", "nats.url", "nats://a:4222"),
        ("NATS_REPLICAS", "3", "nats.replicas", 3),
        ("WORKER_DRAIN_TIMEOUT", "1m30s", "worker.drain_timeout", 90),
        ("WORKER_DRAIN_TIMEOUT", "0.5", "worker.drain_timeout", 0.5),
        ("WORKER_MAX_CONCURRENCY", "4", "worker.max_concurrency", 4),
        *[("WORKER_KEEPER", text, "worker.keeper", True) for text in ("true", "True", "1", "yes")],
        *[("WORKER_KEEPER", text, "worker.keeper", False) for text in ("false", "FALSE", "0", "no")],
        ("PLUGINS", "a.b, c", "plugins", ("a.b", "c")),
        ("PLUGINS", '["a,b", "c"]', "plugins", ("a,b", "c")),
        ("PLUGINS", "['a']", "plugins", ("a",)),
        ("PLUGINS", "", "plugins", ()),
        ("WORKER_CATEGORIES", "command,http", "worker.categories", ("command", "http")),
    ],
)
def test_a_variable_is_read_as_its_key_wants(name: str, text: str, key: str, value: object) -> None:
    """Numbers, truth values, lists, durations."""
    environ = {f"JETRUNNER_{name}": text}
    found: object = load(None, environ)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert origins(None, environ) == {key: f"JETRUNNER_{name}"}


def test_every_key_has_its_variable() -> None:
    """None is forgotten, whatever section is added to the Structs."""
    for key in keys_of(Config):
        name = f"JETRUNNER_{key.replace('.', '_').upper()}"
        try:
            load(None, {name: "!?"})
        except ConfigError as error:
            assert str(error).startswith(f"{name}: `{key}` is ")  # noqa: PT017 - text is fine for some keys


def test_a_pool_has_settings_of_its_own() -> None:
    """In the file and in variables; a process is replaced only if they say when."""
    path = written("[runners.resize.pool]\nsize = 2\nmax_memory = '1GiB'")
    pool = load(path, {"JETRUNNER_RUNNERS_RESIZE_POOL_MAX_TASKS": "100"}).runner("resize").pool
    assert (pool.size, pool.max_memory, pool.max_tasks) == (2, 2**30, 100)
    assert load(None, {}).runner("resize").pool == PoolSettings()


def test_a_variable_wins_over_the_file() -> None:
    """The overlay goes key by key: what a variable does not say is left to the file."""
    path = written("[nats]\nurl = 'nats://file'\nreplicas = 3\n[worker]\ngrace = 1")
    environ = {"JETRUNNER_NATS_URL": "nats://variable", "PATH": "/bin"}
    assert load(path, environ).nats == NatsConfig(url="nats://variable", replicas=3)
    assert origins(path, environ) == {
        "nats.url": "JETRUNNER_NATS_URL",
        "nats.replicas": "my.toml",
        "worker.grace": "my.toml",
    }


def test_an_empty_variable_takes_an_optional_value_back() -> None:
    """The file's `url` or `categories` can be undone."""
    path = written("[nats]\nurl = 'nats://file'\n[worker]\ncategories = ['command']\nmax_concurrency = 2")
    empty = {
        f"JETRUNNER_{name}": "" for name in ("NATS_URL", "NATS_CONTEXT", "WORKER_CATEGORIES", "WORKER_MAX_CONCURRENCY")
    }
    assert load(path, empty) == Config()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("COMMAND_MAX_CONCURRENCY", "command.max_concurrency"),
        ("COMMAND_ALLOW_HOSTS", "command.allow_hosts"),
        ("COMMAND_RESOURCE_LIMITS_MEMORY", "command.resource_limits.memory"),
        ("MY_OWN_MAX_CONCURRENCY", "my_own.max_concurrency"),
        ("MY-OWN_MAX_CONCURRENCY", "my-own.max_concurrency"),
        ("ALLOW_ALLOW", "allow.allow"),
        ("ALLOW_HOSTS_ALLOW", "allow_hosts.allow"),
        ("MEMORY_RESOURCE_LIMITS_MEMORY", "memory.resource_limits.memory"),
    ],
)
def test_the_longest_known_key_of_a_category_wins(name: str, key: str) -> None:
    """What is left of the name is the category, in lower case."""
    environ = {f"JETRUNNER_RUNNERS_{name}": "7"}
    assert origins(None, environ) == {f"runners.{key}": f"JETRUNNER_RUNNERS_{name}"}
    assert set(load(None, environ).runners) == {key.partition(".")[0]}


@pytest.mark.parametrize(
    ("section", "variable"), [("My-Own", "MY_OWN"), ("my_own", "MY-OWN"), ("GPU", "gpu"), ("gpu", "GPU")]
)
def test_a_variable_means_the_category_that_the_file_has(section: str, variable: str) -> None:
    """Case, and `-` or `_`, do not matter if there is such a section, though it be empty."""
    path = written(f"[runners.{section}]")
    config = load(path, {f"JETRUNNER_RUNNERS_{variable}_ALLOW": "x"})
    assert config.runners == {section: RunnerConfig(allow=("x",))}


def test_of_two_sections_alike_the_lower_cased_name_is_meant() -> None:
    """An exact section decides; without one the variable is refused."""
    path = written("[runners.a-b]\n[runners.a_b]\n[runners.C-D]\n[runners.c-D]")
    assert set(load(path, {"JETRUNNER_RUNNERS_A_B_ALLOW": "x"}).runners) == {"a_b"}
    assert problem(path, JETRUNNER_RUNNERS_C_D_ALLOW="x") == (
        "JETRUNNER_RUNNERS_C_D_ALLOW could mean [runners.C-D] or [runners.c-D]: set it in the file"
    )


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("NATS_ULR", "JETRUNNER_NATS_URL"),
        ("nats_url", None),
        ("MAX_CONCURRENCY", "JETRUNNER_WORKER_MAX_CONCURRENCY"),
        ("CONFIGS", "JETRUNNER_CONFIG"),
        ("RUNNERS_COMMAND_MAX_CONCURENCY", "JETRUNNER_RUNNERS_COMMAND_MAX_CONCURRENCY"),
        ("RUNNERS_MY_OWN_RESOURCE_LIMIT_MEMORY", "JETRUNNER_RUNNERS_MY_OWN_RESOURCE_LIMITS_MEMORY"),
        ("RUNNERS_MAX_CONCURRENCY", "JETRUNNER_RUNNERS_<CATEGORY>_MAX_CONCURRENCY"),
        ("RUNNERS", None),
        ("ZZZ", None),
        ("", None),
    ],
)
def test_an_unknown_variable_is_named_with_the_likely_one(name: str, likely: str | None) -> None:
    """A slip in a name does not go unnoticed."""
    suggestion = f"; did you mean {likely}?" if likely else ""
    assert problem(None, **{f"JETRUNNER_{name}": "x"}) == f"unknown variable JETRUNNER_{name}{suggestion}"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("WORKER_KEEPER", "maybe", "`worker.keeper` is 'maybe', but must be true or false"),
        ("WORKER_GRACE", "1y", "`worker.grace` is '1y', but must be a duration in seconds or such as \"1m30s\","),
        ("NATS_REPLICAS", "three", "`nats.replicas` is 'three', but must be a whole number, at least 1 and at most 5"),
        ("NATS_REPLICAS", "1.5", "`nats.replicas` is 1.5, but must be a whole number"),
        ("NATS_REPLICAS", "", "`nats.replicas` is '', but must be a whole number"),
        ("PLUGINS", "[a", "`plugins` is '[a', but must be a list"),
        ("PROFILE", "Open", "`profile` is 'Open', but must be one of open, standard, strict"),
        ("RUNNERS_A.B_ALLOW", "x", "the category is 'a.b', but must be 1 to 64 characters of A-Z a-z 0-9 _ -"),
        ("RUNNERS__ALLOW", "x", "the category is '', but must be 1 to 64 characters"),
    ],
)
def test_a_wrong_variable_is_shown_with_what_is_allowed(name: str, text: str, complaint: str) -> None:
    """Variable, key, what was found, what is allowed."""
    assert problem(None, **{f"JETRUNNER_{name}": text}).startswith(f"JETRUNNER_{name}: {complaint}")


@pytest.mark.parametrize("key", ["tracing.endpoint", "tracing.ui_url", "metrics.endpoint"])
def test_a_url_without_a_scheme_is_refused(key: str) -> None:
    """It would otherwise be found out span by span."""
    section, _, name = key.partition(".")
    path = written(f'[{section}]\n{name} = "localhost:4318"')
    assert problem(path) == (
        f"{path}: `{key}` is 'localhost:4318', but must be a URL that begins with http:// or https://"
    )


def test_tracing_is_set_by_variables() -> None:
    """Numbers, switches and durations are read as in a file."""
    config = load(
        None,
        {
            "JETRUNNER_TRACING_SAMPLE_RATIO": "0.5",
            "JETRUNNER_TRACING_ENABLED": "no",
            "JETRUNNER_TRACING_MAX_PARENT_AGE": "1h",
            "JETRUNNER_METRICS_PROMETHEUS": "true",
            "JETRUNNER_METRICS_BOUNDARIES": "[1, 2.5]",
        },
    )
    assert (config.tracing.sample_ratio, config.tracing.enabled, config.tracing.max_parent_age) == (0.5, False, 3600)
    assert (config.metrics.prometheus, config.metrics.boundaries) == (True, (1, 2.5))

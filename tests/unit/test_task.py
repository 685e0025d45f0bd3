"""The Task, field by field as in section 2 of the contract."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest

from schemas import (
    Base64,
    Cache,
    ContentType,
    Duration,
    Expiry,
    Limits,
    Retry,
    SchemaError,
    Size,
    Task,
    convert,
    decode,
    encode,
)
from schemas.task import MAX_FALLBACKS, MAX_NESTING

NAME: Final = "1 to 64 characters of A-Z a-z 0-9 _ -"
CONDITION: Final = 'a status, error class or error code, "exit:<n>", "http:<n>" or "http:5xx"'
DURATION: Final = 'expected a duration in seconds or such as "1m30s"'
SIZE: Final = 'expected a size in bytes or such as "64MiB"'
SCHEDULE: Final = 'is neither cron nor such as "@every 5s" (1 s or more) or "@hourly"'
NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)

DEFAULTS: Final[dict[str, Any]] = {
    "id": None,
    "category": None,
    "command": "",
    "args": "",
    "timeout": None,
    "grace": None,
    "env": {},
    "secret_env": {},
    "cwd": None,
    "stdin": None,
    "limits": Limits(),
    "limits_policy": "best_effort",
    "retry": Retry(),
    "max_redeliveries": 3,
    "on_worker_lost": "requeue",
    "not_before": None,
    "delay": None,
    "schedule": None,
    "exclusive": False,
    "expires": None,
    "reply_to": None,
    "cache": None,
    "fallback": None,
    "labels": {},
}


def read(**fields: Any) -> Task:
    return decode(Task, json.dumps(fields).encode())


def refusal(payload: bytes, form: ContentType = ContentType.JSON) -> str:
    with pytest.raises(SchemaError) as caught:
        decode(Task, payload, form)
    return str(caught.value)


def nested(depth: int, inner: object = "") -> object:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_every_field_may_be_left_out() -> None:
    """An empty object is a task whose every field has the contract's default."""
    assert msgspec.structs.asdict(decode(Task, b"{}")) == DEFAULTS


def test_parts_have_the_contract_s_defaults() -> None:
    """Limits ask for nothing, and a task is tried once unless it says otherwise."""
    assert set(msgspec.structs.asdict(Limits()).items()) == {
        (name, None) for name in ("memory", "cpu_seconds", "nofile", "pids", "cpus", "output")
    }
    assert msgspec.structs.asdict(Retry()) == {
        "max_attempts": 1,
        "delay": 1,
        "factor": 2,
        "max_delay": 300,
        "jitter": 0.1,
        "on": ("system", "network"),
    }


def test_the_seed_s_command_example_is_valid() -> None:
    """The seed's task for `command` is read word for word, its argv still in its string."""
    task = decode(Task, rb'{"command":"/bin/ls","args":"[\"-la\", \"/tmp\"]"}')
    assert task == Task(command="/bin/ls", args='["-la", "/tmp"]')


def test_the_seed_s_docker_example_is_valid() -> None:
    """The seed's parameters for `docker` are read word for word as the object in `args`."""
    task = decode(
        Task,
        rb'{"args":{"image":"ubuntu:20.04","command":"ls","args":"[\"-la\"]",'
        rb'"volumes":["/host/path:/container/path"],"env":{"KEY":"value"}}}',
    )
    assert task == Task(
        args={
            "image": "ubuntu:20.04",
            "command": "ls",
            "args": '["-la"]',
            "volumes": ["/host/path:/container/path"],
            "env": {"KEY": "value"},
        }
    )


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [
        *(("id", name, name) for name in ("a", "A-z_9", "x" * 64)),
        ("id", None, None),
        *(("category", name, name) for name in ("command", "my-runner_2")),
        ("command", "/bin/ls", "/bin/ls"),
        ("timeout", 5, Duration(5)),
        ("timeout", 0.5, Duration(0.5)),
        ("timeout", "1m30s", Duration(90)),
        ("grace", "2s", Duration(2)),
        ("grace", 0, Duration(0)),
        ("env", {"A": "", "é": "ü", "a.b": "c=d"}, {"A": "", "é": "ü", "a.b": "c=d"}),
        ("secret_env", {"TOKEN": "x"}, {"TOKEN": "x"}),
        ("cwd", "/tmp", "/tmp"),
        ("stdin", "", ""),
        ("stdin", "text\0", "text\0"),
        ("stdin", {"base64": "AP8="}, Base64("AP8=")),
        ("limits_policy", "require", "require"),
        ("max_redeliveries", 0, 0),
        ("max_redeliveries", 1000, 1000),
        ("on_worker_lost", "fail", "fail"),
        ("not_before", "2030-01-01T12:00:00Z", NOON),
        ("not_before", "2030-01-01T14:00:00.000+02:00", NOON),
        ("delay", "1h", Duration(3600)),
        ("exclusive", True, True),
        ("expires", "2030-01-01T12:00:00Z", Expiry(at=NOON)),
        ("expires", "10m", Expiry(after=Duration(600))),
        ("expires", 60, Expiry(after=Duration(60))),
        ("reply_to", "_INBOX.a", "_INBOX.a"),
        ("cache", {"ttl": "1h"}, Cache(ttl=Duration(3600))),
        ("cache", {"ttl": 60, "key": "k"}, Cache(ttl=Duration(60), key="k")),
        ("labels", {"team": "a", "": ""}, {"team": "a", "": ""}),
    ],
)
def test_a_field_is_read_in_each_of_its_forms(field: str, written: Any, value: Any) -> None:
    """What the contract allows is read, and nothing else of the task changes."""
    task = read(**{field: written})
    assert getattr(task, field) == value
    assert msgspec.structs.replace(task, **{field: DEFAULTS[field]}) == Task()


@pytest.mark.parametrize(
    "args",
    [
        *("", "not JSON, and not ours to judge", '["-la"]', '{"image":"x"}'),
        *([], ["-la", "/tmp"], [1, 2.5, None, True, ["x"], {"a": []}], [10**30]),
        *({}, {"args": ["-la"]}, {"args": '["-la"]'}, {"body": {"a": [1, {"b": None}]}}),
    ],
)
def test_args_are_a_string_a_list_or_an_object(args: Any) -> None:
    """Parameters are kept as they were given; the runner reads a string of JSON."""
    assert read(args=args).args == args


@pytest.mark.parametrize(
    ("limits", "value"),
    [
        ({"memory": "64MiB", "output": 1000}, Limits(memory=Size(67108864), output=Size(1000))),
        ({"cpu_seconds": 1, "nofile": 8, "pids": 1}, Limits(cpu_seconds=1, nofile=8, pids=1)),
        ({"cpus": 0.5}, Limits(cpus=0.5)),
        ({"cpus": 2}, Limits(cpus=2.0)),
        ({"memory": None}, Limits()),
        ({}, Limits()),
    ],
)
def test_limits_are_sizes_and_counts(limits: Any, value: Limits) -> None:
    """Memory and output are sizes; CPU time, files, processes and CPUs are numbers."""
    assert read(limits=limits).limits == value


@pytest.mark.parametrize(
    ("retry", "value"),
    [
        ({"max_attempts": 1000}, Retry(max_attempts=1000)),
        ({"delay": "2s", "max_delay": "1h"}, Retry(delay=Duration(2), max_delay=Duration(3600))),
        ({"factor": 1, "jitter": 0}, Retry(factor=1.0, jitter=0.0)),
        ({"on": []}, Retry(on=())),
    ],
)
def test_retry_changes_only_what_it_names(retry: Any, value: Retry) -> None:
    """Each part of the policy has its own default."""
    assert read(retry=retry).retry == value


@pytest.mark.parametrize(
    "condition",
    [
        *("failed", "timeout", "error", "parameter", "execution", "system", "network", "exit_nonzero", "oom_killed"),
        *("exit:0", "exit:1", "exit:137", "http:503", "http:100", "http:5xx", "http:4xx"),
    ],
)
def test_a_retry_condition_is_a_status_class_code_exit_or_http_status(condition: str) -> None:
    """`on` takes each of the contract's kinds of condition."""
    assert read(retry={"on": [condition]}).retry.on == (condition,)


@pytest.mark.parametrize(
    "condition",
    [
        *(
            "",
            " ",
            "exit_nonzero ",
            "failed\n",
            "Failed",
            "a-b",
            "exit:",
            "exit:x",
            "exit:-1",
            "exit:1000",
            "exit:\u0665",
        ),
        *("http:", "http:99", "http:600", "http:6xx", "http:5XX", "http:5xxx", "http:20x", "smtp:5xx", "http:5xx\n"),
    ],
)
def test_another_retry_condition_is_refused(condition: str) -> None:
    """A condition that could never hold is refused, with what may stand there."""
    assert refusal(json.dumps({"retry": {"on": ["system", condition]}}).encode()) == (
        f"`retry.on[1]`: expected {CONDITION}"
    )


@pytest.mark.parametrize(
    "schedule",
    [
        *("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"),
        *("@every 1s", "@every 5s", "@every 1m30s", "@every 1000ms", "@every 1.5h"),
        *("* * * * *", "*/5 9-17 1,15 * MON-FRI", "0 */5 * * * *", "30 0 9 ? JAN 1"),
    ],
)
def test_a_schedule_is_cron_an_interval_or_a_name(schedule: str) -> None:
    """Five or six cron fields, `@every` with at least a second, and the names of cron are schedules."""
    assert read(schedule=schedule).schedule == schedule


@pytest.mark.parametrize(
    "schedule",
    [
        *("", "hourly", "@reboot", "@Hourly", "@hourly ", "@at 2030-01-01T00:00:00Z", "5s", "every 5s"),
        *("@every", "@every ", "@every 5", "@every x", "@every  5s", "@every 5s ", "@every -5s", "@every 1s 1s"),
        *("@every 0s", "@every 999ms", "@every 0.5s", "@every 99999d"),
        *("* * * *", "* * * * * * *", "*  * * * *", " * * * * *", "* * * * *\n", "*\t* * * *"),
    ],
)
def test_another_schedule_is_refused(schedule: str) -> None:
    """What is no schedule, or fires more often than once a second, is refused with examples."""
    assert refusal(json.dumps({"schedule": schedule}).encode()) == f"`schedule` {schedule!r} {SCHEDULE}"


def test_a_recurring_task_s_id_leaves_room_for_the_time_of_each_firing() -> None:
    """The id of a recurring task has at most 50 characters; other ids may have 64."""
    assert read(id="x" * 50, schedule="@hourly").id == "x" * 50
    assert read(id="x" * 64, delay=1).id == "x" * 64
    assert refusal(json.dumps({"id": "x" * 51, "schedule": "@hourly"}).encode()) == (
        "the `id` of a recurring task has at most 50 characters"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"delay": 1, "schedule": "@hourly"},
        {"delay": 0, "not_before": "2030-01-01T12:00:00Z"},
        {"not_before": "2030-01-01T12:00:00Z", "schedule": "@hourly"},
    ],
)
def test_a_task_has_one_way_of_being_late(fields: dict[str, Any]) -> None:
    """Two of `not_before`, `delay` and `schedule` contradict each other."""
    assert refusal(json.dumps(fields).encode()) == "only one of `not_before`, `delay` and `schedule` may be given"


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        *((f'{{"id":{name}}}', f"`id`: expected {NAME}") for name in ('""', '"a b"', '"a.b"', '"a\\n"', '"é"')),
        (f'{{"id":"{"x" * 65}"}}', f"`id`: expected {NAME}"),
        ('{"id":5}', "`id`: expected `str | null`, got `int`"),
        ('{"category":"a.b"}', f"`category`: expected {NAME}"),
        ('{"command":null}', "`command`: expected `str`, got `null`"),
        ('{"command":["ls"]}', "`command`: expected `str`, got `array`"),
        ('{"args":5}', "`args`: expected `str | object | array`, got `int`"),
        ('{"args":null}', "`args`: expected `str | object | array`, got `null`"),
        ('{"timeout":"soon"}', f"`timeout`: {DURATION}, got 'soon'"),
        ('{"timeout":true}', f"`timeout`: {DURATION}, got True"),
        ('{"timeout":-1}', "`timeout`: expected a duration between 0 and ten years, got -1"),
        ('{"timeout":0}', "`timeout` must be more than 0"),
        ('{"grace":[]}', f"`grace`: {DURATION}, got []"),
        ('{"env":[]}', "`env`: expected `object`, got `array`"),
        ('{"env":{"A":1}}', "`env[...]`: expected `str`, got `int`"),
        ('{"cwd":""}', "`cwd` must not be empty or contain a NUL byte"),
        ('{"cwd":"/a\\u0000"}', "`cwd` must not be empty or contain a NUL byte"),
        ('{"stdin":5}', "`stdin`: expected `str | object | null`, got `int`"),
        ('{"stdin":{}}', "`stdin`: object missing required field `base64`"),
        ('{"limits":null}', "`limits`: expected `object`, got `null`"),
        ('{"limits":{"memory":"64M"}}', f"`limits.memory`: {SIZE}, got '64M'"),
        ('{"limits":{"memory":-1}}', "`limits.memory`: expected a size between 0 and 2**53 bytes, got -1"),
        ('{"limits":{"output":1.5}}', f"`limits.output`: {SIZE}, got 1.5"),
        ('{"limits":{"cpu_seconds":0}}', "`limits.cpu_seconds`: expected `int` >= 1"),
        ('{"limits":{"nofile":7}}', "`limits.nofile`: expected `int` >= 8"),
        ('{"limits":{"pids":1.5}}', "`limits.pids`: expected `int | null`, got `float`"),
        ('{"limits":{"cpus":0}}', "`limits.cpus`: expected `float` > 0.0"),
        ('{"limits_policy":"strict"}', "`limits_policy`: invalid enum value 'strict'"),
        ('{"retry":{"max_attempts":0}}', "`retry.max_attempts`: expected `int` >= 1"),
        ('{"retry":{"factor":0.5}}', "`retry.factor`: expected `float` >= 1.0"),
        ('{"retry":{"jitter":2}}', "`retry.jitter`: expected `float` <= 1.0"),
        ('{"retry":{"delay":"x"}}', f"`retry.delay`: {DURATION}, got 'x'"),
        ('{"retry":{"on":"system"}}', "`retry.on`: expected `array`, got `str`"),
        ('{"max_redeliveries":-1}', "`max_redeliveries`: expected `int` >= 0"),
        ('{"on_worker_lost":"retry"}', "`on_worker_lost`: invalid enum value 'retry'"),
        ('{"not_before":"2030-01-01"}', "`not_before`: invalid RFC3339 encoded datetime"),
        ('{"not_before":"2030-01-01T12:00:00"}', "`not_before`: expected `datetime` with a timezone component"),
        ('{"not_before":1893456000}', "`not_before`: expected `datetime | null`, got `int`"),
        ('{"not_before":"0001-01-01T00:00:00+01:00"}', "`not_before` is outside the years 1 to 9999 in UTC"),
        ('{"not_before":"9999-12-31T23:59:59-01:00"}', "`not_before` is outside the years 1 to 9999 in UTC"),
        ('{"delay":"x"}', f"`delay`: {DURATION}, got 'x'"),
        ('{"schedule":5}', "`schedule`: expected `str | null`, got `int`"),
        ('{"exclusive":1}', "`exclusive`: expected `bool`, got `int`"),
        (
            '{"expires":"2030-01-01T12:00:00"}',
            "`expires`: expected an RFC 3339 time with its offset or a duration, got '2030-01-01T12:00:00'",
        ),
        ('{"reply_to":["a"]}', "`reply_to`: expected `str | null`, got `array`"),
        ('{"cache":{}}', "`cache`: object missing required field `ttl`"),
        ('{"cache":{"ttl":"x"}}', f"`cache.ttl`: {DURATION}, got 'x'"),
        ('{"cache":{"ttl":1,"key":""}}', "`cache.key`: expected `str` of length >= 1"),
        ('{"fallback":"ls"}', "`fallback`: expected `object | null`, got `str`"),
        ('{"fallback":{"timeout":"x"}}', f"`fallback.timeout`: {DURATION}, got 'x'"),
        ('{"fallback":{"cwd":""}}', "`fallback`: `cwd` must not be empty or contain a NUL byte"),
        ('{"labels":{"a":1}}', "`labels[...]`: expected `str`, got `int`"),
    ],
)
def test_a_wrong_field_is_refused_in_one_sentence_that_names_it(payload: str, error: str) -> None:
    """The error says which field is wrong, however deep, and what should stand there."""
    assert refusal(payload.encode()) == error


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ('{"cmd":"ls"}', "unknown field `cmd`"),
        ('{"memory":1}', "unknown field `memory`; it belongs in `limits`"),
        ('{"cpus":1}', "unknown field `cpus`; it belongs in `limits`"),
        ('{"max_attempts":3}', "unknown field `max_attempts`; it belongs in `retry`"),
        ('{"on":["system"]}', "unknown field `on`; it belongs in `retry`"),
        ('{"ttl":60}', "unknown field `ttl`; it belongs in `cache`"),
        ('{"image":"x"}', "unknown field `image`; it belongs in `args`"),
        ('{"url":"x"}', "unknown field `url`; it belongs in `args`"),
        ('{"script":"x"}', "unknown field `script`; it belongs in `args`"),
        ('{"retry":{"attempts":3}}', "unknown field `attempts` in `retry`"),
        ('{"retry":{"timeout":3}}', "unknown field `timeout` in `retry`; it belongs in the task itself"),
        ('{"limits":{"delay":3}}', "unknown field `delay` in `limits`; it belongs in the task itself"),
        ('{"limits":{"max_delay":3}}', "unknown field `max_delay` in `limits`; it belongs in `retry`"),
        ('{"limits":{"image":"x"}}', "unknown field `image` in `limits`"),
        ('{"stdin":{"base64":"","file":"x"}}', "unknown field `file` in `stdin`"),
        ('{"fallback":{"cmd":"ls"}}', "unknown field `cmd` in `fallback`"),
        ('{"fallback":{"memory":1}}', "unknown field `memory` in `fallback`; it belongs in `limits`"),
        ('{"fallback":{"image":"x"}}', "unknown field `image` in `fallback`; it belongs in `args`"),
        (
            '{"fallback":{"fallback":{"retry":{"memory":1}}}}',
            "unknown field `memory` in `fallback.fallback.retry`; it belongs in `limits`",
        ),
    ],
)
def test_an_unknown_field_is_refused_with_its_proper_place(payload: str, error: str) -> None:
    """A field that is not ours is named, with where it was found and, if known, where it belongs."""
    assert refusal(payload.encode()) == error


@pytest.mark.parametrize("field", ["env", "secret_env"])
@pytest.mark.parametrize("name", ["", "=", "A=B", "A\0"])
def test_an_environment_name_that_no_process_could_have_is_refused(field: str, name: str) -> None:
    """Names are not empty and hold neither `=` nor NUL."""
    assert refusal(json.dumps({field: {"OK": "", name: "x"}}).encode()) == (
        f"`{field}` has the name {name!r}: a name must not be empty or contain '=' or a NUL byte"
    )


@pytest.mark.parametrize("field", ["env", "secret_env"])
def test_an_environment_value_holds_no_nul(field: str) -> None:
    """A value that would be cut short is refused; the value itself is not shown."""
    assert refusal(json.dumps({field: {"A": "secret\0"}}).encode()) == f"`{field}.A` contains a NUL byte"


def test_a_variable_is_either_secret_or_not() -> None:
    """A name in both `env` and `secret_env` is refused."""
    assert refusal(b'{"env":{"B":"","A":""},"secret_env":{"A":"","B":""}}') == (
        "`A` is given in both `env` and `secret_env`"
    )


@pytest.mark.parametrize(
    ("stdin", "data"),
    [(None, b""), ("", b""), ("é\0", b"\xc3\xa9\0"), ({"base64": ""}, b""), ({"base64": "AP8="}, b"\0\xff")],
)
def test_stdin_is_text_or_bytes_in_base64(stdin: Any, data: bytes) -> None:
    """What the task reads is the text in UTF-8, or the bytes."""
    assert read(stdin=stdin).stdin_bytes() == data


@pytest.mark.parametrize("text", ["!", "AP8", "AP8=\n", "A P8=", "_-8=", "AP8é", "="])
def test_stdin_refuses_what_is_not_padded_base64(text: str) -> None:
    """Missing padding, line breaks and the URL alphabet are refused, not skipped."""
    assert refusal(json.dumps({"stdin": {"base64": text}}).encode()) == "`stdin`: expected padded base64 text"


def test_a_fallback_is_a_task_without_an_id() -> None:
    """A fallback is read like a task, may have one of its own, and runs under its task's id."""
    task = read(id="t1", fallback={"command": "b", "fallback": {"category": "http"}})
    assert task.fallback == Task(command="b", fallback=Task(category="http"))
    assert refusal(b'{"fallback":{"id":"t2"}}') == "`fallback` must not have an `id`: it runs under its task's"


def test_fallbacks_are_nested_to_a_bounded_depth() -> None:
    """A chain of fallbacks has an end, so that every task can be published again."""
    payload = b'{"fallback":' * MAX_FALLBACKS + b"{}" + b"}" * MAX_FALLBACKS
    assert encode(decode(Task, payload))
    assert refusal(b'{"fallback":' + payload + b"}").endswith(f"`fallback` is nested more than {MAX_FALLBACKS} deep")


@pytest.mark.parametrize("form", list(ContentType))
def test_args_are_nested_to_a_bounded_depth(form: ContentType) -> None:
    """What can be read can be written from any stack; what is deeper is refused."""
    deepest = Task(args=nested(MAX_NESTING))
    assert decode(Task, encode(deepest, form), form) == deepest
    too_deep = encode({"args": nested(MAX_NESTING + 1)}, form)
    assert refusal(too_deep, form) == f"`args` is nested more than {MAX_NESTING} deep"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"x", "bytes"),
        (float("nan"), "float"),
        (float("inf"), "float"),
        (NOON, "datetime"),
        (msgspec.msgpack.Ext(5, b"x"), "Ext"),
        ({1: 2}, "dict"),
        ({None: 2}, "dict"),
        ({(1, 2): 3}, "dict"),
    ],
)
def test_args_hold_only_what_json_has_a_form_for(value: object, kind: str) -> None:
    """Parameters that could not be published again as they are, or hashed, are refused."""
    payload = msgspec.msgpack.encode({"args": ["a", {"b": value}]})
    assert refusal(payload, ContentType.MSGPACK) == f"`args` holds a `{kind}` that JSON has no form for"


def test_a_task_made_in_python_is_held_to_the_same_rules() -> None:
    """What relates several fields is checked on construction too, as a ValueError."""
    with pytest.raises(ValueError, match="only one of `not_before`, `delay` and `schedule`"):
        Task(not_before=NOON + timedelta(days=1), schedule="@hourly")


def test_a_task_made_of_plain_values_is_held_to_the_same_rules() -> None:
    """`convert` reads dicts as `decode` reads bytes."""
    assert convert({"timeout": "5s", "limits": {"memory": "1KiB"}}, Task) == Task(
        timeout=Duration(5), limits=Limits(memory=Size(1024))
    )
    with pytest.raises(SchemaError, match=r"^unknown field `memory`; it belongs in `limits`$"):
        convert({"memory": 1}, Task)


def test_a_task_cannot_be_changed() -> None:
    """Tasks are frozen: a change makes another task."""
    with pytest.raises(AttributeError, match="immutable"):
        Task().command = "x"

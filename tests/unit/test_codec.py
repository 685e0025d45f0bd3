"""Both forms on the wire: what goes in comes out, and whatever else comes in is a SchemaError."""

import json
import struct
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import (
    Base64,
    Cache,
    ContentType,
    Control,
    Duration,
    Event,
    Expiry,
    Limits,
    Result,
    Retry,
    SchemaError,
    Size,
    Status,
    Task,
    convert,
    decode,
    decode_loosely,
    encode,
    json_schema,
)
from schemas.quantity import MAX_DURATION, MAX_SIZE

JSON, MSGPACK = ContentType
PATIENT: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Property tests that do not mind a busy machine."""

# What a Task may be made of.
texts: Final = st.text(max_size=20)
names: Final = st.from_regex(r"[A-Za-z0-9_-]{1,50}", fullmatch=True)
objects: Final = st.dictionaries(texts, texts, max_size=3)
durations: Final = st.floats(0, MAX_DURATION).map(Duration)
sizes: Final = st.integers(0, MAX_SIZE).map(Size)
moments: Final = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
json_values: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
variables: Final = st.dictionaries(
    st.text(st.characters(exclude_characters="=\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    max_size=3,
)
limits: Final = st.builds(
    Limits,
    memory=st.none() | sizes,
    cpu_seconds=st.none() | st.integers(1, 10**8),
    nofile=st.none() | st.integers(8, 2**20),
    pids=st.none() | st.integers(1, 2**22),
    cpus=st.none() | st.floats(0.001, 4096),
    output=st.none() | sizes,
)
retries: Final = st.builds(
    Retry,
    max_attempts=st.integers(1, 1000),
    delay=durations,
    factor=st.floats(1, 100),
    max_delay=durations,
    jitter=st.floats(0, 1),
    on=st.lists(st.sampled_from(["system", "failed", "exit:3", "http:503", "http:5xx"]), max_size=3).map(tuple),
)
lateness: Final = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"not_before": moments}),
    st.fixed_dictionaries({"delay": durations}),
    st.fixed_dictionaries({"schedule": st.sampled_from(["@hourly", "@every 5s", "* * * * *"])}),
)


def tasks(ids: st.SearchStrategy[str | None], fallbacks: st.SearchStrategy[Task | None]) -> st.SearchStrategy[Task]:
    fields = {
        "id": ids,
        "category": st.none() | names,
        "command": texts,
        "args": texts | st.lists(json_values, max_size=3) | st.dictionaries(texts, json_values, max_size=3),
        "timeout": st.none() | durations.filter(bool),
        "grace": st.none() | durations,
        "env": variables,
        "cwd": st.none() | st.just("/tmp"),
        "stdin": st.none() | texts | st.sampled_from([Base64(""), Base64("AP8=")]),
        "limits": limits,
        "limits_policy": st.sampled_from(["best_effort", "require"]),
        "retry": retries,
        "max_redeliveries": st.integers(0, 1000),
        "on_worker_lost": st.sampled_from(["requeue", "fail"]),
        "exclusive": st.booleans(),
        "expires": st.none() | moments.map(lambda at: Expiry(at=at)) | durations.map(lambda after: Expiry(after=after)),
        "reply_to": st.none() | texts,
        "cache": st.none() | st.builds(Cache, ttl=durations, key=st.none() | st.text(min_size=1, max_size=9)),
        "fallback": fallbacks,
        "labels": objects,
    }
    return st.builds(lambda given, late: Task(**given, **late), st.fixed_dictionaries({}, optional=fields), lateness)


VALID: Final = [
    *({}, {"command": "/bin/ls", "args": '["-la", "/tmp"]'}, {"args": {"image": "x", "volumes": ["/a:/b"]}}),
    {"id": "t1", "timeout": "5s", "env": {"A": "b"}, "limits": {"memory": 5}, "retry": {"on": ["exit:5"]}},
    {"delay": 1, "expires": "10m", "stdin": {"base64": "AP8="}, "fallback": {"command": "b"}, "labels": {"a": "b"}},
]
MESSAGES: Final = [Task, Result, Event, Control]


@pytest.mark.parametrize("form", list(ContentType))
@PATIENT
@given(task=tasks(st.none() | names, st.none() | tasks(st.none(), st.none())))
def test_a_task_comes_back_as_it_went(form: ContentType, task: Task) -> None:
    """Decoding an encoded task gives an equal task, in both forms."""
    assert decode(Task, encode(task, form), form) == task


@PATIENT
@given(task=tasks(st.none() | names, st.none()))
def test_both_forms_say_the_same(task: Task) -> None:
    """A task in msgpack has the fields and values it has in JSON."""
    assert msgspec.msgpack.decode(encode(task, MSGPACK)) == json.loads(encode(task, JSON))


@pytest.mark.parametrize("form", list(ContentType))
def test_times_and_durations_are_plain_values_in_both_forms(form: ContentType) -> None:
    """Moments are RFC 3339 strings, durations are seconds and sizes bytes: msgpack has no extension types of ours."""
    task = Task(
        not_before=datetime(2030, 1, 1, 12, tzinfo=UTC),
        expires=Expiry(at=datetime(2030, 1, 2, 0, 0, 0, 5, tzinfo=UTC)),
        timeout=Duration(90),
        limits=Limits(memory=Size(1024)),
    )
    raw = decode(dict[str, Any], encode(task, form), form)
    assert raw["not_before"] == "2030-01-01T12:00:00Z"
    assert raw["expires"] == "2030-01-02T00:00:00.000005Z"
    assert raw["timeout"] == 90
    assert raw["limits"]["memory"] == 1024


def test_a_task_leaves_its_defaults_out() -> None:
    """What was not asked for is not sent, but for the parts that a reader cannot know the default of."""
    assert json.loads(encode(Task(command="ls"))).keys() <= {"command", "retry"}


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (None, JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        (" application/json ;x", JSON),
        ("application/msgpack", MSGPACK),
        ("application/msgpack;v=1", MSGPACK),
    ],
)
def test_the_content_type_names_the_form(header: str | None, form: ContentType) -> None:
    """JSON is the default; case and parameters do not matter."""
    assert ContentType.parse(header) is form


@pytest.mark.parametrize("header", ["", "text/plain", "application/x-msgpack", "json", "application/json, text/plain"])
def test_another_content_type_is_refused(header: str) -> None:
    """A form that we do not read is refused with those that we do."""
    with pytest.raises(SchemaError) as caught:
        ContentType.parse(header)
    assert str(caught.value) == (
        f"the Content-Type {header!r} is not supported: use application/json or application/msgpack"
    )


@pytest.mark.parametrize("form", list(ContentType))
@pytest.mark.parametrize("message", MESSAGES)
def test_an_empty_payload_is_no_message(message: type, form: ContentType) -> None:
    """Nothing is not a message; whoever allows an empty payload asks first."""
    with pytest.raises(SchemaError, match=r"^the payload is empty$"):
        decode(message, b"", form)


@pytest.mark.parametrize(
    "payload",
    [
        *(b" ", b"{", b'{"command"', b'{"command":"ls"', b'{"args":[1,', b"{} {}", b"{}x", b"{'a':1}", b"{,}", b"nul"),
        *(b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"command":"\xff"}', b'{"\xc3\x28":1}', b'{"command":"a\nb"}'),
        *(b'{"command":"\\ud800"}', b'{"command":"\\ud800x12345678"}', b'{"\\udfff":1}', b'{"args":["\\ud83d"]}'),
        *(b'{"timeout":NaN}', b'{"timeout":Infinity}', b'{"args":[-Infinity]}', b'{"timeout":01}', b'{"timeout":+1}'),
        *(b'{"args":' * 5000, b'{"args":' + b"[" * 5000, b'{"fallback":' * 5000, b'{"x":' + b'{"a":' * 5000),
        b'{"args":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    """Truncated, malformed, endless or badly encoded text is a SchemaError, never a crash."""
    with pytest.raises(SchemaError, match=r"^(the payload is not valid JSON: \S|unknown field `x`$|`args` is nested )"):
        decode(Task, payload)


@pytest.mark.parametrize(
    "payload",
    [
        *(
            b"\x81",
            b"\x81\xa7command",
            b"\xc1",
            b"\x81\xa7command\xa1\xff",
            b"\x81\xa7command\xa3\xed\xa0\x80",
            b"\x80x",
        ),
        *(
            b"\x81\xa4args\xdd\xff\xff\xff\xff",
            b"\x81\xa4args\xdf\xff\xff\xff\xff",
            b"\x81\xa7command\xdb\xff\xff\xff\xff",
        ),
        *(b"\x81\xa4args" + b"\x91" * 5000, b"\x81\xa4args" * 5000, b"\x81\xa8fallback" * 5000),
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_what_is_not_msgpack_is_refused(payload: bytes) -> None:
    """Truncated, endless or badly encoded msgpack, and lengths that are lies, are SchemaErrors."""
    with pytest.raises(SchemaError, match=r"^the payload is not valid MSGPACK: \S"):
        decode(Task, payload, MSGPACK)


@pytest.mark.parametrize("payload", [b"[]", b"null", b'"x"', b"5", b"true", b"[" * 5000])
def test_what_is_not_an_object_is_refused(payload: bytes) -> None:
    """A message is an object."""
    with pytest.raises(SchemaError, match=r"^expected `object`, got `(array|null|str|int|bool)`$"):
        decode(Task, payload)


@pytest.mark.parametrize(
    ("field", "error"),
    [
        (b'"timeout":1e999', "`timeout`: number out of range"),
        (b'"timeout":%s' % (b"9" * 400), "`timeout`: expected a duration between 0 and ten years, got 999"),
        (b'"timeout":%s' % (b"9" * 5000), "`timeout`: integer value out of range"),
        (b'"timeout":"%ss"' % (b"9" * 400), "`timeout`: expected a duration between 0 and ten years, got '999"),
        (b'"expires":%s' % (b"9" * 400), "`expires`: expected an RFC 3339 time with its offset or a duration, got 999"),
        (b'"limits":{"memory":1e300}', "`limits.memory`: expected a size between 0 and 2**53 bytes, got 1e+300"),
        (b'"limits":{"memory":%s}' % (b"9" * 400), "`limits.memory`: expected a size between 0 and 2**53 bytes, got 9"),
        (b'"limits":{"memory":"%sB"}' % (b"9" * 400), "`limits.memory`: expected a size between 0 and 2**53 bytes"),
        (b'"limits":{"cpu_seconds":%s}' % (b"9" * 400), "`limits.cpu_seconds`: expected `int` <= 315360000"),
        (b'"max_redeliveries":%s' % (b"9" * 400), "`max_redeliveries`: expected `int` <= 1000"),
        (b'"retry":{"factor":1e308}', "`retry.factor`: expected `float` <= 100.0"),
        (b'"args":[%s]' % (b"9" * 5000), "`args[0]`: integer value out of range"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_huge_number_is_refused_by_field(field: bytes, error: str) -> None:
    """A number that no machine keeps is refused with the field it stands in."""
    with pytest.raises(SchemaError) as caught:
        decode(Task, b"{" + field + b"}")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "path",
    [["timeout"], ["grace"], ["delay"], ["expires"], ["limits", "memory"], ["limits", "cpus"], ["retry", "jitter"]],
    ids=".".join,
)
def test_msgpack_s_nan_and_infinities_are_no_quantities(path: list[str], number: float) -> None:
    """Numbers that JSON cannot even write are refused by field where msgpack brings them."""
    message: Any = number
    for key in reversed(path):
        message = {key: message}
    with pytest.raises(SchemaError, match=f"^`{'.'.join(path)}`: expected "):
        decode(Task, msgspec.msgpack.encode(message), MSGPACK)


@pytest.mark.parametrize("form", list(ContentType))
@pytest.mark.parametrize("message", MESSAGES)
@PATIENT
@given(payload=st.binary(max_size=50))
def test_no_bytes_end_the_decoder(message: type, form: ContentType, payload: bytes) -> None:
    """Whatever arrives, decoding returns a message or raises SchemaError."""
    try:
        value = decode(message, payload, form)
    except SchemaError:
        return
    assert isinstance(value, message)


@pytest.mark.parametrize("form", list(ContentType))
@PATIENT
@given(
    message=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_no_damage_to_a_task_ends_the_decoder_or_the_encoder(
    form: ContentType, message: object, changes: list[tuple[int, int]]
) -> None:
    """A damaged task is refused or read; what is read can be written again in both forms."""
    payload = bytearray(encode(message, form))
    for position, byte in changes:
        payload[position % len(payload)] = byte
    try:
        task = decode(Task, bytes(payload), form)
    except SchemaError:
        return
    for again in ContentType:
        assert encode(task, again)


@pytest.mark.parametrize("form", list(ContentType))
def test_text_that_has_no_utf_8_cannot_be_sent(form: ContentType) -> None:
    """A lone surrogate, such as Python makes of bytes in an argument, is a SchemaError."""
    with pytest.raises(
        SchemaError, match=r"^the message cannot be written as (JSON|MSGPACK): .*surrogates not allowed"
    ):
        encode(Task(command="\ud800"), form)


@pytest.mark.parametrize("form", list(ContentType))
def test_what_is_no_message_is_a_mistake_of_ours(form: ContentType) -> None:
    """A value that has no form on the wire is a programming error, not the sender's."""
    with pytest.raises(NotImplementedError):
        encode(object(), form)


def test_msgpack_has_no_integers_beyond_64_bits() -> None:
    """A number that only JSON can hold is a SchemaError in msgpack."""
    task = decode(Task, b'{"args":[1%s]}' % (b"0" * 30))
    assert decode(Task, encode(task, JSON)) == task
    with pytest.raises(SchemaError, match=r"^the message cannot be written as MSGPACK: "):
        encode(task, MSGPACK)


@pytest.mark.parametrize(
    "payload",
    [
        {"timeout": "x" * 10_000},
        {"timeout": ["x" * 10_000]},
        {"schedule": "x" * 10_000},
        {"limits": {"memory": "x" * 10_000}},
        {"env": {"=" * 10_000: ""}},
        {"x" * 10_000: 1},
        {"retry": {"x" * 10_000: 1}},
        {"limits_policy": "x" * 10_000},
    ],
    ids=lambda payload: next(iter(payload))[:20],
)
def test_an_error_is_short_whatever_was_sent(payload: object) -> None:
    """An error fits a Result and a header: what was given is shown only in part."""
    with pytest.raises(SchemaError) as caught:
        decode(Task, encode(payload))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "payload",
    [
        {"a\nb": 1},
        {"retry": {"\r\n": 1}},
        {"env": {"a\x1b[2J": "\0"}},
        {"timeout": "\n\x9b"},
        {"\u2028": 1},
        {"\x7f": 1},
    ],
)
def test_an_error_is_one_line_whatever_was_sent(payload: object) -> None:
    """An error can go into a header or a terminal: line ends and controls in it are escaped."""
    with pytest.raises(SchemaError) as caught:
        decode(Task, encode(payload))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["x - at `$.retry`", "` - at `$.a` - at `$.b"])
def test_what_was_sent_cannot_move_an_error(value: str) -> None:
    """The field an error names is the field that is wrong, even if its value looks like a place."""
    with pytest.raises(SchemaError) as caught:
        decode(Task, encode({"timeout": value}))
    assert str(caught.value) == f'`timeout`: expected a duration in seconds or such as "1m30s", got {value!r}'


def test_a_wrong_key_is_refused_by_the_object_it_is_in() -> None:
    """A key that is not text, as msgpack allows, is an error in its object."""
    with pytest.raises(SchemaError, match=r"^`env`: expected `str`, got `int`$"):
        decode(Task, msgspec.msgpack.encode({"env": {1: "x"}}), MSGPACK)


@pytest.mark.parametrize("form", list(ContentType))
def test_what_can_be_read_of_an_invalid_task_is_read(form: ContentType) -> None:
    """The fields of a message that is no task are there for its error Result."""
    fields = {"id": "t1", "reply_to": "_INBOX.a", "timeout": "soon", "what": [1]}
    assert decode_loosely(encode(fields, form), form) == fields


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"5", b"\xff", b"\x81\x01\x02", b"[" * 5000, b'{"a":' * 5000])
@pytest.mark.parametrize("form", list(ContentType))
def test_of_what_is_no_object_nothing_is_read(form: ContentType, payload: bytes) -> None:
    """Where no fields can be read there are none, without an error."""
    assert decode_loosely(payload, form) == {}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], "expected `object`, got `array`"),
        (None, "expected `object`, got `null`"),
        ({"grace": "x"}, "`grace`: expected a duration in seconds or such as \"1m30s\", got 'x'"),
        ({"memory": 1}, "unknown field `memory`"),
    ],
)
def test_convert_refuses_like_decode(value: object, error: str) -> None:
    """Plain values are held to a message's rules, with the same errors."""
    with pytest.raises(SchemaError) as caught:
        convert(value, Control)
    assert str(caught.value) == error


def test_convert_refuses_endless_nesting() -> None:
    """Values nested deeper than any stack are a SchemaError, not a crash."""
    value: Any = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(SchemaError, match=r"recursion|nested"):
        convert({"args": value}, Task)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_schema_describes_each_message(message: type) -> None:
    """The JSON Schema names its dialect, can be written as JSON, and all its references lead somewhere."""
    schema = json_schema(message)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"] == f"#/$defs/{message.__name__}"
    text = json.dumps(schema)
    assert {name for name in schema["$defs"] if f'"#/$defs/{name}"' in text} == schema["$defs"].keys()
    assert text.count('"#/$defs/') == sum(text.count(f'"#/$defs/{name}"') for name in schema["$defs"])
    assert schema["$defs"][message.__name__]["properties"].keys() == set(message.__struct_fields__)


@pytest.mark.parametrize("name", ["Task", "Limits", "Retry", "Cache", "Base64"])
def test_the_schema_of_a_task_allows_no_other_fields(name: str) -> None:
    """An editor that knows the schema marks a misspelt field, as the worker would refuse it."""
    assert json_schema(Task)["$defs"][name]["additionalProperties"] is False


@pytest.mark.parametrize("message", [Result, Event])
def test_the_schema_of_what_we_send_allows_new_fields(message: type) -> None:
    """A reader that validates is not broken by a field that is added."""
    assert json_schema(message)["$defs"][message.__name__].get("additionalProperties", True) is True


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "Task",
            {
                **dict.fromkeys(
                    ["id", "category", "timeout", "grace", "cwd", "stdin", "not_before", "delay", "schedule"]
                ),
                **dict.fromkeys(["expires", "reply_to", "cache", "fallback"]),
                **dict.fromkeys(["command", "args"], ""),
                **{field: {} for field in ("env", "secret_env", "labels", "retry")},
                "limits": dict.fromkeys(Limits.__struct_fields__),
                "limits_policy": "best_effort",
                "max_redeliveries": 3,
                "on_worker_lost": "requeue",
                "exclusive": False,
            },
        ),
        ("Limits", dict.fromkeys(["memory", "cpu_seconds", "nofile", "pids", "cpus", "output"])),
        (
            "Retry",
            {"max_attempts": 1, "delay": 1, "factor": 2, "max_delay": 300, "jitter": 0.1, "on": ["system", "network"]},
        ),
    ],
)
def test_the_schema_of_a_task_gives_every_field_with_its_default(name: str, defaults: dict[str, Any]) -> None:
    """Every field of the contract is in the schema, and nothing is required."""
    part = json.loads(json.dumps(json_schema(Task)))["$defs"][name]
    assert {field: description.get("default", ...) for field, description in part["properties"].items()} == defaults
    assert part["required"] == []


@pytest.mark.parametrize("message", VALID)
def test_valid_tasks_have_only_fields_of_the_schema(message: dict[str, Any]) -> None:
    """What the decoder accepts, the schema knows."""
    assert decode(Task, encode(message))
    assert message.keys() <= json_schema(Task)["$defs"]["Task"]["properties"].keys()


def test_quantities_are_numbers_or_strings_in_the_schema() -> None:
    """The schema allows both forms of a duration, a size and an expiry, with an example."""
    definitions = json_schema(Task)["$defs"]
    number_or_text = [{"type": "number", "minimum": 0}, {"type": "string", "examples": ["1m30s"]}]
    assert definitions["Retry"]["properties"]["delay"]["anyOf"] == number_or_text
    assert definitions["Limits"]["properties"]["memory"]["anyOf"][0] == {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "examples": ["64MiB"]}]
    }


results: Final = st.builds(
    Result,
    task_id=names,
    category=names,
    status=st.sampled_from(list(Status)),
    output=texts,
    start_time=st.none() | moments,
    end_time=moments,
    duration=st.integers(0, 2**53),
    exit_code=st.none() | st.integers(0, 255),
    labels=objects,
)


@pytest.mark.parametrize("form", list(ContentType))
@PATIENT
@given(result=results)
def test_a_result_comes_back_as_it_went(form: ContentType, result: Result) -> None:
    """Decoding an encoded Result gives an equal Result, in both forms."""
    assert decode(Result, encode(result, form), form) == result


def test_doubles_keep_every_bit() -> None:
    """A duration in msgpack is a 64-bit float."""
    assert struct.pack(">d", 0.1) in encode(Task(timeout=Duration(0.1)), MSGPACK)

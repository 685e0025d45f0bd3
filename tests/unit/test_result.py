"""The Result on the wire: the contract's example, its defaults, and its enumerations."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from schemas import (
    AppliedLimit,
    Cause,
    ContentType,
    DockerContainer,
    ErrorClass,
    HttpResponse,
    Result,
    SchemaError,
    ScriptSource,
    Status,
    StreamOutput,
    Streams,
    Termination,
    Usage,
    decode,
    encode,
)

EXAMPLE: Final[dict[str, Any]] = {
    "task_id": "t1",
    "category": "command",
    "status": "success",
    "output": "hi\n",
    "stderr": "",
    "error": "",
    "start_time": "2026-11-23T10:00:00.123456Z",
    "end_time": "2026-11-23T10:00:00.135000Z",
    "duration": 12,
    "exit_code": 0,
    "error_class": None,
    "error_code": None,
    "retryable": False,
    "signal": None,
    "attempt": 1,
    "worker": "w1",
    "streams": {
        "stdout": {
            "bytes": 3,
            "encoding": "utf-8",
            "truncated": False,
            "dropped_bytes": 0,
            "ref": None,
            "sha256": "98ea6e4f",
        },
        "stderr": {
            "bytes": 0,
            "encoding": "utf-8",
            "truncated": False,
            "dropped_bytes": 0,
            "ref": None,
            "sha256": None,
        },
    },
    "output_complete": True,
    "termination": {
        "cause": "exit",
        "signals": [],
        "leaked_processes": 0,
        "unkillable": False,
        "by": None,
        "reason": None,
    },
    "limits": {"memory": {"requested": 67108864, "enforced_by": "cgroup2"}},
    "usage": {"cpu_user": 0.001, "cpu_system": 0.002, "max_rss": 3145728},
    "http": None,
    "docker": None,
    "cached": False,
    "degraded": False,
    "labels": {},
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
"""The contract's example (section 3), its ellipses filled in."""

RESULT: Final = Result(
    task_id="t1",
    category="command",
    status=Status.SUCCESS,
    output="hi\n",
    start_time=datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC),
    end_time=datetime(2026, 11, 23, 10, 0, 0, 135000, tzinfo=UTC),
    duration=12,
    exit_code=0,
    worker="w1",
    streams=Streams(stdout=StreamOutput(bytes=3, sha256="98ea6e4f")),
    termination=Termination(cause=Cause.EXIT),
    limits={"memory": AppliedLimit(requested=67108864, enforced_by="cgroup2")},
    usage=Usage(cpu_user=0.001, cpu_system=0.002, max_rss=3145728),
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
)

REFUSED: Final = Result(
    task_id="t2", category="nothing", status=Status.ERROR, end_time=datetime(2026, 11, 23, 10, tzinfo=UTC)
)


def test_the_result_is_written_as_in_the_contract_s_example() -> None:
    """Every field of the example is there, with the example's value and in its order."""
    written = json.loads(encode(RESULT))
    assert {key: written[key] for key in EXAMPLE} == EXAMPLE
    assert [key for key in written if key in EXAMPLE] == list(EXAMPLE)


@pytest.mark.parametrize("form", list(ContentType))
def test_the_contract_s_example_is_read_back(form: ContentType) -> None:
    """Reading the example gives the Result, and both forms keep it."""
    assert decode(Result, json.dumps(EXAMPLE).encode()) == RESULT
    assert decode(Result, encode(RESULT, form), form) == RESULT


def test_a_result_leaves_no_field_out() -> None:
    """Defaults are written too: a reader finds every field whatever happened."""
    assert json.loads(encode(REFUSED)).keys() == json.loads(encode(RESULT)).keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("output", ""), ("stderr", ""), ("error", ""), ("start_time", None), ("duration", 0), ("exit_code", None)),
        *(("error_class", None), ("error_code", None), ("retryable", False), ("signal", None), ("attempt", 1)),
        *(("output_complete", True), ("termination", None), ("limits", {}), ("usage", None), ("http", None)),
        *(
            ("docker", None),
            ("script", None),
            ("cached", False),
            ("degraded", False),
            ("labels", {}),
            ("trace_id", None),
        ),
        *(
            ("retry_after", None),
            ("first_error", None),
            ("warnings", []),
            ("redeliveries", 0),
            ("side_effect", None),
            ("cleanup", None),
        ),
    ],
)
def test_what_nothing_is_known_of_is_empty_or_null(field: str, value: object) -> None:
    """Where nothing started there is no start, no process and no receipt."""
    assert json.loads(encode(REFUSED))[field] == value


@pytest.mark.parametrize("field", ["task_id", "category", "status", "end_time"])
def test_a_result_has_a_task_a_status_and_an_end(field: str) -> None:
    """A Result without one of its four required fields is refused by name."""
    partial = {key: value for key, value in EXAMPLE.items() if key != field}
    with pytest.raises(SchemaError, match=f"^object missing required field `{field}`$"):
        decode(Result, json.dumps(partial).encode())


@pytest.mark.parametrize("form", list(ContentType))
def test_times_are_rfc_3339_strings_in_both_forms(form: ContentType) -> None:
    """Times are text with `Z`, in msgpack too, and microseconds only where there are some."""
    raw = decode(dict[str, Any], encode(RESULT, form), form)
    assert raw["start_time"] == "2026-11-23T10:00:00.123456Z"
    assert decode(dict[str, Any], encode(REFUSED, form), form)["end_time"] == "2026-11-23T10:00:00Z"


def test_a_field_of_a_newer_version_does_not_stop_an_older_reader() -> None:
    """Unknown fields of a Result are skipped: new ones may be added."""
    assert decode(Result, json.dumps({**EXAMPLE, "new": {"x": 1}}).encode()) == RESULT


def test_each_category_has_the_fields_of_the_contract() -> None:
    """An HTTP task says how the response was, a Docker task which container it ran in, a script task what it ran."""
    http = HttpResponse(status_code=200, headers={"etag": "x"}, url="http://a/", elapsed={"total": 0.5})
    docker = DockerContainer(container_id="c1", image="ubuntu:20.04", image_id="sha256:1")
    assert json.loads(encode(http)) == {
        "status_code": 200,
        "headers": {"etag": "x"},
        "url": "http://a/",
        "elapsed": {"total": 0.5},
        "decoded": True,
    }
    assert json.loads(encode(ScriptSource(path="/x.sh", sha256="1"))) == {"path": "/x.sh", "sha256": "1"}
    assert json.loads(encode(docker)) == {"container_id": "c1", "image": "ubuntu:20.04", "image_id": "sha256:1"}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Status, "pending running success failed timeout canceled error"),
        (ErrorClass, "parameter execution timeout system network"),
        (Cause, "exit timeout stop kill shutdown output_limit oom lost"),
    ],
)
def test_enumerations_are_spelt_as_in_the_seed(kind: type[Status | ErrorClass | Cause], values: str) -> None:
    """Statuses, error classes and causes are the contract's, no more and no fewer."""
    assert [member.value for member in kind] == values.split()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"status": "done"}, "`status`: invalid enum value 'done'"),
        ({"error_class": "user"}, "`error_class`: invalid enum value 'user'"),
        ({"end_time": "yesterday"}, "`end_time`: invalid RFC3339 encoded datetime"),
        ({"exit_code": "0"}, "`exit_code`: expected `int | null`, got `str`"),
        ({"streams": {"stdout": {"encoding": "latin-1"}}}, "`streams.stdout.encoding`: invalid enum value 'latin-1'"),
    ],
)
def test_what_is_no_result_is_refused_by_field(change: dict[str, Any], error: str) -> None:
    """An error names the field, however deep, and what is wrong with it."""
    with pytest.raises(SchemaError) as caught:
        decode(Result, json.dumps({**EXAMPLE, **change}).encode())
    assert str(caught.value) == error

"""What is told of a task, in words and numbers, and when anything is recorded at all."""

import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.config import Config
from consumer.message import rebuilt
from consumer.request import Counts, TaskRequest, read_request
from consumer.settle import Again, Finish, Forget, Reason, Settlement, StandIn
from consumer.story import Story, current_story, telling
from consumer.telemetry import Publication, Silent, attributes, opened
from consumer.telemetry.counts import Counts as Numbers
from consumer.telemetry.counts import labels, points
from consumer.telemetry.sampling import Sampling
from schemas import EventType, Result, Status, StreamOutput, Streams, Subjects, Usage, convert, encode, utc_now

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FAILED = {"status": Status.FAILED, "error": "the process ended with exit code 1", "error_code": "exit_nonzero"}


def request(headers: dict[str, str] | None = None, deliveries: int = 1, **task: Any) -> TaskRequest:
    delivery = f"$JS.ACK.P_TASKS.command.{deliveries}.7.7.{time.time_ns()}.0"
    message = rebuilt("p.tasks.command", delivery, encode(task), {"Nats-Msg-Id": "task", **(headers or {})})
    return read_request(message, Subjects("p"), ())


def result(**fields: Any) -> Result:
    given: dict[str, Any] = {"status": Status.SUCCESS, **fields}
    return Result(task_id="task", category="command", end_time=utc_now(), **given)


@pytest.mark.parametrize(
    ("settlement", "comes_next"),
    [
        (Again(counts=Counts(attempt=2), reason=Reason.RETRY, delay=0.1), "; retry in 0.1 s (attempt 1/5)"),
        (Finish(buried=True), "; given up"),
        (StandIn(), "; its fallback stands in"),
        (Finish(), ""),
        (Forget(), ""),
    ],
)
def test_an_error_is_one_sentence(settlement: Settlement, comes_next: str) -> None:
    """It says what went wrong, and what comes next."""
    told = attributes.sentence(request(retry={"max_attempts": 5}), result(**FAILED), settlement)
    assert told == f"the process ended with exit code 1{comes_next}"


def test_a_sentence_is_short_and_on_one_line() -> None:
    """An error may quote what a task wrote; what comes next is not cut off by it."""
    told = attributes.sentence(request(), result(status=Status.FAILED, error="a\nb " * 1000), Finish(buried=True))
    assert len(told) <= 1024
    assert told.startswith("a b a b")
    assert told.endswith("; given up")


@pytest.mark.parametrize(("status", "is_error"), [(status, status not in {"success", "canceled"}) for status in Status])
def test_a_stop_is_no_error(status: Status, is_error: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Whoever looks for errors does not want what was asked for."""
    assert (attributes.error_type(result(status=status, error_code="a_code")) == "a_code") == is_error


def test_the_last_lines_of_stderr_are_told() -> None:
    """Twenty lines at most, and what is no text is left out."""
    lines = "\n".join(map(str, range(100)))
    assert attributes.stderr_tail(result(stderr=lines)).splitlines() == [str(number) for number in range(80, 100)]
    assert len(attributes.stderr_tail(result(stderr="x" * 5000))) == 1024
    binary = Streams(stderr=StreamOutput(encoding="base64"))
    assert attributes.stderr_tail(result(stderr="AAAA", streams=binary)) == ""


def test_a_subject_with_an_id_is_told_by_its_template() -> None:
    """Names of few values can be grouped by."""
    assert attributes.publication("p.results.*", "task")["messaging.destination.template"] == "p.results.*"
    assert attributes.publication("p.tasks.command", "task")["messaging.destination.name"] == "p.tasks.command"


def test_labels_are_bounded() -> None:
    """A task may have any number of them, of any length."""
    told = attributes.delivery(request(labels={f"{number:05}": "x" * 1000 for number in range(100)}), "w")
    named = {name: value for name, value in told.items() if name.startswith("task.label.")}
    assert len(named) == 16
    assert {len(str(value)) for value in named.values()} == {256}


@pytest.mark.parametrize(
    "delivery", ["$JS.ACK.S.c.1.1.1.1.0", "$JS.ACK.domain.account.S.c.1.1.1.1.0", "$JS.ACK._.a.S.c.1.1.1.1.0.token"]
)
def test_the_stream_is_read_from_the_ack_subject(delivery: str) -> None:
    """Both forms of it (ADR-15)."""
    message = rebuilt("p.tasks.command", delivery, b"{}", {})
    told = attributes.delivery(read_request(message, Subjects("p"), ()), "w")
    assert (told["messaging.nats.stream"], told["messaging.nats.sequence"]) == ("S", 1)


def test_a_worker_s_numbers_add_up() -> None:
    """Deliveries, what is at work, and what the runs have used."""
    numbers, again = Numbers({"command": 8}), request(deliveries=2)
    numbers.received(again)
    assert numbers.active[labels(category="command")] == 1
    assert numbers.redeliveries[labels(category="command")] == 1
    numbers.released(again, {"messaging.system": "nats"})
    for _ in range(2):
        streams = Streams(stdout=StreamOutput(bytes=10), stderr=StreamOutput(bytes=1))
        numbers.used(result(streams=streams, usage=Usage(cpu_user=0.5, cpu_system=0.25, max_rss=1)))
    assert points(numbers.active) == [(0, {"category": "command"})]
    assert points(numbers.slots) == [(8, {"category": "command"})]
    assert points(numbers.consumed) == [(1, {"messaging.system": "nats"})]
    assert points(numbers.output) == [
        (20, {"category": "command", "stream": "stdout"}),
        (2, {"category": "command", "stream": "stderr"}),
    ]
    assert points(numbers.cpu) == [
        (1.0, {"category": "command", "cpu.mode": "user"}),
        (0.5, {"category": "command", "cpu.mode": "system"}),
    ]


def test_categories_that_nobody_serves_are_one_label() -> None:
    """Whoever may publish could otherwise make as many as he likes, and each is kept for good."""
    numbers = Numbers({"command": 8})
    for number in range(100):
        numbers.used(Result(task_id="task", category=f"c{number}", status=Status.ERROR, end_time=utc_now()))
    assert {about["category"] for _, about in points(numbers.output)} == {"_other"}
    assert numbers.template("p.tasks.command") == "p.tasks.command"
    assert numbers.template("p.tasks.c1") == numbers.template("p.tasks.*") == "p.tasks.*"


def test_log_lines_know_their_task() -> None:
    """Within a delivery, and nowhere else."""
    traced = request({"traceparent": PARENT})
    traced = traced.with_trace(traced.trace.begun(traced.trace.carrier, "00f067aa0ba902b7"))
    assert current_story() is None
    with telling(traced):
        told = current_story()
        assert told is not None
        assert not told.secrets
        assert told == Story(
            task_id="task",
            category="command",
            attempt=1,
            trace_id="0af7651916cd43dd8448eb211c80319c",
            span_id="00f067aa0ba902b7",
            secrets=told.secrets,
        )
    assert current_story() is None


@pytest.mark.parametrize(
    ("sampling", "flags", "takes"),
    [
        (Sampling(ratio=1), None, True),
        (Sampling(ratio=0), None, False),
        (Sampling(ratio=0), "01", True),
        (Sampling(ratio=0), "03", True),
        (Sampling(ratio=1), "00", False),
        (Sampling(ratio=1), "02", False),
        (Sampling(ratio=1, overruled=True), "00", True),
        (Sampling(ratio=0, overruled=True), "00", False),
        (Sampling(ratio=None), "00", True),
    ],
)
def test_a_publisher_decides_about_its_own_traces(sampling: Sampling, flags: str | None, *, takes: bool) -> None:
    """The ratio is for those that begin here, and for those that are overruled; without one the SDK decides."""
    assert sampling.takes({} if flags is None else {"traceparent": PARENT[:-2] + flags}) == takes


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("config", "environ", "is_recording"),
    [
        ({}, {}, False),
        ({}, ENDPOINT, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9"}, False),
        ({}, {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({}, {**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"enabled": False}, ENDPOINT, False),
        ({"enabled": True}, {}, True),
        ({"enabled": True}, {"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"endpoint": "http://127.0.0.1:9"}, {}, True),
        ({"sample_ratio": 1.0}, {}, False),
    ],
)
async def test_tracing_is_on_where_there_is_a_collector(
    config: dict[str, Any],
    environ: dict[str, str],
    is_recording: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """One is configured, or the environment names one; whoever switches it off is obeyed."""
    settings = convert({"tracing": config}, Config)
    async with opened(settings, environ, service="test", instance="test") as telemetry:
        assert (type(telemetry) is not Silent) == is_recording


@pytest.mark.anyio
async def test_metrics_can_be_scraped() -> None:
    """With `metrics.prometheus` they are rendered in Prometheus' own form, collector or not."""
    settings, one = convert({"metrics": {"prometheus": True}}, Config), request()
    async with opened(settings, {}, service="test", instance="test", slots={"command": 8}) as telemetry:
        with telemetry.delivering(one), telemetry.publishing(Publication(template="p.results.*", task_id="task")):
            telemetry.told(EventType.FINISHED, one, {"status": Status.SUCCESS})
        rendered = telemetry.exposition()
    assert rendered is not None
    kind, text = rendered
    assert kind.startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    (completed,) = families["jetrunner_task_completed"].samples
    assert (completed.value, completed.labels["status"], completed.labels["category"]) == (1, "success", "command")
    (slots,) = families["jetrunner_worker_slots"].samples
    assert slots.value == 8
    counts = [each for each in families["messaging_process_duration_seconds"].samples if each.name.endswith("_count")]
    assert [each.value for each in counts] == [1]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


def test_what_is_not_recorded_is_handed_on() -> None:
    """The context that came with the task is the run's and the Result's."""
    silent, traced = Silent(), request({"traceparent": PARENT})
    with silent.delivering(traced) as same, silent.running(same) as run:
        assert same is traced
        assert run.carrier == traced.trace.carrier
    assert silent.exposition() is None

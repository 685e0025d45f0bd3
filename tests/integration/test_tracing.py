"""One story per task: its spans, from the publisher's to the child process's, asked for as people ask Jaeger."""

import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from consumer.client import Client
from consumer.config import Config
from consumer.dead import HEADERS, TRACE_ID
from consumer.telemetry import opened
from consumer.trace import Trace as TaskTrace
from schemas import EventType, Result, Status, Task, Verb, decode
from tests.collector import CLIENT, CONSUMER, ERROR, PRODUCER, SOON, Collector, Span, Trace, collecting

from .conftest import PATIENCE, Probe, Site

pytestmark = pytest.mark.anyio

CHILD: Final = """
import os
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
context = TraceContextTextMapPropagator().extract({"traceparent": os.environ["TRACEPARENT"]})
provider.get_tracer("child").start_span("work of the child", context).end()
"""
"""A task that exports a span of its own, as any instrumented program does."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Have a collector."""
    with collecting() as shared:
        yield shared


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export spans at once."""
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)


class Publisher:
    """Someone else's trace: the context of the span that a task is published in."""

    def __init__(self, flags: str = "01") -> None:
        self.trace_id = secrets.token_hex(16)
        self.span_id = secrets.token_hex(8)
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{flags}"


class Story:
    """A traced worker, and how its traces are asked for."""

    def __init__(self, site: Site, collector: Collector) -> None:
        self.site = site
        self._collector = collector
        self.task = f"{site.subjects.prefix}.tasks."

    async def trace(self, result: Result, until: Callable[[Trace], object]) -> Trace:
        """Wait until a task's trace is as the test wants it."""
        return await anyio.to_thread.run_sync(self._collector.trace, result.trace_id, until)

    async def published(self, category: str, publisher: Publisher | None = None, **task: Any) -> Result:
        """Publish a task and wait for its Result."""
        task_id = str(task.setdefault("id", f"task-{secrets.token_hex(4)}"))
        headers = {"traceparent": publisher.traceparent} if publisher is not None else None
        await self.site.publish(category, task, headers)
        return await self.site.result(task_id)


@asynccontextmanager
async def telling(site: Site, collector: Collector, probe: Probe | None = None, **tracing: Any) -> AsyncIterator[Story]:
    """Have a traced worker."""
    settings = {"endpoint": collector.otlp, **tracing}
    async with site.worker(probe.registry if probe is not None else None, tracing=settings):
        yield Story(site, collector)


def settled(attempts: int = 1) -> Callable[[Trace], object]:
    """Tell whether so many attempts of a task have all their spans: a delivery's ends last."""
    return lambda trace: sum(span.kind == CONSUMER for span in trace.spans) == attempts


def parents(span: Span, *below: Span) -> bool:
    return all(each.parent == span.span_id for each in below)


async def test_a_task_s_spans_are_below_its_publisher_s(site: Site, collector: Collector) -> None:
    """The delivery is a child of the publisher's span and linked to it; run, Result and ack are below the delivery."""
    publisher = Publisher()
    async with telling(site, collector) as story:
        result = await story.published("command", publisher, command="true", labels={"team": "blue"})
        trace = await story.trace(result, settled())
    assert result.trace_id == publisher.trace_id
    process, run = trace.one(f"process {story.task}command"), trace.one("run command")
    publish, ack = trace.one(f"publish {site.subjects.result('*')}"), trace.one(f"ack {story.task}command")
    assert len(trace.spans) == 4
    assert (process.parent, process.links) == (publisher.span_id, ((publisher.trace_id, publisher.span_id),))
    assert parents(process, run, publish, ack)
    assert [span.kind for span in (process, run, publish, ack)] == [CONSUMER, CLIENT, PRODUCER, CLIENT]
    assert all(span.service == "jetrunner-worker" and span.status != ERROR for span in trace.spans)
    assert (
        process.attributes
        | {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": f"{story.task}command",
            "messaging.message.id": result.task_id,
            "messaging.consumer.group.name": "command",
            "messaging.nats.stream": site.subjects.tasks_stream,
            "messaging.nats.sequence": 1,
            "messaging.nats.delivery_count": 1,
            "task.id": result.task_id,
            "task.category": "command",
            "task.attempt": 1,
            "task.status": "success",
            "task.will_retry": False,
            "task.label.team": "blue",
        }
        == process.attributes
    )
    assert 0 <= process.attributes["task.queue_wait_ms"] < PATIENCE * 1000
    assert run.attributes["process.executable.name"] == "true"
    assert run.attributes["process.exit.code"] == 0
    assert run.attributes["process.pid"] > 0


async def test_a_trace_is_found_by_its_task_s_id(site: Site, collector: Collector) -> None:
    """Whoever knows a task finds its trace by a search."""
    async with telling(site, collector) as story:
        result = await story.published("command", command="true")
        search = partial(collector.search, "jetrunner-worker", {"task.id": result.task_id})
        trace = await anyio.to_thread.run_sync(search, settled())
    assert {span.trace_id for span in trace.spans} == {result.trace_id}


async def test_a_failure_is_told_in_one_sentence(site: Site, collector: Collector) -> None:
    """The delivery of a failed task is an error, with the last lines of stderr."""
    async with telling(site, collector) as story:
        script = "for i in $(seq 30); do echo line $i >&2; done; exit 7"
        result = await story.published("command", command="sh", args=["-c", script])
        trace = await story.trace(result, settled())
    process, run = trace.one(f"process {story.task}command"), trace.one("run command")
    assert (process.status, run.status) == (ERROR, ERROR)
    assert process.message == run.message == "the process ended with exit code 7"
    assert process.attributes["error.type"] == run.attributes["error.type"] == result.error_code
    assert process.attributes["process.exit.code"] == 7
    assert process.events["task.output"]["text"].splitlines() == [f"line {number}" for number in range(11, 31)]
    assert process.events["task.started"]["pid"] == str(run.attributes["process.pid"])


async def test_a_retry_story_is_one_trace(site: Site, collector: Collector) -> None:
    """Attempts are siblings below the publisher, each linked to the one before; only the last is final."""
    publisher = Publisher()
    retry = {"max_attempts": 3, "delay": 0.05, "jitter": 0, "on": ["failed"]}
    async with telling(site, collector) as story:
        result = await story.published("command", publisher, command="false", retry=retry)
        trace = await story.trace(result, settled(3))
    attempts = trace.named(f"process {story.task}command")
    assert [span.attributes["task.attempt"] for span in attempts] == [1, 2, 3]
    assert {span.parent for span in attempts} == {publisher.span_id}
    assert [span.links[1:] for span in attempts] == [
        (),
        ((publisher.trace_id, attempts[0].span_id),),
        ((publisher.trace_id, attempts[1].span_id),),
    ]
    assert [span.attributes["task.will_retry"] for span in attempts] == [True, True, False]
    assert attempts[0].message == "the process ended with exit code 1; retry in 0.05 s (attempt 1/3)"
    assert attempts[2].message == "the process ended with exit code 1; given up"
    assert attempts[0].events["task.retrying"]["delay"] == "0.05"
    assert "task.dead" in attempts[2].events
    assert all(sum(span.parent == each.span_id for span in trace.spans) < 7 for each in attempts)


async def test_a_retry_story_without_a_publisher_s_trace_is_one_trace(site: Site, collector: Collector) -> None:
    """The worker begins a trace of its own, and the second attempt finds it."""
    async with telling(site, collector) as story:
        retry = {"max_attempts": 2, "delay": 0.05, "on": ["failed"]}
        result = await story.published("command", command="false", retry=retry)
        trace = await story.trace(result, settled(2))
    first, second = trace.named(f"process {story.task}command")
    assert first.parent == ""
    assert second.links == ((first.trace_id, first.span_id),)


async def test_a_delayed_task_keeps_its_trace(site: Site, collector: Collector) -> None:
    """The server's scheduler carries the context: both deliveries are in the publisher's trace."""
    publisher = Publisher()
    async with telling(site, collector) as story:
        result = await story.published("command", publisher, command="true", delay=0.2)
        trace = await story.trace(result, settled(2))
    waiting, done = trace.named(f"process {story.task}command")
    assert (waiting.parent, done.parent) == (publisher.span_id, publisher.span_id)
    assert (waiting.trace_id, waiting.span_id) in done.links


async def test_a_task_that_has_waited_for_long_gets_a_trace_of_its_own(site: Site, collector: Collector) -> None:
    """Beyond `max_parent_age` the delivery is linked to its publisher, and no child; its attempts stay together."""
    publisher = Publisher()
    retry = {"max_attempts": 2, "delay": 0.05, "on": ["failed"]}
    async with telling(site, collector, max_parent_age=0) as story:
        result = await story.published("command", publisher, command="false", retry=retry)
        trace = await story.trace(result, settled(2))
    first, second = trace.named(f"process {story.task}command")
    assert result.trace_id == first.trace_id != publisher.trace_id
    assert (first.parent, first.links) == ("", ((publisher.trace_id, publisher.span_id),))
    assert second.trace_id == first.trace_id


async def test_each_firing_of_a_schedule_has_a_trace_of_its_own(site: Site, collector: Collector) -> None:
    """A trace that grows for ever cannot be read: firings are linked to who has set the schedule up."""
    publisher = Publisher()
    async with telling(site, collector) as story:
        results = await site.listen(site.subjects.result("*"))
        task = {"id": "tick", "command": "true", "schedule": "@every 1s"}
        await site.publish("command", task, {"traceparent": publisher.traceparent})
        first = decode(Result, (await results.count(1))[0].data)
        await site.control("tick")
        trace = await story.trace(first, settled())
    process = trace.one(f"process {story.task}command")
    assert (process.parent, process.trace_id) == ("", first.trace_id)
    assert process.trace_id != publisher.trace_id
    assert (publisher.trace_id, publisher.span_id) in process.links


@pytest.mark.parametrize(
    "hostile", [{"tracestate": ",;=,"}, {"baggage": ",;=%%,a=" + 5000 * "b"}, {"traceparent": "00-nonsense"}]
)
async def test_a_malformed_context_costs_its_task_nothing(
    site: Site, collector: Collector, hostile: dict[str, str]
) -> None:
    """It is anybody's text."""
    headers = {"traceparent": Publisher().traceparent, **hostile}
    async with telling(site, collector) as story:
        await site.publish("command", {"id": "task", "command": "true"}, headers)
        result = await site.result("task")
        await story.trace(result, settled())
    assert result.status is Status.SUCCESS


async def test_a_stop_is_linked_to_who_has_given_it(site: Site, collector: Collector) -> None:
    """The delivery of a stopped task is no error, and leads to the trace of the stop."""
    user = Publisher()
    async with telling(site, collector) as story:
        listener = await site.listen(site.subjects.event("stopped", EventType.STARTED))
        await site.submit("command", "stopped", command="sleep", args=["600"])
        await listener.count(1)
        control = site.subjects.control("stopped", Verb.STOP)
        await site.raw.publish(control, b'{"by":"me","reason":"enough"}', headers={"TraceParent": user.traceparent})
        result = await site.result("stopped")
        trace = await story.trace(result, settled())
    process = trace.one(f"process {story.task}command")
    assert result.status is Status.CANCELED
    assert (user.trace_id, user.span_id) in process.links
    assert process.status != ERROR
    assert process.attributes["task.status"] == "canceled"
    assert process.events["task.stopping"] == {"by": "me", "reason": "enough", "signal": "SIGTERM"}
    assert process.events["task.signaled"]["signals"] == "SIGTERM"
    assert "task.stop_requested" in process.events


async def test_a_task_stopped_before_it_came_is_linked_to_the_stop(site: Site, collector: Collector) -> None:
    """A control may come before its task, and is in its trace all the same."""
    user = Publisher()
    async with telling(site, collector) as story:
        events = await site.listen(site.subjects.event("early", EventType.FINISHED))
        control = site.subjects.control("early", Verb.KILL)
        await site.raw.publish(control, headers={"traceparent": user.traceparent})
        await events.count(1)
        traced = Publisher()
        await site.publish("command", {"id": "early", "command": "true"}, {"traceparent": traced.traceparent})
        trace = await anyio.to_thread.run_sync(collector.trace, traced.trace_id, settled())
    process = trace.one(f"process {story.task}command")
    assert (user.trace_id, user.span_id) in process.links
    assert "task.kill_requested" in process.events


async def test_a_dead_letter_and_its_replay_are_linked(site: Site, collector: Collector) -> None:
    """The letter names its trace, and what is submitted after it leads back to it."""
    async with telling(site, collector) as story:
        dead = await story.published("command", id="gone", command="true", nonsense=1)
        (letter,) = await site.dead("command")
        headers = letter.headers or {}
        config = site.config(tracing={"endpoint": collector.otlp})
        async with opened(config, os.environ, service="jetrunner-cli", instance="test") as telemetry:
            client = Client(site.connection, site.subjects, telemetry)
            await client.submit("command", Task(id="again", command="true"), after=headers)
        again = await site.result("again")
        old, new = await story.trace(dead, settled()), await story.trace(again, settled())
    buried = old.one(f"publish {site.subjects.dead('command')}")
    assert headers[TRACE_ID] == dead.trace_id
    assert headers[HEADERS] == "{}"
    assert headers["traceparent"].split("-")[1:3] == [dead.trace_id, buried.span_id]
    replay = new.one(f"publish {story.task}command")
    assert (replay.service, replay.kind) == ("jetrunner-cli", PRODUCER)
    assert replay.links == ((buried.trace_id, buried.span_id),)
    assert client.trace_id == again.trace_id == replay.trace_id != dead.trace_id
    assert new.one(f"process {story.task}command").parent == replay.span_id


async def test_a_child_process_exports_its_own_span_into_the_trace(site: Site, collector: Collector) -> None:
    """TRACEPARENT makes what an instrumented program records a part of the story, below the run."""
    async with telling(site, collector) as story:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp, "OTEL_SERVICE_NAME": "the-child"}
        result = await story.published("command", command=sys.executable, args=["-c", CHILD], env=env)
        assert (result.status, result.stderr) == (Status.SUCCESS, "")
        trace = await story.trace(result, lambda trace: settled()(trace) and trace.one("work of the child"))
    child = trace.one("work of the child")
    assert child.parent == trace.one("run command").span_id
    assert child.service == "the-child"


@pytest.mark.parametrize("name", ["Traceparent", "TRACEPARENT", "TraceParent"])
async def test_a_header_of_any_case_is_read(site: Site, collector: Collector, name: str) -> None:
    """Go's clients write `Traceparent`."""
    publisher = Publisher()
    async with telling(site, collector) as story:
        await site.publish("command", {"id": "task", "command": "true"}, {name: publisher.traceparent})
        result = await site.result("task")
        trace = await story.trace(result, settled())
    assert trace.one(f"process {story.task}command").parent == publisher.span_id


async def test_an_unsampled_publisher_is_respected(site: Site, collector: Collector) -> None:
    """No span of its task is exported, and its child process records none either; the Result still names the trace."""
    publisher = Publisher(flags="00")
    async with telling(site, collector) as story:
        result = await story.published("command", publisher, command="printenv", args=["TRACEPARENT"])
        marker = await story.published("command", command="true")
        await story.trace(marker, settled())
    assert result.trace_id == publisher.trace_id
    assert result.output.startswith(f"00-{publisher.trace_id}-")
    assert int(result.output.strip()[-2:], 16) & 1 == 0
    assert await anyio.to_thread.run_sync(collector.spans_of, publisher.trace_id) == []


async def test_unsampled_publishers_can_be_overruled(site: Site, collector: Collector) -> None:
    """`ignore_remote_sampling` lets the worker decide by itself."""
    publisher = Publisher(flags="00")
    async with telling(site, collector, ignore_remote_sampling=True) as story:
        result = await story.published("command", publisher, command="true")
        trace = await story.trace(result, settled())
    assert trace.one(f"process {story.task}command").parent == publisher.span_id


async def test_nothing_is_sampled_at_ratio_zero(site: Site, collector: Collector) -> None:
    """Tasks then have traces, for the sake of those that record them, but none is exported."""
    async with telling(site, collector, sample_ratio=0) as story:
        silent = await story.published("command", command="true")
        sampled = await story.published("command", Publisher(), command="true")
        await story.trace(sampled, settled())
    assert await anyio.to_thread.run_sync(collector.spans_of, silent.trace_id) == []


async def test_the_environment_s_sampler_is_honoured(
    site: Site, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OTEL_TRACES_SAMPLER` decides where the configuration is silent."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with telling(site, collector) as story:
        result = await story.published("command", Publisher(), command="printenv", args=["TRACEPARENT"])
    assert result.trace_id in result.output
    assert await anyio.to_thread.run_sync(collector.spans_of, result.trace_id) == []  # the worker's end exports all


async def test_without_tracing_the_publisher_s_context_is_handed_on(site: Site) -> None:
    """Result, events and child process are part of the trace that the task came with, tracestate and baggage too."""
    publisher = Publisher()
    headers = {"Traceparent": publisher.traceparent, "tracestate": "vendor=1", "baggage": "user=me"}
    async with site.worker():
        events = await site.listen(site.subjects.event("task", "*"))
        script = "echo $TRACEPARENT $TRACESTATE $BAGGAGE"
        await site.publish("command", {"id": "task", "command": "sh", "args": ["-c", script]}, headers)
        result = await site.result("task")
        await events.count(3)
    assert result.trace_id == publisher.trace_id
    assert result.output == f"{publisher.traceparent} vendor=1 user=me\n"
    assert {event.trace_id for event in events.events()} == {publisher.trace_id}
    (stored,) = await site.stored(site.subjects.results_stream, site.subjects.result("task"))
    assert (stored.headers or {})["traceparent"] == publisher.traceparent


async def test_without_tracing_a_dead_letter_names_its_trace(site: Site) -> None:
    """Whoever replays it can go on with the story."""
    publisher = Publisher()
    async with site.worker():
        await site.publish("command", {"id": "task", "nonsense": 1}, {"traceparent": publisher.traceparent})
        await site.result("task")
        (letter,) = await site.dead("command")
    assert (letter.headers or {})[TRACE_ID] == publisher.trace_id


async def test_a_client_is_part_of_the_process_that_it_is_in(site: Site) -> None:
    """A task's child process that submits tasks hands its own context on, whether it records or not."""
    ambient = TaskTrace(carrier={"traceparent": Publisher().traceparent})
    async with (
        site.worker(),
        opened(Config(), {}, service="a", instance="b", ambient=ambient) as telemetry,
    ):
        client = Client(site.connection, site.subjects, telemetry)
        await client.submit("command", Task(id="task", command="true"))
        result = await site.result("task")
    assert result.trace_id == ambient.trace_id == client.trace_id

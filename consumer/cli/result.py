"""`jetrunner result`: how a task ended."""

import base64
import sys
from typing import Annotated, Literal

import anyio
from cyclopts import Parameter

from consumer.client import Client, check_task_id
from consumer.errors import NotFoundError
from schemas import Result, StreamOutput, Subjects

from . import OK, TIMED_OUT
from .rendering import OUTPUT, complain, print_facts, print_json, say, short, when, write
from .session import Connecting, Session, with_streams
from .states import expect_result
from .values import duration


def result(
    task_id: str,
    /,
    *,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: str | None = None,
    output: Annotated[Literal["json", "output", "table"] | None, OUTPUT] = None,
    connecting: Connecting | None = None,
) -> int:
    """Print a task's Result; the exit code says only whether there is one.

    Parameters
    ----------
    task_id
        The task's id, or the beginning of it.
    wait
        Wait for the Result.
    timeout
        Wait for so long at most, then exit with 124.
    output
        The Result as JSON, the task's output as it was, or a table; by default the table on a terminal, else JSON.
    """
    check_task_id(task_id)
    connecting = connecting or Connecting()
    patience = duration("--timeout", timeout)
    found = with_streams(connecting, lambda session: _read(session, task_id, wait=wait, patience=patience))
    if found is None:
        complain(f"the task {task_id} has not ended within {patience} s")
        return TIMED_OUT
    match output or ("table" if sys.stdout.isatty() else "json"):
        case "json":
            print_json(found)
        case "output":
            _print_output(found, Subjects(connecting.load().subject_prefix))
        case "table":
            _print_table(found)
    return OK


async def _read(session: Session, name: str, *, wait: bool, patience: float | None) -> Result | None:
    found = await _find(session.client, name, wait=wait, patience=patience)
    if found is not None and (url := session.trace_url(found.trace_id)) is not None:
        say(f"trace: {url}")
    return found


async def _find(client: Client, name: str, *, wait: bool, patience: float | None) -> Result | None:
    task_id = await client.find(name)
    state = await expect_result(client, task_id)
    found = await client.result(task_id)
    if found is not None:
        return found
    if not wait:
        where = state.status if state is not None else "gone from the queue"
        raise NotFoundError(f"the task {task_id} has no Result yet: it is {where}; wait for it with --wait")
    with anyio.move_on_after(patience):
        return await client.wait(task_id)
    return None


def _print_output(found: Result, subjects: Subjects) -> None:
    for name, text, facts in (
        ("stdout", found.output, found.streams.stdout),
        ("stderr", found.stderr, found.streams.stderr),
    ):
        write(sys.stdout if name == "stdout" else sys.stderr, _bytes(text, facts))
        if facts.truncated:
            whole = f"; the whole: nats object get {subjects.outputs_bucket} {facts.ref}" if facts.ref else ""
            say(f"{facts.dropped_bytes} of the {facts.bytes} bytes of {name} are not in the Result{whole}")


def _print_table(found: Result) -> None:
    print_facts(
        {
            "task": found.task_id,
            "category": found.category,
            "status": found.status,
            "error": found.error,
            "exit code": found.exit_code,
            "duration": short(found.duration / 1000),
            "started": when(found.start_time),
            "ended": when(found.end_time),
            "attempt": found.attempt,
            "worker": found.worker,
            "trace": found.trace_id,
            "labels": ", ".join(f"{name}={value}" for name, value in found.labels.items()),
        }
    )
    for name, text, facts in (
        ("output", found.output, found.streams.stdout),
        ("stderr", found.stderr, found.streams.stderr),
    ):
        if text:
            print(f"{name}:", flush=True)
            write(sys.stdout, _bytes(text, facts))


def _bytes(text: str, facts: StreamOutput) -> bytes:
    return base64.b64decode(text) if facts.encoding == "base64" else text.encode()

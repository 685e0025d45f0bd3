"""`jetrunner submit`: hand a task in and print its id."""

import shlex
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec import structs

from consumer.errors import ConfigError
from schemas import Retry, Subjects, Task, decode, encode

from . import OK
from .rendering import OUTPUT, print_json, say
from .runner_options import RunnerOptions
from .session import Connecting, Session, with_streams
from .submit_file import BatchOptions, FileSubmission, IdForm
from .task_options import TaskOptions, check_category, make_task


def submit(
    category: str | None = None,
    /,
    *words: str,
    runner: RunnerOptions | None = None,
    options: TaskOptions | None = None,
    batch: BatchOptions | None = None,
    show: Annotated[bool, Parameter(name="--print", negative="")] = False,
    output: Annotated[IdForm, OUTPUT] = "id",
    connecting: Connecting | None = None,
) -> int:
    """Submit a task, or those of a file, and print the ids.

    jetrunner submit command -- /bin/ls -la /tmp
    jetrunner submit script --interpreter bash FILE -- ARGUMENT...
    jetrunner submit docker IMAGE -- COMMAND ARGUMENT...
    jetrunner submit http URL
    jetrunner submit CATEGORY --command COMMAND --args JSON
    jetrunner submit --file tasks.jsonl

    Each line of a file is a Task as JSON with its `category`, unless that is
    given here. A task without an id gets one that follows from its file and
    line, so that the same file can be submitted again: what has a Result is
    not run again; after more than two minutes, say --resume, so that what
    still waits or runs is not queued a second time.

    Parameters
    ----------
    category
        Which runner is to run it.
    words
        What to run.
    show
        Print the plain `nats` command that would submit it, and do not.
    output
        How to print the ids.
    """
    connecting, batch = connecting or Connecting(), batch or BatchOptions()
    batch.check()
    if batch.file is not None:
        if words or show or (runner, options) != (None, None):
            raise ConfigError("--file takes whole tasks, one on each line: leave out what describes a single one")
        category = None if category is None else check_category(category)
        return with_streams(
            connecting, lambda session: FileSubmission(session, batch, category, output).run(), publishes=True
        )
    category, task = make_task(category, words, runner or RunnerOptions(), options or TaskOptions())
    if show:
        print(_as_nats_command(Subjects(connecting.load().subject_prefix).task(category), task))
        return OK
    task_id = with_streams(connecting, lambda session: _submit(session, category, task), publishes=True)
    if output == "id":
        print(task_id)
    else:
        print_json({"task_id": task_id, "category": category})
    return OK


async def _submit(session: Session, category: str, task: Task) -> str:
    client = session.client
    task_id = await client.submit(category, task)
    if (url := session.trace_url(client.trace_id)) is not None:
        say(f"trace: {url}")
    return task_id


def _as_nats_command(subject: str, task: Task) -> str:
    """Return the line for a shell; an id goes into a header, as anyone would do it by hand."""
    if task.secret_env:
        say("mind that this line holds the values of --secret-env")
    fields = decode(dict[str, Any], encode(structs.replace(task, id=None)))
    if task.retry == Retry():
        fields.pop("retry", None)
    payload = encode(fields).decode()
    words = ["nats", "pub", subject, payload]
    if "{{" in payload:  # the nats command would take it for a template
        words.insert(2, "--no-templates")
    if task.id is not None:
        words += ["-H", f"Nats-Msg-Id:{task.id}"]
    return shlex.join(words)

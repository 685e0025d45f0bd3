"""`jetrunner dead show`: why a task was given up, and the task."""

from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import structs

from consumer.letters import Letters, OpenLetter
from schemas import encode

from . import OK
from .plain import printable
from .rendering import OUTPUT, print_facts, print_json, say, when
from .secrecy import without_secrets
from .selecting import with_letters
from .session import Connecting


def show(
    task_id: str,
    /,
    *,
    output: Annotated[Literal["table", "json"], OUTPUT] = "table",
    connecting: Connecting | None = None,
) -> int:
    """Print why a task was given up, what it came with, and the task itself; its secrets are not shown.

    Parameters
    ----------
    task_id
        The task's id, or the beginning of it.
    output
        How to print it.
    """
    opened = with_letters(connecting, lambda letters: _open(letters, task_id))
    fields, text = _shown(opened)
    if output == "json":
        print_json({**structs.asdict(opened.letter), "headers": opened.headers, "task": fields, "text": text})
    else:
        _print_facts(opened)
        _print_task(msgspec.json.format(encode(fields)).decode() if fields is not None else text)
    return OK


async def _open(letters: Letters, name: str) -> OpenLetter:
    (letter,) = await letters.find([name])
    return await letters.open(letter.seq)


def _shown(opened: OpenLetter) -> tuple[dict[str, Any] | None, str | None]:
    """Return the task's fields, or else its text: what cannot be read may hold secrets that we cannot tell."""
    with suppress(RecursionError):  # nested so deep that it cannot be looked through
        if (fields := opened.fields) is not None:
            return without_secrets(fields), None
    if b"secret" in opened.payload:
        say(f"it cannot be read, and speaks of secrets: its {len(opened.payload)} bytes are not shown")
        return None, None
    return None, opened.payload.decode(errors="replace")


def _print_facts(opened: OpenLetter) -> None:
    letter = opened.letter
    cut = f"the first {letter.size} of {letter.truncated} bytes are kept" if letter.truncated else None
    print_facts(
        {
            "task": letter.task_id,
            "category": letter.category,
            "given up": when(letter.time),
            "reason": letter.reason,
            "error code": letter.error_code,
            "attempt": letter.attempt,
            "redeliveries": letter.redeliveries,
            "subject": letter.subject,
            "place": letter.seq,
            "cut": cut,
        }
    )
    if opened.headers:
        print("headers:")
        print_facts({f"  {name}": value for name, value in opened.headers.items()})


def _print_task(text: str | None) -> None:
    if text is None:
        return
    print("task:")
    for line in text.split("\n"):
        print(printable(line))

"""`jetrunner dead retry`: tasks that were given up, submitted again."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from consumer.errors import ConfigError, ConnectError, JetrunnerError
from consumer.letters import Letters, OpenLetter, WantedLetters
from schemas import SchemaError, decode, encode

from . import OK
from .edits import edited
from .rendering import OUTPUT, complain
from .selecting import Selection, with_letters
from .session import Connecting
from .values import content, file

_Texts = Annotated[tuple[str, ...], Parameter(negative="", show_default=False, allow_leading_hyphen=True)]


def retry(
    *task_ids: str,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    selection: Selection | None = None,
    edit: _Texts = (),
    replacement: Annotated[str | None, Parameter(name="--file", allow_leading_hyphen=True)] = None,
    rm: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Literal["id", "jsonl"], OUTPUT] = "id",
    connecting: Connecting | None = None,
) -> int:
    """Submit tasks again, as new ones, and print the new ids.

    A new task has the label retry_of and all its attempts before it, and keeps the trace and the reply subject.

    Parameters
    ----------
    task_ids
        The tasks' ids, or the beginnings of them.
    every
        All tasks, or all that the selection describes, in the order in which they were given up.
    edit
        Change the task: KEY=VALUE, such as timeout=5m, env.LANG=C or args=["-la"]; null removes; may be repeated.
    replacement
        A file with the whole task as JSON, or - for stdin, to submit instead.
    rm
        Remove the dead letter when the task was submitted again.
    output
        How to print them.
    """
    selection = selection or Selection()
    selection.check(task_ids, every=every)
    if replacement is not None and len(task_ids) != 1:
        raise ConfigError("--file replaces the task of one dead letter: name one")
    wanted = selection.wanted()
    retrial = _Retrial(edit, _whole(replacement), removes=rm, as_id=output == "id")

    async def retry_them(letters: Letters) -> int:
        places = await _places(letters, wanted) if every else [each.seq for each in await letters.find(task_ids)]
        return await retrial.of(letters, places)

    return with_letters(connecting, retry_them)


class _Retrial:
    """How to try tasks again."""

    def __init__(self, edits: Sequence[str], whole: dict[str, Any] | None, *, removes: bool, as_id: bool) -> None:
        edited({}, edits)  # what is wrong with them is wrong with all tasks
        self._edits = edits
        self._whole = whole
        self._removes = removes
        self._as_id = as_id

    async def of(self, letters: Letters, places: Sequence[int]) -> int:
        """Try all again that can be; return the exit code of what went wrong last."""
        code = OK
        for seq in places:
            try:
                await self._retry(letters, seq)
            except ConnectError:  # which the next one would meet, too
                raise
            except JetrunnerError as error:
                complain(str(error))
                code = error.exit_code
        return code

    async def _retry(self, letters: Letters, seq: int) -> None:
        opened = await letters.open(seq)
        new_id = await letters.retry(opened, self._fields(opened))
        told = {"task_id": new_id, "retry_of": opened.letter.task_id}
        print(new_id if self._as_id else encode(told).decode(), flush=True)
        if self._removes:
            await letters.remove(seq)

    def _fields(self, opened: OpenLetter) -> dict[str, Any]:
        if self._whole is not None:
            return edited(self._whole, self._edits)
        letter, fields = opened.letter, opened.fields
        if letter.truncated:
            raise ConfigError(
                f"of the task {letter.task_id} only {letter.size} of {letter.truncated} bytes are kept: "
                "give the whole task with --file"
            )
        if fields is None:
            raise ConfigError(f"the task {letter.task_id} cannot be read: give the whole task with --file")
        is_moved = any(edit.startswith("category=") for edit in self._edits)
        if fields.get("category") not in {None, letter.category} and not is_moved:
            raise ConfigError(
                f"the task {letter.task_id} was published for {letter.category}, but names another `category`: "
                "choose one with --edit category=NAME"
            )
        return edited(fields, self._edits)


async def _places(letters: Letters, wanted: WantedLetters) -> list[int]:
    """Return where the newest letter of each task is, in the stream's order."""
    places: dict[str, int] = {}
    async with aclosing(letters.newest(wanted)) as newest:
        async for letter in newest:
            places.setdefault(letter.task_id, letter.seq)
    return sorted(places.values())


def _whole(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    data = content("--file", "-") if name == "-" else file("--file", name)
    try:
        return {key: value for key, value in decode(dict[str, Any], data).items() if key != "id"}
    except SchemaError as error:
        raise ConfigError(f"--file: {error}") from None

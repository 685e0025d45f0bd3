"""`jetrunner dead rm`: dead letters, removed for good."""

import sys
from contextlib import aclosing
from typing import Annotated

import anyio.to_thread
from cyclopts import Parameter

from consumer.errors import ConfigError
from consumer.letters import Letters, WantedLetters

from . import OK, OUR_ERROR
from .rendering import say
from .selecting import Selection, with_letters
from .session import Connecting


def rm(
    *task_ids: str,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    selection: Selection | None = None,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    connecting: Connecting | None = None,
) -> int:
    """Remove dead letters for good.

    Parameters
    ----------
    task_ids
        The tasks' whole ids.
    every
        All of them, or all that the selection describes.
    yes
        Do not ask whether all are to be removed.
    """
    selection = selection or Selection()
    selection.check(task_ids, every=every)
    if every and not yes and not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here whether to remove them all: say so with --yes")
    wanted = selection.wanted()

    async def remove(letters: Letters) -> int:
        if every:
            return await _remove_all(letters, wanted, is_sure=yes)
        found = await letters.of(task_ids)
        for letter in found:
            await letters.remove(letter.seq)
        return _removed(len(found))

    return with_letters(connecting, remove)


async def _remove_all(letters: Letters, wanted: WantedLetters, *, is_sure: bool) -> int:
    """Remove what is there now; what comes while we ask stays."""
    async with aclosing(letters.newest(wanted)) as newest:
        places = [letter.seq async for letter in newest]
    if not places:
        return _removed(0)
    if not is_sure and not await anyio.to_thread.run_sync(_ask, len(places), abandon_on_cancel=True):
        say("none was removed")
        return OUR_ERROR
    if wanted.error_code is None and wanted.since is None:
        return _removed(await letters.purge(wanted.category, through=places[0]))
    for seq in places:
        await letters.remove(seq)
    return _removed(len(places))


def _ask(count: int) -> bool:
    print(f"Remove {_letters(count)} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _removed(count: int) -> int:
    say(f"removed {_letters(count)}")
    return OK


def _letters(count: int) -> str:
    return f"{count} dead letter" if count == 1 else f"{count} dead letters"

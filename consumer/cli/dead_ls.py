"""`jetrunner dead ls`: the tasks that were given up last."""

from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter, validators

from consumer.letters import Letter, Letters, WantedLetters

from . import OK
from .rendering import OUTPUT, Format, age, print_list
from .selecting import Selection, with_letters
from .session import Connecting

_COLUMNS = ("ID", "CATEGORY", "AGE", "ATTEMPT", "LOST", "CODE", "REASON")


def ls(
    *,
    selection: Selection | None = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 20,
    output: Annotated[Format, OUTPUT] = "table",
    connecting: Connecting | None = None,
) -> int:
    """List dead letters, newest first.

    Parameters
    ----------
    limit
        So many at most.
    output
        How to print them; `id` prints nothing else.
    """
    wanted = (selection or Selection()).wanted()
    found = with_letters(connecting, lambda letters: _newest(letters, wanted, limit))
    print_list(output, found, _COLUMNS, _row, lambda letter: letter.task_id)
    return OK


async def _newest(letters: Letters, wanted: WantedLetters, limit: int) -> list[Letter]:
    found: list[Letter] = []
    async with aclosing(letters.newest(wanted)) as newest:
        async for letter in newest:
            found.append(letter)
            if len(found) == limit:
                break
    return found


def _row(letter: Letter) -> tuple[str, ...]:
    return (
        letter.task_id,
        letter.category,
        age(letter.time),
        str(letter.attempt),
        str(letter.redeliveries),
        letter.error_code,
        letter.reason,
    )

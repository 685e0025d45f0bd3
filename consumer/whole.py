"""Keeps whole in the outputs bucket what a Result can only hold in part, and lets the Result name it."""

import base64
import logging
from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from runners.spool import Spool
from schemas import Result, StreamOutput
from schemas.subjects import STREAMS

from .errors import JetStreamError
from .objects import Objects
from .results import Results

logger = logging.getLogger(__name__)


class WholeOutputs:
    """Stores the output of finished runs that their Results cut."""

    def __init__(self, objects: Objects, results: Results) -> None:
        self._objects = objects
        self._results = results

    async def keep(self, result: Result, spools: Mapping[str, Spool]) -> Result:
        """Store each stream that the stored Result would not hold whole; return the Result with their names."""
        if self._results.surely_fits(result):
            return result
        cut = self._results.fit(result)
        for stream in STREAMS:
            if not _facts(cut, stream).truncated:
                continue
            name = f"{result.task_id}/{result.attempt}-{result.worker}/{stream}"
            source = _source(result, stream, spools.get(stream))
            if source is not None:
                result = await self._keep(result, stream, name, source)
        return result

    async def _keep(self, result: Result, stream: str, name: str, source: Callable[[], Iterable[bytes]]) -> Result:
        try:
            await self._objects.put(name, source)
        except (JetStreamError, OSError) as error:
            logger.warning("the whole %s of task %s is lost: %s", stream, result.task_id, error)
            return structs.replace(result, warnings=(*result.warnings, f"the whole {stream} was not kept: {error}"))
        facts = structs.replace(_facts(result, stream), ref=name)
        return structs.replace(result, streams=structs.replace(result.streams, **{stream: facts}))


def _facts(result: Result, stream: str) -> StreamOutput:
    return result.streams.stdout if stream == "stdout" else result.streams.stderr


def _source(result: Result, stream: str, spool: Spool | None) -> Callable[[], Iterable[bytes]] | None:
    """Return what yields a whole stream: the Result, if it has it, else its spool."""
    facts = _facts(result, stream)
    text = result.output if stream == "stdout" else result.stderr
    if not facts.truncated:
        data = text.encode() if facts.encoding == "utf-8" else base64.b64decode(text)
        return lambda: [data]
    return spool.pieces if spool is not None and spool.size else None

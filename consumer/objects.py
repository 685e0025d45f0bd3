"""Writes objects into the outputs bucket, in the Object Store's own layout (ADR-20): `nats object get` reads them."""

import base64
import hashlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import uuid4

import anyio
import msgspec

from schemas import Subjects, utc_now

from .connection import Connection, NoReplyError
from .errors import JetStreamError
from .jetstream import api, publish, publish_once

CHUNK: Final = 128 * 1024
"""Bytes of a chunk at most, as other clients have it by default."""
_WINDOW: Final = 8
"""Chunks that may be under way at once."""
_PAUSE: Final = 0.5

logger = logging.getLogger(__name__)


class Objects:
    """The outputs bucket."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._bucket = subjects.outputs_bucket

    async def put(self, name: str, pieces: Callable[[], Iterable[bytes]]) -> None:
        """Store an object, whole or not at all: until its last word is stored, nobody sees it.

        Tries until the server has it; `pieces` yields its bytes from the start, for each try.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        await self._connection.wait_connected()
        while True:
            nuid = uuid4().hex
            try:
                facts = await self._put_chunks(nuid, pieces())
            except NoReplyError as error:  # chunks sent again could be stored out of order: all of them, then
                logger.debug("the object %s is stored again: %s", name, error)
                await self._connection.wait_connected()
                await self._purge(nuid)
                await anyio.sleep(_PAUSE)
                continue
            await self._put_meta(name, nuid, facts)
            return

    async def _put_chunks(self, nuid: str, pieces: Iterable[bytes]) -> dict[str, Any]:
        """Publish all chunks in their order, a window at a time, each acknowledged."""
        digest, size, count = hashlib.sha256(), 0, 0
        window: list[bytes] = []
        length = min(CHUNK, self._connection.max_payload)
        for piece in pieces:
            for start in range(0, len(piece), length):
                chunk = piece[start : start + length]
                digest.update(chunk)
                size += len(chunk)
                count += 1
                window.append(chunk)
                if len(window) == _WINDOW:
                    await self._put_window(nuid, window)
                    window = []
        await self._put_window(nuid, window)
        text = base64.urlsafe_b64encode(digest.digest()).decode()
        return {"size": size, "chunks": count, "digest": f"SHA-256={text}"}

    async def _put_window(self, nuid: str, window: list[bytes]) -> None:
        subject = f"$O.{self._bucket}.C.{nuid}"
        failures: list[Exception] = []

        async def put(chunk: bytes) -> None:
            try:
                await publish_once(self._connection, subject, chunk, {})
            except (NoReplyError, JetStreamError) as error:
                failures.append(error)

        async with anyio.create_task_group() as under_way:
            for chunk in window:
                under_way.start_soon(put, chunk)
        if failures:
            raise failures[0]

    async def _put_meta(self, name: str, nuid: str, facts: dict[str, Any]) -> None:
        meta = {
            "name": name,
            "bucket": self._bucket,
            "nuid": nuid,
            "mtime": utc_now(),
            "options": {"max_chunk_size": CHUNK},
            **facts,
        }
        subject = f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
        headers = {"Nats-Rollup": "sub"}
        await publish(
            self._connection, subject, msgspec.json.encode(meta), message_id=f"object-{nuid}", headers=headers
        )

    async def _purge(self, nuid: str) -> None:
        try:
            await api(self._connection, f"STREAM.PURGE.OBJ_{self._bucket}", {"filter": f"$O.{self._bucket}.C.{nuid}"})
        except JetStreamError as error:  # no object names these chunks; the bucket's age limit will take them
            logger.debug("chunks are left behind: %s", error)

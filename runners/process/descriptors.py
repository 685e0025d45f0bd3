"""The pipes and files that a process is started with; whatever happens, none is left open by mistake."""

import os
import tempfile
from types import TracebackType
from typing import Self


class Descriptors:
    """A scope for what is opened for a process: its own ends are closed in the end, and ours if it fails."""

    def __init__(self) -> None:
        self._ours: list[int] = []
        self._its: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, failure: type[BaseException] | None, _: BaseException | None, __: TracebackType | None, /
    ) -> None:
        for descriptor in self._its if failure is None else self._its + self._ours:
            os.close(descriptor)

    def pipe(self) -> tuple[int, int]:
        """Return a pipe from the process to us: our end, which does not block, and its own."""
        reading, writing = os.pipe()
        self._ours.append(reading)
        self._its.append(writing)
        os.set_blocking(reading, False)
        return reading, writing

    def file(self, data: bytes) -> int:
        """Return a file to read `data` from: unlike a pipe it needs no writer, and nobody to mind a reader's end."""
        with tempfile.TemporaryFile(buffering=0) as file:
            self._its.append(descriptor := os.dup(file.fileno()))
        return self._fill(descriptor, data)

    def memory(self, data: bytes) -> int:
        """Return the same in memory, where there is such a thing: for what may be secret."""
        if not hasattr(os, "memfd_create"):
            return self.file(data)
        self._its.append(descriptor := os.memfd_create("environment"))
        return self._fill(descriptor, data)

    def _fill(self, descriptor: int, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

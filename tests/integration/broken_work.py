"""A module that can be imported here and not in a pool's process: its environment is built from nothing."""

import os

from runners import runner

if "PYTEST_VERSION" not in os.environ and "PYTEST_CURRENT_TEST" not in os.environ:
    raise RuntimeError("not without pytest")


@runner("broken")
def broken() -> None:
    raise AssertionError

"""Tests of runners.errors: each error means one status, class and code, and the tree in the docstring is true."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from runners import errors
from runners.errors import SUCCESS, GuardError, NetworkError, RunnerError, StartError, failed, interrupted
from schemas import Cause, ErrorClass, Status


class Row(NamedTuple):
    """One line of the docstring's tree."""

    depth: int
    name: str
    status: str
    error_class: str
    code: str
    exit_code: int | None


RETRYABLE = {
    *("spawn_failed", "internal"),
    *("dns_error", "connect_error", "connect_timeout", "http_protocol", "read_error"),
    *("docker_unavailable", "docker_unresponsive", "container_lost", "image_pull_failed"),
}
GROUPS = {"StartError", "NetworkError", "GuardError"}
"""Classes that only gather others."""


def tree() -> list[Row]:
    """Read the docstring's tree."""
    line = re.compile(
        r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+) +(?P<status>\w+) +(?P<error_class>\w+) +(?P<code>\w+)"
        r"(?: +(?P<exit_code>\d+))?$",
        re.MULTILINE,
    )
    return [
        Row(
            depth=len(found["indent"]) // 4,
            name=found["name"],
            status=found["status"],
            error_class=found["error_class"],
            code=found["code"],
            exit_code=int(found["exit_code"]) if found["exit_code"] else None,
        )
        for found in line.finditer(errors.__doc__ or "")
        if found["name"] not in GROUPS
    ]


def classes(parent: type[RunnerError] = RunnerError) -> Iterator[type[RunnerError]]:
    """Walk the classes that the module defines."""
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from classes(child)


def test_the_tree_names_every_class() -> None:
    """No error is missing from the docstring, and none is made up."""
    assert [row.name for row in tree()] == [cls.__name__ for cls in classes() if cls.__name__ not in GROUPS]


@pytest.mark.parametrize("row", tree(), ids=lambda row: row.name)
def test_each_error_means_what_the_tree_says(row: Row) -> None:
    """Status, class, code and exit code are those of the tree, and the text is the error's own."""
    error = getattr(errors, row.name)("a sentence")
    outcome = error.outcome
    assert (outcome.status, outcome.error_class, outcome.code) == (row.status, row.error_class, row.code)
    assert (error.exit_code, outcome.message) == (row.exit_code, "a sentence")
    assert outcome.retryable == (row.code in RETRYABLE)
    assert isinstance(error, (StartError, NetworkError, GuardError)) == (row.depth == 1)


def test_codes_are_not_shared() -> None:
    """A code tells which error it was."""
    codes = [row.code for row in tree()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("row", tree(), ids=lambda row: row.name)
def test_classes_follow_the_contract(row: Row) -> None:
    """The worker's own faults are `system`; a task that cannot start has failed; a refused one is an error."""
    by_class = {
        "parameter": {"error"},
        "execution": {"failed"},
        "network": {"failed", "error"},  # what a task asks for has failed, what it needs is an error
        "system": {"error"},
    }
    assert row.status in by_class[row.error_class]


def test_success_is_the_default() -> None:
    """An outcome of which nothing is said is a success without an error."""
    assert (SUCCESS.status, SUCCESS.error_class, SUCCESS.code, SUCCESS.message) == (Status.SUCCESS, None, None, "")


def test_a_failure_by_the_runs_own_doing() -> None:
    """`failed` is an execution error that is not tried again."""
    outcome = failed("exit_nonzero", "it ended with 1")
    assert (outcome.status, outcome.error_class, outcome.code) == ("failed", "execution", "exit_nonzero")
    assert (outcome.message, outcome.retryable) == ("it ended with 1", False)


@pytest.mark.parametrize(
    ("cause", "status", "error_class", "code", "retryable"),
    [
        (Cause.TIMEOUT, Status.TIMEOUT, ErrorClass.TIMEOUT, "timeout", False),
        (Cause.STOP, Status.CANCELED, ErrorClass.EXECUTION, "stopped", False),
        (Cause.KILL, Status.CANCELED, ErrorClass.EXECUTION, "killed", False),
        (Cause.SHUTDOWN, Status.ERROR, ErrorClass.SYSTEM, "worker_shutdown", True),
        (Cause.LOST, Status.ERROR, ErrorClass.SYSTEM, "worker_lost", True),
    ],
)
def test_each_interruption_has_its_outcome(
    *, cause: Cause, status: Status, error_class: ErrorClass, code: str, retryable: bool
) -> None:
    """What ended a run from outside decides its status, whatever the run then did."""
    outcome = interrupted(cause, "why")
    assert (outcome.status, outcome.error_class, outcome.code) == (status, error_class, code)
    assert (outcome.retryable, outcome.message) == (retryable, "why")

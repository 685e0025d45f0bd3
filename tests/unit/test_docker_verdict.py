"""Tests of runners.docker.verdict: what an engine's words mean for a task."""

from typing import Literal

import pytest

from runners.docker.verdict import ContainerState, RefusedError, judge, pull_refusal, refusal, signal_of
from schemas import Cause

TINI = b"[FATAL tini (7)] exec nope failed: No such file or directory\n"


@pytest.mark.parametrize(
    ("state", "killed", "code", "signal"),
    [
        ({}, False, None, None),
        ({"exit_code": 1}, False, "exit_nonzero", None),
        ({"exit_code": 127}, False, "exit_nonzero", None),
        ({"exit_code": 128}, False, "exit_nonzero", None),
        ({"exit_code": 143}, False, "signalled", "SIGTERM"),
        ({"exit_code": 137}, False, "signalled", "SIGKILL"),
        ({"exit_code": 160}, False, "exit_nonzero", None),
        ({"exit_code": 255}, False, "exit_nonzero", None),
        ({"exit_code": 137, "oom_killed": True}, False, "oom_killed", "SIGKILL"),
        ({"exit_code": 137, "oom_killed": True}, True, "signalled", "SIGKILL"),
        ({"exit_code": 1, "oom_killed": True}, False, "exit_nonzero", None),
    ],
)
def test_how_a_container_ended(*, state: dict[str, object], killed: bool, code: str | None, signal: str | None) -> None:
    """By its exit code, and what the engine says of its memory."""
    verdict = judge(ContainerState(**state), killed=killed)  # type: ignore[arg-type]
    assert (verdict.outcome.code, verdict.signal) == (code, signal)
    assert (verdict.cause is Cause.OOM) == (code == "oom_killed")
    warned = bool(state.get("oom_killed")) and code != "oom_killed"
    assert (verdict.warning or "").startswith("oom_kill_in_task") == warned


def test_a_kill_that_nobody_sent_may_be_for_want_of_memory() -> None:
    """Some engines do not say; ours says that it did not do it."""
    assert "want of memory" in judge(ContainerState(exit_code=137), killed=False).outcome.message
    assert "want of memory" not in judge(ContainerState(exit_code=137), killed=True).outcome.message


def test_the_inits_complaint_is_believed_only_with_its_exit_code() -> None:
    """A program may print what it likes."""
    assert judge(ContainerState(exit_code=127), killed=False, complaint=TINI).outcome.code == "command_not_found"
    assert judge(ContainerState(exit_code=1), killed=False, complaint=TINI).outcome.code == "exit_nonzero"
    denied = TINI.replace(b"No such file or directory", b"Permission denied")
    assert judge(ContainerState(exit_code=126), killed=False, complaint=denied).outcome.code == "not_executable"
    assert judge(ContainerState(exit_code=127), killed=False, complaint=b"x" + TINI).outcome.code == "exit_nonzero"


@pytest.mark.parametrize(
    ("stage", "status", "text", "code"),
    [
        ("create", 404, "No such image: x:latest", "image_not_found"),
        ("create", 400, "invalid reference format", "container_config"),
        ("create", 400, 'bind source path does not exist: /image"', "container_config"),
        ("create", 500, "write /x: no space left on device", "docker_unavailable"),
        ("start", 500, "unable to find user x: no matching entries in passwd file", "container_config"),
        ("start", 404, "network x not found", "container_config"),
        ("start", 400, 'runc: exec: "x": executable file not found in $PATH: unknown', "command_not_found"),
        ("start", 400, 'runc: exec: "/x": permission denied: unknown', "not_executable"),
        ("start", 400, "runc: exec /x: exec format error: unknown", "exec_format_error"),
        ("start", 400, 'runc: exec: "/x": argument list too long: unknown', "argument_too_long"),
        ("start", 500, "dial unix:///run/containerd/containerd.sock: connection refused", "docker_unavailable"),
        ("attach", 409, "container is paused", "container_config"),
    ],
)
def test_what_an_engine_refuses(stage: Literal["create", "attach", "start"], status: int, text: str, code: str) -> None:
    """By the stage and the words, which are kept."""
    error = refusal(stage, RefusedError(status, text))
    assert error.code == code
    assert text in str(error)


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (404, "pull access denied for x, repository does not exist", "image_not_found"),
        (0, "manifest for x:y not found: manifest unknown: manifest unknown", "image_not_found"),
        (500, 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', "image_pull_failed"),
        (500, 'Get "https://r/v2/": dial tcp: lookup r: no such host not found', "image_pull_failed"),
        (0, "unexpected EOF", "image_pull_failed"),
        (400, "invalid reference format", "container_config"),
    ],
)
def test_pulls_that_fail(status: int, text: str, code: str) -> None:
    """There is no such image, or nobody could tell."""
    assert pull_refusal("x", text, status).code == code


def test_states_are_read_from_an_engines_answer() -> None:
    """An image's own stop signal goes before SIGTERM."""
    answer = {
        "Image": "sha256:1",
        "State": {"Running": True, "ExitCode": 0, "OOMKilled": False, "Error": ""},
        "Config": {"StopSignal": "SIGUSR1"},
    }
    assert ContainerState.of(answer) == ContainerState(running=True, image_id="sha256:1", stop_signal="SIGUSR1")
    assert ContainerState.of({**answer, "Config": {}}).stop_signal == "SIGTERM"


def test_signals_are_those_that_have_a_name() -> None:
    """128 itself is none, and neither is what is above the classic ones."""
    assert [signal_of(code) for code in (0, 128, 129, 159, 160)] == [None, None, "SIGHUP", "SIGSYS", None]

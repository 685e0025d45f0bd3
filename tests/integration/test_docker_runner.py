"""Tests of DockerRunner with a real engine: each situation of a container's life, and the Result it ends in."""

import base64
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from runners.context import Policy
from runners.docker import Engine
from schemas import Base64, Cause, Limits, Result, Size, Status
from tests.conftest import IMAGE, client
from tests.integration.docker_runs import LONG, READY_AND_SLEEP, Run

pytestmark = pytest.mark.anyio

AT_ONCE = 8
EACH = 2
"""Containers that each of those makes, one after the other."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Engine]:
    """Have an engine on which a test leaves no container."""
    engine = Engine(engine_url)
    try:
        yield engine
        assert containers(engine_url) == []
        assert engine.live == set()
    finally:
        engine.close()


def containers(url: str) -> list[str]:
    """Return the names of all workers' containers."""
    with client(url) as docker:
        return [
            name for one in docker.containers(all=True, filters={"label": "jetrunner.task"}) for name in one["Names"]
        ]


def own_namespaces() -> list[str]:
    """Return how our own pid and network namespaces are called."""
    return [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("pid", "net")]


def descriptors() -> int:
    """Count our open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def ended(result: Result) -> tuple[Status, int | None, str | None]:
    """Return how a run ended."""
    return result.status, result.exit_code, result.error_code


async def test_a_container_runs_and_is_gone(engine: Engine) -> None:
    """Its streams are apart, its exit code is 0, and the Result says which container of which image it was."""
    run = Run(engine, script="echo out; echo err >&2")
    result = await run.to_its_end()
    assert ended(result) == (Status.SUCCESS, 0, None)
    assert (result.output, result.stderr, result.output_complete) == ("out\n", "err\n", True)
    assert result.docker is not None
    assert result.docker.container_id == run.recorder.container
    assert result.docker.image == IMAGE
    assert (result.docker.image_id or "").startswith("sha256:")
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.EXIT, ())
    assert result.start_time is not None


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    ("script", "exit_code", "code", "signal"),
    [
        ("exit 3", 3, "exit_nonzero", None),
        ("exit 255", 255, "exit_nonzero", None),
        ("sh -c 'kill -SEGV $$'; exit $?", 139, "signalled", "SIGSEGV"),
        ("exit 137", 137, "signalled", "SIGKILL"),
    ],
)
async def test_a_container_that_fails(
    *, engine: Engine, init: bool, script: str, exit_code: int, code: str, signal: str | None
) -> None:
    """The exit code is the container's own; 128+n stands for a signal, as engines and shells have it."""
    result = await Run(engine, {"init": init}, script=script).to_its_end()
    assert ended(result) == (Status.FAILED, exit_code, code)
    assert result.signal == signal
    assert not result.retryable
    if exit_code == 137:
        assert "possibly for want of memory" in result.error


async def test_the_seeds_parameters_word_for_word(engine: Engine, tmp_path: Path) -> None:
    """Image, command, arguments as JSON, a volume and an environment, as the design had them."""
    (tmp_path / "file").write_text("mine\n")
    run = Run(
        engine,
        {
            "image": IMAGE,
            "command": "ls",
            "args": '["-a", "/container/path"]',
            "volumes": [f"{tmp_path}:/container/path"],
            "env": {"KEY": "value"},
        },
    )
    assert (await run.to_its_end()).output == ".\n..\nfile\n"


async def test_the_tasks_command_is_the_containers(engine: Engine) -> None:
    """`command` of the Task, and a bare image's own entry point and command."""
    assert (await Run(engine, {"args": ["a  b", "$HOME;*"]}, command="echo").to_its_end()).output == "a  b $HOME;*\n"
    assert (await Run(engine, {"image": "jetrunner-test:usr1"}).to_its_end()).output == "entry default\n"
    assert (await Run(engine, {"image": "jetrunner-test:usr1", "args": ["x"]}).to_its_end()).output == "entry x\n"
    replaced = {"entrypoint": "/bin/echo", "args": ["new"], "image": "jetrunner-test:usr1"}
    assert (await Run(engine, replaced).to_its_end()).output == "new\n"


async def test_the_environment_is_the_images_the_tasks_and_who_it_is(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the worker's own reaches the container."""
    monkeypatch.setenv("WORKERS_OWN", "1")
    run = Run(engine, {"env": {"A": "params", "B": "params"}}, command="env", env={"B": "task"}, attempt=2)
    lines = (await run.to_its_end()).output.splitlines()
    assert {"A=params", "B=task", "TASK_ID=t-1", "TASK_ATTEMPT=2", "TASK_INSTANCE=w-1"} <= set(lines)
    assert {line.partition("=")[0] for line in lines} <= {
        *("A", "B", "TASK_ID", "TASK_ATTEMPT", "TASK_INSTANCE"),
        *("PATH", "HOME", "HOSTNAME", "SHLVL", "PWD"),
    }


async def test_secrets_are_not_shown(engine: Engine) -> None:
    """Neither a secret of the task nor one of the parameters' environment is printed."""
    run = Run(
        engine,
        {"env": {"MY_TOKEN": "very-secret-token"}},
        script='echo "$MY_TOKEN $PASS"',
        secret_env={"PASS": "hidden-word"},
    )
    assert (await run.to_its_end()).output == "[REDACTED] [REDACTED]\n"


async def test_standard_input(engine: Engine) -> None:
    """Bytes are given whole and end; without any, the end is there at once; unread, they are no error."""
    data = bytes(range(256)) * 8000
    given = Base64(base64.b64encode(data).decode())
    result = await Run(engine, command="cat", stdin=given).to_its_end()
    assert result.streams.stdout.bytes == len(data)
    assert result.streams.stdout.encoding == "base64"
    assert ended(await Run(engine, script="cat; echo end").to_its_end()) == (Status.SUCCESS, 0, None)
    assert ended(await Run(engine, command="true", stdin=given).to_its_end()) == (Status.SUCCESS, 0, None)


async def test_output_is_live(engine: Engine, tmp_path: Path) -> None:
    """What is printed is seen while the container runs, which here ends only once it has been."""
    run = Run(engine, {"volumes": [f"{tmp_path}:/host"]}, script="echo ready; while [ ! -e /host/go ]; do :; done")
    result = await run.ready_then(lambda _: (tmp_path / "go").touch())
    assert ended(result) == (Status.SUCCESS, 0, None)


async def test_much_output_is_counted_and_cut(engine: Engine) -> None:
    """Head and tail are kept, and every byte is counted."""
    result = await Run(engine, script="echo first; dd if=/dev/zero bs=1M count=20; echo last").to_its_end()
    facts = result.streams.stdout
    assert facts.bytes == 20 * 2**20 + len("first\nlast\n")
    assert facts.truncated
    kept = base64.b64decode(result.output)
    assert (kept[:6], kept[-5:]) == (b"first\n", b"last\n")


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    ("command", "exit_code", "code"), [("nope", 127, "command_not_found"), ("/etc", 126, "not_executable")]
)
async def test_a_command_that_is_not_in_the_image(
    *, engine: Engine, init: bool, command: str, exit_code: int, code: str
) -> None:
    """Missing and not executable are told apart, whether the engine or its init finds out."""
    result = await Run(engine, {"init": init}, command=command).to_its_end()
    assert ended(result) == (Status.FAILED, exit_code, code)
    assert (result.start_time is None) == (not init)


async def test_exit_code_127_of_a_commands_own_is_a_plain_failure(engine: Engine) -> None:
    """Only what could not be executed at all was not found."""
    assert ended(await Run(engine, script="exit 127").to_its_end()) == (Status.FAILED, 127, "exit_nonzero")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"user": "nosuch"}, "unable to find user nosuch"),
        ({"network": "nosuch"}, "network nosuch not found"),
        ({"image": "UPPER"}, "repository name must be lowercase"),
        ({"volumes": ["/nosuch/dir:/x"]}, "bind source path does not exist"),
    ],
)
async def test_what_the_engine_refuses(*, engine: Engine, parameters: dict[str, Any], text: str) -> None:
    """The task is at fault, nothing ran, and the engine's own words say why."""
    result = await Run(engine, parameters, command="true").to_its_end()
    assert ended(result) == (Status.FAILED, None, "container_config")
    assert text in result.error
    assert result.start_time is None
    assert not await anyio.Path("/nosuch").exists()


async def test_too_little_memory_for_a_container(engine: Engine) -> None:
    """The engine's own bound is the task's fault, too."""
    result = await Run(engine, command="true", limits=Limits(memory=Size(1000))).to_its_end()
    assert ended(result) == (Status.FAILED, None, "container_config")


async def test_a_missing_working_directory_is_made(engine: Engine) -> None:
    """That is what engines do; the Task's `cwd` goes before the parameter."""
    assert (await Run(engine, {"working_dir": "/a/b"}, script="pwd").to_its_end()).output == "/a/b\n"
    run = Run(engine, {"working_dir": "/a/b"}, script="pwd", cwd="/c")
    assert (await run.to_its_end()).output == "/c\n"


async def test_user(engine: Engine) -> None:
    """The container runs as who it is told."""
    assert (await Run(engine, {"user": "1234:55", "args": ["-u"]}, command="id").to_its_end()).output == "1234\n"


async def test_volumes_are_writable_unless_they_are_not(engine: Engine, tmp_path: Path) -> None:
    """`:ro` keeps the container from writing; a link's target is what is mounted."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    volumes = [f"{tmp_path}/link:/rw", f"{tmp_path}/real:/ro:ro"]
    result = await Run(engine, {"volumes": volumes}, script="echo x >/rw/file; cat /ro/file; touch /ro/y").to_its_end()
    assert (result.output, result.exit_code) == ("x\n", 1)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


async def test_anonymous_remains_of_a_named_volume_stay(engine: Engine, engine_url: str) -> None:
    """A named volume keeps what is put into it for the next task."""
    volume = {"volumes": ["jetrunner-test-volume:/data"]}
    try:
        await Run(engine, volume, script="echo kept >/data/file").to_its_end()
        assert (await Run(engine, volume, script="cat /data/file").to_its_end()).output == "kept\n"
    finally:
        with client(engine_url) as docker:
            docker.remove_volume("jetrunner-test-volume")


# Ends


async def test_a_time_out_stops_the_container(engine: Engine) -> None:
    """The time counts from the start; SIGTERM is heard."""
    result = await Run(engine, script=READY_AND_SLEEP, timeout=0.5).to_its_end()
    assert ended(result) == (Status.TIMEOUT, 143, "timeout")
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.TIMEOUT, ("SIGTERM",))


async def test_a_time_out_decides_though_the_container_exits_0(engine: Engine) -> None:
    """The first cause wins."""
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    result = await Run(engine, script=script, timeout=0.5).to_its_end()
    assert ended(result) == (Status.TIMEOUT, 0, "timeout")
    assert result.output == "ready\nbye\n"


async def test_stop_is_polite_first(engine: Engine) -> None:
    """The stop is announced, the trap's code is kept, and so is what it printed."""
    run = Run(engine, script="trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    result = await run.ready_then(lambda runner: runner.stop(by="me", reason="enough"))
    assert ended(result) == (Status.CANCELED, 5, "stopped")
    assert result.output == "ready\nbye\n"
    assert run.recorder.stops == [{"by": "me", "reason": "enough", "signal": "SIGTERM"}]


async def test_stop_uses_the_images_own_signal(engine: Engine) -> None:
    """An image that says how it wants to be stopped is stopped so."""
    script = "trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    run = Run(engine, {"image": "jetrunner-test:usr1", "entrypoint": ["sh", "-c", script]})
    result = await run.ready_then(lambda runner: runner.stop())
    assert (result.exit_code, result.output) == (7, "ready\nusr1\n")
    assert [stop["signal"] for stop in run.recorder.stops] == ["SIGUSR1"]


async def test_who_ignores_sigterm_is_killed_after_the_grace(engine: Engine) -> None:
    """Both signals are in the receipt."""
    run = Run(engine, script="trap '' TERM; echo ready; while :; do sleep 0.1; done")
    result = await run.ready_then(lambda runner: runner.stop(grace=0.2))
    assert ended(result) == (Status.CANCELED, 137, "stopped")
    assert result.termination is not None
    assert result.termination.signals == ("SIGTERM", "SIGKILL")


async def test_kill_is_at_once(engine: Engine) -> None:
    """No SIGTERM is sent."""
    run = Run(engine, script="trap 'echo bye' TERM; echo ready; while :; do sleep 0.1; done")
    result = await run.ready_then(lambda runner: runner.kill())
    assert ended(result) == (Status.CANCELED, 137, "killed")
    assert result.output == "ready\n"
    assert [stop["signal"] for stop in run.recorder.stops] == ["SIGKILL"]


async def test_no_grace_is_none(engine: Engine) -> None:
    """What gets no time to end is not asked to, and the receipt does not claim so."""
    run = Run(engine, script=READY_AND_SLEEP, grace=0)
    result = await run.ready_then(lambda runner: runner.stop())
    assert ended(result) == (Status.CANCELED, 137, "stopped")
    assert result.termination is not None
    assert result.termination.signals == ("SIGKILL",)


async def test_a_kill_ends_the_grace_of_a_stop(engine: Engine) -> None:
    """The status stays the stop's."""
    run = Run(engine, script="trap '' TERM; echo ready; while :; do sleep 0.1; done")
    async with run.ready():
        run.runner.stop(grace=LONG)
        await run.recorder.until(lambda: bool(run.recorder.stops))
        run.runner.kill()
    assert run.runner.result is not None
    assert ended(run.runner.result) == (Status.CANCELED, 137, "stopped")


async def test_a_container_stopped_before_its_start_never_runs(engine: Engine) -> None:
    """Neither is anything created."""
    run = Run(engine, script=READY_AND_SLEEP)
    run.runner.stop()
    result = await run.to_its_end()
    assert (result.status, result.start_time, result.output) == (Status.CANCELED, None, "")


async def test_a_stop_while_the_container_is_made_ends_it(engine: Engine) -> None:
    """Whatever stage the stop comes at, the container is gone in the end."""
    for turns in range(0, 60, 6):
        run = Run(engine, script=READY_AND_SLEEP, grace=0.1)
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as group:
                group.start_soon(run.runner.execute)
                await anyio.sleep(turns / 500)
                run.runner.kill()
        assert run.runner.result is not None
        assert run.runner.result.status is Status.CANCELED


async def test_the_end_of_the_first_process_ends_the_container(engine: Engine) -> None:
    """What it left in the background holds nothing up."""
    result = await Run(engine, {"init": False}, script="sleep 600 & echo done").to_its_end()
    assert (ended(result), result.output) == ((Status.SUCCESS, 0, None), "done\n")


async def test_closed_streams_are_not_the_end(engine: Engine) -> None:
    """A container that closes its output runs on until it exits."""
    result = await Run(engine, {"init": False}, script="exec >&- 2>&-; sleep 1; exit 4").to_its_end()
    assert ended(result) == (Status.FAILED, 4, "exit_nonzero")


async def test_output_over_the_limit_ends_the_task_if_asked(engine: Engine) -> None:
    """`on_output_limit: kill` is the container's, too."""
    run = Run(engine, {"on_output_limit": "kill"}, script="while :; do echo 0123456789; done", grace=0.1)
    run.runner.context = structs.replace(run.runner.context, output_limit=100_000)
    result = await run.to_its_end()
    assert (result.status, result.error_code) == (Status.FAILED, "output_limit")
    for spool in run.runner.spools.values():
        spool.close()


async def test_a_container_that_someone_removes_is_lost(engine: Engine, engine_url: str) -> None:
    """That is not the task's fault, and may be tried again."""
    run = Run(engine, script=READY_AND_SLEEP)

    def remove(_: object) -> None:
        with client(engine_url) as docker:
            docker.remove_container(run.recorder.container, force=True)

    result = await run.ready_then(remove)
    assert ended(result) == (Status.ERROR, None, "container_lost")
    assert result.retryable


# Limits


async def test_a_container_that_uses_too_much_memory(engine: Engine) -> None:
    """The engine's word decides."""
    run = Run(engine, script="dd if=/dev/zero of=/dev/null bs=90M count=1", limits=Limits(memory=Size(20 * 2**20)))
    result = await run.to_its_end()
    assert ended(result) == (Status.FAILED, 137, "oom_killed")
    assert result.termination is not None
    assert result.termination.cause is Cause.OOM


async def test_a_child_that_uses_too_much_memory_is_a_warning(engine: Engine) -> None:
    """The container went on, so its exit code counts."""
    script = "dd if=/dev/zero of=/dev/null bs=90M count=1; exit 0"
    result = await Run(engine, script=script, limits=Limits(memory=Size(20 * 2**20))).to_its_end()
    assert ended(result) == (Status.SUCCESS, 0, None)
    assert [warning.partition(":")[0] for warning in result.warnings] == ["oom_kill_in_task"]


async def test_limits_are_the_engines(engine: Engine) -> None:
    """Each is enforced, and the Result says by whom."""
    limits = Limits(memory=Size(32 * 2**20), pids=20, cpus=0.5, nofile=77, cpu_seconds=1, output=Size(1000))
    result = await Run(engine, script="ulimit -n; while :; do :; done", limits=limits).to_its_end()
    assert result.output == "77\n"
    assert ended(result) == (Status.FAILED, 152, "signalled")
    assert result.signal == "SIGXCPU"
    assert {name: limit.enforced_by for name, limit in result.limits.items()} == {
        "memory": "docker",
        "pids": "docker",
        "cpus": "docker",
        "nofile": "rlimit",
        "cpu_seconds": "rlimit",
        "output": "worker",
    }


async def test_processes_are_limited(engine: Engine) -> None:
    """A container that forks too much gets no more."""
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; echo never"
    result = await Run(engine, script=script, limits=Limits(pids=5)).to_its_end()
    assert "never" not in result.output
    assert "fork" in result.stderr


# Hardening and policy


async def test_a_container_gains_no_privileges(engine: Engine) -> None:
    """No new privileges, no raw sockets, no core files."""
    result = await Run(engine, script="grep -E 'NoNewPrivs|CapEff' /proc/self/status; ulimit -c").to_its_end()
    lines = dict(line.split(":\t") for line in result.output.splitlines() if ":" in line)
    assert lines["NoNewPrivs"] == "1"
    assert not int(lines["CapEff"], 16) & (1 << 13)
    assert result.output.endswith("\n0\n")


async def test_the_strict_profile(engine: Engine, tmp_path: Path) -> None:
    """Nobody, without capabilities, on a read-only file system with a /tmp, and volumes that are read-only."""
    (tmp_path / "file").write_text("x")
    policy = Policy(profile="strict", allow=("docker.io/library/jetrunner-test:*",), volume_roots=(str(tmp_path),))
    script = "id -u; grep CapEff /proc/self/status; touch /x /data/y; touch /tmp/x && echo tmp; cat /data/file"
    await anyio.Path(tmp_path).chmod(0o755)
    result = await Run(engine, {"volumes": [f"{tmp_path}:/data"]}, script=script, policy=policy).to_its_end()
    assert result.output == "65534\nCapEff:\t0000000000000000\ntmp\nx"
    assert result.stderr.count("Read-only file system") == 2


async def test_what_the_policy_forbids_is_never_created(engine: Engine, engine_url: str) -> None:
    """The refusal names the rule, and the engine has heard nothing of it."""
    with client(engine_url) as docker:
        before = docker.info()["Containers"]
        result = await Run(engine, {"privileged": True}, command="true").to_its_end()
        assert docker.info()["Containers"] == before
    assert ended(result) == (Status.ERROR, None, "policy_denied")
    assert "rule docker.privileged" in result.error
    assert result.docker is None


async def test_the_open_profile_allows_what_is_asked_for(engine: Engine) -> None:
    """The host's namespaces are there for who wants them."""
    run = Run(
        engine,
        {"pid": "host", "network": "host"},
        script="ls -l /proc/self/ns/pid /proc/self/ns/net",
        policy=Policy(profile="open"),
    )
    output = (await run.to_its_end()).output
    assert all(namespace in output for namespace in own_namespaces())


# Many


async def test_many_containers_leave_nothing(engine: Engine) -> None:
    """Neither descriptor nor thread is left of many containers, a second time as many; nor is any of them."""

    async def work(worker: int) -> None:
        for number in range(EACH):
            run = Run(engine, command="echo", id=f"t-{worker}-{number}")
            assert (await run.to_its_end()).status is Status.SUCCESS

    async def work_at_once() -> tuple[int, int]:
        async with anyio.create_task_group() as group:
            for worker in range(AT_ONCE):
                group.start_soon(work, worker)
        return descriptors(), threading.active_count()

    before = await work_at_once()
    after = await work_at_once()
    assert after[0] <= before[0] + AT_ONCE
    assert after[1] <= before[1] + AT_ONCE

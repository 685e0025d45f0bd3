"""Plug-ins from the command line: found, listed, described, refused, and run by a worker."""

import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

import msgspec
import pytest

from runners.process.keeper import children, descendants
from tests.acceptance.conftest import PATIENCE, READY, Done, Running, Site

README: Final = Path(__file__).parents[2] / "README.md"
INDENT: Final = " " * 4
PLUGIN: Final = Path(__file__).parent / "plugins" / "greetings.py"
ENTRY_POINTS: Final = "[jetrunner.runners]\nhello = greetings:greet\nfib = greetings:fibonacci\n"


@pytest.fixture
def plugged(idle_site: Site, tmp_path: Path) -> Site:
    """Have a site with the plug-in in its current directory."""
    (tmp_path / PLUGIN.name).write_bytes(PLUGIN.read_bytes())
    idle_site.environ["JETRUNNER_PLUGINS"] = "greetings"
    return idle_site


def refusal(done: Done) -> str:
    """Return the one line that a command was refused with."""
    assert (done.code, done.out) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_runners_are_listed_with_their_source_and_parameters(plugged: Site) -> None:
    """Parameters that may be left out are in brackets; limits are the configuration's."""
    plugged.environ["JETRUNNER_RUNNERS_GREET_RESOURCE_LIMITS_MEMORY"] = "1MiB"
    plugged.environ["JETRUNNER_RUNNERS_GREET_MAX_CONCURRENCY"] = "3"
    done = plugged.jetrunner("runners")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.lines}
    assert rows["greet"].split()[1:5] == ["plug-in", "greetings", "name", "[loud]"]
    assert rows["greet"].split()[5:] == ["3", "1", "h", "memory=1048576", "yes"]
    assert rows["command"].split()[1] == "built-in"
    listed = plugged.jetrunner("runners", "-o", "id").lines
    assert listed == [*rows][1:]
    assert {"command", "echo", "fibonacci", "greet", "script", "sleep"} <= {*listed}
    lines = plugged.jetrunner("runners", "-o", "jsonl").lines
    greet = next(row for row in map(msgspec.json.decode, lines) if row["category"] == "greet")
    assert (greet["parameters"], greet["ready"], greet["reason"]) == ({"name": True, "loud": False}, True, None)


def test_a_runner_that_cannot_start_is_listed_with_the_reason(plugged: Site, tmp_path: Path) -> None:
    """A list shows it; a worker that is to serve it refuses, and names it."""
    module = "from runners import runner\n@runner('odd')\ndef odd(x): ...\n"
    (tmp_path / "odd.py").write_text(module, encoding="utf-8")
    done = plugged.jetrunner("runners", JETRUNNER_PLUGINS="odd")
    why = "the runner of the category 'odd', by plug-in odd, cannot start: TypeError: the parameter 'x' of odd has no"
    assert f"no: {why}" in done.out
    assert why in refusal(plugged.jetrunner("worker", JETRUNNER_PLUGINS="odd"))


def test_a_runner_that_has_what_it_needs_missing_is_listed_with_the_reason(plugged: Site, tmp_path: Path) -> None:
    """It can be made, so a worker may start and wait for what is missing."""
    module = "from greetings import EchoRunner\nfrom runners import runner\n"
    module += "@runner('lame')\nclass Lame(EchoRunner):\n    def unready(self):\n        return 'there is no stick'\n"
    (tmp_path / "lame.py").write_text(module, encoding="utf-8")
    done = plugged.jetrunner("runners", "-o", "json", JETRUNNER_PLUGINS="lame")
    lame = next(row for row in msgspec.json.decode(done.stdout) if row["category"] == "lame")
    assert (lame["ready"], lame["reason"], lame["parameters"]) == (False, "there is no stick", {"text": True})


def test_a_schema_describes_the_parameters_of_a_plug_in(plugged: Site) -> None:
    """As that of a message does; for anything else the error says what there is."""
    schema = msgspec.json.decode(plugged.jetrunner("schema", "greet").stdout)
    definition = schema["$defs"]["GreetParams"]
    assert definition["required"] == ["name"]
    assert definition["properties"]["loud"] == {"type": "boolean", "default": False}
    assert "control, command, docker, echo" in refusal(plugged.jetrunner("schema", "grete"))


@pytest.mark.parametrize("command", ["worker", "runners", "init"])
def test_a_plug_in_that_is_not_there_is_one_error(plugged: Site, command: str) -> None:
    """At start-up, with what to do."""
    said = refusal(plugged.jetrunner(command, JETRUNNER_PLUGINS="greetings,nix"))
    assert said.startswith("jetrunner: the plug-in 'nix' was not found, neither on the Python path nor in ")


def test_a_worker_runs_the_functions_of_a_plug_in(plugged: Site) -> None:
    """Coroutines, plain functions and Runners; what is wrong with a task is its Result, not the worker's end."""
    with plugged.worker():
        done = plugged.jetrunner("run", "greet", "--args", '{"name":"you","loud":true}')
        assert (done.code, done.out) == (0, '"HELLO you"')
        done = plugged.jetrunner("run", "fibonacci", "--args", '{"count":7}', "-o", "json")
        result = msgspec.json.decode(done.stdout)
        assert (result["output"], result["stderr"]) == ("[0,1,1,2,3,5,8]", "counted\n")
        assert plugged.jetrunner("run", "echo", "--args", '{"text":"as it is"}').out == "as it is"
        done = plugged.jetrunner("run", "greet", "--args", '{"nam":"you"}')
        assert done.code == 3
        assert "unknown field `nam`" in done.stderr


def test_the_runners_of_the_readme_do_what_it_says(idle_site: Site, tmp_path: Path) -> None:
    """Its code is a plug-in, and its commands print what stands beside them."""
    section = README.read_text(encoding="utf-8").partition("## Write a runner")[2].partition("\n## ")[0]
    lines = [line.removeprefix(INDENT) for line in section.splitlines() if line.startswith(INDENT) or not line]
    commands = [line for line in lines if line.startswith("jetrunner ")]
    module = "\n".join(line for line in lines if line not in commands)
    (tmp_path / "my_runners.py").write_text(module, encoding="utf-8")
    (tmp_path / "jetrunner.toml").write_text('plugins = ["my_runners"]\n', encoding="utf-8")
    assert len(commands) == 2
    with idle_site.worker():
        for command in commands:
            typed, _, printed = command.partition(" #")
            done = idle_site.jetrunner(*shlex.split(typed)[1:])
            assert (done.code, done.out) == (0, printed.strip())


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_drained_worker_leaves_no_process_of_a_pool(plugged: Site) -> None:
    """Neither one at rest nor one at work outlives it."""
    with plugged.start("worker", "--log-level", "info") as keeper:
        keeper.read_until(READY)
        (worker,) = children(keeper.process.pid)
        assert plugged.jetrunner("run", "sleep", "--args", '{"seconds":0}').code == 0
        resting = descendants(worker)
        assert len(resting) == 1
        plugged.jetrunner("submit", "sleep", "--args", '{"seconds":600}')
        keeper.process.terminate()
        assert keeper.end()[0] == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in resting)


def make_wheel(directory: Path) -> Path:
    """Write the plug-in as a package to install (PEP 427)."""
    wheel = directory / "greetings-1.0-py3-none-any.whl"
    info = "greetings-1.0.dist-info"
    files = {
        "greetings.py": PLUGIN.read_text(encoding="utf-8"),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have a fresh environment, the plug-in installed into it and ours within reach; return its python."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = str(directory / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, make_wheel(directory)], check=True, timeout=PATIENCE)
    packages = next(directory.glob("lib/python*/site-packages"))
    ours = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")
    return python


def test_a_package_that_is_installed_is_found_by_its_entry_points(
    idle_site: Site, environment: str, tmp_path: Path
) -> None:
    """Its entry points' names are the categories, and nothing has to be configured."""
    ours = [environment, "-P", "-m", "consumer"]
    settings = {"env": idle_site.environ, "cwd": tmp_path}
    listed = subprocess.run(
        [*ours, "runners"], capture_output=True, text=True, check=True, timeout=PATIENCE, **settings
    )  # type: ignore[call-overload]
    rows = {line.split()[0]: line.split() for line in listed.stdout.splitlines()}
    assert rows["hello"][1:5] == ["package", "greetings", "name", "[loud]"]
    worker = subprocess.Popen([*ours, "worker"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)  # type: ignore[call-overload]
    with Running(worker) as running:
        running.read_until(READY)
        assert idle_site.jetrunner("run", "hello", "--args", '{"name":"you"}').out == '"hello you"'
        assert idle_site.jetrunner("run", "fib", "--args", '{"count":3}').out == "[0,1,1]"
        worker.terminate()
        assert running.end()[0] == 0

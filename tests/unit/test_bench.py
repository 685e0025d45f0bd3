"""The benchmark's own arithmetic, and that what counts leaks would notice one."""

import os
import subprocess
import sys
import threading

import pytest

from bench.figures import Figure, both, percentile, ratio, table
from bench.machine import descriptors, rounds, threads, tree_cpu, zombies

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A round in which the machine was slow counts as much as any other."""
    assert ratio("speed", [10, 100, 30], [10, 50, 10]).value == 2


def test_both_are_medians() -> None:
    """One outlier does not matter."""
    assert [figure.value for figure in both("speed", [1, 2, 90], [3, 4, 5], "x")] == [2, 4]


@pytest.mark.parametrize(
    ("figure", "target", "verdict"),
    [
        (Figure(name="f", value=1.0, at_least=1.0), ">= 1", "ok"),
        (Figure(name="f", value=0.9, at_least=1.0), ">= 1", "missed"),
        (Figure(name="f", value=0, below=1), "< 1", "ok"),
        (Figure(name="f", value=1, below=1), "< 1", "missed"),
        (Figure(name="f", value=1), "", ""),
    ],
)
def test_a_figure_is_compared_with_its_target(figure: Figure, target: str, verdict: str) -> None:
    """A figure without a target has no verdict."""
    assert (figure.target, figure.verdict) == (target, verdict)


def test_percentiles_are_within_the_values() -> None:
    """They are interpolated, never extrapolated."""
    values = [*range(101)]
    assert (percentile(values, 50), percentile(values, 99)) == (50, 99)


def test_the_table_names_a_case_once() -> None:
    """Its columns are aligned."""
    lines = [*table({"one": [Figure(name="a", value=1), Figure(name="bb", value=1234.5, unit="ms")]})]
    assert lines == [
        "case  figure  value  unit  target  verdict",
        "",
        "one   a           1",
        "      bb      1,234  ms",
    ]


def test_rounds_end_with_their_time_but_there_is_one() -> None:
    """A slow machine measures less, not longer."""
    assert [*rounds(5, 0.0)] == [0]
    assert [*rounds(3, 60.0)] == [0, 1, 2]


@linux
def test_an_open_file_is_counted() -> None:
    """The leak check sees one more descriptor."""
    before = descriptors()
    one = os.open("/dev/null", os.O_RDONLY)
    assert descriptors() == before + 1
    os.close(one)
    assert descriptors() == before


@linux
def test_a_thread_is_counted() -> None:
    """The leak check sees one more thread."""
    before, end = threads(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert threads() == before + 1
    end.set()
    thread.join()


@linux
def test_a_zombie_is_counted() -> None:
    """The leak check sees a child that nobody has reaped."""
    before = zombies()
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert zombies() == before + 1
    assert zombies() == before


@linux
def test_the_cpu_of_a_tree_includes_what_was_reaped() -> None:
    """A child's time is its parent's once it has ended."""
    before = tree_cpu(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert tree_cpu(os.getpid()) - before >= 0.15

"""The conformance suite: what every Runner does, built-in or of your own, as tests for your own pytest.

    class TestResize(RunnerConformance):
        factory = resize
        success = Task(args={"width": 3})
        failure = Task(args={"width": 0})
        endless = Task(args={"width": 10**9})

Each test gives Runners their tasks as a worker does, and looks at what they report, return and leave. None needs a
plug-in of pytest, nor this package pytest itself.
"""

from .conformance import RunnerConformance

__all__ = ["RunnerConformance"]

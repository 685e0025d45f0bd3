"""A task's environment, built from nothing: what the worker itself was given never reaches a task (R7)."""

import functools
import os
import pwd
import tempfile

from runners.context import Context


def environment(context: Context) -> dict[str, str]:
    """Return the baseline, then what the task gives, then who it is."""
    return {**_baseline(), **task_variables(context)}


def task_variables(context: Context) -> dict[str, str]:
    """Return the trace in OpenTelemetry's names, what the task gives, then who it is.

    A container's baseline is its image's own.
    """
    task = context.task
    return {
        **{name.upper(): value for name, value in context.trace.items()},
        **task.env,
        **task.secret_env,
        "TASK_ID": task.id or "",
        "TASK_ATTEMPT": str(context.attempt),
        "TASK_INSTANCE": context.worker,
    }


@functools.cache
def _baseline() -> dict[str, str]:
    baseline = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "TMPDIR": tempfile.gettempdir(),
    }
    if "TZ" in os.environ:
        baseline["TZ"] = os.environ["TZ"]
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:  # a container's arbitrary uid has no name and no home
        return {**baseline, "HOME": "/", "USER": str(os.getuid())}
    return {**baseline, "HOME": user.pw_dir, "USER": user.pw_name}

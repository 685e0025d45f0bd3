"""The demo's tasks: what is published, word for word, what is promised of each, and what to say about it."""

import json
import shlex
from typing import Any, Final

from msgspec import Struct

from schemas import Result, Status, Subjects, Verb

CATEGORY: Final = "command"
SUBJECTS: Final = Subjects()


class Act(Struct, frozen=True, kw_only=True):
    """One task of the demo, and what it promises.

    Attributes:
        name: the task's id.
        payload: the message, as it is published.
        commands: what to type to do the same with the nats command.
        story: what has happened, once it has happened as promised.
        promise: fields of the Result.
        says: what its output contains, in these words.
        lead: seconds that the first output comes before the Result, at least.
        starts: whether it ever starts.
        signals: what ends it.
    """

    name: str
    title: str
    payload: str
    commands: tuple[str, ...]
    story: str
    promise: dict[str, Any]
    says: tuple[str, ...] = ()
    lead: float = 0.0
    starts: bool = True
    signals: tuple[str, ...] = ()

    def broken_promises(self, result: Result, lead: float) -> list[str]:
        """Compare what has happened with what was promised; say what is not so."""
        fields = {
            **{field: (getattr(result, field), promised) for field, promised in self.promise.items()},
            "signals": (result.termination.signals if result.termination else (), self.signals),
            "started": (result.start_time is not None, self.starts),
        }
        broken = [
            f"{field} is {found!r}, not {promised!r}"
            for field, (found, promised) in fields.items()
            if found != promised
        ]
        broken += [f"its output lacks {text!r}" for text in self.says if text not in result.output + result.stderr]
        if lead < self.lead:
            broken.append(f"its output came {lead:.2f} s before its Result, not {self.lead:g} s")
        return [f"{self.name}: {text}" for text in broken]


def _task(script: str, **fields: object) -> str:
    return json.dumps({"command": "sh", "args": ["-c", script], **fields})


def _request(payload: str) -> str:
    return f"nats req {SUBJECTS.run(CATEGORY)} {shlex.quote(payload)} --timeout 30s"


def _publish(payload: str, name: str) -> str:
    return f"nats pub {SUBJECTS.task(CATEGORY)} {shlex.quote(payload)} -H Nats-Msg-Id:{name}"


def _stop(name: str) -> str:
    return f"nats req {SUBJECTS.control(name, Verb.STOP)} ''"


def _result(name: str) -> str:
    return f"nats stream get {SUBJECTS.results_stream} --last-for {SUBJECTS.result(name)}"


_SEED: Final = r'{"command":"/bin/ls","args":"[\"-la\", \"/tmp\"]"}'
_LIVE: Final = _task("for step in 1 2 3 4 5; do echo step $step of 5; sleep 0.2; done")
_FAILS: Final = _task("echo the disk is full, say >&2; exit 3")
_SLOW: Final = _task("echo this may take a minute; sleep 60", timeout=0.5)
_LONG: Final = _task("trap 'echo cleaning up; exit 0' TERM; echo working; sleep 60 & wait")
_QUEUED: Final = _task("echo nobody will ever read this")

SEED: Final = Act(
    name="ls",
    title="the example of the design, word for word",
    payload=_SEED,
    commands=(_request(_SEED),),
    story="No shell was involved: the worker started /bin/ls itself, with the arguments of a JSON list in a string.",
    promise={"status": Status.SUCCESS, "exit_code": 0, "error_class": None},
    says=("total ",),
)
LIVE: Final = Act(
    name="live",
    title="a command whose output comes while it runs",
    payload=_LIVE,
    commands=(f"nats sub '{SUBJECTS.output('live', '*')}'", _publish(_LIVE, "live")),
    story="Each line came when it was written, and is kept for a day: whoever follows later sees it from the start.",
    promise={"status": Status.SUCCESS, "exit_code": 0, "output": "".join(f"step {n} of 5\n" for n in range(1, 6))},
    lead=0.5,
)
FAILS: Final = Act(
    name="fails",
    title="a command that fails",
    payload=_FAILS,
    commands=(_request(_FAILS),),
    story="An exit code is an outcome like any other: the Result has it, with stderr on its own.",
    promise={"status": Status.FAILED, "exit_code": 3, "error_code": "exit_nonzero", "output": ""},
    says=("the disk is full, say",),
)
SLOW: Final = Act(
    name="slow",
    title="a command that runs into its time-out of half a second",
    payload=_SLOW,
    commands=(_request(_SLOW),),
    story="When the time was up, the shell and its sleep got SIGTERM; what had been said until then is kept.",
    promise={"status": Status.TIMEOUT, "exit_code": 143, "output": "this may take a minute\n"},
    signals=("SIGTERM",),
)
LONG: Final = Act(
    name="long",
    title="a command that is stopped while it runs",
    payload=_LONG,
    commands=(_publish(_LONG, "long"), _stop("long")),
    story="The stop reached the whole group; the script had its grace to clean up, and the Result says who asked.",
    promise={"status": Status.CANCELED, "output": "working\ncleaning up\n"},
    signals=("SIGTERM",),
)
QUEUED: Final = Act(
    name="queued",
    title="a command that is stopped while it waits, for the worker is busy with `long`",
    payload=_QUEUED,
    commands=(_publish(_QUEUED, "queued"), _stop("queued"), _result("queued")),
    story="It was still in the queue, and it will never start: its Result was out at once, long before its turn.",
    promise={"status": Status.CANCELED, "exit_code": None, "output": ""},
    starts=False,
)

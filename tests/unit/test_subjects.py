"""Subjects, streams and buckets spelt as the contract spells them, and the reply subjects that may be used."""

import re
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import Subjects, Verb
from schemas.subjects import DEFAULT_REPLY_PREFIXES, MAX_SUBJECT, STREAMS, is_category, is_task_id

PATIENT: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Property tests that do not mind a busy machine."""

OURS: Final = Subjects()
OTHER: Final = Subjects("my-runner_2")

TOKENS: Final = st.one_of(
    st.sampled_from([*("jetrunner", "_INBOX", "_INBOX_x", "replies", "$JS", "$SYS", "*", ">", "", "a*", "tasks", "x")]),
    st.text(max_size=5),
)


def test_the_default_prefix_is_jetrunner() -> None:
    """Without a prefix of one's own, names begin with `jetrunner`."""
    assert Subjects().prefix == "jetrunner"
    assert Subjects("jetrunner") == OURS


@pytest.mark.parametrize(
    ("subject", "spelt"),
    [
        (OURS.task("command"), "jetrunner.tasks.command"),
        (OURS.task("*"), "jetrunner.tasks.*"),
        (OURS.schedule("t1"), "jetrunner.schedule.t1"),
        (OURS.control("t1", Verb.STOP), "jetrunner.control.t1.stop"),
        (OURS.control("t1", Verb.KILL), "jetrunner.control.t1.kill"),
        (OURS.control("*", "*"), "jetrunner.control.*.*"),
        (OURS.event("t1", "started"), "jetrunner.events.t1.started"),
        (OURS.output("t1", "stdout"), "jetrunner.output.t1.stdout"),
        (OURS.result("t1"), "jetrunner.results.t1"),
        (OURS.dead("command"), "jetrunner.dead.command"),
        (OURS.run("command"), "jetrunner.run.command"),
        (OURS.ask("t1"), "jetrunner.ask.t1"),
        (OTHER.task("http"), "my-runner_2.tasks.http"),
        (OTHER.result("t1"), "my-runner_2.results.t1"),
    ],
)
def test_subjects_are_spelt_as_the_contract_says(subject: str, spelt: str) -> None:
    """Each subject is the prefix, the kind, and the names it is about."""
    assert subject == spelt


@pytest.mark.parametrize(
    ("subjects", "prefix"),
    [(OURS, "JETRUNNER"), (OTHER, "MY-RUNNER_2")],
)
def test_stream_names_begin_with_the_upper_case_prefix(subjects: Subjects, prefix: str) -> None:
    """A stream is named `P_` and what it keeps, in upper case."""
    streams = (
        subjects.tasks_stream,
        subjects.control_stream,
        subjects.events_stream,
        subjects.output_stream,
        subjects.results_stream,
        subjects.dead_stream,
    )
    assert streams == tuple(f"{prefix}_{kind}" for kind in ("TASKS", "CONTROL", "EVENTS", "OUTPUT", "RESULTS", "DEAD"))


def test_the_object_store_has_the_prefix_as_it_is() -> None:
    """The bucket of outputs begins with the prefix, not with its upper-case form."""
    assert OURS.outputs_bucket == "jetrunner_outputs"
    assert OTHER.outputs_bucket == "my-runner_2_outputs"


def test_the_output_streams_are_stdout_and_stderr() -> None:
    """A task has two streams."""
    assert STREAMS == ("stdout", "stderr")


@pytest.mark.parametrize("prefix", ["", "a.b", "*", ">", "$JS", "a b", "a\n", "é", "a/b"])
def test_the_prefix_is_one_plain_token(prefix: str) -> None:
    """A prefix that is not one token of letters, digits, `_` and `-` is refused by name."""
    with pytest.raises(ValueError, match="must be one token") as caught:
        Subjects(prefix)
    assert repr(prefix) in str(caught.value)


@pytest.mark.parametrize(
    ("subject", "token"),
    [("jetrunner.tasks.command", "command"), ("jetrunner.events.t1.started", "started"), ("alone", "alone")],
)
def test_the_last_token_is_what_follows_the_last_dot(subject: str, token: str) -> None:
    """A task's category, an event's type and an output's stream are the subject's last token."""
    assert OURS.last_token(subject) == token


@pytest.mark.parametrize("verb", list(Verb))
def test_a_control_subject_is_read_back(verb: Verb) -> None:
    """The task and the verb are read from the subject they were written to, under any prefix."""
    assert OURS.parse_control(OURS.control("t-1_a", verb)) == ("t-1_a", verb)
    assert OTHER.parse_control(OTHER.control("t1", verb)) == ("t1", verb)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "stop",
        "t1.stop",
        "control.t1.stop",
        "jetrunner.control.t1",
        "jetrunner.control.stop",
        "jetrunner.control..stop",
        "jetrunner.control.t1.pause",
        "jetrunner.control.t1.STOP",
        "jetrunner.control.t1.stop.now",
        "jetrunner.control.a.b.stop",
        "jetrunner.control.*.stop",
        f"jetrunner.control.{'x' * 65}.stop",
        "jetrunner.events.t1.stop",
        "other.control.t1.stop",
        "xjetrunner.control.t1.stop",
    ],
)
def test_another_subject_is_no_control(subject: str) -> None:
    """A subject that is not ours, or names no task or no verb, is no control."""
    assert OURS.parse_control(subject) is None


@pytest.mark.parametrize("text", ["a", "A-z_9", "x" * 64, "s12-1700000000000"])
def test_ids_and_categories_are_tokens_of_up_to_64_characters(text: str) -> None:
    """Letters, digits, `_` and `-` make an id or a category."""
    assert is_task_id(text)
    assert is_category(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a.b", "a b", "a\n", "*", ">", "$x", "é", "\u0663", "a/b", "a\0"])
def test_what_is_no_such_token_is_neither_id_nor_category(text: str) -> None:
    """Dots, wildcards, spaces, line ends and letters beyond ASCII are refused."""
    assert not is_task_id(text)
    assert not is_category(text)


def test_the_default_allow_list_is_the_contract_s() -> None:
    """Inboxes, inboxes with a prefix of their own, and `replies` are allowed."""
    assert DEFAULT_REPLY_PREFIXES == ("_INBOX", "_INBOX_*", "replies")


@pytest.mark.parametrize(
    "subject",
    [
        "_INBOX.abc",
        "_INBOX.abc.def",
        "_INBOX_submitter.abc",
        "_INBOX_.abc",
        "replies",
        "replies.me",
        "replies.me.tasks.jetrunner",
        "replies.$JS",
        "replies." + "x" * (MAX_SUBJECT - len("replies.")),
    ],
)
def test_an_allowed_reply_subject_passes(subject: str) -> None:
    """A plain subject whose first tokens are on the allow-list passes."""
    OURS.check_reply(subject)


@pytest.mark.parametrize(
    "subject",
    ["mine", "mine._INBOX.a", "_INBOXES.a", "_inbox.a", "repliesX", "replies-2.a", "xreplies.a", "reply.a"],
)
def test_a_reply_subject_off_the_allow_list_is_refused(subject: str) -> None:
    """Whole tokens are compared; the refusal shows the subject and the allow-list."""
    with pytest.raises(ValueError, match="is not allowed") as caught:
        OURS.check_reply(subject)
    assert repr(subject) in str(caught.value)
    assert "_INBOX, _INBOX_*, replies" in str(caught.value)


@pytest.mark.parametrize(
    "subject",
    [
        *("", ".", "replies.", ".replies", "replies..a", "replies.*", "replies.>", "replies.a*", "*.a", "*", ">"),
        *("replies.a b", "replies.a\n", "replies.a\r\nPUB x", "replies.\t", "replies.\0", "replies.é"),
        "replies." + "x" * MAX_SUBJECT,
    ],
)
def test_a_malformed_reply_subject_is_refused(subject: str) -> None:
    """Wildcards, empty tokens, spaces, controls and endless subjects are refused."""
    with pytest.raises(ValueError, match="is not a plain subject without wildcards"):
        OURS.check_reply(subject)


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.STREAM.DELETE.JETRUNNER_TASKS", "$SYS.x", "$", "jetrunner", "jetrunner.tasks.command", "jetrunner.x"],
)
def test_the_server_s_subjects_and_ours_are_refused_whatever_is_allowed(subject: str) -> None:
    """No allow-list lets `$…` or our own prefix pass."""
    first = subject.partition(".")[0]
    with pytest.raises(ValueError, match="is reserved"):
        OURS.check_reply(subject, (first, "*"))


@pytest.mark.parametrize(
    ("prefix", "allowed", "refused"),
    [
        ("team", ["team", "team.a", "team.a.b"], ["teams.a", "tea.a"]),
        ("team.replies", ["team.replies", "team.replies.a"], ["team", "team.a", "team.repliesX", "replies.team"]),
        ("team*", ["team", "teams.a", "team-1"], ["tea", "x.team"]),
        ("team*.in", ["team1.in", "team.in.a"], ["team1", "team1.out", "team1.inn"]),
        ("team.in*", ["team.in", "team.inbox.a"], ["team.out", "team1.in"]),
        ("team.*", ["team.a", "team.a.b"], ["team", "teams.a"]),
    ],
)
def test_allow_list_entries_are_whole_tokens_with_a_trailing_star(
    prefix: str, allowed: list[str], refused: list[str]
) -> None:
    """An entry covers what begins with its tokens; a trailing `*` stands for the rest of its token only."""
    for subject in allowed:
        OURS.check_reply(subject, (prefix,))
    for subject in refused:
        with pytest.raises(ValueError, match="is not allowed"):
            OURS.check_reply(subject, (prefix,))


def test_an_empty_allow_list_allows_nothing() -> None:
    """Without prefixes no reply subject passes."""
    with pytest.raises(ValueError, match="is not allowed"):
        OURS.check_reply("_INBOX.a", ())


def test_another_worker_s_prefix_is_only_reserved_there() -> None:
    """The reserved prefix is the configured one."""
    OTHER.check_reply("jetrunner.x", ("jetrunner",))
    with pytest.raises(ValueError, match="is reserved"):
        OTHER.check_reply("my-runner_2.tasks.command", ("*",))


@PATIENT
@given(
    st.lists(TOKENS, min_size=1, max_size=5).map(".".join),
    st.lists(st.sampled_from(["*", "$*", "$JS", "jetrunner", "jet*", "_INBOX", "replies", "x.*"]), max_size=3),
)
def test_no_reply_subject_that_passes_is_a_wildcard_or_reserved(subject: str, prefixes: list[str]) -> None:
    """Whatever is allowed, wildcards, `$…`, our own prefix and what breaks the protocol never pass."""
    try:
        OURS.check_reply(subject, prefixes)
    except ValueError:
        return
    tokens = subject.split(".")
    assert tokens[0] != "jetrunner"
    assert not tokens[0].startswith("$")
    assert all(re.fullmatch(r"[!-~]+", token) and not set(token) & set("*>") for token in tokens)

"""The order that a follower makes of output that was stored in any order, by any run, with or without its end."""

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from consumer.follow import OutputAssembler, OutputChunk
from schemas import Result, Status, StreamOutput, Streams

WORKER = "w1"


def piece(
    offset: int, data: bytes, *, stream: str = "stdout", attempt: int = 1, worker: str = WORKER, **more: str
) -> Msg:
    """Return a stored piece of output, as a worker publishes it."""
    headers = {
        "Jetrunner-Offset": str(offset),
        "Jetrunner-Attempt": str(attempt),
        "Jetrunner-Instance": worker,
        **more,
    }
    return Msg(_client=Client(), subject=f"jetrunner.output.t1.{stream}", data=data, headers=headers)


def end(offset: int, **run: Any) -> Msg:
    """Return the mark after a stream's last byte."""
    return piece(offset, b"", **run, **{"Jetrunner-End": "1"})


def result(stdout: bytes = b"", stderr: bytes = b"", **fields: Any) -> Result:
    """Return the Result of a run whose whole output is in it."""
    streams = Streams(stdout=StreamOutput(bytes=len(stdout)), stderr=StreamOutput(bytes=len(stderr)))
    fields = {"streams": streams, "output": stdout.decode(), "stderr": stderr.decode(), "worker": WORKER, **fields}
    return Result(task_id="t1", category="command", status=Status.SUCCESS, end_time=datetime.now(UTC), **fields)


def truncated(kept: bytes, size: int) -> Result:
    """Return the Result of a run of whose output only a part is in it."""
    return result(output=kept.decode(), streams=Streams(stdout=StreamOutput(bytes=size, truncated=True)))


def read(assembler: OutputAssembler, messages: Iterable[Msg]) -> list[OutputChunk]:
    return [chunk for message in messages for chunk in assembler.add(message)]


def text(chunks: Sequence[OutputChunk], stream: str = "stdout") -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def test_pieces_in_order_are_passed_on_at_once() -> None:
    """What continues a stream is not held back."""
    assembler = OutputAssembler()
    assert assembler.add(piece(0, b"ab")) == [OutputChunk(stream="stdout", data=b"ab", offset=0)]
    assert assembler.add(piece(2, b"c")) == [OutputChunk(stream="stdout", data=b"c", offset=2)]
    assert assembler.gap == ()


def test_a_piece_that_comes_early_waits_for_those_before_it() -> None:
    """The order is that of the bytes, not that of the messages."""
    assembler = OutputAssembler()
    assert assembler.add(piece(4, b"ef")) == []
    assert assembler.add(piece(2, b"cd")) == []
    assert assembler.gap == (0,)
    assert text(assembler.add(piece(0, b"ab"))) == b"abcdef"
    assert assembler.gap == ()


def test_streams_do_not_wait_for_each_other() -> None:
    """A gap in one stream holds back nothing of the other."""
    assembler = OutputAssembler()
    assert assembler.add(piece(5, b"late", stream="stderr")) == []
    assert text(assembler.add(piece(0, b"out"))) == b"out"
    assert assembler.gap == (0,)


def test_a_piece_that_comes_twice_is_passed_on_once() -> None:
    """Whether it comes again before or after it was read."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(2, b"c"), piece(2, b"c"), piece(0, b"ab"), piece(0, b"ab"), piece(2, b"c")])
    assert text(chunks) == b"abc"


def test_of_a_piece_that_overlaps_only_the_new_part_is_passed_on() -> None:
    """Bytes count, not messages."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(0, b"abc"), piece(1, b"bcde"), piece(2, b"c")])
    assert text(chunks) == b"abcde"
    assert [chunk.lost for chunk in chunks] == [0, 0]


def test_a_bridged_gap_is_told_by_the_first_chunk_after_it() -> None:
    """What never came is counted."""
    assembler = OutputAssembler()
    read(assembler, [piece(0, b"ab"), piece(5, b"fg"), piece(7, b"h")])
    bridged = assembler.bridge()
    assert [(chunk.data, chunk.offset, chunk.lost) for chunk in bridged] == [(b"fg", 5, 3), (b"h", 7, 0)]


def test_only_the_first_gap_is_bridged() -> None:
    """What a later gap waits for may still come."""
    assembler = OutputAssembler()
    read(assembler, [piece(2, b"c"), piece(5, b"f")])
    assert text(assembler.bridge()) == b"c"
    assert assembler.gap == (3,)
    assert text(assembler.add(piece(3, b"de"))) == b"def"


def test_a_piece_that_comes_after_its_gap_was_bridged_is_left_out() -> None:
    """Output never goes back."""
    assembler = OutputAssembler()
    assembler.add(piece(2, b"c"))
    assembler.bridge()
    assert assembler.add(piece(0, b"ab")) == []


def test_an_end_tells_that_nothing_more_comes() -> None:
    """It is stored last: what is missing then is lost, and what waits behind it does not wait any longer."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(2, b"cd"), piece(6, b"gh"), piece(3, b"!", stream="stderr"), end(9)])
    assert [(chunk.data, chunk.offset, chunk.lost) for chunk in chunks] == [(b"cd", 2, 2), (b"gh", 6, 2)]
    assert assembler.gap == (0,)


def test_output_is_complete_when_it_has_ended() -> None:
    """Although not all of it came: what lies beyond its limit never does."""
    assembler = OutputAssembler()
    whole = truncated(b"", 100)
    assembler.add(piece(0, b"ab"))
    assert not assembler.is_complete(whole)
    assembler.add(end(100))
    assert assembler.is_complete(whole)
    assert assembler.finish(whole) == [OutputChunk(stream="stdout", data=b"", offset=100, lost=98)]


def test_the_end_of_a_superseded_run_is_not_that_of_the_next() -> None:
    """Each run has its own."""
    assembler = OutputAssembler()
    read(assembler, [piece(0, b"ab"), end(2), piece(2, b"c", attempt=2)])
    assert assembler.gap == (0,)


def test_output_is_complete_when_both_streams_have_all_their_bytes() -> None:
    """The Result says how many there are."""
    assembler = OutputAssembler()
    whole = result(b"out", b"err")
    assembler.add(piece(0, b"out"))
    assert not assembler.is_complete(whole)
    assembler.add(piece(0, b"err", stream="stderr"))
    assert assembler.is_complete(whole)


def test_a_task_without_output_is_complete_from_the_start() -> None:
    """Nothing is waited for where nothing was written."""
    assert OutputAssembler().is_complete(result())


def test_a_new_attempt_begins_anew() -> None:
    """The first chunk of another attempt says that it is one."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(0, b"first"), piece(0, b"sec", attempt=2), piece(3, b"ond", attempt=2)])
    assert [(chunk.data, chunk.restarted) for chunk in chunks] == [(b"first", False), (b"sec", True), (b"ond", False)]


def test_a_run_on_another_worker_begins_anew() -> None:
    """A task that was lost with its worker runs again under the same attempt."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(0, b"lost"), piece(0, b"again", worker="w2")])
    assert [chunk.restarted for chunk in chunks] == [False, True]


def test_what_waited_when_its_run_was_superseded_is_dropped() -> None:
    """The streams of two runs are never mixed."""
    assembler = OutputAssembler()
    chunks = read(assembler, [piece(3, b"old"), piece(0, b"new", worker="w2")])
    assert text(chunks) == b"new"
    assert assembler.gap == ()


def test_a_superseded_run_says_no_more() -> None:
    """Late pieces of an earlier run come from a worker that was cut off; they do not restart the output."""
    assembler = OutputAssembler()
    late = [piece(3, b"!", worker="w1"), piece(0, b"older", attempt=1, worker="w3")]
    chunks = read(assembler, [piece(0, b"old"), piece(0, b"new", attempt=2, worker="w2"), *late])
    assert text(chunks) == b"oldnew"


def test_what_never_came_is_taken_from_the_result() -> None:
    """Live output lives for a day, a Result for a week."""
    assembler = OutputAssembler()
    assert text(assembler.finish(result(b"whole"))) == b"whole"


def test_the_result_completes_what_was_begun() -> None:
    """Only the bytes that are missing at the end are taken from it."""
    assembler = OutputAssembler()
    assembler.add(piece(0, b"wh"))
    assert assembler.finish(result(b"whole")) == [OutputChunk(stream="stdout", data=b"ole", offset=2)]


def test_binary_output_is_taken_from_the_result_as_it_was() -> None:
    """Base64 is undone."""
    data = b"\xff\x00"
    facts = Streams(stdout=StreamOutput(bytes=2, encoding="base64"))
    assert text(OutputAssembler().finish(result(output=base64.b64encode(data).decode(), streams=facts))) == data


def test_bytes_that_not_even_the_result_has_are_counted() -> None:
    """A truncated Result cannot complete a stream; a last chunk without data says how much is missing."""
    assembler = OutputAssembler()
    assembler.add(piece(0, b"head"))
    rest = assembler.finish(truncated(b"head..tail", 100))
    assert rest == [OutputChunk(stream="stdout", data=b"", offset=100, lost=96)]


def test_of_a_truncated_result_all_that_is_kept_is_shown_if_nothing_came() -> None:
    """Head and tail are better than nothing."""
    chunks = OutputAssembler().finish(truncated(b"headtail", 100))
    assert [(chunk.data, chunk.lost) for chunk in chunks] == [(b"headtail", 0), (b"", 92)]


def test_what_waits_at_the_end_comes_before_what_the_result_has() -> None:
    """The gap before it is bridged first."""
    assembler = OutputAssembler()
    assembler.add(piece(2, b"c"))
    chunks = assembler.finish(result(b"abcde"))
    assert [(chunk.data, chunk.lost) for chunk in chunks] == [(b"c", 2), (b"de", 0)]


def test_the_output_of_the_run_that_counts_stands_for_that_of_another() -> None:
    """If a worker that was cut off comes first with its Result, its output is shown, too."""
    assembler = OutputAssembler()
    read(assembler, [piece(0, b"mine"), piece(0, b"not", worker="w2")])
    assert not assembler.is_complete(result(b"mine"))
    assert assembler.finish(result(b"mine")) == [OutputChunk(stream="stdout", data=b"mine", offset=0, restarted=True)]


def test_messages_without_our_headers_are_a_run_of_their_own() -> None:
    """Anyone may publish output; it does no harm."""
    assembler = OutputAssembler()
    bare = Msg(_client=Client(), subject="jetrunner.output.t1.stdout", data=b"hi", headers=None)
    odd = piece(0, b"odd", **{"Jetrunner-Offset": "-x"})
    other = Msg(_client=Client(), subject="jetrunner.output.t1.log", data=b"hi", headers=None)
    assert text(assembler.add(bare)) == b"hi"
    assert assembler.is_complete(result(b"hi"))
    assert assembler.add(other) == []
    assert text(assembler.add(odd)) == b"odd"


@given(st.binary(max_size=60), st.data())
def test_all_bytes_come_in_order_however_they_are_stored(data: bytes, choose: st.DataObject) -> None:
    """Any cut, any order, any repetition, and the end last: the output is that of the task."""
    cuts = sorted(choose.draw(st.sets(st.integers(1, max(len(data) - 1, 1)), max_size=8)))
    edges = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [piece(start, data[start:stop]) for start, stop in pairwise(edges) if start < stop]
    again = choose.draw(st.lists(st.sampled_from(pieces), max_size=4)) if pieces else []
    assembler = OutputAssembler()
    chunks = read(assembler, [*choose.draw(st.permutations([*pieces, *again])), end(len(data))])
    assert text(chunks) == data
    assert sum(chunk.lost for chunk in chunks) == 0
    assert assembler.finish(result(streams=Streams(stdout=StreamOutput(bytes=len(data))))) == []


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.randoms())
def test_every_byte_is_either_there_or_counted_as_lost(count: int, kept: set[int], random: Any) -> None:
    """Whatever is missing, data and losses add up to what the task wrote."""
    pieces = [piece(3 * number, b"abc") for number in range(count) if number in kept]
    random.shuffle(pieces)
    assembler = OutputAssembler()
    chunks = read(assembler, pieces)
    chunks += assembler.finish(truncated(b"", 3 * count))
    assert len(text(chunks)) + sum(chunk.lost for chunk in chunks) == 3 * count
    assert len(text(chunks)) == 3 * len(pieces)

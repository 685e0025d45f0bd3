"""When a worker doubts the server's word that it is the first to have a task."""

import pytest

from consumer.intake import _Doubt
from consumer.message import rebuilt

LASTS = 5.0
STORED = 1_700_000_000_000_000_000


def about(doubt: _Doubt, *, deliveries: int = 1, seq: int, consumer_seq: int) -> bool:
    message = rebuilt("p.tasks.x", f"$JS.ACK.S.x.{deliveries}.{seq}.{consumer_seq}.{STORED}.0", b"", {})
    return doubt.about(message) > 0


def test_tasks_that_come_in_order_are_not_in_doubt() -> None:
    doubt = _Doubt(LASTS)
    assert not about(doubt, seq=3, consumer_seq=1)
    assert not about(doubt, seq=9, consumer_seq=4)
    assert not about(doubt, deliveries=2, seq=3, consumer_seq=5)
    assert not about(doubt, seq=10, consumer_seq=6)


@pytest.mark.parametrize(("seq", "consumer_seq"), [(8, 2), (8, 11), (12, 1)], ids=["both", "task", "count"])
def test_a_server_that_goes_back_is_doubted_from_there_on(seq: int, consumer_seq: int) -> None:
    doubt = _Doubt(LASTS)
    assert not about(doubt, seq=10, consumer_seq=10)
    assert about(doubt, seq=seq, consumer_seq=consumer_seq)
    assert about(doubt, seq=13, consumer_seq=12)


def test_what_is_stored_later_is_not_in_doubt() -> None:
    doubt = _Doubt(LASTS)
    doubt.begin(STORED - 1)
    assert not about(doubt, seq=1, consumer_seq=1)
    doubt.begin(STORED + 1)
    assert about(doubt, seq=2, consumer_seq=2)

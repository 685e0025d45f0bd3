"""Messages as the server reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.wire import header_block, message_size, publication

TEXT = st.text(st.characters(codec="utf-8"))
NAMES = st.from_regex(r"[A-Za-z-]+", fullmatch=True)


def test_without_headers() -> None:
    """A plain message is one line and its payload."""
    assert publication("a.b", b"hi") == b"PUB a.b 2\r\nhi\r\n"
    assert publication("a.b", b"", "r.1") == b"PUB a.b r.1 0\r\n\r\n"


def test_with_headers() -> None:
    """Headers are counted apart and together with the payload."""
    block = b"NATS/1.0\r\nA: 1\r\nB: \xc3\xa4\r\n\r\n"
    headers = {"A": "1", "B": "ä"}
    assert publication("s", b"hi", "r", headers) == b"HPUB s r 25 27\r\n" + block + b"hi\r\n"
    assert message_size(b"hi", headers) == len(block) + 2
    assert message_size(b"hi", None) == message_size(b"hi", {}) == 2


@given(st.dictionaries(NAMES, TEXT, min_size=1))
def test_no_value_adds_a_header(headers: dict[str, str]) -> None:
    """Whatever is in a value, there are as many lines as headers."""
    lines = header_block(headers).split(b"\r\n")
    assert len(lines) == len(headers) + 3
    assert not any(b"\n" in line or b"\r" in line for line in lines)


@pytest.mark.parametrize(("subject", "reply"), [("", ""), ("a b", ""), ("a\r\nPUB x 0", ""), ("a", "b c"), ("a", "\t")])
def test_what_is_no_subject(subject: str, reply: str) -> None:
    """A subject cannot say more than where a message goes."""
    with pytest.raises(ValueError, match="is no subject"):
        publication(subject, b"", reply)

"""Durations, sizes and moments, as people write them."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import Duration, Expiry, Size, utc_now
from schemas.quantity import MAX_DURATION, MAX_SIZE

PATIENT: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Property tests that do not mind a busy machine."""
DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)

anything: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**400),
    st.floats(),
    st.text(),
    st.text("0123456789.smhdnuKMGTiB "),
    st.from_regex(r"\A[0-9]{1,400}(s|d|B|TiB)\Z"),
    st.binary(),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0),
        (5, 5),
        (0.25, 0.25),
        (MAX_DURATION, MAX_DURATION),
        ("0s", 0),
        ("90s", 90),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        ("5us", 5e-6),
        ("7ns", 7e-9),
        ("1h0m0.5s", 3600.5),
    ],
)
def test_duration_is_a_number_of_seconds_or_numbers_with_units(written: Any, seconds: float) -> None:
    """A duration is seconds, or one or more numbers that each carry a unit."""
    assert Duration.parse(written) == pytest.approx(seconds)
    assert type(Duration.parse(written)) is Duration


@pytest.mark.parametrize(
    "written",
    [
        *("", "5", " 5s", "5s ", "5s\n", "1m 30s", ".5s", "5.s", "-5s", "+5s", "1e3s", "5 s", "5S", "5min", "\u0665s"),
        *(None, True, False, [], {}, b"5s", 1j),
    ],
)
def test_duration_refuses_other_forms_and_shows_the_right_one(written: Any) -> None:
    """What is not a duration is refused with an example of one and with what was given."""
    with pytest.raises(ValueError, match=r"expected a duration in seconds or such as \"1m30s\", got ") as caught:
        Duration.parse(written)
    assert str(caught.value).endswith(repr(written))


@pytest.mark.parametrize(
    "written",
    [-1, -0.001, math.nan, math.inf, -math.inf, MAX_DURATION + 1, "3651d", 10**400, "9" * 400 + "s"],
)
def test_duration_is_between_zero_and_ten_years(written: Any) -> None:
    """A number outside the range is refused, however large, and so are NaN and the infinities."""
    with pytest.raises(ValueError, match="expected a duration between 0 and ten years"):
        Duration.parse(written)


@PATIENT
@given(st.floats(0, MAX_DURATION))
def test_duration_keeps_every_number_in_range(seconds: float) -> None:
    """A number of seconds is kept as it is."""
    assert Duration.parse(seconds) == seconds


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 900), st.sampled_from(sorted(DURATION_UNITS))), min_size=1, max_size=4))
def test_duration_adds_its_parts_up(parts: list[tuple[int, str]]) -> None:
    """A duration of several parts is their sum."""
    written = "".join(f"{number}{unit}" for number, unit in parts)
    assert Duration.parse(written) == pytest.approx(sum(number * DURATION_UNITS[unit] for number, unit in parts))


@PATIENT
@given(anything)
def test_duration_parse_returns_a_duration_in_range_or_raises_value_error(value: object) -> None:
    """Whatever is given, there is a duration in range or a ValueError."""
    try:
        duration = Duration.parse(value)
    except ValueError:
        return
    assert 0 <= duration <= MAX_DURATION


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (4096, 4096),
        (4096.0, 4096),
        (MAX_SIZE, MAX_SIZE),
        ("0B", 0),
        ("64MiB", 67108864),
        ("64 MiB", 67108864),
        ("1.5KiB", 1536),
        ("1.1B", 1),
        *((f"1{unit}", factor) for unit, factor in SIZE_UNITS.items()),
    ],
)
def test_size_is_a_number_of_bytes_or_one_with_a_unit(written: Any, size: int) -> None:
    """A size is whole bytes, or one number with a decimal or binary unit."""
    assert Size.parse(written) == size
    assert type(Size.parse(written)) is Size


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "64",
            "64M",
            "64Mi",
            "64mib",
            "64MIB",
            " 64MiB",
            "64MiB ",
            "64MiB\n",
            "64  MiB",
            "-1B",
            "1KiB1B",
            "\u0666B",
        ),
        *(None, True, False, 1.5, math.nan, math.inf, -math.inf, [], {}, b"64MiB"),
    ],
)
def test_size_refuses_other_forms_and_shows_the_right_one(written: Any) -> None:
    """What is not a size is refused with an example of one and with what was given."""
    with pytest.raises(ValueError, match=r"expected a size in bytes or such as \"64MiB\", got ") as caught:
        Size.parse(written)
    assert str(caught.value).endswith(repr(written))


@pytest.mark.parametrize("written", [-1, -1.0, MAX_SIZE + 1, 1e300, 10**400, "9000TiB", "9" * 400 + "B"])
def test_size_is_between_zero_and_two_to_the_53rd(written: Any) -> None:
    """A number of bytes outside the range is refused, however large."""
    with pytest.raises(ValueError, match=r"expected a size between 0 and 2\*\*53 bytes"):
        Size.parse(written)


@PATIENT
@given(st.integers(0, 1000), st.sampled_from(sorted(SIZE_UNITS)))
def test_size_multiplies_by_its_unit(number: int, unit: str) -> None:
    """A number with a unit is that many times the unit."""
    assert Size.parse(f"{number}{unit}") == number * SIZE_UNITS[unit]


@PATIENT
@given(anything)
def test_size_parse_returns_a_size_in_range_or_raises_value_error(value: object) -> None:
    """Whatever is given, there is a size in range or a ValueError."""
    try:
        size = Size.parse(value)
    except ValueError:
        return
    assert 0 <= size <= MAX_SIZE


@pytest.mark.parametrize(
    "written",
    [
        "2030-01-01T12:00:00Z",
        "2030-01-01t12:00:00z",
        "2030-01-01T12:00:00.000Z",
        "2030-01-01T14:00:00+02:00",
        "2030-01-01T04:30:00-07:30",
    ],
)
def test_expiry_at_a_moment_is_that_moment(written: str) -> None:
    """An RFC 3339 time is the moment of expiry, whenever the task was submitted."""
    assert Expiry.parse(written).moment(NOON - timedelta(days=1)) == NOON


@pytest.mark.parametrize(("written", "seconds"), [("10m", 600), (600, 600), (0, 0), ("1.5s", 1.5)])
def test_expiry_after_a_duration_counts_from_the_submission(written: Any, seconds: float) -> None:
    """A duration is counted from the moment of submission."""
    assert Expiry.parse(written).moment(NOON) == NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "tomorrow",
            "2030-01-01",
            "12:00:00Z",
            "2030-01-01T12:00:00",
            "2030-01-01T12:00Z",
            "2030-13-01T12:00:00Z",
        ),
        *("20300101T120000Z", "2030-W01-2T12:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
        *(-1, math.nan, 10**400, True, None, [], NOON),
    ],
)
def test_expiry_refuses_other_forms(written: Any) -> None:
    """A time without its offset, another ISO 8601 form, or anything else is refused."""
    with pytest.raises(ValueError, match="expected an RFC 3339 time with its offset or a duration, got "):
        Expiry.parse(written)


@PATIENT
@given(
    st.one_of(
        st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)).map(lambda at: Expiry(at=at)),  # noqa: DTZ001
        st.floats(0, MAX_DURATION).map(lambda seconds: Expiry(after=Duration(seconds))),
    )
)
def test_expiry_reads_back_what_it_writes(expiry: Expiry) -> None:
    """`parse` is the inverse of `to_wire`, and equal expiries have one hash."""
    again = Expiry.parse(expiry.to_wire())
    assert again == expiry
    assert hash(again) == hash(expiry)


def test_expiry_is_written_in_utc() -> None:
    """A moment given with an offset is written as the same moment with `Z`."""
    assert Expiry.parse("2030-01-01T14:00:00+02:00").to_wire() == "2030-01-01T12:00:00Z"


def test_expiry_equals_only_an_equal_expiry() -> None:
    """Another expiry, or what only looks like one, is not equal; the text says what it is."""
    expiry = Expiry.parse("10m")
    assert expiry == Expiry.parse(600)
    assert expiry not in (Expiry.parse("11m"), 600.0, None)
    assert repr(expiry) == "Expiry(600.0)"


def test_utc_now_knows_its_offset() -> None:
    """The current moment is in UTC and can be compared with moments elsewhere."""
    assert utc_now().tzinfo is UTC
    assert abs(utc_now() - datetime.now(timezone(timedelta(hours=5)))) < timedelta(minutes=1)

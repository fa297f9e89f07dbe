"""Quantities as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planner.unit_hints import meant
from potluck.planner.units import BYTES, BYTES_PER_SECOND, FLOPS, SECONDS, UnitError, parse, parse_bytes, written

RIGHT = [
    ("8 GiB", BYTES, 8 * 2**30),
    ("16GB", BYTES, 16e9),
    ("512 MiB", BYTES, 512 * 2**20),
    ("1.5 KiB", BYTES, 1536),
    (4096, BYTES, 4096),
    ("4096", BYTES, 4096),
    ("0.3 ms", SECONDS, 0.0003),
    ("200 us", SECONDS, 0.0002),
    ("200 µs", SECONDS, 0.0002),
    ("3e-3 s", SECONDS, 0.003),
    (0, SECONDS, 0.0),
    ("0 ms", SECONDS, 0.0),
    ("1 Gbit", BYTES_PER_SECOND, 125e6),
    ("100 Mbit", BYTES_PER_SECOND, 12.5e6),
    ("300 Mbit/s", BYTES_PER_SECOND, 37.5e6),
    ("2.5 Gbps", BYTES_PER_SECOND, 312.5e6),
    ("25 GB/s", BYTES_PER_SECOND, 25e9),
    ("1 GiB/s", BYTES_PER_SECOND, 2**30),
    ("120 GFLOPS", FLOPS, 120e9),
    ("1.2 TFLOPS", FLOPS, 1.2e12),
    ("60 GFLOP/s", FLOPS, 60e9),
    ("1e9", FLOPS, 1e9),
    (".5 GFLOPS", FLOPS, 5e8),
]


@pytest.mark.parametrize(("text", "quantity", "expected"), RIGHT)
def test_what_people_write(text, quantity, expected):
    assert parse(text, quantity) == expected


WRONG = [
    ("8 Gib", BYTES, "did you mean 'GiB'"),
    ("8 gb", BYTES, "did you mean 'GB'"),
    ("8 GiB", BYTES_PER_SECOND, "not a unit of a bandwidth"),
    ("1 GHz", FLOPS, "not a unit of a speed"),
    ("60 GFLOPs", FLOPS, "did you mean 'GFLOPS'"),
    ("3 msec", SECONDS, "did you mean"),
    ("fast", FLOPS, "'fast' is not a speed; write for example 60 GFLOPS"),
    ("-3 ms", SECONDS, "is not a time"),
    ("1,5 ms", SECONDS, "is not a time"),
    ("", SECONDS, "is not a time"),
    (True, BYTES, "True is not an amount of memory"),
    (None, BYTES, "None is not"),
    ([8], BYTES, "is not an amount of memory"),
    (-1, BYTES, "out of range"),
    (float("nan"), BYTES, "out of range"),
    (float("inf"), BYTES, "out of range"),
    (10**400, BYTES, "out of range"),
    ("1e999999999 B", BYTES, "out of range"),
    ("1e300 GFLOPS", FLOPS, "out of range"),
    ("8 " + "x" * 10_000, BYTES, "is not an amount of memory"),
    ("٣ ms", SECONDS, "is not a time"),
]


@pytest.mark.parametrize(("text", "quantity", "message"), WRONG)
def test_what_is_refused(text, quantity, message):
    with pytest.raises(UnitError) as error:
        parse(text, quantity)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


BITS_OR_BYTES = "did you mean 'Gbit/s' or 'GB/s'?"
MEANT = [
    *(
        (f"20 {unit}", BYTES_PER_SECOND, BITS_OR_BYTES)
        for unit in ("Gb/sec", "Gb/s", "gb/s", "gbps", "GBPS", "Gb", "G/s", "G")
    ),
    *(
        (f"1 {unit}", BYTES_PER_SECOND, "did you mean 'Gbit/s'?")
        for unit in ("Gbit/sec", "Gbits", "gbit", "gigabit", "Gbits/s")
    ),
    *((f"20 {unit}", BYTES_PER_SECOND, "did you mean 'GB/s'?") for unit in ("GB", "GBs", "GBps", "GB/sec", "gbytes/s")),
    ("20 mb/s", BYTES_PER_SECOND, "did you mean 'Mbit/s' or 'MB/s'?"),
    ("20 MiB/sec", BYTES_PER_SECOND, "did you mean 'MiB/s'?"),
    ("3 GHz", BYTES_PER_SECOND, "write for example 1 Gbit or 20 GB/s"),
    ("3 ms", BYTES_PER_SECOND, "is not a unit of a bandwidth"),
    *((f"8 {unit}", BYTES, "did you mean 'GB'?") for unit in ("gb", "Gb", "GBs", "G", "gigabytes")),
    *((f"8 {unit}", BYTES, "did you mean 'GiB'?") for unit in ("gib", "GiBs", "Gi", "gibibytes")),
    ("8 Gbit", BYTES, "write for example 8 GiB"),
    *((f"3 {unit}", SECONDS, "did you mean 'ms'?") for unit in ("msec", "MS", "milliseconds", "mS")),
    *((f"3 {unit}", SECONDS, "did you mean 's'?") for unit in ("sec", "seconds", "S")),
    ("3 µsec", SECONDS, "did you mean 'us'?"),
    ("3 min", SECONDS, "write for example 0.3 ms"),
    *(
        (f"60 {unit}", FLOPS, "did you mean 'GFLOPS'?")
        for unit in ("gflops", "GFLOP", "GFlops/s", "gigaflops", "GFLOP/sec")
    ),
]


@pytest.mark.parametrize(("text", "quantity", "message"), MEANT)
def test_what_was_probably_meant(text, quantity, message):
    with pytest.raises(UnitError) as error:
        parse(text, quantity)
    assert str(error.value).endswith(message) or (message.startswith("is not") and message in str(error.value))


@given(st.sampled_from([BYTES, SECONDS, BYTES_PER_SECOND, FLOPS]), st.text("kKmMgGtTiIbBsS/ecpytflopnu", max_size=8))
def test_what_is_proposed_is_a_unit(quantity, unit):
    assert unit in quantity.units or all(one in quantity.units for one in meant(unit, quantity.units))


def test_a_tiny_exponent_costs_no_time():
    assert parse("0e999999999", SECONDS) == 0
    assert parse("1e-999999999", SECONDS) == 0


def test_bytes_are_whole():
    assert parse_bytes("1.5 KiB") == 1536
    with pytest.raises(UnitError, match="whole number"):
        parse_bytes("1.5 B")


@given(st.floats(0, 1e20) | st.integers(0, 10**15), st.sampled_from([BYTES, SECONDS, BYTES_PER_SECOND, FLOPS]))
def test_what_is_written_reads_back_exactly(value, quantity):
    assert parse(written(value, quantity), quantity) == value


@pytest.mark.parametrize(
    ("value", "quantity", "text"),
    [
        (8 * 2**30, BYTES, "8 GiB"),
        (16e9, BYTES, "16 GB"),
        (0.0003, SECONDS, "300 us"),
        (0.003, SECONDS, "3 ms"),
        (125e6, BYTES_PER_SECOND, "1 Gbit"),
        (20e9, BYTES_PER_SECOND, "20 GB/s"),
        (60e9, FLOPS, "60 GFLOPS"),
    ],
)
def test_what_is_written_is_nice(value, quantity, text):
    assert written(value, quantity) == text

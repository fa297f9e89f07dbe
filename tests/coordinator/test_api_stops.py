"""Stop strings: never a part of one leaks, however the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.stops import StopBuffer, first_stop, parse_stops

few_letters = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def feed_all(buffer, pieces):
    sent = [buffer.feed(piece) for piece in pieces]
    return [*sent, buffer.finish()]


@example("abca", ["abca", "b"], [1, 2, 3])
@given(few_letters, stop_lists, st.lists(st.integers(0, 30), max_size=10))
def test_the_cut_into_pieces_changes_nothing(text, stops, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    whole, cut = StopBuffer(stops), StopBuffer(stops)
    assert "".join(feed_all(whole, [text])) == "".join(feed_all(cut, pieces))
    assert whole.found == cut.found


@given(few_letters, stop_lists)
def test_what_is_sent_is_the_text_before_the_stop_and_is_sent_as_early_as_it_may(text, stops):
    buffer = StopBuffer(stops)
    sent = ""
    for length, letter in enumerate(text, start=1):
        sent += buffer.feed(letter)
        seen = text[:length]
        assert seen.startswith(sent)
        assert first_stop(sent, stops) is None
        if not buffer.found:
            held = seen[len(sent) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)
            assert not any(seen.endswith(stop[:more]) for stop in stops for more in range(len(held) + 1, len(stop)))
    sent += buffer.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert buffer.found == bool(ends)
    if ends:
        seen = text[: min(ends)]
        longest = max(len(stop) for stop in stops if seen.endswith(stop))
        assert sent == seen[: len(seen) - longest]
    else:
        assert sent == text


def test_stops_are_a_string_or_a_list_of_up_to_16():
    assert parse_stops(None) == ()
    assert parse_stops("\n") == ("\n",)
    assert parse_stops(["a", "b"]) == ("a", "b")


@pytest.mark.parametrize("value", ["", [""], 3, ["a", 3], {"a": 1}, ["x"] * 17, "x" * 257, True])
def test_other_stops_are_refused(value):
    with pytest.raises(ApiError) as refused:
        parse_stops(value)
    assert refused.value.status == 400
    assert refused.value.param == "stop"

"""Stop strings over pieces of text, and options: pure functions, no model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.options import parse_bytes
from wasmrt.text import MAX_STOPS, StopMatcher, check_stops

SHORT = st.text("ab\n", max_size=12)


@given(pieces=st.lists(SHORT, max_size=8), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_stop_strings_are_found_however_the_text_is_cut(pieces, stops):
    """What is shown is the text up to the stop string that is complete first, wherever pieces begin and end."""
    matcher, shown, stopped = StopMatcher(stops), "", False
    for i, piece in enumerate(pieces):
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            seen = "".join(pieces[: i + 1])
            break
    else:
        seen = "".join(pieces)
        shown += matcher.flush()
    found = [seen.find(s) for s in stops if s in seen]
    assert stopped == bool(found)
    assert shown == (seen[: min(found)] if found else seen)


def test_only_what_may_begin_a_stop_string_is_held_back():
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == ("the ", False)
    assert matcher.push("N") == ("", False)
    assert matcher.push("T") == ("ENT", False)
    assert matcher.push(".EN") == (".", False)
    assert matcher.flush() == "EN"


def test_stops_are_checked():
    assert check_stops("x") == ("x",)
    assert check_stops(["a", "b"]) == ("a", "b")
    for wrong in ("", ["a", ""], ["x" * 2000], ["a"] * (MAX_STOPS + 1), [1]):
        with pytest.raises(ValueError, match="stop string"):
            check_stops(wrong)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("1", 1), ("700MiB", 700 << 20), ("1.5GB", 1_500_000_000), ("2 gib", 2 << 30), ("64k", 64_000), (4096, 4096)],
)
def test_amounts_of_memory(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "lots", "-1", "1.5.2GB", "0", "1 XB", "ki", "1ib", 0, -5, True, 1.5, "nan", "9" * 400])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ValueError, match="no amount of memory"):
        parse_bytes(text)

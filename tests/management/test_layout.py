"""How commands lay out what they print."""

from __future__ import annotations

from olposthog._utils.log_lines import printable
from olposthog.management.layout import milliseconds, number_of_flags, table


def test_columns_stand_below_each_other() -> None:
    """Each column is as wide as its widest cell, and no line ends in spaces."""
    assert list(table([("flag", "value"), ("new-nav", "on"), ("beta", "")])) == [
        "flag     value",
        "new-nav  on",
        "beta",
    ]


def test_last_column_is_cut_to_the_width() -> None:
    """Too long a last cell ends in dots, so that the line is as long as it may be."""
    (line,) = table([("key", "x" * 200)], 30)

    assert line == "key  " + "x" * 22 + "..."
    assert len(line) == 30


def test_last_column_keeps_a_little_room() -> None:
    """Wide columns before it do not make the last one vanish."""
    (line,) = table([("k" * 40, "x" * 200)], 30)

    assert line == "k" * 40 + "  " + "x" * 7 + "..."


def test_nothing_is_cut_without_a_width() -> None:
    """Where no width is given, every cell is whole."""
    assert list(table([("key", "x" * 200)])) == ["key  " + "x" * 200]


def test_whatever_moves_a_terminal_is_escaped() -> None:
    """Control characters and half characters are shown, not obeyed; letters of all kinds stay."""
    assert printable("\x1b[2J\x9bü\n\ud800") == "\\x1b[2J\\x9bü\\n\\ud800"
    assert list(table([("a\nb", "\x1b")])) == ["a\\nb  \\x1b"]


def test_one_flag_is_not_several() -> None:
    """A number of flags reads well, whatever it is."""
    assert [number_of_flags(count) for count in (0, 1, 2)] == ["0 flags", "1 flag", "2 flags"]


def test_durations_are_in_milliseconds() -> None:
    """A duration has no more digits than anybody reads."""
    assert milliseconds(1.23456) == "1235 ms"

"""Tables of the benchmarks at any width."""

from __future__ import annotations

import io

import pytest

from models.evaluation import tables

HEADS = ("total\nbit/s", "PESQ-WB", "PER to\noriginal", "MB")
ROWS = {
    "sotto 2k, no search": ("1998", "2.31 ±.11", "0.31 ±.05", "512"),
    "opus [6 kbit/s]": ("6021", "2.76 ±.12", "0.45 ±.04", "12"),
}


def shown(width: int) -> list[str]:
    made = tables.table("Speech that nobody has degraded before", ["codec"], HEADS)
    for name, figures in ROWS.items():
        made.add_row(tables.plain(name), *figures)
    stream = io.StringIO()
    tables.console(stream, width).print(made)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 51, 54, 57, 60, 63, 65, 66, 160])
def test_nothing_is_cut(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).replace("│", " ").replace("┃", " ").split()
    for figures in ROWS.values():
        for figure in figures:
            assert set(figure.split()) <= set(words)
    for head in HEADS:
        assert set(head.split()) <= set(words)


def test_a_figure_has_a_line_where_there_is_no_room_for_a_table() -> None:
    assert shown(40) == [
        "Speech that nobody has degraded before",
        "sotto 2k, no search",
        "  total bit/s      1998",
        "  PESQ-WB          2.31 ±.11",
        "  PER to original  0.31 ±.05",
        "  MB               512",
        "opus [6 kbit/s]",
        "  total bit/s      6021",
        "  PESQ-WB          2.76 ±.12",
        "  PER to original  0.45 ±.04",
        "  MB               12",
    ]


def test_a_table_that_was_narrow_is_whole_again_where_there_is_room() -> None:
    made = tables.table("Speech", ["codec"], HEADS)
    made.add_row("sotto", "1998", "2.31 ±.11", "0.31 ±.05", "512")
    streams = [io.StringIO() for _ in range(3)]
    for stream, width in zip(streams, (160, 45, 160), strict=True):
        tables.console(stream, width).print(made)
    wide, narrow, again = (stream.getvalue() for stream in streams)
    assert wide == again != narrow

"""A scrolling mel spectrogram in character cells."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from codec.signal.samples import FloatArray
from stream.call.snapshot import Spectrogram
from tui.app.colormap import colours

HOPS_PER_CELL = 8  # 64 ms: a syllable is three cells wide
LEVELS = 24
KEPT_CELLS = 400
# Where the normalised log-mel scale (codec.signal) starts and stops to be of interest: about -82
# and -23 dB of a full-scale sine.
QUIET, LOUD = -0.68, 0.40
SHADES = " ░▒▓█"
PLAIN_SHADES = " .:+#@"  # one byte each, where the block elements take three
# A cell keeps the level of the one before it unless it differs by more than this: runs of one style
# get longer, and a scrolling picture is mostly styles.
_DEAD_ZONE = 1


class History:
    """Log-mel columns averaged into cell columns, the latest `KEPT_CELLS` of them."""

    def __init__(self) -> None:
        self.drawn = 0  # cell columns so far
        self._seen: int | None = None
        self._cells: FloatArray = np.zeros((0, 0), np.float32)
        self._waiting: FloatArray = np.zeros((0, 0), np.float32)
        self._pictures: dict[tuple[int, int, int], _Picture] = {}

    def feed(self, spectrogram: Spectrogram) -> bool:
        """Take the new columns of `spectrogram`. Returns whether a cell column was added."""
        columns, total = spectrogram.columns, spectrogram.total
        if self._seen is None or total < self._seen:
            self._seen = total - len(columns)  # the first look, or another voice
            self._waiting = columns[:0]
            self._cells = columns[:0]
            self._pictures.clear()
        new = min(total - self._seen, len(columns))
        self._seen = total
        if new <= 0:
            return False
        waiting = np.concatenate([self._waiting, columns[len(columns) - new :]])
        whole = len(waiting) // HOPS_PER_CELL
        self._waiting = waiting[whole * HOPS_PER_CELL :]
        if not whole:
            return False
        cells = waiting[: whole * HOPS_PER_CELL].reshape(whole, HOPS_PER_CELL, -1).mean(axis=1)
        self._cells = np.concatenate([self._cells, cells])[-KEPT_CELLS:]
        self.drawn += whole
        return True

    def levels(self, width: int, bands: int, count: int, dead_zone: int = 0) -> NDArray[np.uint8]:
        """The picture: [bands, width] in 0 .. count - 1, high pitch first, the latest last.

        dead_zone: by how many levels a cell may differ from the one before it and still look the
        same.
        """
        picture = np.zeros((bands, width), np.uint8)
        if not picture.size or not len(self._cells):
            return picture
        form = (bands, count, dead_zone)
        drawn = self._pictures.get(form)
        if drawn is None:
            self._pictures.clear()  # after a change of size the old ones are of no use
            drawn = self._pictures[form] = _Picture(*form)
        cells = drawn.follow(self._cells, self.drawn)[-width:]
        picture[:, width - len(cells) :] = cells.T[::-1]
        return picture


class _Picture:
    """The kept cells as levels, [cells, bands], low pitch first, extended column by column."""

    def __init__(self, bands: int, count: int, dead_zone: int) -> None:
        self._bands, self._count, self._dead_zone = bands, count, dead_zone
        self._levels: NDArray[np.int16] = np.zeros((0, bands), np.int16)
        self._drawn = 0

    def follow(self, cells: FloatArray, drawn: int) -> NDArray[np.int16]:
        """Add what is new of `cells` [n, N_MELS], of which there have been `drawn` in all."""
        fresh = cells[len(cells) - min(drawn - self._drawn, len(cells)) :]
        if len(fresh):
            self._drawn = drawn
            levels = [*self._levels[-KEPT_CELLS:], *self._quantised(fresh)]
            for at in range(max(len(levels) - len(fresh), 1), len(levels)):
                before = levels[at - 1]
                alike = np.abs(levels[at] - before) <= self._dead_zone
                levels[at] = np.where(alike, before, levels[at])
            self._levels = np.stack(levels)[-KEPT_CELLS:]
        return self._levels

    def _quantised(self, cells: FloatArray) -> NDArray[np.int16]:
        edges = np.linspace(0, cells.shape[1], self._bands + 1).astype(int)[:-1]
        # More rows than bands would repeat some: reduceat then takes the single band, as it should.
        pooled = np.add.reduceat(cells, edges, axis=1)
        pooled /= np.diff(np.append(edges, cells.shape[1])).clip(1)
        scaled = (pooled - QUIET) / (LOUD - QUIET) * self._count
        return np.clip(scaled, 0, self._count - 1).astype(np.int16)


def in_colour(history: History, width: int, height: int) -> list[Strip]:
    """Half blocks: two bands per cell."""
    picture = history.levels(width, 2 * height, LEVELS, _DEAD_ZONE)
    pairs = picture[0::2].astype(np.int64) * LEVELS + picture[1::2]
    return [_strip(row, width) for row in pairs]


def in_shades(history: History, width: int, height: int, shades: str = SHADES) -> list[str]:
    """One band per cell, drawn by how much of the cell is inked."""
    picture = history.levels(width, height, len(shades))
    return ["".join(shades[level] for level in row) for row in picture]


def _strip(row: NDArray[np.int64], width: int) -> Strip:
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    lengths = np.diff(np.append(starts, width))
    return Strip(
        [
            _run(pair, length)
            for pair, length in zip(row[starts].tolist(), lengths.tolist(), strict=True)
        ],
        width,
    )


@lru_cache(maxsize=4096)
def _run(pair: int, length: int) -> Segment:
    top, bottom = divmod(pair, LEVELS)
    # A blank where both halves agree: its foreground need not be sent.
    if top == bottom:
        return Segment(" " * length, Style(bgcolor=_palette()[bottom]))
    return Segment("▀" * length, Style(color=_palette()[top], bgcolor=_palette()[bottom]))


@lru_cache(maxsize=1)
def _palette() -> list[Color]:
    return [Color.from_rgb(*map(int, rgb)) for rgb in colours(LEVELS)]

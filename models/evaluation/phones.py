"""Phone error rate of coded speech, measured with a phone recogniser.

The recogniser is PocketSphinx's phone loop (`allphone`) with its US English models. Without a word
model its error against a transcript is high even for the original: what matters is how much coding
adds. The other reference, its own output for the original, needs no transcript.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Chosen by the error against transcripts on clean speech; context-independent phones cost a tenth
# of the time of triphones here and lose nothing.
_SEARCH = {"allphone_ci": True, "lw": 4.0, "beam": 1e-20, "pbeam": 1e-20, "cmn": "batch"}
_LEVEL = 0.05

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*['’]?")


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions.

    A column of the table is two integers, whose bits say where it rises and where it falls (Myers,
    J. ACM 46, 1999, for whole sequences as by Hyyrö, 2003): thousands of words take milliseconds.
    """
    whole = (1 << len(reference)) - 1
    last = (whole + 1) >> 1
    places: dict[str, int] = {}
    for at, symbol in enumerate(reference):
        places[symbol] = places.get(symbol, 0) | 1 << at
    rises, falls, distance = whole, 0, len(reference)
    for symbol in hypothesis:
        same = places.get(symbol, 0)
        level = (((same & rises) + rises) ^ rises) | same
        right, left = falls | ~(level | rises), rises & level
        distance += bool(right & last) - bool(left & last) if reference else 1
        right = right << 1 | 1
        sloped = same | falls
        rises, falls = (left << 1 | ~(sloped | right)) & whole, right & sloped & whole
    return distance


def edit_row(row: Sequence[int], symbol: str, hypothesis: Sequence[str]) -> list[int]:
    """The next row of the Levenshtein table, after one more reference `symbol`.

    row: [len(hypothesis) + 1] costs of the reference so far against each hypothesis prefix.
    """
    out = [row[0] + 1]
    for j, other in enumerate(hypothesis):
        out.append(min(row[j] + (symbol != other), row[j + 1] + 1, out[j] + 1))
    return out


def decode_phones(samples: ArrayLike) -> list[str]:
    """The phones (CMU set, without stress) recognised in [n] samples at 16 kHz, at any level.

    Silence and noise give no phones.
    """
    audio = np.asarray(samples, np.float64)
    level = float(np.sqrt(np.mean(audio**2))) if audio.size else 0.0
    if level <= 0 or not np.isfinite(level):
        return []
    pcm = np.clip(audio * (_LEVEL / level) * 32767, -32768, 32767).astype("<i2")
    decoder = _decoder()
    # Otherwise the cepstral mean of one clip would carry over to the next.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
    decoder.end_utt()
    heard = [segment.word for segment in decoder.seg() or ()]
    return [phone for phone in heard if is_phone(phone)]


def is_phone(symbol: str) -> bool:
    """False for silence and for fillers such as +NSN+ or <s>."""
    return symbol.isalpha() and symbol != "SIL"


def phone_errors(reference: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """(errors, phones in the reference) by edit distance."""
    return edit_distance(reference, heard), len(reference)


def transcript_errors(text: str, heard: Sequence[str]) -> tuple[int, int] | None:
    """(errors, phones) of recognised phones against an English transcript.

    If a word has several pronunciations, the nearest counts; phones are counted in the first. None
    if the text is empty, or has digits or a word that the dictionary lacks.
    """
    pronunciations = transcript_phones(text)
    if not pronunciations:
        return None
    row = list(range(len(heard) + 1))
    for variants in pronunciations:
        ends = []
        for variant in variants:
            end = row
            for phone in variant:
                end = edit_row(end, phone, heard)
            ends.append(end)
        row = [min(costs) for costs in zip(*ends, strict=True)]
    return row[-1], sum(len(variants[0]) for variants in pronunciations)


def transcript_phones(text: str) -> list[tuple[tuple[str, ...], ...]] | None:
    """Pronunciations [word][variant][phone] of an English text; None if any is unknown."""
    if any(character.isdigit() for character in text):
        return None
    known = []
    for word in _WORD.findall(text.lower()):
        word = word.replace("’", "'")
        variants = _dictionary().get(word) or _dictionary().get(word.rstrip("'"))
        if variants is None:
            return None
        known.append(tuple(variants))
    return known


@lru_cache(maxsize=1)
def _dictionary() -> dict[str, list[tuple[str, ...]]]:
    words: dict[str, list[tuple[str, ...]]] = {}
    path = _models() / "cmudict-en-us.dict"
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        if phones:
            words.setdefault(re.sub(r"\(\d+\)$", "", word), []).append(tuple(phones))
    return words


@lru_cache(maxsize=1)
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(
        hmm=str(_models() / "en-us"),
        allphone=str(_models() / "en-us-phone.lm.bin"),
        lm=None,
        loglevel="FATAL",
        **_SEARCH,
    )


def _models() -> Path:
    # Imported late: scoring without phones should not need the package.
    from pocketsphinx import get_model_path

    return Path(get_model_path()) / "en-us"

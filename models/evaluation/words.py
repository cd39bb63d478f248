"""Words and their errors: what a recogniser, or a listener, understood against what was said."""

from __future__ import annotations

import re
import unicodedata

from models.evaluation.phones import edit_distance

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; "don't" is one, "re-do" are two."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return _WORD.findall(plain.lower())


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """(errors, words in the reference): the fewest insertions, deletions and substitutions."""
    expected = words(reference)
    return edit_distance(expected, words(heard)), len(expected)

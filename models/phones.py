"""The sets of phones that a recogniser can be trained on; importing them loads no networks."""

from __future__ import annotations

# ARPAbet without stress, as in the CMU dictionary.
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
SILENCE = "sil"
# The 39 of Lee & Hon (1989), which TIMIT's labels are folded to (`models.training.timit`).
TIMIT_PHONES = (
    "aa", "ae", "ah", "aw", "ay", "b", "ch", "d", "dh", "dx", "eh", "er", "ey", "f", "g", "hh",
    "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", SILENCE, "t",
    "th", "uh", "uw", "v", "w", "y", "z",
)  # fmt: skip

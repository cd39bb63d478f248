"""Results of a speech benchmark that nobody measured, for tests of its page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.evaluation import coding, speech
from models.evaluation.clips import Clip
from models.evaluation.scores import ClipResult, CodecResult, Figure
from tests.measured_codecs import Noise, noisy

RATE = 16_000
WORDS = Figure("word_errors", "WER to\noriginal", over="words", digits=3)
OPINION = Figure("opinion", "Opinion", digits=2)
# name, line, bit/s, noise: worse with fewer bits
SYSTEMS = (
    ("sotto 2k", "sotto", 1950, 0.05),
    ("sotto 2k, no search", "sotto, no search", 1940, 0.08),
    ("sotto 2k, 256 ms", "sotto, by delay", 2150, 0.06),
    ("codec2 1200", "codec2", 1200, 0.5),
    ("codec2 3200", "codec2", 3200, 0.3),
    ("opus <6k>", "opus", 5460, 0.2),
    ("opus 9k", "opus", 8480, 0.1),
)


class Delayed(Noise):
    """A stand-in that says how long its packets are."""

    @property
    def delay_ms(self) -> int:
        return 256 if "256" in self.name else 1024


def tone_clip(name: str, hertz: float, seconds: float = 1.5, **details) -> Clip:
    """Syllables of a tone."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * hertz * time) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))
    return Clip(name, f"speaker-{name}", "tones", wave.astype(np.float32), **details)


def result(name: str, line: str, rate: float, noise: float, clips: Sequence[Clip]) -> CodecResult:
    """Made-up figures; those of each clip differ a little."""
    made = []
    for k, clip in enumerate(clips):
        bits, worse = round(rate * clip.seconds), noise * (1 + 0.1 * k)
        scored = {"pesq_wb": 4.6 - 6 * worse, "pesq_nb": 4.5 - 5 * worse}
        scored |= {"stoi": 1 - worse / 4, "estoi": 1 - worse / 2}
        scored |= {"opinion": 4 - 3 * worse, "word_errors": round(10 * worse), "words": 10.0}
        counts = (round(20 * worse), 20.0, float("nan"), float("nan"))
        made.append(ClipResult(clip.name, clip.seconds, bits, bits, 0.1, 0.02, *counts, scored))
    return CodecResult(name, line, made, 12_000_000, [OPINION, WORDS])


def benchmark(clips: Sequence[Clip], conditions: Sequence[str] = ()) -> speech.Benchmark:
    """A benchmark as if it had been run on clips, which kept what it decoded."""
    codecs = [
        coding.Original(),
        *(Delayed(name, line, noise) for name, line, _, noise in SYSTEMS[:3]),
        *(Noise(name, line, noise) for name, line, _, noise in SYSTEMS[3:]),
    ]
    systems = [("original", "original", 256_000.0, 0.0), *SYSTEMS]
    degraded = {name: speech.degrade(clips, name) for name in conditions}
    given = [*clips, *(clip for some in degraded.values() for clip in some)]
    codings = []
    for name, line, rate, noise in systems:
        coded = [
            coding.Coded(
                noisy(clip.samples, noise).astype(np.float32) * 0.5 if noise else clip.samples,
                round(rate), round(rate), 0.1, 0.02,
            )
            for clip in given
        ]  # fmt: skip
        codings.append(coding.Coding(name, line, coded))
    results = [result(*system, clips=clips) for system in systems]
    inputs = [("input", *systems[0][1:]), *systems[1:]]
    degraded_results = {
        name: [result(*system, clips=some) for system in inputs] for name, some in degraded.items()
    }
    return speech.Benchmark(
        speech.Settings(keep=True),
        list(clips),
        {"noise.wav": "noise.wav is silent"},
        {speech.CODECS: codecs},
        {"lyra": "lyra is not installed"},
        degraded=degraded,
        results={speech.CODECS: results},
        degraded_results=degraded_results,
        codings=codings,
    )

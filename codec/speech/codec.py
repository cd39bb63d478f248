"""The speech codec: a preset and its model, loaded; samples to containers and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codec.container import ContainerReader, StreamHeader
from codec.device import choose_device
from codec.errors import BadInput
from codec.packet import FRAME_STEPS, check_fits
from codec.search.methods import Method
from codec.signal import analysis
from codec.signal.analysis import STEP_SAMPLES
from codec.signal.samples import FloatArray
from codec.speech.decoder import SpeechDecoder
from codec.speech.engine import SpeechEngine, check_steps
from codec.speech.presets import DEFAULT_PRESET, PRESETS, EntropyName, find_preset
from codec.speech.streams import GROUP, decode_stream, encode_stream

if TYPE_CHECKING:
    from codec.speech.encoder import SpeechEncoder

__all__ = ["PRESETS", "SpeechCodec", "to_speech"]


class SpeechCodec(SpeechEngine):
    """Encodes and decodes speech with one preset; see `SpeechEngine` for its attributes."""

    @classmethod
    def load(
        cls,
        preset: str = DEFAULT_PRESET,
        device: str = "auto",
        model: str | Path | None = None,
        *,
        decoding: bool = False,
    ) -> SpeechCodec:
        """The codec of a preset, with the weights in the folder `model` if one is given.

        decoding: see `SpeechEngine`; "auto" is the CPU then for speech models, whose decoder a GPU
        would hold up by seconds and speed up by milliseconds.

        Raises BadInput for an unknown preset or device, and for a model that is broken or cannot
        serve the preset.
        """
        found = find_preset(preset, model)
        if device == "auto" and decoding and found.family == "speech":
            device = "cpu"
        where = "cpu" if device == "cpu" else choose_device(device)
        return cls(found, where, decoding=decoding)

    def header(self, steps: int = FRAME_STEPS) -> StreamHeader:
        """The header of a container with this codec's packets of so many latent steps."""
        return StreamHeader(self.preset, self.model_id, frame_samples=steps * STEP_SAMPLES)

    def encoder(
        self,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        group: int = 1,
        method: Method | None = None,
        steps: int = FRAME_STEPS,
        most_bytes: int | None = None,
    ) -> SpeechEncoder:
        """A streaming encoder, as `SpeechEncoder`; budget: seconds of search per frame's time."""
        from codec.speech.encoder import BLOCK, SpeechEncoder  # only here: this imports torch

        check_fits(most_bytes, steps)
        method = method if search else "none"
        block = min(steps, BLOCK) if steps < FRAME_STEPS else steps
        share = None if budget is None else budget * block / FRAME_STEPS
        return SpeechEncoder(
            self, iterations, share, method, entropy, group,
            steps=steps, block=block, most_bytes=most_bytes,
        )  # fmt: skip

    def decoder(self, steps: int = FRAME_STEPS) -> SpeechDecoder:
        """A streaming decoder of packets of so many latent steps."""
        return SpeechDecoder(self, check_steps(self, steps))

    def encode(
        self,
        samples: FloatArray,
        sample_rate: int,
        *,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        method: Method | None = None,
        group: int = GROUP,
        steps: int = FRAME_STEPS,
        most_bytes: int | None = None,
    ) -> bytes:
        """Samples [n] or [n, channels], full scale 1, any rate -> a whole `.sotto` container.

        Of whole frames, `group` are searched side by side.
        """
        encoder = self.encoder(
            iterations, budget, search, entropy, group, method, steps, most_bytes
        )
        sink = io.BytesIO()
        encode_stream(encoder, self.header(steps), [to_speech(samples, sample_rate)], sink)
        return sink.getvalue()

    def decode(self, data: bytes) -> FloatArray:
        """A `.sotto` container -> samples [n] at 16 kHz. Damaged frames are concealed.

        Raises BadStream, WrongVersion or WrongModel when the container cannot be used at all.
        """
        reader = ContainerReader(io.BytesIO(data))
        reader.require_model(self.model_id, self.preset)
        decoder = self.decoder(reader.header.steps)
        samples = np.concatenate(list(decode_stream(decoder, reader)))
        return samples[: reader.total_samples]


def to_speech(samples: FloatArray, sample_rate: int) -> FloatArray:
    """Mix [n, channels] down and resample to 16 kHz mono; NaN and infinities become silence.

    Raises BadInput for no channels, other shapes and sample rates out of range.
    """
    import soxr

    samples = np.asarray(samples, np.float32)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] == 0):
        raise BadInput(f"samples must be [n] or [n, channels], not {list(samples.shape)}")
    if not 1_000 <= sample_rate <= 768_000:
        raise BadInput(f"sample rate {sample_rate} Hz is out of range")
    # Before mixing and resampling, where very large numbers would add up to infinities.
    samples = analysis.cleaned(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if sample_rate != analysis.SAMPLE_RATE:
        samples = soxr.resample(samples, sample_rate, analysis.SAMPLE_RATE, quality="HQ")
    return analysis.cleaned(samples)

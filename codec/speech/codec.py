"""The speech codec: a preset and its model, loaded; samples to containers and back."""

from __future__ import annotations

import io

import numpy as np

from codec.container import ContainerReader, StreamHeader
from codec.device import choose_device
from codec.errors import BadInput
from codec.search.problem import Method
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.speech.decoder import SpeechDecoder
from codec.speech.encoder import SpeechEncoder
from codec.speech.engine import SpeechEngine
from codec.speech.presets import DEFAULT_PRESET, PRESETS, EntropyName, find_preset
from codec.speech.streams import GROUP, decode_stream, encode_stream

__all__ = ["PRESETS", "SpeechCodec", "to_speech"]


class SpeechCodec(SpeechEngine):
    """Encodes and decodes speech with one preset; see `SpeechEngine` for its attributes."""

    @classmethod
    def load(cls, preset: str = DEFAULT_PRESET, device: str = "auto") -> SpeechCodec:
        """The codec of a preset. Raises BadInput for an unknown preset, device or broken model."""
        return cls(find_preset(preset), choose_device(device))

    def header(self) -> StreamHeader:
        """The header of a container with this codec's packets."""
        return StreamHeader(preset=self.preset, model_id=self.model_id)

    def encoder(
        self,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        group: int = 1,
        method: Method = "rdoq",
    ) -> SpeechEncoder:
        """A streaming encoder. `budget`: seconds per frame; `group`: frames searched at once."""
        return SpeechEncoder(self, iterations, budget, method if search else "none", entropy, group)

    def decoder(self) -> SpeechDecoder:
        """A streaming decoder."""
        return SpeechDecoder(self)

    def encode(
        self,
        samples: FloatArray,
        sample_rate: int,
        *,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        method: Method = "rdoq",
        group: int = GROUP,
    ) -> bytes:
        """Samples [n] or [n, channels], full scale 1, any rate -> a whole `.sotto` container.

        `group` frames are searched side by side.
        """
        encoder = self.encoder(iterations, budget, search, entropy, group, method)
        sink = io.BytesIO()
        encode_stream(encoder, self.header(), [to_speech(samples, sample_rate)], sink)
        return sink.getvalue()

    def decode(self, data: bytes) -> FloatArray:
        """A `.sotto` container -> samples [n] at 16 kHz. Damaged frames are concealed.

        Raises BadStream, WrongVersion or WrongModel when the container cannot be used at all.
        """
        reader = ContainerReader(io.BytesIO(data))
        reader.require_model(self.model_id, self.preset)
        samples = np.concatenate(list(decode_stream(self.decoder(), reader)))
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

"""Packets to speech: frames of log-mel columns, and the samples they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.errors import BadStream, WrongModel
from codec.packet import Entropy, Kind, Packet, short_id
from codec.signal import analysis
from codec.signal.comfort_noise import NoiseTexture, decode_levels, textured
from codec.signal.concealment import Concealer
from codec.signal.samples import FloatArray
from codec.signal.synthesis import SpeechSynthesiser

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

NOISE_FADE_HOPS = 12  # from speech to comfort noise: 96 ms


@dataclass(frozen=True)
class Frame:
    """A decoded frame. columns: log-mel [FRAME_HOPS, N_MELS]; active: whether it is speech."""

    columns: FloatArray
    active: bool


class FrameDecoder:
    """Packets to frames, in playback order. Not thread safe.

    Deterministic: the same packets and losses give the same frames.
    """

    def __init__(self, codec: SpeechEngine, seed: int = 0) -> None:
        self._codec = codec
        self._short_id = short_id(codec.model_id)
        self._noise = NoiseTexture(seed)
        self._concealer = Concealer(self._generate, self._noise)

    def decode(self, packet: Packet) -> Frame:
        """The frame of a packet.

        Raises BadStream for a packet that is no frame of this codec or whose payload is damaged,
        WrongModel for one of another model; the caller may conceal the frame instead.
        """
        if packet.model_id != self._short_id:
            raise WrongModel(
                f"packet was coded with model {packet.model_id:04x}, this is {self._short_id:04x}"
            )
        known = packet.kind in (Kind.SPEECH, Kind.COMFORT_NOISE)
        if not known or packet.chained or packet.quality >= self._codec.qualities:
            raise BadStream("packet is not a speech frame this decoder knows")
        if packet.kind is Kind.COMFORT_NOISE:
            return Frame(self._comfort_noise(decode_levels(packet.payload)), False)
        if not packet.payload:
            silence = np.full((analysis.FRAME_HOPS, analysis.N_MELS), -1.0, np.float32)
            self._concealer.note_noise(silence[0])
            return Frame(silence, False)
        return Frame(self._speech(packet), True)

    def conceal(self) -> FloatArray:
        """Columns [FRAME_HOPS, N_MELS] in place of the next frame, which was lost."""
        return self._concealer.conceal()

    def _speech(self, packet: Packet) -> FloatArray:
        name = "huffman" if packet.entropy is Entropy.HUFFMAN else "range"
        indices = self._codec.coders[name].decode(packet.payload, packet.quality)
        device = self._codec.device
        z = self._codec.networks.latents_of(indices)[None].to(device)
        rate = torch.tensor([packet.quality / 8.0], device=device)
        columns: FloatArray = self._generate(z, rate)[0]
        self._concealer.note_speech(z, rate, columns)
        return columns

    def _comfort_noise(self, levels: FloatArray) -> FloatArray:
        """Comfort noise of these levels [N_MELS], faded in from the frame before."""
        before = self._concealer.ending
        hops = np.arange(1, analysis.FRAME_HOPS + 1, dtype=np.float32)[:, None]
        share = np.minimum(hops / NOISE_FADE_HOPS, 1.0).astype(np.float32)
        course = (1.0 - share) * before.levels + share * levels
        fluctuation = (1.0 - share) * before.texture + share
        self._concealer.note_noise(levels)
        return textured(
            course.astype(np.float32),
            self._noise.next(analysis.FRAME_HOPS),
            fluctuation.astype(np.float32),
        )

    @torch.no_grad()
    def _generate(self, latents: Tensor, rate: Tensor) -> FloatArray:
        columns: FloatArray = self._codec.searchable.generator(latents, rate).cpu().numpy()
        return columns


class SpeechDecoder:
    """Packets in, samples out; lost frames are concealed."""

    def __init__(self, codec: SpeechEngine) -> None:
        self._codec = codec
        self._frames = FrameDecoder(codec)
        self._synthesiser = SpeechSynthesiser()

    def push(self, packet: Packet | None) -> FloatArray:
        """Decode a packet, or conceal a lost frame (None); returns the samples ready so far.

        Raises BadStream for a damaged payload, WrongModel for a packet of another model; the
        decoder stays usable, and the caller may conceal the frame instead.
        """
        columns = self._frames.conceal() if packet is None else self._frames.decode(packet).columns
        return self._synthesiser.push(columns)

    def finish(self) -> FloatArray:
        """The samples still inside; afterwards the decoder is as new."""
        self._frames = FrameDecoder(self._codec)
        return self._synthesiser.finish()

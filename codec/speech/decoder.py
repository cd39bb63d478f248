"""Packets to speech: log-mel columns, and the samples they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadStream, WrongModel
from codec.packet import FRAME_STEPS, SEQUENCE_MODULUS, Entropy, Kind, Packet, short_id
from codec.signal import analysis
from codec.signal.analysis import STEP_HOPS
from codec.signal.comfort_noise import NoiseTexture, decode_levels, textured
from codec.signal.concealment import Concealer
from codec.signal.samples import FloatArray
from codec.signal.synthesis import SpeechSynthesiser
from codec.speech.history import History

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

NOISE_FADE_HOPS = 12  # from speech to comfort noise: 96 ms


@dataclass(frozen=True)
class Frame:
    """A decoded packet. columns: log-mel [STEP_HOPS * steps, N_MELS]; active: whether it is speech,
    else it is a pause, which goes on until the next packet."""

    columns: FloatArray
    active: bool


class PacketDecoder:
    """Packets to log-mel columns, in playback order. Not thread safe.

    Deterministic: the same packets and losses give the same columns. quick: draw them by the fast
    generator, which is some thousandths off, in a third of the time. leave_smooth: give noise that
    follows noise as its smooth levels, for `SpeechSynthesiser.push_noise`.

    Attribute smooth: whether the columns given last are such levels.
    """

    def __init__(
        self, codec: SpeechEngine, seed: int = 0, *, quick: bool = False, leave_smooth: bool = False
    ) -> None:
        self.smooth = False
        self._leave_smooth = leave_smooth
        self._codec = codec
        self._generator = generator = codec.quick_generator if quick else codec.generator
        self._short_id = short_id(codec.model_id)
        self._noise = NoiseTexture(seed)
        self._concealer = Concealer(
            lambda z, rate: generator.draw(z, rate, z.shape[1]), generator.rescale, self._noise
        )
        self._history = History(generator)
        self._known_to: int | None = None  # the step at which the entropy coder's past ends
        self._played_to: int | None = None  # the step at which the generator's does

    def decode(self, packet: Packet) -> Frame:
        """The columns of a packet, of which those that were concealed meanwhile are the first.

        Raises BadStream for a packet that is no speech of this codec, whose payload is damaged or
        that needs one which is missing; WrongModel for one of another model. The caller may conceal
        its time instead.
        """
        self._check(packet)
        self.smooth = False
        if packet.kind is Kind.COMFORT_NOISE:
            columns = self._comfort_noise(decode_levels(packet.payload), packet.steps)
        elif not packet.payload:
            columns = np.full((packet.steps * STEP_HOPS, analysis.N_MELS), -1.0, np.float32)
            self._concealer.note_noise(columns[0])
            self.smooth = self._leave_smooth
        else:
            columns = self._speech(packet)
        if packet.pause:
            self._history.clear()
            self._known_to = None
        self._played_to = _after(packet)
        return Frame(columns, not packet.pause)

    def feed(self, packet: Packet) -> None:
        """Take note of a packet that came too late to be played: those after it may need it.

        Does nothing where the past that is known goes on beyond it. Raises as `decode`.
        """
        self._check(packet)
        if not packet.pause and not self._beyond(packet):
            self._learn(packet)

    def prepare(self) -> bool:
        """Do what can be done now for `conceal` to take less time, should it come to that; returns
        whether there was anything to do."""
        return self._concealer.prepare()

    def conceal(self, steps: int = FRAME_STEPS) -> FloatArray:
        """Columns [STEP_HOPS * steps, N_MELS] in place of the next steps, which are missing."""
        self.smooth = self._leave_smooth and self._concealer.resting
        columns, guess = self._concealer.conceal(steps, smooth=self.smooth)
        if guess is not None:
            self._history.append(*guess)
        if self._played_to is not None:
            self._played_to = (self._played_to + steps) % SEQUENCE_MODULUS
        return columns

    def _check(self, packet: Packet) -> None:
        if packet.model_id != self._short_id:
            raise WrongModel(
                f"packet was coded with model {packet.model_id:04x}, this is {self._short_id:04x}"
            )
        known = packet.kind in (Kind.SPEECH, Kind.COMFORT_NOISE)
        known = known and not (packet.chained and packet.pause)
        if not known or packet.quality >= self._codec.qualities:
            raise BadStream("packet is not speech that this decoder knows")
        if packet.steps != FRAME_STEPS and not self._codec.sliding:
            raise BadStream("packet is shorter than the frames of this model")
        if packet.chained and packet.sequence != self._known_to:
            raise BadStream("packet needs the one before it, which is missing")

    def _beyond(self, packet: Packet) -> bool:
        """Whether the entropy coder's past ends after a packet does."""
        if self._known_to is None:
            return False
        return (self._known_to - _after(packet)) % SEQUENCE_MODULUS < SEQUENCE_MODULUS // 2

    def _learn(self, packet: Packet) -> NDArray[np.int8]:
        """The indices [S, C] of a packet, which become the entropy coder's past."""
        name = "huffman" if packet.entropy is Entropy.HUFFMAN else "range"
        coder, history = self._codec.coders[name], self._history
        past = history.context if packet.chained else None
        steps = coder.steps * packet.steps // FRAME_STEPS  # some models have fewer in a frame
        indices = coder.decode(packet.payload, packet.quality, steps, past)
        history.learn(indices, chained=packet.chained)
        self._known_to = _after(packet)
        return indices

    def _speech(self, packet: Packet) -> FloatArray:
        indices = self._learn(packet)
        generator, history = self._generator, self._history
        if self._played_to is not None:
            concealed = (self._played_to - packet.sequence) % SEQUENCE_MODULUS
            if concealed <= FRAME_STEPS:
                history.drop(concealed)
            else:  # time has been passed over
                history.forget()
        rate = packet.quality / 8.0
        z = generator.latents_of(indices)
        past = history.before(rate, packet.steps, chained=False).latents
        columns = generator.draw(np.concatenate((past, z))[None], rate, len(z))[0]
        history.append(z, rate)
        self._concealer.note_speech(z, rate, columns)
        return columns

    def _comfort_noise(self, levels: FloatArray, steps: int) -> FloatArray:
        """Comfort noise of these levels [N_MELS], faded in from what was before."""
        before, count = self._concealer.ending, steps * STEP_HOPS
        hops = np.arange(1, count + 1, dtype=np.float32)[:, None]
        share = np.minimum(hops / NOISE_FADE_HOPS, 1.0).astype(np.float32)
        course = ((1.0 - share) * before.levels + share * levels).astype(np.float32)
        self._concealer.note_noise(levels)
        if self._leave_smooth and before.texture == 1.0:
            self.smooth = True
            return course
        fluctuation = (1.0 - share) * before.texture + share
        return textured(course, self._noise.next(count), fluctuation.astype(np.float32))


def _after(packet: Packet) -> int:
    """The number of the step after a packet."""
    return (packet.sequence + packet.steps) % SEQUENCE_MODULUS


class SpeechDecoder:
    """Packets in, samples out; lost ones are concealed. steps: of a packet."""

    def __init__(self, codec: SpeechEngine, steps: int = FRAME_STEPS) -> None:
        self._codec, self._steps = codec, steps
        self._packets = PacketDecoder(codec)
        self._synthesiser = SpeechSynthesiser()

    def push(self, packet: Packet | None) -> FloatArray:
        """Decode a packet, or conceal a lost one (None); returns the samples ready so far.

        Raises BadStream for a damaged payload, WrongModel for a packet of another model; the
        decoder stays usable, and the caller may conceal the packet instead.
        """
        if packet is None:
            return self._synthesiser.push(self._packets.conceal(self._steps))
        return self._synthesiser.push(self._packets.decode(packet).columns)

    def finish(self) -> FloatArray:
        """The samples still inside; afterwards the decoder is as new."""
        self._packets = PacketDecoder(self._codec)
        return self._synthesiser.finish()

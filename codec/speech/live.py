"""The live encoder: the search of a frame begins while it fills; little is left to do after.

The owner's loop is: `push` what the microphone gave, send the packets that come out, and call
`refine` while there is nothing else to do. No call takes longer than about its slice, or the tail.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from codec.errors import BadInput
from codec.packet import Kind
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.speech.frame_coder import SILENT, FrameCoder
from codec.speech.live_search import GrowingSearch
from codec.speech.presets import Preset, find_preset

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec

Comfort = Callable[[FloatArray], bytes]

SLICE = 0.04  # seconds, the longest that `refine` takes, save for one step's misjudgement
_LEAD = (analysis.WINDOW - analysis.HOP) // 2  # samples a column sees before and after its hop
_COLUMNS_KEPT = 2 * analysis.FRAME_HOPS  # analysed columns kept for whoever shows them


class ActivityDetector(Protocol):
    """Tells speech from noise; `codec.signal.activity` has one."""

    def push(self, samples: FloatArray) -> None:
        """Take 16 kHz samples [n] of the frame that is filling, never beyond its end."""

    def frame_active(self) -> bool:
        """Whether the frame, whole or as far as it was pushed, holds speech."""
        ...


@dataclass(frozen=True)
class EncodedFrame:
    """A packet and how it came about.

    steps: of search; cost, start_cost: true cost of what was sent and of the encoder's own output,
    0 for frames without speech; seconds: spent on analysis and search; payload_bits: without the
    header; quality: the rate point in eighths.
    """

    packet: bytes
    active: bool
    steps: int
    cost: float
    start_cost: float
    seconds: float
    payload_bits: int
    quality: int


class LiveEncoder:
    """Samples in as they come, a packet soon after each frame's last one. For one thread."""

    def __init__(
        self,
        codec: SpeechCodec,
        *,
        iterations: int | None = None,
        tail: float = 0.06,
        clock: Callable[[], float] = time.monotonic,
        activity: ActivityDetector | None = None,
        comfort: Comfort | None = None,
    ) -> None:
        """iterations: search steps per frame (the preset's); tail: seconds of search after a
        frame's last sample; activity: tells which frames hold speech (None: all do); comfort: log-
        mel columns [128, 128] to the payload of a comfort-noise packet.
        """
        if iterations is not None and iterations < 0:
            raise BadInput("search steps cannot be negative")
        if comfort is None and activity is not None:
            from codec.signal.comfort_noise import encode_noise

            comfort = encode_noise
        self._codec, self._activity, self._comfort = codec, activity, comfort
        self._tail, self._clock = max(tail, 0.0), clock
        self._iterations = iterations
        self._coder = FrameCoder(codec, codec.settings, None)
        self._search = GrowingSearch(codec, self._coder, self._steps_of(codec.settings), clock)
        self._search.warm_up()
        analysis.log_mel(np.zeros(analysis.WINDOW, np.float32))
        self._next_preset = codec.settings
        self._held = np.zeros(_LEAD, np.float32)  # samples that later columns still see
        self._frame = np.full((analysis.FRAME_HOPS, analysis.N_MELS), -1.0, np.float32)
        self._known = 0  # columns of the frame that are there
        self._heard = 0  # samples of its frame that the activity detector has heard
        self._verdict = True  # what it said of the frame it heard last
        self._seconds = 0.0
        self._recent: deque[FloatArray] = deque(maxlen=_COLUMNS_KEPT)

    def push(self, samples: FloatArray) -> list[EncodedFrame]:
        """Take 16 kHz mono samples [n], full scale 1; return the frames they completed.

        What is not finite becomes silence. Blocks for up to `tail` seconds of search per frame.
        """
        begun = self._clock()
        samples = analysis.cleaned(samples).reshape(-1)
        frames: list[EncodedFrame] = []
        while len(samples):
            hops = analysis.FRAME_HOPS - self._known - 1
            missing = hops * analysis.HOP + analysis.WINDOW - len(self._held)
            part, samples = samples[:missing], samples[missing:]
            self._listen(part)
            self._analyse(part)
            if self._known == analysis.FRAME_HOPS:
                frames.append(self._complete(begun))
                begun = self._clock()
        self._seconds += self._clock() - begun
        return frames

    def refine(self) -> bool:
        """Search the partly filled frame for up to `SLICE` seconds; False if nothing is due."""
        if not self._search.wants(self._known) or not self._worth_searching():
            return False
        begun = self._clock()
        self._search.refine(self._frame, self._known, begun + SLICE)
        self._seconds += self._clock() - begun
        return True

    def set_preset(self, name: str) -> None:
        """Code frames from the next one on at another preset.

        Raises BadInput when there is no such preset, or when it has another model.
        """
        preset = find_preset(name)
        self._coder.check_preset(preset)
        self._next_preset = preset

    def reset(self) -> None:
        """Forget the frame that is filling: the next sample is the first of another one.

        What is known of the noise, and of the rate to be kept, stays.
        """
        self._held = np.zeros(_LEAD, np.float32)
        self._heard = 0
        self._recent.clear()
        self._begin_frame()

    def columns(self) -> FloatArray:
        """Log-mel columns [n, 128] analysed since the last call, of the latest two seconds."""
        columns = np.array(self._recent, np.float32).reshape(-1, analysis.N_MELS)
        self._recent.clear()
        return columns

    def _listen(self, samples: FloatArray) -> None:
        """Let the activity detector hear samples, frame by frame."""
        if self._activity is None:
            return
        while len(samples):
            part = samples[: analysis.FRAME_SAMPLES - self._heard]
            samples = samples[len(part) :]
            self._activity.push(part)
            self._heard += len(part)
            if self._heard == analysis.FRAME_SAMPLES:
                self._verdict, self._heard = self._activity.frame_active(), 0

    def _analyse(self, samples: FloatArray) -> None:
        """Turn samples into columns of the frame."""
        held = np.concatenate((self._held, samples))
        count = max((len(held) - analysis.WINDOW) // analysis.HOP + 1, 0)
        columns = analysis.log_mel(held)
        self._held = held[count * analysis.HOP :].copy()
        self._frame[self._known : self._known + count] = columns
        self._known += count
        self._recent.extend(columns)

    def _worth_searching(self) -> bool:
        """Whether what is there of the frame may be speech, for all that is known so far."""
        heard = self._frame[: self._known]
        if heard.max(initial=-1.0) <= SILENT:
            return False
        return self._activity is None or self._activity.frame_active()

    def _complete(self, begun: float) -> EncodedFrame:
        """Finish the search of the whole frame and make its packet; begin another frame."""
        frame, search, coder = self._frame, self._search, self._coder
        silent = float(frame.max()) <= SILENT
        active = self._verdict and not silent
        payload, quality, kind, cost, start_cost = b"", coder.preset.quality, Kind.SPEECH, 0.0, 0.0
        if active:
            found = search.finish(frame, self._clock() + self._tail)
            x = torch.from_numpy(frame)[None].to(self._codec.device)
            payload, quality = coder.code(x, found.indices, found.plan)
            cost, start_cost = found.cost, found.start_cost
        elif not silent and self._comfort is not None:
            payload, kind = self._comfort(frame.copy()), Kind.COMFORT_NOISE
        coder.rate_control.settle([8.0 * len(payload)])
        encoded = EncodedFrame(
            packet=coder.packet(payload, quality, kind),
            active=active,
            steps=search.steps,
            cost=cost,
            start_cost=start_cost,
            seconds=self._seconds + self._clock() - begun,
            payload_bits=8 * len(payload),
            quality=quality,
        )
        self._begin_frame()
        return encoded

    def _begin_frame(self) -> None:
        """Nothing is known of the next frame; it is coded at the preset that was asked for."""
        self._known, self._seconds = 0, 0.0
        self._search.reset()
        if self._next_preset is not self._coder.preset:
            self._coder.set_preset(self._next_preset)
            self._search.set_iterations(self._steps_of(self._next_preset))

    def _steps_of(self, preset: Preset) -> int:
        return preset.iterations if self._iterations is None else self._iterations

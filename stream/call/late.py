"""Plays the overs that come late, one after the other, each by a decoder of its own.

Three threads meet here, as in `RemoteStream`: the call's adds overs, the decoder's does the `work`,
the mixer's takes the sound (`pull`). None waits for another one's decoding.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codec.errors import SottoError
from codec.packet import SEQUENCE_MODULUS, short_id, unpack_session
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.signal.synthesis import SpeechSynthesiser
from stream.audio.chime import late_begins
from stream.audio.limiter import Limiter
from stream.call.remote_stream import fade_in, fade_out
from stream.call.snapshot import LateOver
from stream.link.overs import Over
from stream.link.wire import OVER_STEPS

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from codec.speech.decoder import PacketDecoder

_AHEAD = 3 * SAMPLE_RATE  # samples decoded before they are due: nobody waits for them
_BEGIN = SAMPLE_RATE // 2  # and before an over begins
_QUIET = 0.3  # seconds in which nobody has spoken, before an over is played ...
_PATIENCE = 10.0  # ... or that one waits for them at most
_LONGEST_PAUSE = 8  # latent steps; longer ones in an over are shortened
_MOST_STEPS = 2 * OVER_STEPS  # of a party's overs that wait
_MARK_PAUSE = round(0.12 * SAMPLE_RATE)  # samples between the notes and what they are about

Decoded = Callable[[Over, str, FloatArray], None]


@dataclass(frozen=True)
class _Waiting:
    over: Over
    name: str


class LateVoice:
    """What was said a while ago, behind two notes that tell it from what is said now.

    An over is played when nobody speaks, and beside them if they go on for too long. decoder: makes
    what decodes an over, in place of the codec's own; decoded(over, name, samples): every over,
    once all of it is decoded.
    """

    def __init__(
        self,
        codec: SpeechCodec,
        *,
        clock: Callable[[], float] = time.monotonic,
        decoder: Callable[[], PacketDecoder] | None = None,
        decoded: Decoded | None = None,
    ) -> None:
        self._codec = codec
        self._make_decoder = decoder or self._own_decoder
        self._model = 0 if decoder else short_id(codec.model_id)
        self._decoded = decoded
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._current: _Waiting | None = None
        self._queue: FloatArray = np.zeros(0, np.float32)
        self._whole = False  # all of the present over is in the queue, or has been
        self._playing = False
        self._ready_since: float | None = None
        self._quiet_since: float | None = -math.inf  # None: somebody speaks
        self._broken = True  # the last pull ended in silence
        self._limiter = Limiter()
        # Only the decoder thread touches these.
        self._at = 0
        self._decoder: PacketDecoder
        self._synthesiser = SpeechSynthesiser(variable=True)
        self._parts: list[FloatArray] = []

    def _own_decoder(self) -> PacketDecoder:
        from codec.speech.decoder import PacketDecoder

        return PacketDecoder(self._codec, quick=True)

    def add(self, over: Over, name: str) -> float:
        """Play an over when its turn comes. name: of whose it is, for people.

        Returns how many seconds of that party have been given up for it: the oldest, of what is too
        much to wait.
        """
        given_up = 0.0
        with self._lock:
            self._waiting.append(_Waiting(over, name))
            of_it = [each for each in self._waiting if each.over.party == over.party]
            steps = sum(each.over.steps for each in of_it)
            while steps > _MOST_STEPS and len(of_it) > 1:
                oldest = of_it.pop(0)
                steps -= oldest.over.steps
                given_up += oldest.over.seconds
                self._waiting.remove(oldest)
        return given_up

    def pending(self, party: int) -> bool:
        """Whether something of a party has not been played to its end."""
        with self._lock:
            return any(each.over.party == party for each in self._all())

    def snapshot(self, now: float) -> LateOver | None:
        """What is played, or will be next; None if there is nothing."""
        with self._lock:
            all_ = self._all()
            if not all_:
                return None
            first = all_[0]
            return LateOver(
                name=first.name,
                ago=max(now - first.over.ended, 0.0),
                seconds=first.over.seconds,
                again=first.over.again,
                playing=self._playing,
                waiting=sum(each.over.seconds for each in all_[1:]),
            )

    def give_up_current(self) -> str:
        """Go on with the next over, as this one cannot be decoded; returns whose it is."""
        with self._lock:
            current = self._current
            self._end()
        return "" if current is None else current.name

    def _all(self) -> list[_Waiting]:
        return [*([self._current] if self._current else ()), *self._waiting]

    def _end(self) -> None:
        self._current, self._playing, self._whole = None, False, False
        self._queue = np.zeros(0, np.float32)
        self._ready_since = None

    # --- the decoder's thread ------------------------------------------------------------------

    def work(self) -> bool:
        """Decode a packet, if some are wanted soon; returns whether one was."""
        with self._lock:
            if self._current is None:
                if not self._waiting:
                    return False
                self._current = self._waiting.popleft()
                self._queue = np.pad(late_begins(), (0, _MARK_PAUSE))
                self._at, self._parts = 0, []
                self._synthesiser = SpeechSynthesiser(variable=True)
                begins = True
            else:
                begins = False
            if self._whole or len(self._queue) >= _AHEAD:
                return False
            current = self._current
        if begins:
            self._decoder = self._make_decoder()
        if self._at < len(current.over.pieces):
            samples = self._next(current.over)
            whole = False
        else:
            samples = fade_out(self._synthesiser.finish())
            whole = True
        self._parts.append(samples)
        with self._lock:
            self._queue = np.concatenate((self._queue, samples))
            self._whole = whole
        if whole and self._decoded is not None:
            self._decoded(current.over, current.name, np.concatenate(self._parts))
        return True

    def _next(self, over: Over) -> FloatArray:
        """The samples of the next packet, and of the pause before it."""
        piece, at = over.pieces[self._at], self._at
        self._at += 1
        columns = []
        if at:
            gap = (piece.number - over.pieces[at - 1].end) % SEQUENCE_MODULUS
            if gap:
                columns.append(self._decoder.conceal(min(gap, _LONGEST_PAUSE)))
        try:
            packet = unpack_session(piece.packet, piece.number, self._model)
            columns.append(self._decoder.decode(packet).columns)
        except SottoError:  # what cannot be understood is as if it had been lost
            steps = (piece.end - piece.number) % SEQUENCE_MODULUS
            columns.append(self._decoder.conceal(steps))
        return self._synthesiser.push(np.concatenate(columns))

    # --- the mixer's thread --------------------------------------------------------------------

    def pull(self, n: int, *, quiet: bool, gain: Callable[[int], float]) -> FloatArray:
        """The next `n` samples, silence where there are none.

        quiet: whether nobody speaks now; gain(party): how loud a party is played.
        """
        out = np.zeros(n, np.float32)
        now = self._clock()
        with self._lock:
            if not quiet:
                self._quiet_since = None
            elif self._quiet_since is None:
                self._quiet_since = now
            current = self._current
            if current is None or not (self._playing or self._may_begin(now)):
                return out
            samples, self._queue = self._queue[:n], self._queue[n:]
            ended = self._whole and not len(self._queue)
            if ended:
                self._end()
        if len(samples):
            if self._broken:
                samples = fade_in(samples)
            if len(samples) < n:
                samples = fade_out(samples)
            out[: len(samples)] = samples
        self._broken = len(samples) < n
        return self._limiter.process(out * np.float32(gain(current.over.party)))

    def _may_begin(self, now: float) -> bool:
        """Whether the over that is ready may be heard now."""
        if not self._whole and len(self._queue) < _BEGIN:
            return False
        if self._ready_since is None:
            self._ready_since = now
        since = self._quiet_since
        silent = since is not None and now - since >= _QUIET
        self._playing = silent or now - self._ready_since >= _PATIENCE
        return self._playing

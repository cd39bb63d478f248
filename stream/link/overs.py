"""Overs: what was said with push-to-talk, for those who could not hear it when it was said.

An over is what somebody says from pressing the key to letting it go. `Kept` has what one place on
the other side of a connection has not got yet, `Arriving` puts together what one party sends late.
Neither owns a thread, socket or clock: both are told what has happened, and when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from codec.errors import BadStream
from codec.packet import SEQUENCE_MODULUS
from stream.link import wire
from stream.link.allowance import Allowance

QUEUEING = 0.1  # seconds by which late packets may delay live ones on a link they fill
_LEAST_WINDOW, _FIRST_WINDOW, _MOST_WINDOW = 512, 1024, 4096  # bytes under way
_HEADERS = 64  # bytes that a packet takes beside its own, about
# Messages a second, and at once: a hub may pass on the overs of seven others beside their voices,
# and less than twice that is read of a connection.
_MESSAGES, _MESSAGES_AT_ONCE = 80.0, 200.0
_PATIENCE = 5.0  # seconds without an answer before an over is sent once more
_TRIES = 3
_SLOWEST_TRIP = 0.25  # seconds, while the round trip is not known
# What may come late of a party, in latent steps: nobody says more than one step each 64 ms.
# An over takes some more than its own, so that nobody fills logs and queues with tiny ones.
_OVER_STEPS = 8.0
_RATE, _BURST = 1.05 / wire.STEP_SECONDS, 1.1 * wire.OVER_STEPS
_REMEMBERED = 64  # overs of a party that are whole

_NUMBERS = 1 << wire.NUMBER_BITS


@dataclass(frozen=True)
class Piece:
    """A session packet of an over. number: of its first latent step, modulo 2^16."""

    number: int
    packet: bytes

    @property
    def end(self) -> int:
        """The number of the step after it."""
        return (self.number + wire.packet_steps(self.packet)) % SEQUENCE_MODULUS


def span(pieces: Sequence[Piece]) -> int:
    """The latent steps from the first piece to the end of the last, pauses in between included."""
    return (pieces[-1].end - pieces[0].number) % SEQUENCE_MODULUS if pieces else 0


@dataclass(frozen=True)
class Over:
    """An over that was not heard, or not whole, when it was said.

    party: whose; number: counts its overs, modulo 2^16; ended: when it did, our monotonic clock;
    again: some of it was also sent when it was said; cut: its end has never come.
    """

    party: int
    number: int
    pieces: tuple[Piece, ...]
    ended: float
    again: bool = False
    cut: bool = False

    @property
    def steps(self) -> int:
        """Latent steps that it lasts."""
        return span(self.pieces)

    @property
    def seconds(self) -> float:
        return self.steps * wire.STEP_SECONDS


# --- sending --------------------------------------------------------------------------------------


class _Fate(Enum):
    """What became of a packet that was to be sent at once."""

    WAITING = auto()  # on its way to the connection
    SENT = auto()
    ARRIVED = auto()  # the other end has echoed something that was sent later
    MISSED = auto()


@dataclass
class _Said:
    piece: Piece
    fate: _Fate = _Fate.WAITING
    sent_at: float = 0.0


@dataclass
class _Own:
    """An over of ours. ended: None while it goes on; shortened: its beginning is not kept;
    lost: and some of that has not arrived; missing: packets that have not."""

    number: int
    said: deque[_Said]
    ended: float | None = None
    shortened: bool = False
    lost: bool = False
    missing: int = 0

    @property
    def steps(self) -> int:
        return (self.said[-1].piece.end - self.said[0].piece.number) % SEQUENCE_MODULUS

    def miss(self, said: _Said) -> None:
        """A packet has not arrived, and will not without being sent once more."""
        if said.fate is not _Fate.MISSED:
            said.fate = _Fate.MISSED
            self.missing += 1


@dataclass
class _Due:
    """An over to be sent late. got: packets that the other end has; next: the one to be sent;
    restarts: times it said to have fewer than before."""

    over: Over
    got: int = 0
    next: int = 0
    restarts: int = 0


class Kept:
    """What one place we send to has not got of our overs, and of those that we pass on.

    Every packet of our own overs is noted (`say`), with what becomes of it: that it is `sent`, has
    been `acknowledged`, or is `dropped`; when the connection is `broken`, what was not acknowledged
    counts as missed. An over that has ended with packets missing is sent once more, whole: `next`
    names what may be sent now, when nothing live waits, `took` says that it was, and `got` takes
    the answer.
    So little is under way at a time that live packets wait for it no longer than QUEUEING.

    A minute is kept of each voice, and the oldest whole overs go first. Of an over that lasts
    longer the last minute is kept, and only what follows the first gap in it is sent once more.

    own: our party number there. Attribute news: what people have to be told, to be emptied.
    """

    def __init__(self, own: int = wire.HUB) -> None:
        self.own = own
        self.news: list[str] = []
        self._overs: deque[_Own] = deque()  # of ours, while it is open what becomes of them
        self._due: deque[_Due] = deque()
        self._window = float(_FIRST_WINDOW)
        self._round_began: float | None = None
        self._progress_at = 0.0
        self._tries = 0
        self._answered = False
        self._messages = Allowance(_MESSAGES, _MESSAGES_AT_ONCE)

    # --- our own voice ------------------------------------------------------------------------

    def say(self, over: int, number: int, packet: bytes) -> None:
        """A packet of our own over is to be sent. number: of its first step, modulo 2^16."""
        if not self._overs or self._overs[-1].number != over or self._overs[-1].ended is not None:
            self._overs.append(_Own(over, deque()))
        self._overs[-1].said.append(_Said(Piece(number, packet)))
        self._make_room()

    def end(self, over: int, ended: float) -> None:
        """An over of ours has ended. ended: when its last sample was in the air."""
        if self._overs and self._overs[-1].number == over and self._overs[-1].ended is None:
            self._overs[-1].ended = ended
            self._settle()

    def sent(self, number: int, now: float) -> None:
        """A packet of ours has been handed to the connection."""
        if (found := self._waiting(number)) is not None:
            _, said = found
            said.fate, said.sent_at = _Fate.SENT, now

    def dropped(self, number: int) -> None:
        """A packet of ours will not be sent any more."""
        if (found := self._waiting(number)) is not None:
            own, said = found
            own.miss(said)
            self._settle()

    def acknowledged(self, until: float) -> None:
        """All that was sent until then has arrived."""
        for own in self._overs:
            for said in own.said:
                if said.fate is _Fate.SENT and said.sent_at <= until:
                    said.fate = _Fate.ARRIVED
        self._settle()

    def broken(self) -> None:
        """The connection is gone: what was not acknowledged is missing there."""
        for own in self._overs:
            for said in own.said:
                if said.fate is not _Fate.ARRIVED:
                    own.miss(said)
        self._settle()
        self._tries = 0
        self._begin_again()

    def pass_on(self, over: Over) -> None:
        """Send an over of somebody else, which has come whole."""
        self._due.append(_Due(over))
        of_it = [each for each in self._due if each.over.party == over.party]
        steps = sum(each.over.steps for each in of_it)
        while steps > wire.OVER_STEPS and len(of_it) > 1:
            oldest = of_it.pop(0)
            steps -= oldest.over.steps
            self._remove(oldest)

    def move(self, own: int) -> None:
        """Our party number there is another now."""
        self._due = deque(
            replace(due, over=replace(due.over, party=own)) if due.over.party == self.own else due
            for due in self._due
        )
        self.own = own

    def give_up(self) -> float:
        """Forget everything. Returns how many seconds of our own voice have not been delivered."""
        seconds = self.seconds
        self._overs.clear()
        self._due.clear()
        return seconds

    @property
    def seconds(self) -> float:
        """Seconds of our own voice that are still to be delivered, as far as is known."""
        steps = sum(own.steps for own in self._overs if own.missing)
        steps += sum(due.over.steps for due in self._due if due.over.party == self.own)
        return steps * wire.STEP_SECONDS

    def _waiting(self, number: int) -> tuple[_Own, _Said] | None:
        for own in reversed(self._overs):
            for said in reversed(own.said):
                if said.fate is _Fate.WAITING and said.piece.number == number:
                    return own, said
        return None

    def _settle(self) -> None:
        """Decide about the overs of which is known what became of them."""
        for own in [own for own in self._overs if own.ended is not None]:
            fates = {said.fate for said in own.said}
            if _Fate.WAITING in fates or _Fate.SENT in fates:
                return  # they are sent in order
            self._overs.remove(own)
            if own.missing:
                self._due.append(_Due(self._to_send(own, fates)))

    def _to_send(self, own: _Own, fates: set[_Fate]) -> Over:
        """Of an over, what is sent once more: all of it, if that is kept."""
        pieces = [said.piece for said in own.said]
        if own.shortened:
            missed = next(at for at, said in enumerate(own.said) if said.fate is _Fate.MISSED)
            starts = [at for at in range(missed + 1) if not wire.packet_chained(pieces[at].packet)]
            pieces = pieces[starts[-1] if starts else 0 :]
        ended = 0.0 if own.ended is None else own.ended
        return Over(self.own, own.number, tuple(pieces), ended, again=_Fate.ARRIVED in fates)

    def _make_room(self) -> None:
        """Keep a minute of our own voice."""
        mine = [due for due in self._due if due.over.party == self.own]
        steps = sum(due.over.steps for due in mine) + sum(own.steps for own in self._overs)
        while steps > wire.OVER_STEPS and mine:
            oldest = mine.pop(0)
            steps -= oldest.over.steps
            self._remove(oldest)
        while steps > wire.OVER_STEPS and len(self._overs) > 1:
            own = self._overs.popleft()
            steps -= own.steps
            if own.missing:
                self._tell_given_up(own.steps)
        if steps > wire.OVER_STEPS:
            self._shorten(self._overs[-1])

    def _shorten(self, own: _Own) -> None:
        """Let go of the beginning of an over, up to a packet that needs none before it."""
        own.shortened = True
        while len(own.said) > 1:
            if own.said.popleft().fate is _Fate.MISSED:
                own.missing -= 1
                if not own.lost:
                    own.lost = True
                    self.news.append("a minute is kept: the beginning of this over is given up")
            fits = own.steps <= wire.OVER_STEPS
            if fits and not wire.packet_chained(own.said[0].piece.packet):
                break

    # --- sending late -------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an over is to be sent late."""
        return bool(self._due)

    def next(self, now: float) -> wire.Late | None:
        """What may be sent now. To be sent and reported (`took`), or asked for again later."""
        if not self._due:
            return None
        due = self._due[0]
        if due.next > due.got and now - self._progress_at > _PATIENCE:
            self._tries += 1
            self._begin_again()
            if self._tries >= _TRIES:
                self._give_up_first()
                return self.next(now)
        over = due.over
        if due.next >= len(over.pieces):
            return None
        piece = over.pieces[due.next]
        under_way = self._under_way(due)
        if under_way and under_way + _cost(piece) > self._window:
            return None
        if not self._messages.take(1.0, now):
            return None
        last = due.next == len(over.pieces) - 1
        ago = wire.ago_steps(now - over.ended)
        return wire.Late(
            over.party, over.number, due.next, last, over.again, piece.number, ago, piece.packet
        )

    def took(self, now: float) -> None:
        """What `next` named has been sent."""
        due = self._due[0]
        if due.next == due.got:
            self._round_began = self._progress_at = now
        due.next += 1

    def got(self, message: wire.Got, now: float, round_trip: float | None) -> bool:
        """The other end says what it has of an over. False if it cannot be so.

        round_trip: seconds that a message and its answer take at least, if that is known.
        """
        self._answered = True
        due = self._due[0] if self._due else None
        if due is None or (message.party, message.over) != (due.over.party, due.over.number):
            return True  # of an over that has been given up
        count = message.count
        if count > len(due.over.pieces):
            return False
        if count > due.got:
            self._progress_at, self._tries = now, 0
        if count < due.got:  # another program answers there
            due.restarts += 1
            if due.restarts > _TRIES:
                self._give_up_first()
                return False
        if not due.got <= count <= due.next:  # or it has more than we knew of
            due.next, self._round_began = count, None
        due.got = count
        if due.got == due.next and self._round_began is not None:
            self._adapt(now - self._round_began, round_trip)
            self._round_began = None
        if due.got == len(due.over.pieces):
            self._due.popleft()
            if due.over.party == self.own:
                ago = max(now - due.over.ended, 0.0)
                self.news.append(
                    f"{due.over.seconds:.0f} s of what you said have arrived, {ago:.0f} s late"
                )
        return True

    def _adapt(self, seconds: float, round_trip: float | None) -> None:
        """Let more be under way if that came back soon, and less if it had to queue."""
        usual = _SLOWEST_TRIP if round_trip is None else round_trip
        factor = 2.0 if seconds < usual + QUEUEING else 0.5
        self._window = min(max(factor * self._window, _LEAST_WINDOW), _MOST_WINDOW)

    def _begin_again(self) -> None:
        """Send what has not been answered once more."""
        self._window, self._round_began = float(_FIRST_WINDOW), None
        if self._due:
            self._due[0].next = self._due[0].got

    def _give_up_first(self) -> None:
        due = self._due.popleft()
        self._tries = 0
        whose = "you" if due.over.party == self.own else "somebody"
        why = "" if self._answered else ": an older program may be there"
        self.news.append(f"{due.over.seconds:.0f} s of what {whose} said are not taken late{why}")

    def _remove(self, due: _Due) -> None:
        self._due.remove(due)
        self._tries = 0
        self._tell_given_up(due.over.steps)

    def _tell_given_up(self, steps: int) -> None:
        seconds = steps * wire.STEP_SECONDS
        self.news.append(f"a minute is kept: {seconds:.0f} s said before are given up")

    def _under_way(self, due: _Due) -> int:
        return sum(_cost(piece) for piece in due.over.pieces[due.got : due.next])


def _cost(piece: Piece) -> int:
    """Bytes on the wire, about."""
    return len(piece.packet) + _HEADERS


# --- receiving ------------------------------------------------------------------------------------


class Arriving:
    """Puts together the overs that one party sends late, one after the other."""

    def __init__(self) -> None:
        self._allowance = Allowance(_RATE, _BURST)
        self._number = -1  # of the over that is arriving, if any
        self._pieces: list[Piece] = []
        self._ended = 0.0
        self._again = False
        self._whole: dict[int, int] = {}  # packets of those that have come whole, by their numbers

    def take(self, late: wire.Late, party: int, now: float) -> list[Over]:
        """Take a packet; returns the overs that came to their end by it.

        party: whose, as the overs are to have it. What has come already, or before its turn, is
        left alone: `got` says what is wanted. Raises BadStream for what nobody would send: an over
        that is too long, packets that overlap, more sound than a voice makes.
        """
        new = late.over != self._number
        if late.over in self._whole or late.index != (0 if new else len(self._pieces)):
            return []
        steps = wire.packet_steps(late.packet)
        if not new:
            offset = (late.number - self._pieces[0].number) % _NUMBERS
            if not span(self._pieces) <= offset <= wire.OVER_STEPS - steps:
                raise BadStream("the packets of an over overlap, or last for too long")
        if not self._allowance.take(steps + (_OVER_STEPS if new else 0.0), now):
            raise BadStream("more overs than anybody says")
        found = self.finish(party) if new else []  # its sender has given it up
        self._number = late.over
        self._pieces.append(Piece(late.number, late.packet))
        self._ended, self._again = now - late.ago * wire.AGO_STEP, late.again
        if late.last:
            self._whole[late.over] = len(self._pieces)
            if len(self._whole) > _REMEMBERED:
                del self._whole[next(iter(self._whole))]
            found.append(self._over(party))
            self._number, self._pieces = -1, []
        return found

    def got(self, over: int) -> int:
        """How many packets of an over have come."""
        if over in self._whole:
            return self._whole[over]
        return len(self._pieces) if over == self._number else 0

    def finish(self, party: int) -> list[Over]:
        """What has come of an over that will not go on, if anything."""
        found = [self._over(party, cut=True)] if self._pieces else []
        self._number, self._pieces = -1, []
        return found

    def _over(self, party: int, *, cut: bool = False) -> Over:
        pieces, number = tuple(self._pieces), self._number
        return Over(party, number, pieces, self._ended, self._again, cut)

"""Swapping what a half of a call is plugged into."""

from __future__ import annotations

from codec.errors import SottoError
from stream.audio.requests import Requests
from stream.audio.slots import Jack
from stream.log import Journal


class Plug:
    """Counts what is done with it; refuses to start where told."""

    def __init__(self, name: str, *, card: bool = True, refuses: bool = False) -> None:
        self.name, self.is_card, self.refuses = name, card, refuses
        self.error: str | None = None
        self.gaps = 0
        self.running = False

    def start(self) -> None:
        if self.refuses:
            raise SottoError(f"{self.name} is taken")
        self.running = True

    def stop(self) -> None:
        self.running = False


class Half:
    def __init__(self, plug: Plug, *, started: bool = True) -> None:
        self.journal = Journal()
        self.requests = Requests(self.journal)
        self.jack = Jack(
            plug, lambda: Plug("silence", card=False), lambda p: p.gaps, self.requests, self.journal
        )
        if started:
            self.jack.start()
        self.answers: list[SottoError | None] = []

    def open(self, plug: Plug) -> None:
        self.jack.open(lambda: plug, self.answers.append)
        self.requests.serve()


def test_another_plug_takes_over_and_gaps_add_up():
    first, second = Plug("first"), Plug("second")
    half = Half(first)
    first.gaps, second.gaps = 3, 4
    half.open(second)
    assert half.answers == [None]
    assert (first.running, second.running) == (False, True)
    assert (half.jack.name, half.jack.card, half.jack.gaps) == ("second", "second", 7)


def test_a_plug_that_cannot_be_opened_changes_nothing():
    first = Plug("first")
    half = Half(first)
    half.open(Plug("second", refuses=True))
    assert [str(answer) for answer in half.answers] == ["second is taken"]
    assert half.jack.plug is first and first.running


def test_before_the_call_nothing_is_opened():
    half = Half(Plug("first"), started=False)
    second = Plug("second", refuses=True)
    half.open(second)
    assert half.answers == [None] and half.jack.plug is second and not second.running


def test_release_lets_go_of_cards_only():
    card = Plug("headset")
    half = Half(card)
    half.jack.release(half.answers.append)
    held = card.running  # until the thread that uses it comes round
    half.requests.serve()
    assert (held, card.running) == (True, False)
    assert (half.jack.name, half.jack.card) == ("headset (away)", None)

    file = Plug("speech.wav", card=False)
    half = Half(file)
    half.jack.release(half.answers.append)
    half.requests.serve()
    assert half.jack.plug is file and file.running and half.answers == [None]


def test_what_breaks_is_reported_once():
    plug = Plug("headset")
    half = Half(plug)
    half.jack.report()
    plug.error = "the headset has stopped"
    half.jack.report()
    half.jack.report()
    assert half.jack.lost
    assert [line.text for line in half.journal.after(-1)] == ["the headset has stopped"]

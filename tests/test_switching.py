"""How long threads wait for their turn during calls, and after them."""

from __future__ import annotations

import sys

from stream.call.switching import SWITCH_SECONDS, short_turns


def test_the_interval_comes_back_after_the_last_call():
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    try:
        first, second = short_turns(), short_turns()
        for turns in (first, second):
            turns.__enter__()
            assert sys.getswitchinterval() == SWITCH_SECONDS
        first.__exit__(None, None, None)
        assert sys.getswitchinterval() == SWITCH_SECONDS
        second.__exit__(None, None, None)
        assert sys.getswitchinterval() == 0.004
        with short_turns():
            assert sys.getswitchinterval() == SWITCH_SECONDS
    finally:
        sys.setswitchinterval(before)

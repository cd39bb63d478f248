"""How long a busy thread may keep the interpreter from the others while there is a call."""

from __future__ import annotations

# At Python's 5 ms sound would come too late, and so would the answer to a key, which takes some ten
# turns: each of them waits that long behind every busy thread.
SWITCH_SECONDS = 0.001

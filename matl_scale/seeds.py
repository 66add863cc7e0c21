"""Seeds. Every random draw uses a seed derived from the run's seed and from what is drawn, so that a draw depends on nothing
that happened before: not on the rank, the world size, or the step at which a run was resumed."""

import hashlib


def derive_seed(*parts: object) -> int:
    """Returns a 63-bit seed that is a pure function of `parts` (strings and integers), equal on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1

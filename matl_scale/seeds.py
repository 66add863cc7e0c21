"""Seeds. Every random draw uses a seed derived from the run's seed and from what is drawn, so that a draw depends on nothing
that happened before: not on the rank, the world size, or the step at which a run was resumed."""

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """Returns a 63-bit seed that is a pure function of `parts` (strings and integers), equal on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ values >> np.uint64(31))

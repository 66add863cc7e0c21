"""k folds of a shard set (`data.fold`), without a copy: its samples of `train` and `val` are dealt out into k parts, of which one
is `val` and the others are `train`. All other splits stay.

Which part a sample is in follows from the content of its image and a seed, so that it is the same for every run, and equal images
are in one part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from matl_scale.data.shards.layout import split_rank
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed, mix
from matl_scale.storage.files import hash_text
from matl_scale.storage.store import Store

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class Fold:
    """One of k folds."""

    number: int  # from 1
    num_folds: int
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "Fold":
        """Reads `2/5`, the second of five; raises `InputError` if that is no fold."""
        number, slash, num_folds = text.partition("/")
        if slash and number.isdecimal() and num_folds.isdecimal():
            fold = cls(int(number), int(num_folds), seed)
            if 1 <= fold.number <= fold.num_folds and fold.num_folds > 1:
                return fold
        raise InputError(f"`data.fold` should be i/k, the fold i from 1 to k of at least two, as in 1/5. Got {text!r}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.num_folds}" + (f", seed {self.seed}" if self.seed else "")


@dataclass(frozen=True, kw_only=True)
class FoldedManifest(Manifest):
    """A shard set of which one fold of the samples of `train` and `val` is `val`, and the others are `train`."""

    fold: Fold

    @property
    def splits(self) -> dict[str, int]:
        names = self._split_names
        return dict(zip(names, np.bincount(self._folded_numbers, minlength=len(names)).tolist(), strict=True))

    def split_numbers(self) -> np.ndarray:
        return self._folded_numbers

    def hash_shards(self, split: str) -> str:
        hashed = super().hash_shards(split)
        return hash_text(f"{hashed}\n{split} {self.fold}") if split in (TRAIN, VAL) else hashed

    def stored_splits(self, split: str) -> Sequence[str]:
        return (TRAIN, VAL) if split in (TRAIN, VAL) else (split,)

    @property
    def _split_names(self) -> list[str]:
        return sorted({*self.shards["split"].to_pylist(), TRAIN, VAL}, key=split_rank)

    @cached_property
    def _folded_numbers(self) -> np.ndarray:
        names = self._split_names
        stored = np.array([names.index(name) for name in self.shards["split"].to_pylist()], dtype=np.uint8)
        numbers = np.repeat(stored, self.shard_sizes)
        dealt = np.flatnonzero(np.isin(numbers, [names.index(TRAIN), names.index(VAL)]))
        folds = deal_out(self.digests()[dealt], self.fold.num_folds, self.fold.seed)
        is_val = folds == self.fold.number - 1
        if not 0 < np.count_nonzero(is_val) < len(dealt):
            raise InputError(
                f"`data.fold` = {self.fold}: {self.root} has {len(dealt)} samples in {TRAIN} and {VAL}, too few different ones "
                f"for {self.fold.num_folds} folds. Take fewer."
            )
        numbers[dealt] = np.where(is_val, names.index(VAL), names.index(TRAIN))
        return numbers


def deal_out(digests: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Deals images out into folds of equal size, to one image, as far as no two are equal; these are in one fold.

    Args:
        digests: Digests of the images' bytes, shape `(num_images,)`, dtype V16.
        num_folds: How many folds.
        seed: Decides which images are together.

    Returns:
        The fold of each image, from 0, shape `(num_images,)`.
    """
    halves = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    keys = mix(halves[:, 0] ^ np.uint64(derive_seed(seed, "folds")))
    positions = np.searchsorted(np.sort(keys), keys)  # equal images have one position
    return np.asarray(positions * num_folds // max(len(keys), 1))


def read_folded(folder: str | Path | Store, version: str, fold: str, seed: int) -> Manifest:
    """Reads a shard set's manifest as `read_manifest` does, with `fold` as `data.fold` names it; empty has none."""
    manifest = read_manifest(folder, version)
    if not fold:
        return manifest
    values = {field.name: getattr(manifest, field.name) for field in fields(Manifest)}
    return FoldedManifest(**values, fold=Fold.parse(fold, seed))

"""What is decided before a tar is written: which split an image joins, and which images are copies."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.planning.copies import find_copies
from data_prep.planning.splits import Draw, draw_splits
from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import write_images
from matl_scale.tasks import Task


def random_labels(num_images: int, num_tasks: int) -> tuple[np.ndarray, list[Task]]:
    """Returns binary and three-class labels, with classes from very rare to common."""
    generator = np.random.default_rng(0)
    labels = np.zeros((num_images, num_tasks), dtype=np.int8)
    for column in range(num_tasks):
        labels[generator.permutation(num_images)[: 3 + 4 * column], column] = 1
        labels[generator.permutation(num_images)[: 10 * column], column] = -1
    tasks = [Task(name=str(i), classes=("no", "yes")) for i in range(num_tasks)]
    return labels, tasks


def test_stratified_splits_have_every_class_in_its_share() -> None:
    labels, tasks = random_labels(1000, 30)
    draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True, seed=3)
    splits = draw_splits(labels, tasks, draw)
    assert (abs(np.bincount(splits) - [800, 100, 100]) <= 20).all()
    for column in range(30):
        for value in (0, 1):
            counts = np.bincount(splits[labels[:, column] == value], minlength=3)
            if counts.sum() >= 3:
                assert counts.min() >= 1, (column, value, counts)
            expected = np.array([0.8, 0.1, 0.1]) * counts.sum()
            assert (abs(counts - expected) <= 3 + 0.05 * counts.sum()).all()
    assert (draw_splits(labels, tasks, draw) == splits).all()


def test_plain_draws_lose_rare_classes_where_stratified_ones_do_not() -> None:
    labels, tasks = random_labels(1000, 30)

    def lost(stratify: bool, seed: int) -> int:
        draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=stratify, seed=seed)
        splits = draw_splits(labels, tasks, draw)
        return sum((np.bincount(splits[labels[:, c] == 1], minlength=3) == 0).sum() for c in range(30))

    assert sum(lost(True, seed) for seed in range(5)) == 0
    assert sum(lost(False, seed) for seed in range(5)) > 0


def test_a_class_in_val_only_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 6)
    rows = [
        f"{name},{kind},{part}" for name, kind, part in zip(names, "ababac", ["train"] * 4 + ["val"] * 2, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["image,kind,part", *rows]))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", "--split-column", "part")) == 2
    assert "class `c` of task `kind` in val" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_duplicates_against_a_slow_search() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 40, 100)
    digests = np.array([bytes([value]) * 8 + bytes(8) for value in values], dtype="V16")
    digests[50:] = np.array(
        [bytes([value]) * 8 + b"x" * 8 for value in values[50:]], dtype="V16"
    )  # halves that collide
    ranks = generator.integers(0, 3, 100)
    copies, originals = find_copies(digests, ranks)
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        groups.setdefault(digest.tobytes(), []).append(row)
    best = {digest: min(rows, key=lambda row: (ranks[row], row)) for digest, rows in groups.items()}
    expected = {row: best[digest] for digest, rows in groups.items() for row in rows if row != best[digest]}
    assert dict(zip(copies.tolist(), originals.tolist(), strict=True)) == expected


def test_correlated_classes_reach_every_split_too() -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        group = generator.integers(0, 12, 300)
        labels = np.stack([(group == i) & (generator.random(300) < 0.25) for i in range(12) for _ in range(3)], axis=1)
        tasks = [Task(name=str(i), classes=("no", "yes")) for i in range(36)]
        draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True, seed=seed)
        splits = draw_splits(labels.astype(np.int8), tasks, draw)
        for column in range(36):
            counts = np.bincount(splits[labels[:, column]], minlength=3)
            assert counts.sum() == 0 or counts[0] > 0
            assert counts.sum() < 3 or counts.min() > 0, (seed, column, counts)


def test_a_class_in_val_only_is_refused_over_two_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, kinds in (("val", "abc"), ("train", "aba")):
        names = write_images(tmp_path / split, 3, prefix=split)
        rows = [f"{name},{kind}" for name, kind in zip(names, kinds, strict=True)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["image,kind", *rows]))
        options = ["--split", split, "--workers", "1"]
        arguments = shard_arguments(tmp_path, tmp_path / "set", *options, images=split, labels=f"{split}.csv")
        assert matl_data(arguments) == (0 if split == "val" else 2)
    assert "class `c` of task `kind` in val" in capsys.readouterr().err

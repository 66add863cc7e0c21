"""Small shard sets for tests, written by the real writer."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.layout import MANIFEST_FILE
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.versions import version_id
from matl_scale.storage.files import file_sha256
from matl_scale.tasks import Task

CLASSES = (2, 2, 3, 2, 5, 2)


@dataclass(frozen=True)
class ShardSet:
    """What was written: the folder, its manifest, pixels `(N, 16, 16, 3)` and labels `(N, 6)` in source order."""

    root: Path
    manifest: Manifest
    pixels: np.ndarray
    labels: np.ndarray


def small_dataset(num_images: int = 90, size: int = 16, missing: float = 0.3) -> tuple[Dataset, np.ndarray]:
    """Returns random images with random labels; task 5 is labelled on three training images only."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)
    labels = np.stack([generator.integers(0, count, num_images) for count in CLASSES], axis=1).astype(np.int8)
    labels[generator.random(labels.shape) < missing] = -1
    splits = np.array(["val" if i % 3 == 2 else "train" for i in range(num_images)], dtype=object)
    rare = labels[:, 5].copy()
    labels[:, 5] = -1
    labels[[0, 1, 3], 5] = [0, 1, 0]
    labels[splits == "val", 5] = rare[splits == "val"]
    tasks = [
        Task(name=f"task_{i}", classes=tuple(f"class_{c}" for c in range(count))) for i, count in enumerate(CLASSES)
    ]
    dataset = from_arrays(
        tasks=tasks,
        names=[f"images/{i:03d}.png" for i in range(num_images)],
        labels=labels,
        splits=splits.tolist(),
        images=ArrayImages(root="memory", pixels=pixels),
    )
    return dataset, pixels


def write_small_set(root: Path, missing: float = 0.3) -> ShardSet:
    dataset, pixels = small_dataset(missing=missing)
    manifest = write_shard_set(lambda _: dataset, root, Options(shard_mb=0.03))
    assert manifest is not None
    labels = next(dataset.chunks()).labels
    return ShardSet(root=root, manifest=manifest, pixels=pixels, labels=labels)


def list_changed_table(root: Path, role: str) -> None:
    """Writes the checksum of a table that was changed into the manifest's first version, as someone would who hides a change."""
    path = root / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    entry = manifest["versions"][0]
    file = entry["labels"][0] if role == "labels" else entry["tables"][role]
    file["sha256"] = file_sha256(root / file["file"])
    entry["id"] = version_id(entry["tables"], entry["labels"])
    path.write_text(json.dumps(manifest))

"""Images and label files for tests of `matl-data shard`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.images.array_images import encode_png


def write_images(root: Path, count: int, size: int = 8, prefix: str = "") -> list[str]:
    """Writes PNG files in two folders, whose names begin with `prefix`, and returns their names."""
    generator = np.random.default_rng(0)
    names = []
    for i in range(count):
        name = f"{prefix}{'ab'[i % 2]}/{i:04d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_png(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)))
        names.append(name)
    return names


def write_labels(path: Path, names: list[str], num_tasks: int = 3, missing: float = 0.3) -> np.ndarray:
    """Writes a label file of binary tasks, CSV or Parquet, and returns its labels."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (len(names), num_tasks))
    labels[generator.random(labels.shape) < missing] = -1
    if path.suffix == ".csv":
        cells = np.where(labels < 0, "", labels.astype(str)).tolist()
        lines = [",".join([name, *row]) for name, row in zip(names, cells, strict=True)]
        path.write_text("\n".join([",".join(["image", *(f"t{i}" for i in range(num_tasks))]), *lines]) + "\n")
    else:
        columns = {f"t{i}": pa.array([None if v < 0 else v for v in labels[:, i].tolist()]) for i in range(num_tasks)}
        pq.write_table(pa.table({"image": names, **columns}), path)
    return labels


def contents(root: Path) -> dict[str, bytes]:
    """Returns all files of a folder by name."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

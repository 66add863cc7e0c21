"""THE shard contract, for writer and reader: tar layout, key names, manifest tables, label encoding. No torch.

A shard set is a folder of tars and four Parquet tables that `manifest.json` lists; `manifest.json` appears last and
means "complete". Row i of the samples table and row i of the label matrix are the same image. The matrix is the truth
while training; the label row inside a tar is a copy for whoever reads the tars without the manifest.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError, nearest, shortened
from matl_scale.files import file_sha256, hash_text, write_atomic, write_json
from matl_scale.tasks import Task, match_names

__all__ = [
    "HEADER_BYTES",
    "MANIFEST_FILE",
    "MAX_CLASSES",
    "MISSING",
    "SAMPLES_SCHEMA",
    "SHARDS_SCHEMA",
    "SPLIT_ORDER",
    "InputError",
    "Manifest",
    "Task",
    "class_counts",
    "encode_label_row",
    "label_dtype",
    "match_names",
    "member_name",
    "nearest",
    "read_manifest",
    "sample_key",
    "shard_name",
    "shortened",
    "split_rank",
    "write_manifest",
]

FORMAT = "matl_scale shard set"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MISSING = -1
HEADER_BYTES = 512  # of one tar member with a short name
SPLIT_ORDER = ("train", "val", "test")
MAX_CLASSES = 32767  # class indices are int16

SHARDS_SCHEMA = pa.schema(
    {"file": pa.string(), "split": pa.string(), "samples": pa.int64(), "bytes": pa.int64(), "sha256": pa.string()}
)
SAMPLES_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "split": pa.string(),
        "shard": pa.int32(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "extension": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "path": pa.string(),
    }
)
TASKS_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "classes": pa.list_(pa.string()),
        "source": pa.string(),
        "counts": pa.list_(pa.int64()),
        "missing": pa.int64(),
    }
)


def sample_key(index: int) -> str:
    """Returns the zero-padded key of a sample; no dot, because WebDataset splits member names at the first one."""
    return f"{index:09d}"


def member_name(key: str, extension: str) -> str:
    """Returns a member's name inside the tar: `KEY.jpg` for the image, `KEY.npy` for the label row."""
    return f"{key}.{extension}"


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def label_dtype(tasks: Sequence[Task]) -> np.dtype:
    """Returns int8 where every class index fits, else int16."""
    return np.dtype(np.int8 if all(task.num_classes <= 128 for task in tasks) else np.int16)


def encode_label_row(row: np.ndarray) -> bytes:
    """Encodes one row of the label matrix, shape `(num_tasks,)`, as a `.npy` file (never a pickle)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(row), allow_pickle=False)
    return buffer.getvalue()


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the labels of one task, shape `(num_samples,)`, per class; missing ones are left out."""
    return np.bincount(labels[labels != MISSING], minlength=num_classes)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a complete shard set.

    Attributes:
        root: The folder.
        id: SHA-256 over the tables: equal content, equal id.
        tasks: In label-matrix column order.
        shards: Table with `SHARDS_SCHEMA`, one row per tar.
        samples: Table with `SAMPLES_SCHEMA`, one row per image, grouped by split.
        tables: File name of each table, by its role.
        version: Grows by one whenever the set changes in place.
    """

    root: Path
    id: str
    version: int
    tasks: tuple[Task, ...]
    shards: pa.Table
    samples: pa.Table
    tables: dict[str, str]

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples per split, in the order train, val, test, then any others by name."""
        counts = self.samples["split"].value_counts().to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counts, key=lambda row: split_rank(row["values"]))}

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def rows(self, split: str) -> np.ndarray:
        """Returns the row numbers, ascending, of the samples of a split.

        Raises:
            InputError: There is no such split.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.root} has no split `{split}`. It has: {', '.join(self.splits)}." + nearest(split, self.splits)
            )
        mask = self.samples["split"].to_numpy(zero_copy_only=False) == split
        return np.flatnonzero(mask)

    def labels(self, task_ids: Sequence[int] | None = None) -> np.ndarray:
        """Reads the label matrix, shape `(num_samples, num_tasks)`, for all tasks or for some columns of it.

        Raises:
            InputError: The matrix does not match the samples, or holds a value that is no class of its task.
        """
        ids = range(len(self.tasks)) if task_ids is None else task_ids
        chosen = [self.tasks[i] for i in ids]
        path = self.root / self.tables["labels"]
        matrix = np.empty((self.samples.num_rows, len(chosen)), dtype=label_dtype(chosen))
        file = pq.ParquetFile(path)
        if file.metadata.num_rows != self.samples.num_rows:
            raise InputError(
                f"{path} should have one row per sample ({self.samples.num_rows}). Got {file.metadata.num_rows}."
            )
        for column, task in enumerate(chosen):
            values = file.read(columns=[column_name(task.name)]).column(0).to_numpy()
            if len(values) and (values.min() < MISSING or values.max() >= task.num_classes):
                raise InputError(
                    f"{path}, task `{task.name}`: labels should lie between {MISSING} and {task.num_classes - 1}. "
                    f"Got {values.min()} to {values.max()}."
                )
            matrix[:, column] = values
        return matrix

    def check_shards(self, split: str) -> None:
        """Compares the tars of a split with the manifest by presence and size, without reading them.

        Raises:
            InputError: A tar is missing or has another size.
        """
        for shard in self.shards.to_pylist():
            if shard["split"] != split:
                continue
            path = self.root / shard["file"]
            if not path.is_file():
                raise InputError(f"{path} is listed in the manifest but missing. Prepare the shard set again.")
            if path.stat().st_size != shard["bytes"]:
                raise InputError(
                    f"{path} should have {shard['bytes']} bytes by the manifest. Got {path.stat().st_size}. "
                    "The manifest and the tars are not of one set; prepare it again."
                )

    def image_size(self) -> int | None:
        """Returns the side length in pixels if all images are squares of one size, else None."""
        sizes = self.samples.select(["width", "height"]).group_by(["width", "height"]).aggregate([]).to_pylist()
        if len(sizes) == 1 and sizes[0]["width"] == sizes[0]["height"]:
            return int(sizes[0]["width"])
        return None


def split_rank(split: str) -> tuple[int, str]:
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def column_name(task_name: str) -> str:
    """Returns a task's Parquet column. Parquet readers take a dot as a path into a struct, so it is written otherwise."""
    return task_name.replace("%", "%25").replace(".", "%2E")


def write_manifest(
    root: Path, tasks: Sequence[Task], shards: pa.Table, samples: pa.Table, labels: np.ndarray, version: int = 1
) -> None:
    """Writes the tables of a shard set, then `manifest.json`, which makes it complete.

    Args:
        root: The folder that holds the tars.
        tasks: One per column of `labels`.
        shards: Table with `SHARDS_SCHEMA`.
        samples: Table with `SAMPLES_SCHEMA`.
        labels: The label matrix, shape `(num_samples, num_tasks)`.
        version: Distinguishes the table files from those of an earlier state of the same folder.
    """
    assert labels.shape == (samples.num_rows, len(tasks))
    counts = [class_counts(labels[:, i], task.num_classes) for i, task in enumerate(tasks)]
    contents = {
        "tasks": pa.table(
            {
                "name": [task.name for task in tasks],
                "classes": [list(task.classes) for task in tasks],
                "source": [task.source for task in tasks],
                "counts": [count.tolist() for count in counts],
                "missing": [int(samples.num_rows - count.sum()) for count in counts],
            },
            schema=TASKS_SCHEMA,
        ),
        "shards": shards,
        "samples": samples,
        "labels": pa.table({column_name(task.name): labels[:, i] for i, task in enumerate(tasks)}),
    }
    tables = {}
    for role, table in contents.items():
        name = f"{role}.v{version}.parquet"
        write_atomic(root / name, lambda path, table=table: pq.write_table(table, path, compression="zstd"))  # type: ignore[misc]
        tables[role] = {"file": name, "sha256": file_sha256(root / name)}
    write_json(
        root / MANIFEST_FILE,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": version,
            "samples": samples.num_rows,
            "tasks": len(tasks),
            "tables": tables,
        },
    )


def read_manifest(root: Path) -> Manifest:
    """Reads a shard set's manifest.

    Raises:
        InputError: The folder holds no complete shard set, or a table is not the one that `manifest.json` lists.
    """
    path = root / MANIFEST_FILE
    if not path.is_file():
        hint = (
            " It holds tars, so it may be an interrupted run: delete it and prepare it again."
            if is_partial(root)
            else ""
        )
        raise InputError(f"{root} is not a shard set: it has no {MANIFEST_FILE}.{hint} See `matl-data --help`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = {role: content["tables"][role] for role in ("tasks", "shards", "samples", "labels")}
        tables = {role: str(entry["file"]) for role, entry in listed.items()}
        digests = {role: str(entry["sha256"]) for role, entry in listed.items()}
        version = int(content["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error!r}. Prepare the shard set again.") from error
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} should have format {FORMAT!r}, version {FORMAT_VERSION}. "
            f"Got {content.get('format')!r}, version {content.get('format_version')!r}."
        )
    for role, name in tables.items():
        if Path(name).name != name or not (root / name).is_file():
            raise InputError(f"{path} lists {name!r}, which is not in the folder. Prepare the shard set again.")
        if file_sha256(root / name) != digests[role]:
            raise InputError(f"{root / name} is not the file that {MANIFEST_FILE} lists (SHA-256 differs).")
    tasks = tuple(
        Task(name=row["name"], classes=tuple(row["classes"]), source=row["source"])
        for row in pq.read_table(root / tables["tasks"]).to_pylist()
    )
    return Manifest(
        root=root,
        id=manifest_id(digests),
        version=version,
        tasks=tasks,
        shards=pq.read_table(root / tables["shards"]),
        samples=pq.read_table(root / tables["samples"]),
        tables=tables,
    )


def manifest_id(digests: dict[str, str]) -> str:
    return hash_text("\n".join(f"{role} {digests[role]}" for role in sorted(digests)))


def is_partial(root: Path) -> bool:
    return root.is_dir() and any(root.glob("*.tar"))

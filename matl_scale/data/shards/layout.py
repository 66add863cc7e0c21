"""The shard contract, for writers and readers: names of files and members, table schemas, label encoding. No torch.

A shard set is a folder of tars and the tables that `manifest.json` lists (see `versions.py`). Row i of the samples table and
row i of the label matrix belong to the same image; i is its sample id. Training uses the matrix. The label row inside a tar is
a copy from the time of writing, for those who read the tars without the manifest.
"""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from matl_scale.tasks import Task

MANIFEST_FILE = "manifest.json"
WORK = ".work"  # folder of unfinished work inside the set's folder
MISSING = -1
CELLS_AT_ONCE = 1 << 26  # that are read of a file of labels
HEADER_BYTES = 512  # per tar member with a short name
SPLIT_ORDER = ("train", "val", "test")
MAX_CLASSES = 65_535
EXTENSIONS = {  # of members, by Pillow's name for the format
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tif",
    "PPM": "ppm",
}
# no other format is ever opened: Pillow starts programs for some of them
OPENED_FORMATS = tuple(name for name in EXTENSIONS if name != "MPO")
DIGEST_BYTES = 16

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
DIGESTS_SCHEMA = pa.schema({"sha256_16": pa.binary(DIGEST_BYTES)})  # the first bytes of each image file's SHA-256
TASKS_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "classes": pa.list_(pa.string()),
        "source": pa.string(),
        "counts": pa.list_(pa.int64()),
        "missing": pa.int64(),
        "file": pa.string(),
        "column": pa.string(),
    }
)


def sample_key(index: int) -> str:
    """Returns the zero-padded key of a sample; without a dot, because WebDataset splits member names at the first dot."""
    return f"{index:09d}"


def member_name(key: str, extension: str) -> str:
    """Returns a member's name inside the tar: `KEY.jpg` for the image, `KEY.npy` for the label row."""
    return f"{key}.{extension}"


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def table_name(role: str, version: int) -> str:
    """Returns the name of a table's file: `labels.v3.parquet` is the label matrix that came with version 3."""
    return f"{role}.v{version}.parquet"


def split_rank(split: str) -> tuple[int, str]:
    """Orders splits: train, val, test, then any others by name."""
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def label_dtype(tasks: Sequence[Task]) -> np.dtype:
    """Returns int8 where every class index fits, else int16, else int32."""
    most = max((task.num_classes for task in tasks), default=2)
    return np.dtype(np.int8 if most <= 128 else np.int16 if most <= 32768 else np.int32)


def encode_label_row(row: np.ndarray) -> bytes:
    """Encodes one row of the label matrix, shape `(num_tasks,)`, as a `.npy` file (never a pickle)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(row), allow_pickle=False)
    return buffer.getvalue()


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the labels of one task, shape `(num_samples,)`, per class, without missing labels."""
    return np.bincount(labels[labels != MISSING], minlength=num_classes)


def padded(sizes: np.ndarray) -> np.ndarray:
    """Rounds sizes in bytes up to whole tar blocks."""
    return -(-sizes // HEADER_BYTES) * HEADER_BYTES

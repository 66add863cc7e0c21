"""Suite `data`, sharding: image files to shards, beside webdataset's writer and `tar` on the same files; and its memory."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from data_prep.dataset import Dataset, from_arrays
from data_prep.sources import cifar100, fashion_mnist
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.data.images.array_images import ArrayImages, encode_png
from matl_scale.tasks import Task

SHARD_MB = 16
NUM_SYNTHETIC = 20_000
FEW, MANY = 10_000, 1_000_000
MANY_TASKS, MISSING_SHARE = 312, 0.6


class ShardProcess:
    """Starts a process that shards on request. `images` and `labels` are names in the folder, which also gets the shard set; the
    size of a shard is in 10⁶ bytes. The process inherits this one's environment unless another is given."""

    def __init__(
        self,
        folder: Path,
        images: str,
        labels: str,
        shard_mb: float,
        workers: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        paths = [str(folder / name) for name in (images, labels, "ours")]
        program = str(Path(__file__).with_name("shard_process.py"))
        command = [sys.executable, program, *paths, str(shard_mb), str(workers)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def shard(self) -> tuple[float, float]:
        """Shards once; returns its seconds and the process's peak memory in MiB."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, peak = map(float, self.process.stdout.readline().split())
        return seconds, peak

    def __del__(self) -> None:
        self.process.communicate()


class ImageFiles:
    """A folder of PNG files and a label file, which are written when they are first used."""

    def __init__(self, build: Callable[[], Dataset]) -> None:
        self._build = build

    @cached_property
    def root(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()  # deleted with this object
        root, dataset = Path(self._folder.name), self._build()
        lines = [",".join(["image", *(task.name for task in dataset.tasks)])]
        for chunk in dataset.chunks():
            images = dataset.images.read(chunk.names, chunk.indices)
            for name, data, labels in zip(chunk.names, images, chunk.labels.tolist(), strict=True):
                path = (root / "images" / name).with_suffix(".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                values = ["" if value < 0 else str(value) for value in labels]
                lines.append(",".join([path.relative_to(root / "images").as_posix(), *values]))
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        return root

    @cached_property
    def labels(self) -> list[tuple[str, np.ndarray]]:
        """File names and label rows; the reference gets them in memory."""
        lines = [line.split(",") for line in (self.root / "labels.csv").read_text().splitlines()[1:]]
        return [(line[0], np.array([int(value or -1) for value in line[1:]], dtype=np.int8)) for line in lines]

    def shard_writer(self) -> None:
        """Writes the same samples with webdataset."""
        out = self.root / "theirs"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with wds.ShardWriter(f"{out}/%06d.tar", maxsize=SHARD_MB * 1e6, verbose=0) as sink:
            for number, (name, row) in enumerate(self.labels):
                sink.write({"__key__": f"{number:09d}", "png": (self.root / "images" / name).read_bytes(), "npy": row})

    def tar(self, synced: bool) -> None:
        """Packs the files with tar, and waits until they are on disk if `synced`."""
        archive = self.root / "theirs.tar"
        subprocess.run(["tar", "cf", str(archive), "-C", str(self.root), "images"], check=True)
        if synced:
            subprocess.run(["sync", str(archive)], check=True)


def pair(files: ImageFiles, reference: Workload, workers: int) -> Callable[[Conditions], tuple[Workload, Workload]]:
    def build(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001 - nothing here runs on a device
        _ = files.labels  # reads them before the clock starts
        return reference, ShardProcess(files.root, "images", "labels.csv", SHARD_MB, workers).shard

    return build


def synthetic() -> Dataset:
    """Returns random 32-pixel images with two tasks."""
    generator = np.random.default_rng(0)
    return from_arrays(
        tasks=[Task(name=name, classes=("0", "1")) for name in ("a", "b")],
        names=[f"{i // 1000}/{i:06d}.png" for i in range(NUM_SYNTHETIC)],
        labels=generator.integers(0, 2, (NUM_SYNTHETIC, 2)).astype(np.int8),
        splits=["train"] * NUM_SYNTHETIC,
        images=ArrayImages(
            root="memory", pixels=generator.integers(0, 256, (NUM_SYNTHETIC, 32, 32, 3), dtype=np.uint8)
        ),
    )


def figures(conditions: Conditions) -> list[Figure]:
    sources = {"synthetic": ImageFiles(synthetic)}
    if (root := conditions.data.get("fashion_mnist")) is not None:
        sources["fashion_mnist"] = ImageFiles(lambda: fashion_mnist.build(root))
    if (other := conditions.data.get("cifar100")) is not None:
        sources["cifar100"] = ImageFiles(lambda: cifar100.build(other, "superclass"))
    found = []
    for name, files in sources.items():
        for workers in (1, 2):
            values = timed(pair(files, files.shard_writer, workers))
            meaning = f"webdataset.ShardWriter ÷ ours, {workers} workers" + (", ≥ 3" if workers == 2 else "")
            found.append(Figure(f"shard_{name}_w{workers}_vs_shardwriter", meaning, values))
        values = timed(pair(files, partial(files.tar, synced=False), 2))
        found.append(Figure(f"shard_{name}_w2_vs_tar", "tar of the files ÷ ours, 2 workers, ≥ 0.5", values))
        values = timed(pair(files, partial(files.tar, synced=True), 2))
        found.append(Figure(f"shard_{name}_w2_vs_tar_synced", "tar of the files, on disk, ÷ ours, 2 workers", values))
    meaning = "peak memory of a million rows ÷ ten thousand, one process"
    found.append(Figure("shard_memory_1m_vs_10k", meaning, memory_by_rows, "MiB"))
    meaning = "a million rows × 312 tasks, 60 % missing ÷ × 2 tasks, one process"
    return [*found, Figure("shard_1m_t312_vs_t2", meaning, seconds_by_tasks)]


def memory_by_rows(_: Conditions) -> np.ndarray:
    return np.array([[shard_synthetic(num_rows, 2)[1] for num_rows in (MANY, FEW)]])


def seconds_by_tasks(_: Conditions) -> np.ndarray:
    return np.array([[shard_synthetic(MANY, num_tasks)[0] for num_tasks in (MANY_TASKS, 2)]])


def shard_synthetic(num_rows: int, num_tasks: int) -> tuple[float, float]:
    """Shards synthetic rows in a process of its own; returns its seconds and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), num_rows, num_tasks)
        # with settings that let the allocator keep freed memory, that would count as used
        environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
        process = ShardProcess(Path(folder), "images.parquet", "labels.parquet", 256, 1, environment)
        return process.shard()


def write_rows(folder: Path, num_rows: int, num_tasks: int) -> None:
    """Writes Parquet with small PNG images, each one different, and a label file with 60 % of the labels missing."""
    image = encode_png(np.zeros((4, 4), dtype=np.uint8))
    start, end = image[:33], image[33:]  # a chunk may follow IHDR
    generator = np.random.default_rng(0)
    images = pa.schema({"name": pa.string(), "image": pa.binary()})
    names = [f"t{i:03d}" for i in range(num_tasks)]
    labels = pa.schema({"image": pa.string(), **dict.fromkeys(names, pa.int8())})
    with (
        pq.ParquetWriter(folder / "images.parquet", images) as image_file,
        pq.ParquetWriter(folder / "labels.parquet", labels) as label_file,
    ):
        for first in range(0, num_rows, 10_000):
            rows = range(first, min(first + 10_000, num_rows))
            keys = [f"{row:08d}" for row in rows]
            data = [start + text_chunk(key.encode()) + end for key in keys]
            image_file.write_table(pa.table([keys, data], schema=images))
            values = generator.integers(0, 2, (len(rows), num_tasks), dtype=np.int8)
            empty = generator.random(values.shape, dtype=np.float32) < MISSING_SHARE
            columns = [pa.array(values[:, i], mask=empty[:, i]) for i in range(num_tasks)]
            label_file.write_table(pa.table([pa.array(keys), *columns], schema=labels))


def text_chunk(text: bytes) -> bytes:
    """Returns a PNG chunk with a comment, which makes an image unique."""
    content = b"tEXtid\0" + text
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

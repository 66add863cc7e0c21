"""Mutated tars, manifests, tables and label files: each is refused in words or read right, and none raises anything else."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.inspect.verify import verify_shard_set
from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from helpers.commands import matl_data, shard_arguments
from helpers.shard_sets import list_changed_table
from helpers.sources_on_disk import write_images, write_labels
from matl_scale.data.loading.loader import DecodeBatch, EncodedBatch
from matl_scale.data.loading.plan import PlannedBatch
from matl_scale.data.loading.stream import StreamBatches
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError

COUNT = 30
fuzz = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Mutation = tuple[str, float, float, bytes]
mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete", "zero", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 0.1),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


def mutate(data: bytes, steps: list[Mutation]) -> bytes:
    for kind, where, share, extra in steps:
        offset, size = int(where * len(data)), max(1, int(share * len(data)))
        part = data[offset : offset + size]
        data = {
            "flip": data[:offset] + bytes(byte ^ extra[0] for byte in data[offset : offset + 1]) + data[offset + 1 :],
            "cut": data[:offset],
            "insert": data[:offset] + extra + data[offset:],
            "delete": data[:offset] + data[offset + size :],
            "zero": data[:offset] + bytes(len(part)) + data[offset + size :],
            "repeat": data[:offset] + part + data[offset:],
        }[kind]
    return data


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    names = write_images(root / "images", COUNT)
    for name in ("labels.csv", "labels.parquet"):
        write_labels(root / name, names)
    assert matl_data(shard_arguments(root, root / "set", "--workers", "1", "--shard-mb", "0.04")) == 0
    return root


@pytest.fixture(scope="module")
def scratch(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scratch") / "set"
    shutil.copytree(original / "set", root)
    return root


def mutated(original: Path, scratch: Path, name: str, steps: list[Mutation]) -> bool:
    """Writes a mutated copy of one file of the set; returns whether it differs."""
    for path in (original / "set").iterdir():
        shutil.copy(path, scratch / path.name)
    data = (original / "set" / name).read_bytes()
    changed = mutate(data, steps)
    (scratch / name).write_bytes(changed)
    return changed != data


@fuzz
@given(steps=mutations)
def test_tars(original: Path, scratch: Path, steps: list[Mutation]) -> None:
    differs = mutated(original, scratch, "train-000000.tar", steps)
    manifest = read_manifest(scratch)
    reader, rows = SampleReader(manifest), np.arange(COUNT)
    expected = SampleReader(read_manifest(original / "set")).read(rows)
    found = reader.read(rows)
    first = int(manifest.shard_sizes[0])
    assert found[first:] == expected[first:]
    (batch,) = DecodeBatch(reader, 8)(EncodedBatch([PlannedBatch(sample_ids=rows)], found))
    assert len(batch.damage) + int(batch.valid.sum()) == COUNT
    stream = StreamBatches.__new__(StreamBatches)
    stream.store, stream.reader = manifest.root, reader
    streamed = list(stream._read_shard("train-000000.tar", range(first)))
    assert sorted(sample.sample_id for sample in streamed) == list(range(first))
    findings = verify_shard_set(str(scratch), quick=False, workers=1)
    assert bool(findings) == differs, findings


@fuzz
@given(steps=mutations)
def test_manifests(original: Path, scratch: Path, steps: list[Mutation]) -> None:
    mutated(original, scratch, "manifest.json", steps)
    try:
        manifest = read_manifest(scratch)
    except InputError:
        return
    assert manifest.id == read_manifest(original / "set").id
    assert manifest.labels().tolist() == read_manifest(original / "set").labels().tolist()


@fuzz
@given(
    steps=mutations, role=st.sampled_from(["tasks", "shards", "samples", "digests", "labels"]), vouched=st.booleans()
)
def test_tables(original: Path, scratch: Path, steps: list[Mutation], role: str, vouched: bool) -> None:
    """With `vouched`, whoever changed the table has changed the checksums in the manifest too."""
    differs = mutated(original, scratch, f"{role}.v1.parquet", steps)
    if vouched:
        list_changed_table(scratch, role)
    try:
        found = read_manifest(scratch)
        labels, samples = found.labels(), found.samples
        SampleReader(found).read(np.arange(found.num_samples))
    except InputError:
        return
    assert vouched or not differs
    assert len(labels) == samples.num_rows == found.num_samples


@fuzz
@given(steps=mutations, kind=st.sampled_from(["csv", "parquet"]))
def test_label_files(original: Path, tmp_path: Path, steps: list[Mutation], kind: str) -> None:
    path = tmp_path / f"labels.{kind}"
    path.write_bytes(mutate((original / f"labels.{kind}").read_bytes(), steps))
    try:
        found = read_labels(str(path), ColumnRoles(), tmp_path)
    except InputError as error:
        message = str(error)
    else:
        check_matrix(found)
        return
    assert "\n" not in message


def check_matrix(found: Labels) -> None:
    for column, task in enumerate(found.tasks):
        assert found.matrix[:, column].min() >= -1
        assert found.matrix[:, column].max() < task.num_classes


@fuzz
@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_as_a_label_file(tmp_path: Path, text: str | bytes) -> None:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    (tmp_path / "labels.csv").write_bytes(b"image,x\n" + data)
    with contextlib.suppress(InputError):
        check_matrix(read_labels(str(tmp_path / "labels.csv"), ColumnRoles(), tmp_path))

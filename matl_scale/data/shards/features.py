"""Features of the images of a shard set, computed once by a trunk that stays as it is: a folder beside the manifest.

`features/TRUNK-HASH/` has a Parquet file for each tar, with a row for each of its samples; the weights of the trunk; and, written
last, `features.json`, which lists them. They belong to the images: any version of the set with the same tars can use them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.cache_folder import CacheKind
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.mapped_array import map_array
from matl_scale.data.shards.tables import parquet_errors
from matl_scale.errors import InputError
from matl_scale.storage.files import as_json, file_sha256, hash_text
from matl_scale.storage.store import Store

FEATURES_FOLDER = "features"
FEATURES_FILE = "features.json"
TRUNK_FILE = "trunk.safetensors"
FORMAT, FORMAT_VERSION = "matl_scale features", 1
ORIGIN = b"matl_scale.origin"  # in the metadata of a Parquet file: of what its rows are the features
CACHE = CacheKind(what="features", name="feature cache", needed="features.bin")
DTYPE = np.dtype(np.float16)


@dataclass(frozen=True, kw_only=True)
class TrunkFacts:
    """Which network computes features, and of which images."""

    model: str  # its name, as `model.name`
    stem: str  # as `model.stem`
    weights_sha256: str  # of the file of weights that it was built with
    mean: list[float]  # of the images, per channel
    std: list[float]
    image_size: int  # side length in pixels
    fit: str  # how images of another shape became squares
    num_features: int  # that an image has
    precision: str  # in which it computed: fp32 or bf16

    @property
    def hash(self) -> str:
        return hash_text(as_json(asdict(self)))

    @property
    def folder(self) -> str:
        """The name of the folder with the features, in `features/`."""
        return f"{self.model.replace('/', '-')}-{self.hash[:12]}"


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """The features of all images of a set by one trunk."""

    root: Store  # their folder
    trunk: TrunkFacts
    trunk_sha256: str  # of the file with the weights of the trunk
    files: list[
        dict[str, Any]
    ]  # of every shard, in order: `file`, its `sha256`, and the `shard`, the SHA-256 of the tar

    @property
    def sha256(self) -> str:
        """Hash of all that is listed."""
        return hash_text(as_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `features.json`."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "trunk": asdict(self.trunk),
            "trunk_sha256": self.trunk_sha256,
            "files": self.files,
        }


class StoredFeatures(NamedTuple):
    """The features of a set's images."""

    values: np.ndarray  # float16, shape `(num_samples, num_features)`; zeros where an image is damaged
    damaged: dict[int, str]  # why an image has none, by sample id


def part_name(shard_file: str) -> str:
    """Returns the name of the file with the features of a tar's images."""
    return str(PurePosixPath(shard_file).with_suffix(".parquet"))


def part_origin(trunk: TrunkFacts, shard_sha256: str) -> bytes:
    """Returns what the file of a tar's features says of its origin."""
    return json.dumps({"trunk": trunk.hash, "shard": shard_sha256}, sort_keys=True).encode()


def build_part(features: np.ndarray, damage: list[str], origin: bytes) -> pa.Table:
    """Builds the table of a tar's features: `features` in float16, shape `(num_samples, num_features)`, and why an image has
    none, an empty text where it has."""
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(features).ravel()), features.shape[1])
    return pa.table({"features": rows, "damage": pa.array(damage, pa.string())}).replace_schema_metadata(
        {ORIGIN: origin}
    )


def is_finished(root: Store, name: str, origin: bytes) -> bool:
    """Returns whether there is a file of features of this origin."""
    if not root.exists(name):
        return False
    try:
        with root.fetched(name) as path:
            return (pq.read_schema(path).metadata or {}).get(ORIGIN) == origin
    except (pa.ArrowException, OSError):
        return False


def read_feature_sets(root: Store) -> list[FeatureSet]:
    """Reads the lists of all features that a shard set in `root` has; those that are not complete are left out."""
    folder = root / FEATURES_FOLDER
    return [read_feature_set(folder / name) for name in folder.names() if (folder / name).exists(FEATURES_FILE)]


def read_feature_set(root: Store) -> FeatureSet:
    """Reads the list of complete features; raises `InputError` if it cannot be read."""
    try:
        content = json.loads(root.read(FEATURES_FILE))
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise InputError(
                f"{root}/{FEATURES_FILE} has format version {content['format_version']}; this version of matl_scale reads "
                f"{FORMAT_VERSION}. Compute the features again with matl-embed."
            )
        trunk = TrunkFacts(**content["trunk"])
        return FeatureSet(root=root, trunk=trunk, trunk_sha256=content["trunk_sha256"], files=content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{root}/{FEATURES_FILE} is damaged ({error!r}). Delete it, and run matl-embed again: it goes on with what is there."
        ) from error


def check_same_images(found: FeatureSet, manifest: Manifest) -> None:
    """Raises `InputError` if features are not those of the images of a set."""
    shards = manifest.shards.select(["file", "sha256"]).to_pylist()
    listed = {part["file"]: part["shard"] for part in found.files}
    for shard in shards:
        name = part_name(shard["file"])
        if listed.get(name) != shard["sha256"]:
            what = "has none of" if name not in listed else "was computed from other images than"
            raise InputError(
                f"{found.root} belongs to another set, or to earlier images of this one: it {what} {shard['file']} of "
                f"{manifest.root}. Run matl-embed again; it computes only what is missing."
            )


def open_features(found: FeatureSet, manifest: Manifest) -> tuple[StoredFeatures, list[str]]:
    """Opens the features of a set's images, mapped from a cache that is made at the first time.

    Returns:
        The features, and what the user should know, in lines.

    Raises:
        InputError: They belong to other images, or cannot be read.
    """
    check_same_images(found, manifest)
    # another version of the set may have some of the tars
    sha256 = hash_text(as_json([found.sha256, manifest.shards["sha256"].to_pylist()]))

    def write(folder: Path) -> None:
        CACHE.complete(folder, sha256, write_cache(folder, found, manifest))

    folder, notes = CACHE.open(manifest.root, sha256, write)
    num_features = found.trunk.num_features
    if folder is None:
        parts = [read_part(found, shard) for shard in manifest.shards.to_pylist()]
        values = np.concatenate([values for values, _ in parts])
        return StoredFeatures(values, index_damage([damage for _, damage in parts])), notes
    damaged = json.loads((folder / "damaged.json").read_text(encoding="utf-8"))
    values = map_array(folder / "features.bin", DTYPE, (manifest.num_samples, num_features))
    return StoredFeatures(values, {sample_id: reason for sample_id, reason in damaged}), notes


def write_cache(folder: Path, found: FeatureSet, manifest: Manifest) -> dict[str, str]:
    """Writes the files of a cache. Returns the hash of each."""
    damage: list[list[str]] = []
    with (folder / "features.bin").open("wb") as file:
        for shard in manifest.shards.to_pylist():
            values, reasons = read_part(found, shard)
            file.write(values.data)
            damage.append(reasons)
        file.flush()
        os.fsync(file.fileno())
    (folder / "damaged.json").write_text(json.dumps(list(index_damage(damage).items())), encoding="utf-8")
    return {name: file_sha256(folder / name) for name in ("features.bin", "damaged.json")}


def index_damage(parts: list[list[str]]) -> dict[int, str]:
    """Returns the reasons that are not empty, by index over all parts."""
    return {i: reason for i, reason in enumerate(reason for part in parts for reason in part) if reason}


def read_part(found: FeatureSet, shard: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Reads the features of a tar's images, shape `(num_samples, num_features)`, and why images have none.

    Raises:
        InputError: The file is not the one that was written.
    """
    name = part_name(shard["file"])
    context = f"{found.root}/{name}"
    digest = next(part["sha256"] for part in found.files if part["file"] == name)
    if not found.root.exists(name) or found.root.sha256(name) != digest:
        raise InputError(
            f"{context} is missing or damaged. Delete it, and run matl-embed again; it computes only this file."
        )
    with found.root.fetched(name) as path, parquet_errors(context):
        table = pq.read_table(path)
    rows = table["features"].combine_chunks()
    values: np.ndarray = rows.flatten().to_numpy().reshape(len(rows), -1)
    if values.shape != (shard["samples"], found.trunk.num_features) or values.dtype != DTYPE:
        raise InputError(
            f"{context} should hold {shard['samples']} rows of {found.trunk.num_features} numbers in float16."
        )
    return np.ascontiguousarray(values), table["damage"].to_pylist()


def iterate_unfinished(root: Store, trunk: TrunkFacts, manifest: Manifest) -> Iterator[int]:
    """Yields the indices of the tars whose features are not there yet."""
    for index, shard in enumerate(manifest.shards.to_pylist()):
        if not is_finished(root, part_name(shard["file"]), part_origin(trunk, shard["sha256"])):
            yield index

"""`matl-data verify`: whether a shard set is what its manifest says, tar by tar and label by label."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from data_prep.image_check import check_image, digest_image
from data_prep.planning.copies import find_copies, rank_splits
from data_prep.pool import Advance, run_jobs
from matl_scale.data.images.gate import NO_LIMIT, BadImage
from matl_scale.data.shards.layout import HEADER_BYTES, MANIFEST_FILE, WORK
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.data.shards.tables import count_classes
from matl_scale.errors import InputError, shortened
from matl_scale.storage.store import Store
from matl_scale.text import count_of

SHOWN = 5
BLOCK_SAMPLES = 256
LABEL_COLUMNS = 32  # read at once


def verify_shard_set(folder: str, quick: bool, workers: int) -> list[str]:
    """Checks a shard set.

    A quick check reads the tables: their checksums, whether they fit each other, the label ranges and counts of every version,
    images in two splits, and whether every listed tar, and no other, is there with its size. A full check also reads every
    tar: its checksum, its members, and whether each image is at its offset, has its digest and decodes.

    Returns:
        What is wrong, one line each; empty if nothing is.

    Raises:
        InputError: There is no shard set, or its newest version cannot be read.
    """
    manifest = read_manifest(folder)
    findings = [*check_samples(manifest), *check_files(manifest), *check_leaks(manifest)]
    for entry in manifest.entries:
        try:
            findings += check_labels(read_manifest(folder, str(entry["version"])))
        except InputError as error:
            findings.append(f"version {entry['version']}: {error}")
    if not quick:
        jobs = range(manifest.shards.num_rows)
        for _, found in sorted(run_jobs(VerifyWork(folder), jobs, workers, manifest.num_samples, "samples")):
            findings += found
    return findings


def check_samples(manifest: Manifest) -> Iterator[str]:
    """Compares the samples table with the shards table and with itself."""
    samples = manifest.sample_columns("key", "split", "shard", "offset", "size", "path")
    shards, table = samples["shard"].to_numpy(), f"{manifest.root}/{manifest.tables['samples']}"
    if not np.array_equal(shards, manifest.shard_of_samples()):
        yield f"{table}: samples should be in the order of the shards, as many as the shards table says"
        return
    splits = manifest.shards["split"].to_pylist()
    keys = samples["key"].to_pylist()
    if wrong := [i for i, split in enumerate(samples["split"].to_pylist()) if split != splits[shards[i]]]:
        listed = shortened((keys[i] for i in wrong), SHOWN)
        yield f"{table}: {count_of(len(wrong), 'sample is', plural='samples are')} in a shard of another split: {listed}"
    for column in ("key", "path"):
        values = samples[column].combine_chunks()
        if len(values.unique()) != len(values):
            yield f"{table}: {len(values) - len(values.unique())} values of `{column}` occur more than once"
    ends = samples["offset"].to_numpy() + samples["size"].to_numpy()
    sizes = manifest.shards["bytes"].to_numpy()[shards]
    if outside := np.flatnonzero((samples["offset"].to_numpy() < HEADER_BYTES) | (ends > sizes)).tolist():
        listed = shortened((keys[i] for i in outside), SHOWN)
        yield f"{table}: {count_of(len(outside), 'sample lies', plural='samples lie')} outside their tar: {listed}"


def check_labels(manifest: Manifest) -> Iterator[str]:
    """Reads all labels, which checks their ranges, and compares their counts with the tasks table."""
    for start in range(0, len(manifest.tasks), LABEL_COLUMNS):
        ids = list(range(start, min(start + LABEL_COLUMNS, len(manifest.tasks))))
        try:
            labels = manifest.labels(ids)
        except InputError as error:
            yield f"version {manifest.version}: {error}"
            continue
        tasks = [manifest.tasks[i] for i in ids]
        for i, counts in zip(ids, count_classes(tasks, labels), strict=True):
            if counts.tolist() != manifest.counts[i].tolist():
                yield (
                    f"version {manifest.version}, task `{manifest.tasks[i].name}`: the tasks table counts "
                    f"{manifest.counts[i].tolist()[:SHOWN]} labels per class, and the labels are {counts.tolist()[:SHOWN]}"
                )


def check_files(manifest: Manifest) -> Iterator[str]:
    """Looks for tars that are missing, have another size, or are not listed."""
    names = set(manifest.root.names())
    listed = dict(zip(manifest.shards["file"].to_pylist(), manifest.shards["bytes"].to_pylist(), strict=True))
    for file, size in listed.items():
        if file not in names:
            yield f"{manifest.root}/{file} is missing"
        elif (found := manifest.root.size(file)) != size:
            yield f"{manifest.root}/{file} should have {size} bytes. It has {found}"
    if orphans := sorted(name for name in names if name.endswith(".tar") and name not in listed):
        number = count_of(len(orphans), "tar is", plural="tars are")
        yield f"{number} not listed in {MANIFEST_FILE}: {shortened(orphans, SHOWN)}"
    if WORK in names:
        yield f"{manifest.root}/{WORK} holds unfinished work: run its `matl-data shard` again, or merge, or delete it"


def check_leaks(manifest: Manifest) -> Iterator[str]:
    """Looks for images whose bytes are in two splits."""
    names, split_of = list(manifest.splits), manifest.split_numbers()
    copies, originals = find_copies(manifest.digests(), rank_splits(names)[split_of])
    across = np.flatnonzero(split_of[copies] != split_of[originals])
    if len(across):
        paths = manifest.sample_columns("path").column(0)
        pairs = [
            " and ".join(f"{paths[sample_id]} ({names[split_of[sample_id]]})" for sample_id in pair)
            for pair in zip(copies[across[:SHOWN]].tolist(), originals[across[:SHOWN]].tolist(), strict=True)
        ]
        images = count_of(len(across), "image is", plural="images are")
        yield f"{images} in two splits: {', '.join(pairs)}. Leave copies out with --dedupe"


@dataclass(frozen=True)
class VerifyWork:
    """Reads one tar of a shard set, in any process."""

    folder: str

    def __call__(self, job: int, advance: Advance) -> tuple[int, list[str]]:
        manifest, reader, digests = open_set(self.folder)
        (shard,) = manifest.shards.slice(job, 1).to_pylist()
        file, count = shard["file"], shard["samples"]
        if not manifest.root.exists(file):
            advance(count)
            return job, []  # `check_files` has named it
        findings = []
        if manifest.root.sha256(file) != shard["sha256"]:
            findings.append(f"{manifest.root}/{file} is not the file that was written: its SHA-256 differs")
        first = int(manifest.shard_sizes[:job].sum())
        sample_ids = np.arange(first, first + count)
        findings += check_members(manifest.root, file, set(map(reader.key, sample_ids.tolist())))
        if bad := check_images(reader, digests, sample_ids, advance):
            samples = count_of(len(bad), "sample is", plural="samples are")
            findings.append(f"{manifest.root}/{file}: {samples} damaged: {shortened(bad, SHOWN)}")
        return job, findings


def check_members(root: Store, file: str, keys: set[str]) -> Iterator[str]:
    """Looks in a tar for members that belong to no sample, and for samples whose members are not adjacent."""
    path, found = f"{root}/{file}", list[str]()
    try:
        with root.open(file) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
            found = [member.name for member in tar]
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield f"{path} cannot be read to its end as a tar: {error}"
    runs = [key for key, _ in groupby(name.partition(".")[0] for name in found)]
    if orphans := sorted(set(runs) - keys):
        yield f"{path} holds {len(orphans)} keys that are not in the manifest: {shortened(orphans, SHOWN)}"
    if missing := sorted(keys - set(runs)):
        yield f"{path} lacks {len(missing)} keys of the manifest: {shortened(missing, SHOWN)}"
    if len(runs) != len(set(runs)):
        apart = sorted(key for key, count in Counter(runs).items() if count > 1)
        yield f"{path}: the members of a sample should be side by side. Those of {shortened(apart, SHOWN)} are not"


@lru_cache(maxsize=1)
def open_set(folder: str) -> tuple[Manifest, SampleReader, np.ndarray]:
    """Opens a set once per process: manifest, reader and digests."""
    manifest = read_manifest(folder)
    return manifest, SampleReader(manifest), manifest.digests()


def check_images(reader: SampleReader, digests: np.ndarray, sample_ids: np.ndarray, advance: Advance) -> list[str]:
    """Reads images by their offsets, compares their digests, checks them, and returns what is wrong with which."""
    bad = list[str]()
    for start in range(0, len(sample_ids), BLOCK_SAMPLES):
        block = sample_ids[start : start + BLOCK_SAMPLES]
        for sample_id, image in zip(block.tolist(), reader.read(block), strict=True):
            if not isinstance(image, bytes):
                bad.append(f"{image.key}: {image.reason}")
            elif digest_image(image) != digests[sample_id].tobytes():
                bad.append(f"{reader.key(sample_id)}: its bytes are not those that were written")
            else:
                try:
                    check_image(image, max_pixels=NO_LIMIT)  # the limit of when the set was written is not known
                except BadImage as error:
                    bad.append(f"{reader.key(sample_id)}: {error}")
        advance(len(block))
    return bad

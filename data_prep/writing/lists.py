"""The CSV lists beside a shard set: images that were left out, and copies."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from data_prep.planning.copies import find_copies, rank_splits
from data_prep.planning.plan import DROPPED_FILE
from matl_scale.data.shards.layout import WORK
from matl_scale.data.shards.manifest import Manifest
from matl_scale.storage.store import Store
from matl_scale.text import count_of

DUPLICATES_FILE, SKIPPED_FILE = "duplicates.csv", "skipped.csv"


def list_left_out(out: Store, records: Sequence[dict[str, Any]]) -> None:
    """Adds the images that were left out, if there are any, to the lists of bad images and of copies."""
    skipped = sorted((str(name), str(reason)) for record in records for name, reason in record["skipped"])
    add_to_list(out, SKIPPED_FILE, ("image", "reason"), skipped)
    if out.exists(f"{WORK}/{DROPPED_FILE}"):
        header, *dropped = read_csv(out, f"{WORK}/{DROPPED_FILE}")
        add_to_list(out, DROPPED_FILE, header, dropped)


def add_to_list(out: Store, name: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Adds lines to a list that earlier calls may have begun; repeated calls add no line twice."""
    before = read_csv(out, name)[1:] if out.exists(name) else []
    if lines:
        write_csv(out, name, header, list(dict.fromkeys(map(tuple, [*before, *lines]))))


def read_csv(out: Store, name: str) -> list[list[str]]:
    text = out.read(name).decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))


def write_csv(out: Store, name: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    out.write_bytes(name, text.getvalue().encode("utf-8", "surrogateescape"))


def report_copies(manifest: Manifest) -> str | None:
    """Lists images that occur more than once in `duplicates.csv` and returns a line about them; None if there are none."""
    names, split_of = list(manifest.splits), manifest.split_numbers()
    copies, originals = find_copies(manifest.digests(), rank_splits(names)[split_of])
    if not len(copies):
        return None
    paths = manifest.sample_columns("path").column(0)
    lines = [
        (paths[copy].as_py(), names[split_of[copy]], paths[of].as_py(), names[split_of[of]])
        for copy, of in zip(copies.tolist(), originals.tolist(), strict=True)
    ]
    write_csv(manifest.root, DUPLICATES_FILE, ("copy", "copy_split", "of", "of_split"), lines)
    across = int((split_of[copies] != split_of[originals]).sum())
    return (
        f"{count_of(len(copies), 'image is a copy', plural='images are copies')} of another, {across:,} of one in another "
        f"split: see {manifest.root}/{DUPLICATES_FILE}. --dedupe leaves copies out."
    )

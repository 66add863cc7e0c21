"""`manifest.json`: the versions of a shard set, each a list of Parquet tables with their SHA-256. It is written last and
means that the set is complete.

A version never changes. A change of labels writes a file with the new columns and a new tasks table, and adds a version that
shares everything else with the previous one; tars are not touched, and older versions stay readable.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matl_scale.data.shards.layout import MANIFEST_FILE, WORK
from matl_scale.errors import InputError
from matl_scale.storage.files import as_json, hash_text
from matl_scale.storage.store import Store

FORMAT = "matl_scale shard set"
FORMAT_VERSION = 2  # 2: versions of labels
ROLES = ("tasks", "shards", "samples", "digests")


def append_version(
    root: Store,
    entries: Sequence[Mapping[str, Any]],
    tables: Mapping[str, Mapping[str, str]],
    labels: Sequence[Mapping[str, str]],
    change: str,
    plan: str = "",
    oriented: int | None = None,
) -> None:
    """Writes `manifest.json` with one more version, which is the newest from then on.

    `entries` are the versions so far; `tables` has the entry of each table, by role, and `labels` those of the files that the
    tasks table refers to. `plan` is the id of the plan that added tars, if any were added. `oriented` is the number of images
    that carry an orientation other than upright, None if they were not counted.
    """
    entry = {
        "version": len(entries) + 1,
        "id": version_id(tables, labels),
        "change": change,
        "plan": plan,
        "tables": {role: dict(tables[role]) for role in ROLES},
        "labels": [dict(file) for file in labels],
        **({} if oriented is None else {"oriented": oriented}),
    }
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": [*map(dict, entries), entry]}
    root.write_bytes(MANIFEST_FILE, as_json(content).encode())


def version_id(tables: Mapping[str, Mapping[str, str]], labels: Sequence[Mapping[str, str]]) -> str:
    """Returns the id of a version: a hash of its files' hashes."""
    lines = [f"{role} {tables[role]['sha256']}" for role in ROLES]
    return hash_text("\n".join(lines + [f"labels {file['sha256']}" for file in labels]))


def is_shard_set(root: Store) -> bool:
    """Returns whether a folder holds a complete shard set."""
    return root.exists(MANIFEST_FILE)


def read_entries(root: Store) -> list[dict[str, Any]]:
    """Reads the versions of a shard set, oldest first; raises `InputError` if there is no manifest, or it is malformed."""
    if not root.exists(MANIFEST_FILE):
        hint = ""
        if WORK in root.names():
            hint = " It holds unfinished work: run the same `matl-data shard` again, or `matl-data merge` after an array job."
        raise InputError(f"{root} is not a shard set: it has no {MANIFEST_FILE}.{hint} See `matl-data --help`.")
    path = f"{root}/{MANIFEST_FILE}"
    try:
        content = json.loads(root.read(MANIFEST_FILE))
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path} should have format {FORMAT!r}, version {FORMAT_VERSION}. Got {content['format']!r}, version "
                f"{content['format_version']!r}. Prepare the shard set again."
            )
        entries = [check_entry(entry, number) for number, entry in enumerate(content["versions"], start=1)]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error!r}. Prepare the shard set again.") from error
    if not entries:
        raise InputError(f"{path} lists no version. Prepare the shard set again.")
    return entries


def check_entry(entry: Any, number: int) -> dict[str, Any]:
    """Returns a version's entry; raises `ValueError`, `KeyError` or `TypeError` if it is malformed."""
    files = [entry["tables"][role] for role in ROLES] + list(entry["labels"])
    for file in files:
        name = file["file"]
        if not isinstance(name, str) or not isinstance(file["sha256"], str) or not is_file_name(name):
            raise ValueError(f"{name!r} is no name of a table")
    if not isinstance(entry.get("oriented", 0), int):
        raise ValueError(f"version {number} should have a number of oriented images")
    if entry["version"] != number or entry["id"] != version_id(entry["tables"], entry["labels"]):
        raise ValueError(f"version {number} does not have the id of its tables")
    return {**entry, "change": str(entry["change"])}


def is_file_name(name: str) -> bool:
    """Returns whether a name belongs to a file in the folder itself, not in another one."""
    return bool(name) and "/" not in name and name not in (".", "..")


def choose_version(root: Store, entries: Sequence[dict[str, Any]], version: str) -> dict[str, Any]:
    """Returns the entry of a version, given as `read_manifest` takes it; raises `InputError` if there is none."""
    if not version:
        return entries[-1]
    if version.isdigit() and 1 <= int(version) <= len(entries):
        return entries[int(version) - 1]
    found = [entry for entry in entries if len(version) >= 6 and entry["id"].startswith(version)]
    if len({entry["id"] for entry in found}) != 1:
        known = ", ".join(f"{entry['version']} ({entry['id'][:12]})" for entry in entries[-10:])
        raise InputError(f"{root} has no version {version!r}. It has: {known}. Give a number or six digits of an id.")
    return found[-1]  # a change that was taken back has the id of the version before it


def check_file(root: Store, file: Mapping[str, str]) -> None:
    """Raises `InputError` if a file that a version lists is missing, or is another one."""
    if not root.exists(file["file"]):
        raise InputError(f"{root}/{MANIFEST_FILE} lists {file['file']!r}, which is missing. Restore it from a copy.")
    if root.sha256(file["file"]) != file["sha256"]:
        raise InputError(
            f"{root}/{file['file']} is not the file that {MANIFEST_FILE} lists (SHA-256 differs). Restore it from "
            "a copy, or prepare the set again."
        )

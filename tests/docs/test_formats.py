"""`docs/formats.md` suffices to read a shard set and a run: this reader uses the page's facts and nothing of this project."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "formats.md"
SHARD_SET = ROOT / "tests" / "data" / "old" / "set"
RUN = ROOT / "tests" / "data" / "old" / "runs" / "old"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def newest_version() -> dict[str, Any]:
    manifest = json.loads((SHARD_SET / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["format_version"]) == ("matl_scale shard set", 2)
    return manifest["versions"][-1]


def table(role: str) -> list[dict[str, Any]]:
    return pq.read_table(SHARD_SET / newest_version()["tables"][role]["file"]).to_pylist()


def test_the_id_of_a_version() -> None:
    version = newest_version()
    roles = [(role, version["tables"][role]) for role in ("tasks", "shards", "samples", "digests")]
    files = [*roles, *(("labels", entry) for entry in version["labels"])]
    for _, entry in files:
        assert sha256((SHARD_SET / entry["file"]).read_bytes()) == entry["sha256"]
    assert sha256("\n".join(f"{role} {entry['sha256']}" for role, entry in files).encode()) == version["id"]


def test_every_image_and_its_labels() -> None:
    shards, digests = table("shards"), table("digests")
    tars = [(SHARD_SET / shard["file"]).read_bytes() for shard in shards]
    for shard, tar in zip(shards, tars, strict=True):
        assert (len(tar), sha256(tar)) == (shard["bytes"], shard["sha256"])
    samples = table("samples")
    assert [sample["shard"] for sample in samples] == [i for i, s in enumerate(shards) for _ in range(s["samples"])]
    for sample, digest in zip(samples, digests, strict=True):
        tar, start = tars[sample["shard"]], sample["offset"]
        assert tar[start - 512 :].startswith(f"{sample['key']}.{sample['extension']}\0".encode())
        image = tar[start : start + sample["size"]]
        assert hashlib.sha256(image).digest()[:16] == digest["sha256_16"]
    for task in table("tasks"):
        column = task["name"].replace("%", "%25").replace(".", "%2E")
        assert task["column"] == column
        labels = pq.read_table(SHARD_SET / task["file"])[column].to_numpy()
        assert len(labels) == len(samples)
        assert np.bincount(labels[labels >= 0], minlength=len(task["classes"])).tolist() == task["counts"]
        assert int((labels == -1).sum()) == task["missing"]


def test_predictions_belong_to_the_samples() -> None:
    predictions = pq.read_table(RUN / "predictions-val.parquet")
    about = json.loads(predictions.schema.metadata[b"matl_scale"])
    tars = [shard["sha256"] for shard in table("shards") if shard["split"] == about["split"]]
    assert about["test_set"] == sha256("\n".join(tars).encode())
    keys = {int(sample["key"]) for sample in table("samples") if sample["split"] == about["split"]}
    assert set(predictions["sample"].to_pylist()) == keys
    labels = np.array(predictions["labels"].to_pylist())
    predicted = np.array(predictions["answers"].to_pylist())
    measured = pq.read_table(RUN / "per_task.parquet").to_pylist()
    for i, task in enumerate(about["tasks"]):
        labelled = labels[:, i] >= 0
        accuracy = float((predicted == labels)[labelled, i].mean())
        row = next(
            row
            for row in measured
            if (row["step"], row["task"], row["metric"]) == (about["step"], task["name"], "accuracy")
        )
        assert (row["value"], row["count"]) == (pytest.approx(accuracy), int(labelled.sum()))


@pytest.mark.parametrize("folder", ["checkpoints", "best"])
def test_checkpoints(folder: str) -> None:
    (checkpoint,) = (RUN / folder).glob("step-*")
    content = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    assert content["sha256"] == sha256((checkpoint / "state.pt").read_bytes())
    assert content.pop("checksum") == sha256(json.dumps(content, sort_keys=True).encode())
    model = torch.load(checkpoint / "state.pt", weights_only=True)["model"]
    masks = {name: value for name, value in model.items() if re.fullmatch(r"trunk\.routers\..+\.mask", name)}
    described = [(f"{name.removesuffix('.mask')} {tuple(mask.shape)} ", mask) for name, mask in masks.items()]
    assert content["masks"] == sha256(b"".join(text.encode() + mask.numpy().tobytes() for text, mask in described))
    saved = np.load(RUN / "masks.npz")
    assert {name.removeprefix("trunk.").removesuffix(".mask") for name in masks} == set(saved.files)
    for name, mask in masks.items():
        active = mask.sum(dim=1)
        assert mask.shape[0] == len(content["classes"])
        assert len(active.unique()) == 1, name
    for i, (_, classes) in enumerate(content["classes"]):
        assert model[f"heads.{i}.weight"].shape[0] == len(classes)


def names_on_disk() -> set[str]:
    """Returns every file, column and key that the two old folders hold."""
    names: set[str] = set()
    for path in [*SHARD_SET.rglob("*"), *RUN.rglob("*")]:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
            names |= set() if path.name.startswith("labels") else set(schema.names)
            names |= set(json.loads((schema.metadata or {}).get(b"matl_scale", b"{}")))
        elif path.suffix == ".json":
            names |= set(json.loads(path.read_text(encoding="utf-8")))
    names |= set(newest_version()) | set(json.loads((RUN / "about.json").read_text(encoding="utf-8"))["environment"])
    names |= {path.name for path in RUN.iterdir() if path.is_file()}
    state = torch.load(next((RUN / "checkpoints").glob("step-*")) / "state.pt", weights_only=True)
    names |= set(state) | set(state["tally"])
    for line in (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        names |= {name for name in json.loads(line) if not name.startswith("val/")}
    return names


def test_the_page_names_everything_on_disk() -> None:
    page = PAGE.read_text(encoding="utf-8")
    described = set(re.findall(r"[\w./-]+", page))
    assert names_on_disk() <= described, sorted(names_on_disk() - described)

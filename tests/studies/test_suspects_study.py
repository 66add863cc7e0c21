"""The study of suspects on tiny data, with a trainer that writes the predictions of a network that sees through wrong labels."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset import Dataset, binary_tasks, from_arrays, one_vs_rest
from data_prep.sources import fashion_mnist
from helpers.report_runs import write_run
from matl_scale.benchmark.studies import suspects
from matl_scale.benchmark.studies.runner import run_study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, PredictionsInfo, write_predictions
from matl_scale.train.config import Config

NUM_TRAIN, NUM_TEST = 1000, 500


def tiny_dataset(*_: object) -> Dataset:
    """Returns images whose only grey value is ten times their class, as ten one-vs-rest tasks."""
    classes = np.arange(NUM_TRAIN + NUM_TEST) % 10
    return from_arrays(
        tasks=binary_tasks([f"class_{i}" for i in range(10)], "tiny"),
        names=[f"{classes[i]}/{i:04d}.png" for i in range(len(classes))],
        labels=one_vs_rest(classes, 10),
        splits=["train"] * NUM_TRAIN + ["test"] * NUM_TEST,
        images=ArrayImages(root="memory", pixels=np.tile(10 * classes[:, None, None], (1, 4, 4)).astype(np.uint8)),
    )


def pretend_to_train(config: Config) -> None:
    """Writes predictions by the true class, which the image's name tells, with noise."""
    manifest, generator = read_manifest(config.data.path), np.random.default_rng(config.run.seed)
    paths, keys = (manifest.sample_columns(name).column(0).to_pylist() for name in ("path", "key"))
    for split in ("val", "test"):
        ids = manifest.sample_ids(split)
        labels = manifest.labels()[ids].astype(np.int16)
        true = np.eye(10)[[int(paths[i][0]) for i in ids]]
        scores = 12 * true - 6 + generator.normal(size=true.shape)
        info = PredictionsInfo(split=split, step=1, tasks=tuple(manifest.tasks), test_set=manifest.hash_shards(split))
        found = Predictions(
            samples=np.array([int(keys[i]) for i in ids]),
            labels=labels,
            predicted=labels,
            log_odds=np.concatenate([scores, scores], axis=1).astype(np.float16),
            info=info,
        )
        sections = {"data": {"path": config.data.path}}
        write_run(config.run.folder, manifest.tasks, labels, labels, split=split, config=sections)
        write_predictions(RunFolder(config.run.folder).predictions_file(split), found)


def test_labels_made_wrong_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "build", tiny_dataset)
    bench = Workbench(work=tmp_path, data={"fashion_mnist": tmp_path}, only="seed0", train=pretend_to_train)
    text = run_study(suspects.STUDY, bench)
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == list(suspects.ROWS)
    made_wrong, found = header.index("made wrong"), header.index("found among as many first suspects")
    # 2 % of 200 labels of val and of 500 of test, for each task
    assert [float(row[made_wrong]) for row in rows] == [14, 140, 154]
    assert all(float(row[found]) > 0.5 for row in rows)  # of a network that knows the truth, in a list that is cautious
    true = suspects.draw(bench, 0)
    changed = suspects.with_wrong_labels(true, 0).labels != true.labels
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(changed[true.splits == split].mean(axis=0), 0.02)

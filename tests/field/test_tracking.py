"""Copies in MLflow that were lost, wrong or somewhere else: names of tasks and folders, runs that somebody deleted."""

import json
import unicodedata
from pathlib import Path

from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

from matl_scale.runs.records import LocalLog, read_records
from matl_scale.tracking.metric_keys import KEY_LENGTH, MetricKeys
from matl_scale.tracking.mlflow_run import MlflowRun

# "all our Chinese attributes are one curve": names that MLflow accepts, and names that it does not
ACCEPTED = ["smiling", "a b", "café", "日本語", "가발", "straße", "5_o_Clock", "a/b", "v1.2", "x: y"]
CHANGED = [
    "笑顔?",
    "笑顔!",
    "a(x)",
    "a[x]",
    "a\\b",
    "a\nb",
    "🙂",
    "🙃",
    "..",
    ".",
    "/",
    "a//b",
    "/a",
    "a/",
    "a\u200db",
    "a|b",
]
COLLIDING = [
    "Smiling",
    "SMILING",
    "cafe",
    "CAFÉ",
    "a b ",
    "x" * 240 + "1",
    "x" * 240 + "2",
    "x" * 300,
    "x" * 301,
    "日" * 300,
]
NAMES = [*ACCEPTED, *CHANGED, *COLLIDING]


def curve(name: str, metric: str = "auroc") -> str:
    return f"task/{name}/{metric}"


def test_curves_keep_every_name_that_mlflow_accepts() -> None:
    keys = MetricKeys({})
    assert [keys[curve(name)] for name in ACCEPTED] == [curve(name) for name in ACCEPTED]
    assert keys["val/macro_auroc"] == "val/macro_auroc"
    assert keys["loss"] == "loss"


def test_curves_of_any_names_are_accepted_and_distinct() -> None:
    keys = MetricKeys({})
    found = [keys[curve(name, metric)] for name in NAMES for metric in ("balanced_accuracy", "auroc")]
    for key in found:
        _validate_metric_name(key)
        _validate_length_limit("key", KEY_LENGTH, key)
    assert len(set(found)) == len(found)
    # as a database compares that ignores case, accents and blanks at the end
    bare = {
        unicodedata.normalize("NFKD", key.casefold()).encode("ascii", "ignore").strip()
        for key in found
        if key.isascii()
    }
    assert len(bare) == sum(key.isascii() for key in found)


def test_changed_names_stay_readable_and_grouped_by_task() -> None:
    keys = MetricKeys({})
    group = keys[curve("笑顔?")].removesuffix("/auroc")
    assert group.startswith("task/笑顔_-")
    assert keys[curve("笑顔?", "balanced_accuracy")] == f"{group}/balanced_accuracy"
    decomposed = unicodedata.normalize("NFD", "café au lait")
    assert keys[curve(decomposed)].startswith("task/café au lait-")
    assert keys[curve("y" * 400)].startswith("task/" + "y" * 200)


def test_keys_do_not_depend_on_when_a_run_is_resumed() -> None:
    whole, groups = MetricKeys({}), dict[str, str]()
    expected = [whole[curve(name)] for name in NAMES]
    assert [MetricKeys(groups)[curve(name)] for name in NAMES] == expected
    assert [MetricKeys(groups)[curve(name)] for name in reversed(NAMES)] == expected[::-1]


def test_a_copy_that_an_earlier_version_began_goes_on_under_its_keys(tmp_path: Path) -> None:
    """It told case apart, and changed every name that is not ASCII."""
    log = LocalLog(tmp_path)
    log.log(1, {curve("smiling"): 0.1, curve("Smiling"): 0.2, curve("café"): 0.3})
    time = read_records(tmp_path)[0]["time"]
    (tmp_path / "mlflow.json").write_text(json.dumps({"run_id": "r", "tracking_uri": "sqlite:///x", "time": time}))
    keys = MetricKeys(MlflowRun(tmp_path, "experiment").state["keys"])
    assert [keys[curve(name)] for name in ("smiling", "Smiling", "café")] == [
        curve(name) for name in ("smiling", "Smiling", "café")
    ]

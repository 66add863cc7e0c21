"""Exported files give probabilities or decisions where that is asked for, and say how to get there from logits."""

import ast
import json
import runpy
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.decision_rules import make_rules, slow_decisions, slow_probabilities
from helpers.exported_networks import (
    CLASSES,
    DESCRIPTION,
    MANY_CLASSES,
    MANY_TASKS,
    SIZE,
    masked,
    on_two_routes,
    routed,
)
from helpers.network_outputs import images_of
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import FORMATS, Format
from matl_scale.deploy.export.export_run import compare
from matl_scale.deploy.export.formats import open_exported, write_network
from matl_scale.deploy.export.outputs import end_with
from matl_scale.deploy.task_rules import Output, apply_rule

ONE_TASK = replace(DESCRIPTION, rules=make_rules([CLASSES[1]]))
SEVERAL = replace(MANY_TASKS, rules=make_rules(MANY_CLASSES))
NAMES: dict[Output, str] = {"probabilities": "probabilities", "decisions": "decision"}


@pytest.mark.parametrize("output", ["probabilities", "decisions"])
@pytest.mark.parametrize("kind", FORMATS)
def test_files_give_what_they_are_asked_for(kind: Format, output: Output, tmp_path: Path) -> None:
    one, many = routed("flat").float(), on_two_routes("flat").float()
    names = tuple(f"{NAMES[output]}_{i}" for i in range(5))
    cases: list[tuple[Any, Any, Any]] = [
        (one, [1], replace(ONE_TASK, output=output, outputs=(NAMES[output],))),
        (many, range(5), replace(SEVERAL, output=output, outputs=names)),
    ]
    for number, (model, task_ids, description) in enumerate(cases):
        dense = dense_network(model, task_ids)
        network = open_exported(write_network(dense, description, tmp_path / f"file{number}", kind))
        for batch in (1, 5):
            images = images_of(SIZE, batch).float()
            with torch.no_grad():
                found = network(images)
            outputs = [found] if isinstance(found, torch.Tensor) else found
            for task_id, rule, values in zip(task_ids, description.rules.rules, outputs, strict=True):
                logits = masked(model, task_id, images).numpy()
                if output == "probabilities":
                    np.testing.assert_allclose(values.numpy(), slow_probabilities(rule, logits), atol=1e-5)
                else:
                    assert values.dtype == torch.int64
                    assert values.tolist() == slow_decisions(rule, logits)


def test_the_given_network_keeps_its_logits() -> None:
    images, dense = images_of(SIZE).float(), dense_network(routed("flat").float(), 1)
    before = dense(images)
    end_with(dense, ONE_TASK.rules.rules, "probabilities")
    assert torch.equal(dense(images), before)
    assert "shift" not in dense.state_dict()


def test_a_layer_may_be_called_shift() -> None:
    net = nn.Sequential()
    net.add_module("shift", nn.Conv2d(3, 8, 3))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    model = on_two_routes(net.double()).float()
    ended = end_with(dense_network(model, 1), make_rules([3]).rules, "probabilities")
    images = images_of(SIZE).float()
    expected = slow_probabilities(make_rules([3]).rules[0], masked(model, 1, images).numpy())
    np.testing.assert_allclose(ended(images).detach().numpy(), expected, atol=1e-5)


def test_outputs_are_named_in_onnx(tmp_path: Path) -> None:
    import onnx

    names = tuple(f"decision_{i}" for i in range(5))
    description = replace(SEVERAL, output="decisions", outputs=names)
    path = write_network(dense_network(on_two_routes("flat").float(), range(5)), description, tmp_path / "file", "onnx")
    model = onnx.load(path)
    assert [output.name for output in model.graph.output] == list(names)
    assert [len(output.type.tensor_type.shape.dim) for output in model.graph.output] == [1] * 5
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert texts["output"] == "decisions"
    assert json.loads(texts["outputs"]) == list(names)


def test_descriptions_tell_how_to_decide() -> None:
    """A user who has logits and the description alone gets the same."""
    logits = np.random.default_rng(0).normal(0, 3, (20, 2))
    (rule, *_), content = SEVERAL.rules.rules, SEVERAL.content()
    scores = content["scale"][0] * logits + np.array(content["shift"][0])
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, slow_probabilities(rule, logits), atol=1e-9)
    expected = slow_decisions(rule, logits)
    assert (scores + content["decision_offsets"][0]).argmax(axis=1).tolist() == expected
    assert (probabilities[:, 1] > content["threshold"][0]).astype(int).tolist() == expected
    assert set(expected) == {0, 1}
    assert (content["aim"], content["fitted_on"]) == (["f1"] * 5, "val")
    assert [limit is None for limit in content["threshold"]] == [count > 2 for count in MANY_CLASSES]
    texts = ONE_TASK.texts()
    assert (texts["aim"], texts["fitted_on"], texts["output"], texts["threshold"]) == ("f1", "val", "logits", "null")
    assert json.loads(texts["shift"]) == ONE_TASK.rules.rules[0].shift.tolist()


@pytest.mark.parametrize("output", ["logits", "probabilities", "decisions"])
@pytest.mark.parametrize("several", [False, True])
def test_the_module_beside_weights_shows_how_to_decide(output: Output, several: bool, tmp_path: Path) -> None:
    model = on_two_routes("flat").float()
    description, task_ids = (SEVERAL, list(range(5))) if several else (ONE_TASK, [1])
    dense = dense_network(model, task_ids)
    write_network(dense, replace(description, output=output), tmp_path / "file", "safetensors")
    module = runpy.run_path(str(tmp_path / "file.py"))
    source = (tmp_path / "file.py").read_text(encoding="utf-8")
    assert ast.parse(source).body[0].lineno == 1
    _, _, lines = module["__doc__"].partition("Needs torch and safetensors.\n\n")
    code = textwrap.dedent(lines) + (textwrap.indent("\nfound.append(decisions)", "    " if several else "") + "\n")
    images, found = images_of(SIZE, 6).float(), list[torch.Tensor]()
    with torch.no_grad():
        exec(code, {**module, "torch": torch, "images": images, "found": found})
    for task_id, rule, decisions in zip(task_ids, description.rules.rules, found, strict=True):
        assert decisions.tolist() == slow_decisions(rule, masked(model, task_id, images).numpy())


def test_comparing_decisions_forgives_ties_alone() -> None:
    (rule,) = make_rules([3]).rules
    logits = np.random.default_rng(1).normal(0, 2, (8, 3)).astype(np.float32)
    # the two best of the first image are equal but for rounding
    scores = rule.calibrated(logits) + rule.decision_offsets
    second, best = np.argsort(scores[0])[1:]
    logits[0, second] += (scores[0, best] - scores[0, second] - 1e-7) / rule.scale
    decided = apply_rule(rule, logits, "decisions")
    assert compare("t", rule, "decisions", decided, logits).max_difference == 0
    decided[0] = {best: second, second: best}[int(decided[0])]
    tied = compare("t", rule, "decisions", decided, logits)
    assert 0 < tied.max_difference < tied.limit
    decided[1] = (decided[1] + 1) % 3
    wrong = compare("t", rule, "decisions", decided, logits)
    assert wrong.max_difference > wrong.limit

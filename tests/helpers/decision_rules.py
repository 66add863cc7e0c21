"""Decision rules for tests, networks that have them, and a reference that applies a rule one image at a time."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.table import Decisions, DecisionsInfo, write_decisions
from matl_scale.deploy.task_rules import TaskRules
from matl_scale.metrics.names import DECIDED_METRICS
from matl_scale.runs.checkpoints.checkpoint import hash_json, read_info
from matl_scale.runs.checkpoints.decisions import decisions_path
from matl_scale.runs.layout import CHECKPOINT_FILE


def make_rule(num_classes: int, seed: int) -> DecisionRule:
    """Returns a rule that changes probabilities and decisions a lot."""
    generator = np.random.default_rng(seed)
    prior, biases, offsets = generator.normal(0, 1, (3, num_classes))
    scale = float(generator.uniform(0.5, 2))
    return DecisionRule(prior_offsets=prior, scale=scale, biases=biases, decision_offsets=offsets)


def make_rules(num_classes: Sequence[int]) -> TaskRules:
    """Returns such rules for several tasks."""
    rules = tuple(make_rule(count, seed) for seed, count in enumerate(num_classes))
    return TaskRules(rules=rules, aims=("f1",) * len(rules), fitted_on="val")


def give_decisions(network: Path, seed: int = 0, sha256: str | None = None) -> Decisions:
    """Writes decisions into a checkpoint's folder, with a rule of `make_rule` for every task. They are said to be for the network
    of `sha256`, by default this one."""
    info = read_info(network)
    rules = {name: make_rule(count, seed + i) for i, (name, count) in enumerate(info.tasks.items())}
    unmeasured = np.full(len(rules), np.nan)
    decisions = Decisions(
        info=DecisionsInfo(network=sha256 or info.sha256, step=info.step, split="val", test_set="t"),
        rules=rules,
        aims=dict.fromkeys(rules, "f1"),
        measured=dict.fromkeys((*DECIDED_METRICS, "ece_as_trained", "brier_as_trained"), unmeasured),
    )
    write_decisions(decisions_path(info), decisions)
    return decisions


def forget_decisions(network: Path) -> None:
    """Deletes the decisions of a checkpoint, if it has any."""
    decisions_path(read_info(network)).unlink(missing_ok=True)


def give_prior_offsets(network: Path, offsets: Mapping[str, list[float]]) -> None:
    """Writes prior offsets into a checkpoint, as if it had been trained for other class frequencies."""
    path = network / CHECKPOINT_FILE
    content = {**json.loads(path.read_text(encoding="utf-8")), "prior_offsets": dict(offsets)}
    content.pop("checksum")
    path.write_text(json.dumps({**content, "checksum": hash_json(content)}), encoding="utf-8")


def slow_probabilities(rule: DecisionRule, logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities for logits of shape `(batch, num_classes)`, image by image and class by class."""
    found = np.empty(logits.shape)
    for i, row in enumerate(logits.tolist()):
        powers = [
            math.exp(rule.scale * (logit + prior) + bias)
            for logit, prior, bias in zip(row, rule.prior_offsets, rule.biases, strict=True)
        ]
        found[i] = [power / sum(powers) for power in powers]
    return found


def slow_decisions(rule: DecisionRule, logits: np.ndarray) -> list[int]:
    """Returns the decided classes for logits of shape `(batch, num_classes)`, image by image."""
    decided = []
    for row in slow_probabilities(rule, logits):
        scores = [math.log(value) + offset for value, offset in zip(row, rule.decision_offsets, strict=True)]
        decided.append(scores.index(max(scores)))
    return decided

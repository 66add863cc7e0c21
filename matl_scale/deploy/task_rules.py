"""The decision rules of the tasks that are predicted or exported, and what is said about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from matl_scale.decisions.rule import DecisionRule
from matl_scale.storage.files import as_json, hash_text

if TYPE_CHECKING:  # reads Parquet, which a served network need not have
    from matl_scale.decisions.table import Decisions

Output = Literal["logits", "probabilities", "decisions"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """The rules of some tasks, in their order."""

    rules: tuple[DecisionRule, ...]
    aims: tuple[str, ...]  # what each task's decision is best at; empty where nothing was fitted
    fitted_on: str  # the split that was used; empty if none was

    @classmethod
    def choose(cls, decisions: "Decisions", tasks: Sequence[str]) -> "TaskRules":
        """Returns the rules of these tasks."""
        return cls(
            rules=tuple(decisions.rules[name] for name in tasks),
            aims=tuple(decisions.aims[name] for name in tasks),
            fitted_on=decisions.info.split,
        )

    @classmethod
    def unfitted(cls, num_classes: Sequence[int]) -> "TaskRules":
        """Returns rules that decide for the most probable class, for tasks with these numbers of classes."""
        rules = tuple(DecisionRule.unfitted(count) for count in num_classes)
        return cls(rules=rules, aims=("",) * len(rules), fitted_on="")

    def columns(self) -> dict[str, list[Any]]:
        """Returns everything that is applied, by name, with one value per task: `calibrated = scale · logits + shift`, and the
        decision is the class with the largest `calibrated + decision_offsets`."""
        return {
            "aim": list(self.aims),
            "scale": [float(rule.scale) for rule in self.rules],
            "shift": [rule.shift.tolist() for rule in self.rules],
            "decision_offsets": [rule.decision_offsets.tolist() for rule in self.rules],
            "threshold": [rule.threshold for rule in self.rules],
            "note": [rule.note for rule in self.rules],
        }

    def sha256(self) -> str:
        """Returns a hash of everything that is applied or said."""
        return hash_text(as_json({**self.columns(), "fitted_on": self.fitted_on}))

    def describe(self) -> str:
        """Says in a few words what decisions are made for."""
        if not self.fitted_on:
            return "not calibrated: no decisions were fitted (matl-decide RUN)"
        aims = list(dict.fromkeys(aim for aim in self.aims if aim))
        named = ", ".join(aims[:3]).replace("_", " ") + (f" and {len(aims) - 3} more" if len(aims) > 3 else "")
        return f"decided for {named}, fitted on {self.fitted_on}"


def apply_rule(rule: DecisionRule, logits: np.ndarray, output: Output) -> np.ndarray:
    """Returns what a task's float32 logits, `(batch, num_classes)`, become: themselves, probabilities of the same shape, or the
    index of the decided class, `(batch,)`. Probabilities and decisions are computed in float64."""
    if output == "logits":
        return logits
    exact = logits.astype(np.float64)
    return rule.probabilities(exact) if output == "probabilities" else rule.decide(exact)

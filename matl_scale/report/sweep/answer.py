"""The paragraph: which variant to use, and because of what; or that nothing can be told, and what would tell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.display import show_name
from matl_scale.report.sweep.macro import MAX_SEEDS
from matl_scale.report.sweep.read import Unfinished
from matl_scale.report.sweep.results import Answer, Losses, VariantResult
from matl_scale.text import count_of

PLAIN = "dense"  # the arm that is one plain network, the simplest of all
NARROW = "narrow"  # the arm that is such a network at half the width
RANKS = {PLAIN: 0, NARROW: 1}  # the simplest first; other arms come after them
# arms that may have several routes, or features of a trained network; what a user's own arm is cannot be known
NO_PLAIN_ARMS = re.compile(r"task|auto|partition|probe|frozen|k(?!1$)\d+")
CHEAPER = 0.9  # times the multiply-adds per image of the plain network, or less
ABOUT_AS_CHEAP = 1.1  # times those of another variant, or less
MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the paragraph is made of."""

    variants: Sequence[VariantResult]  # with a finished seed
    missing: Sequence[str]  # variants without one
    unfinished: Sequence[Unfinished]
    losses: Losses  # with the variant that `choose_variant` returns, or the reference if that trains each task alone
    metric_label: str
    num_tasks: int
    split: str
    budget: str
    gives_cheap_more: bool  # whether the budget gives a network with less compute per image more images
    seeds: Sequence[int]
    tune: int
    set_aside: Sequence[str]  # variants without which the noise of the others is estimated
    times_as_noisy: float  # their standard deviation over that of the others
    seeds_needed: (
        int | None
    )  # that would show the difference to the runner-up, or to the variant chosen; None if too many

    @property
    def best(self) -> VariantResult:
        return next(each for each in self.variants if each.standing == "best")

    @property
    def can_tell(self) -> bool:
        """Whether the best variant can be compared with any other over seeds."""
        return any(np.isfinite(each.behind.p) for each in self.variants if each.standing != "best")

    @property
    def others(self) -> list[VariantResult]:
        """All but the best, the highest first; those that cannot be compared with it come last."""
        rest = (each for each in self.variants if each.standing != "best")
        return sorted(rest, key=lambda each: (np.isnan(each.behind.value), each.behind.value, -each.macro))

    @property
    def tied(self) -> list[VariantResult]:
        """Those that the best was compared with, and cannot be told apart from."""
        return [each for each in self.others if each.standing == "cannot tell" and np.isfinite(each.behind.p)]

    @property
    def uncompared(self) -> list[VariantResult]:
        """Those that share no seed with the best."""
        return [each for each in self.others if not np.isfinite(each.behind.p)]


def choose_variant(variants: Sequence[VariantResult]) -> VariantResult:
    """Returns the variant to use: the best one, or the cheapest of those that it was compared with and cannot be told apart from.

    Cheapest is the plain network, then one of half the width; else what has the fewest parameters, and of equal ones what takes
    the least compute to train.
    """

    def price(variant: VariantResult) -> tuple[int, int, float, bool]:
        compute = variant.cost.compute_per_label
        return (
            rank_arm(variant),
            variant.cost.parameters,
            compute if np.isfinite(compute) else np.inf,
            variant.standing != "best",
        )

    alike = (each for each in variants if each.standing == "cannot tell" and np.isfinite(each.behind.p))
    best = next(each for each in variants if each.standing == "best")
    return min([best, *alike], key=price)


def rank_arm(variant: VariantResult) -> int:
    """Returns how simple an arm is: 0 is the simplest."""
    return RANKS.get(variant.arm, len(RANKS))


def write_answer(evidence: Evidence) -> Answer:
    """Writes the paragraph."""
    best = evidence.best
    use, certain = None, False
    if not evidence.others:
        sentences = [
            f"Nothing can be told yet: of the variants, only {show(best.name)} has a finished seed "
            f"({evidence.metric_label} {best.macro:.3f} on average over {count_of(evidence.num_tasks, 'task')})."
        ]
    elif not evidence.can_tell:
        sentences = describe_untold(evidence)
    else:
        chosen = choose_variant(evidence.variants)
        use, certain = chosen.name, not evidence.tied and not evidence.uncompared
        sentences = [*describe_choice(evidence, chosen), *describe_power(evidence, chosen)]
    sentences += [describe_comparison(evidence), *describe_losses(evidence), *describe_warnings(evidence)]
    return Answer(use=use, best=best.name, certain=certain, sentences=sentences)


def describe_untold(evidence: Evidence) -> list[str]:
    best, second = evidence.best, evidence.others[0]
    return [
        "Nothing can be told yet: the variants have one seed, or none in common, and another seed may change the order.",
        f"{show(best.name)} has the highest mean {evidence.metric_label}, {best.macro:.3f}; {show(second.name)} has "
        f"{second.macro:.3f}.",
        "Three seeds of every variant (matl-sweep --seeds 3) would show how much is luck.",
    ]


def describe_choice(evidence: Evidence, chosen: VariantResult) -> list[str]:
    """Says what to use, and what it was chosen from."""
    best, tied = evidence.best, evidence.tied
    figure = f"mean {evidence.metric_label} over {count_of(evidence.num_tasks, 'task')}"
    if not tied:
        return [
            f"Use {show(best.name)}, because its {figure}, {best.macro:.3f}, is higher than that of every other variant, "
            "beyond what other seeds would change.",
            describe_runners_up(evidence),
        ]
    if chosen is best:
        return [
            f"Use {show(best.name)}, because it has the highest {figure}, {best.macro:.3f}, and none of those that it cannot "
            f"be told apart from is cheaper: {name_some(names_of(tied))} (the difference to {show(tied[0].name)} is "
            f"{interval(tied[0])}).",
        ]
    alike = [best, *(each for each in tied if each is not chosen)]
    named = f" ({name_some(names_of(alike))})" if len(alike) > 1 else ""
    return [
        f"Use {show(chosen.name)}, because no other variant is better beyond what other seeds would change, and of those "
        f"that are not worse{named} it {why_cheapest(chosen, alike)}.",
        f"Its {figure} is {chosen.macro:.3f}; the highest is that of {show(best.name)}, {best.macro:.3f}, which cannot be "
        f"told apart from it (difference {interval(chosen)}).",
    ]


def describe_runners_up(evidence: Evidence) -> str:
    """Says how far the second is behind the best, and the plain network."""
    plain = [each for each in evidence.others[1:] if each.arm == PLAIN]
    listed = [each for each in [evidence.others[0], *plain[:1]] if np.isfinite(each.behind.p)]
    behind = "; ".join(f"{show(each.name)} has {each.macro:.3f} (difference {interval(each)})" for each in listed)
    return f"Of the others, {behind}."


def describe_power(evidence: Evidence, chosen: VariantResult) -> list[str]:
    """Says how many seeds would tell apart what cannot be."""
    if not evidence.tied:
        return []
    rival = evidence.tied[0] if chosen is evidence.best else chosen
    if rival.behind.value == 0:
        return ["Their runs gave the same figures to the last digit."]
    if evidence.seeds_needed is None:
        return [f"Even {MAX_SEEDS} seeds would hardly show a difference as small as that."]
    return [f"If the difference is what it seems, about {evidence.seeds_needed} seeds of each would show it."]


def why_cheapest(chosen: VariantResult, others: Sequence[VariantResult]) -> str:
    """Says in what the chosen variant is cheaper than the others."""
    if any(rank_arm(other) > rank_arm(chosen) for other in others):
        return "is the simplest"
    if all(chosen.cost.parameters < other.cost.parameters for other in others):
        return "has the fewest parameters"
    if all(chosen.cost.compute_per_label < other.cost.compute_per_label for other in others):
        return "takes the least compute per label to train"
    return "costs no more than the others"


def describe_comparison(evidence: Evidence) -> str:
    tuned = f", each arm tuned with {count_of(evidence.tune, 'trial')}" if evidence.tune else ""
    compared = (
        f"All variants had the same budget, {evidence.budget} for each training{tuned}, and were compared on {evidence.split} "
        f"over {count_of(len(evidence.seeds), 'seed')}."
    )
    if not evidence.set_aside:
        return compared
    return (
        f"{compared} The runs of {name_some(evidence.set_aside)} vary {evidence.times_as_noisy:,.0f} times as much as those of "
        "the others, whose noise is estimated without them."
    )


def describe_losses(evidence: Evidence) -> list[str]:
    """Says which tasks the choice does not suit."""
    losses = evidence.losses
    if not losses.known:
        return []
    other = "trained alone" if losses.alone else "with another variant"
    if not losses.tasks:
        return [f"No task does better {other} than with {show(losses.of)}, beyond chance."]
    first = losses.tasks[0]
    verb = "does" if len(losses.tasks) == 1 else "do"
    return [
        f"{len(losses.tasks):,} of {count_of(losses.asked, 'task')} {verb} better {other} than with {show(losses.of)}, "
        f"beyond chance, most of all {show(first.task)} ({first.difference:+.3f} with {show(first.variant)}): if those are "
        "the tasks that count, the answer is another."
    ]


def describe_warnings(evidence: Evidence) -> list[str]:
    """Says what weakens the answer."""
    sentences = []
    short = [each for each in evidence.variants if each.cost.passes < 1]
    if short:
        named = ", ".join(f"{show(each.name)}: {each.cost.passes:.2f}" for each in short[:MAX_NAMED])
        more = f" and {len(short) - MAX_NAMED} more" if len(short) > MAX_NAMED else ""
        sentences.append(
            f"The budget was less than one pass over the labels ({named}{more}): with a larger one "
            "the answer may be another."
        )
    if lacks_narrow(evidence):
        sentences.append(
            f"A cheaper network sees more images for this budget, and no plain network as cheap as {show(evidence.best.name)} "
            f"was compared: the arm {NARROW}, or {PLAIN} with less width, may do as well."
        )
    fewer = [each for each in evidence.variants if len(each.seeds) < each.seeds_planned]
    if fewer:
        named = ", ".join(
            f"{show(each.name)} has {len(each.seeds)} of {count_of(each.seeds_planned, 'seed')}" for each in fewer
        )
        sentences.append(
            f"Seeds are missing ({named}); means and differences are as if they were there, from those that variants "
            "share."
        )
    if evidence.uncompared and evidence.can_tell:
        named = name_some(names_of(evidence.uncompared))
        sentences.append(f"Not compared with {show(evidence.best.name)}, as no seeds tie them: {named}.")
    if evidence.missing:
        named = ", ".join(show(name) for name in evidence.missing)
        sentences.append(f"Without a finished seed, and so not compared: {named}.")
    if evidence.unfinished:
        pending = sum(entry.reason == "not finished" for entry in evidence.unfinished)
        failed = len(evidence.unfinished) - pending
        parts = [f"{count_of(failed, 'run')} failed"] * bool(failed) + [
            f"{count_of(pending, 'run')} not finished"
        ] * bool(pending)
        sentences.append(f"{' and '.join(parts).capitalize()}: starting the sweep again trains what is missing.")
    return sentences


def lacks_narrow(evidence: Evidence) -> bool:
    """Returns whether a variant may be better than the plain network for no other reason than that it is cheaper: there is none
    that is plain and cheap."""
    plain = [each for each in evidence.variants if each.arm == PLAIN and each.standing == "worse"]
    if not evidence.gives_cheap_more or not plain:
        return False
    compute = evidence.best.cost.compute_per_image
    has_narrow = any(
        not NO_PLAIN_ARMS.fullmatch(each.arm) and each.cost.compute_per_image <= ABOUT_AS_CHEAP * compute
        for each in evidence.variants
    )
    return not has_narrow and compute < CHEAPER * plain[0].cost.compute_per_image


def name_some(variants: Sequence[str]) -> str:
    names = [show(name) for name in variants]
    if len(names) > MAX_NAMED:
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def names_of(variants: Sequence[VariantResult]) -> list[str]:
    return [each.name for each in variants]


def interval(variant: VariantResult) -> str:
    """Writes what the best variant has more than this one."""
    behind = variant.behind
    return f"{behind.value:.3f} ± {behind.half_width:.3f}"


def show(name: str) -> str:
    return show_name(name)

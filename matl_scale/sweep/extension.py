"""Whether a sweep may go on in a folder: it has to be the same one, with more seeds or arms at most."""

from collections.abc import Iterator

from matl_scale.errors import InputError, shortened
from matl_scale.runs.sweep_folder import SweepFolder, SweepPlan
from matl_scale.sweep.draft import SweepDraft
from matl_scale.train.config import describe_changes, read_saved


def check_extension(folder: SweepFolder, earlier: SweepPlan, draft: SweepDraft) -> None:
    """Raises `InputError`, which names the differences, unless a sweep has all that the folder's plan has."""
    if differences := list(find_differences(earlier, draft)):
        raise InputError(
            f"{folder.path} holds another sweep: {shortened(differences, 5)}. Use the same arguments (more arms or seeds may be "
            "added), or another --out."
        )


def find_differences(earlier: SweepPlan, draft: SweepDraft) -> Iterator[str]:
    """Yields what a sweep would change in an earlier plan, as `key: old → new`."""
    yield from describe_changes(read_saved(earlier.base), draft.base)
    budget = draft.request.budget
    if budget.kind != earlier.budget:
        yield f"--budget: {earlier.budget} → {budget.kind}"
    elif budget.amount not in (None, earlier.amount):
        yield f"--budget {budget.kind}: {earlier.amount:g} → {budget.amount:g}"
    if draft.request.tune != earlier.tune:
        yield f"--tune: {earlier.tune} → {draft.request.tune}"
    if draft.split != earlier.split:
        yield f"the split that is compared: {earlier.split} → {draft.split}"
    if missing := set(earlier.seeds) - set(draft.request.seeds):
        yield f"--seeds: {shortened(sorted(missing))} missing"
    variants = {variant.name: variant for variant in draft.variants}
    for old in earlier.variants:
        new = variants.get(old.name)
        if new is None:
            yield f"`{old.name}`: missing"
            continue
        for key in sorted({*old.settings, *new.settings}):
            before, now = old.settings.get(key), new.settings.get(key)
            if before != now:
                yield f"`{key}` of `{old.name}`: {before!r} → {now!r}"
        tasks = {run.task for run in earlier.runs_of(old.name)}
        if tasks != set(draft.tasks_of(new)):
            yield f"the tasks of `{old.name}`: {len(tasks)} → {len(draft.tasks_of(new))}"

"""Runs studies by name, and keeps their tables up to date while they run."""

from collections.abc import Sequence

from matl_scale.benchmark.studies import (
    baseline,
    decisions,
    defaults,
    image_size,
    imbalance,
    missing,
    scaling,
    suspects,
    sweeps,
)
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.table import as_csv, as_markdown
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.storage.files import write_text

STUDIES = {
    study.name: study
    for study in (
        decisions.STUDY,
        missing.STUDY,
        imbalance.STUDY,
        baseline.STUDY,
        suspects.STUDY,
        defaults.STUDY,
        image_size.STUDY,
        sweeps.ANSWERS,
        sweeps.SAME_ARM,
        scaling.STUDY,
    )
}


def run_study(study: Study, bench: Workbench) -> str:
    """Trains what is not trained yet, and returns the study's tables as Markdown.

    After each training they are in the work folder too, as NAME.md, with all single values in NAME.csv.
    """
    found: list[Single] = []
    text = ""
    for single in study.singles(bench):
        found.append(single)
        text = f"{study.conditions}\n\n{as_markdown(found, study.are_shares)}"
        write_text(bench.work / f"{study.name}.md", text)
        write_text(bench.work / f"{study.name}.csv", as_csv(found))
    return text


def run_studies(names: Sequence[str], bench: Workbench) -> None:
    """Runs studies, and prints their tables."""
    for name in names:
        print(run_study(STUDIES[name], bench))

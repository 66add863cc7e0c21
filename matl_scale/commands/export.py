"""Writes the sub-networks of chosen tasks as networks of their own: dense, without routing, with σ² of the size.

Every file is read back and compared with the run's network. Exit codes: 0 equal, 1 a file gives other logits, 2 something
given cannot be used.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from matl_scale.cli import program_name, run_command
from matl_scale.data.loading.augment import MEAN, STD, normalise
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import Description, file_stem
from matl_scale.deploy.export.formats import FORMATS, Format, check_format, open_exported, write_network
from matl_scale.errors import InputError, RunError
from matl_scale.models.network import RoutedModel
from matl_scale.runs.checkpoints.checkpoint import CHECKPOINT_FILE, CheckpointInfo
from matl_scale.runs.checkpoints.network import WHICH, open_network, restore_network
from matl_scale.tasks import match_names

NUM_IMAGES = 4
TOLERANCE = 1e-4  # of the largest logit, or of 1; rounding in float32 is far below


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One task's file.

    Attributes:
        path: The file with the weights.
        size: In bytes.
        share: Of the size of the trunk with this task's head.
        gap: The largest difference of a logit from the run's network.
        largest: The largest logit.
    """

    path: Path
    size: int
    share: float
    gap: float
    largest: float

    @property
    def limit(self) -> float:
        """The largest difference that rounding may explain."""
        return TOLERANCE * max(1.0, self.largest)

    def line(self) -> str:
        size = f"{self.size / 1e6:.3g} MB, {self.share:.1%} of the full network"
        return f"{self.path}: {size}, max |Δ logit| {self.gap:.1e} (logits to {self.largest:.3g})"


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-export")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/NAME")
    parser.add_argument(
        "--task", action="append", required=True, metavar="NAME", help="a task or a pattern, as '*'; may be repeated"
    )
    parser.add_argument("--format", choices=FORMATS, default="safetensors", help="of the files (default: safetensors)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: DIR/export of the run)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    options = parser.parse_args(arguments)
    return run_command(program, lambda: run_export(options))


def run_export(options: argparse.Namespace) -> int:
    """Exports, and says of each file what it came to. Returns the exit code."""
    console = Console()
    for exported in export_tasks(options.run, options.task, options.format, options.out, options.checkpoint):
        console.print(exported.line(), highlight=False, markup=False, soft_wrap=True)
        if not exported.gap <= exported.limit:
            raise RunError(
                f"{exported.path} gives other logits than the run's network: they differ by {exported.gap:.3g}, where "
                f"rounding explains {exported.limit:.3g}. Do not use the file; please report this."
            )
    return 0


def export_tasks(run: Path, patterns: list[str], kind: Format, out: Path | None, which: str) -> Iterator[Exported]:
    """Writes a file per task and yields what it came to."""
    check_format(kind)
    checkpoint = open_network(run, which)
    names = list(checkpoint.classes)
    task_ids = match_names(names, patterns, "--task")
    if out is None and (run / CHECKPOINT_FILE).is_file():
        raise InputError(f"--out should be given: {run} is a checkpoint, which its run may remove.")
    out = out or run / "export"
    model = restore_network(checkpoint, torch.device("cpu"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for task_id in task_ids:
            yield export_task(
                model, task_id, describe(checkpoint, names[task_id]), out / file_stem(names[task_id], names), kind
            )
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}. Choose another folder.") from error


def describe(checkpoint: CheckpointInfo, task: str) -> Description:
    return Description(
        task=task,
        classes=tuple(checkpoint.classes[task]),
        image_size=checkpoint.image_size,
        mean=MEAN,
        std=STD,
        run=str(checkpoint.config["run"]["name"]),
        step=checkpoint.step,
        checkpoint_sha256=checkpoint.sha256,
    )


@torch.no_grad()
def export_task(model: RoutedModel, task_id: int, description: Description, place: Path, kind: Format) -> Exported:
    """Writes a task's network and compares it, as it was read back, with masked execution."""
    path = write_network(dense_network(model, task_id), description, place, kind)
    pixels = (NUM_IMAGES, 3, description.image_size, description.image_size)
    images = normalise(torch.randint(256, pixels, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    wanted = model(images, task_id)
    size, full = path.stat().st_size, parameter_bytes(model.trunk) + parameter_bytes(model.heads[task_id])
    return Exported(
        path=path,
        size=size,
        share=size / full,
        gap=float((open_exported(path)(images) - wanted).abs().max()),
        largest=float(wanted.abs().max()),
    )


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


if __name__ == "__main__":
    sys.exit(main())

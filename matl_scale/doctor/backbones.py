"""`matl-doctor --backbones`: which models of torchvision and timm can be routed, and why the others cannot."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from matl_scale.errors import InputError
from matl_scale.extras import is_installed
from matl_scale.models.backbone_list import ListedBackbone, examine_all, list_names
from matl_scale.progress import ItemProgress
from matl_scale.storage.files import write_json


def list_backbones(json_file: Path | None, patterns: Sequence[str] | None = None) -> int:
    """Examines all models, which takes minutes, or those whose names match a pattern, and prints a line for each; writes a list
    of `{name, source, routed, subnetwork, reason}` if a file is given, in which the entries of other models stay. Returns 0.

    Raises:
        InputError: No name matches.
    """
    known = list_names()
    names = [name for name in known if patterns is None or any(fnmatchcase(name, each) for each in patterns)]
    if not names:
        raise InputError(f"--only should match names of models, as timm/vit_* does. Got {' '.join(patterns or [])}.")
    found: list[ListedBackbone] = []
    with ItemProgress(len(names), "models") as progress:
        for backbone in examine_all(names):
            found.append(backbone)
            progress.update(len(found))
    if json_file is not None:
        write_list(json_file, found, known if patterns else [])
    print_backbones(found)
    return 0


def write_list(file: Path, found: Sequence[ListedBackbone], known: Sequence[str]) -> None:
    """Writes a list of models to a file: what was found now, and of other models what was `known`."""
    entries = {backbone.name: asdict(backbone) for backbone in found}
    if known and file.is_file():
        entries = {entry["name"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))} | entries
    order = {name: place for place, name in enumerate(known)}
    write_json(file, sorted(entries.values(), key=lambda entry: order.get(entry["name"], len(order))))


def print_backbones(found: Sequence[ListedBackbone]) -> None:
    """Prints a line for each model, and how many there are of each kind."""
    console = Console()
    for backbone in found:
        how = "sub-network" if backbone.subnetwork else "masked only" if backbone.routed else "no"
        console.print(f"{how:>11}  {backbone.name}", highlight=False, markup=False, soft_wrap=True)
        if backbone.reason:
            console.print(f"             {backbone.reason}", highlight=False, markup=False, soft_wrap=True)
    for source in dict.fromkeys(backbone.source for backbone in found):
        own = [backbone for backbone in found if backbone.source == source]
        cut = sum(backbone.subnetwork for backbone in own)
        masked = sum(backbone.routed for backbone in own) - cut
        console.print(f"{source}: {cut} of {len(own)} with sub-networks, {masked} more with masks only")
    if not is_installed("timm"):
        console.print("timm is not installed. Install with: pip install 'matl-scale[timm]'", markup=False)

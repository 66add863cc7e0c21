"""The installed packages: whether their versions fit this package, and each other."""

from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from matl_scale.doctor.finding import Finding
from matl_scale.runs.about import required_packages


def check_versions(
    required: Iterable[Requirement] | None = None, version_of: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """Checks the installed versions against what is required (None: what this package declares), torch against torchvision,
    and torch against the GPU."""
    found = []
    for requirement in required_packages() if required is None else required:
        name, bounds = requirement.name, requirement.specifier
        try:
            version = version_of(name)
        except metadata.PackageNotFoundError:
            yield Finding("error", "versions", f"{name} is not installed.", f"pip install '{name}{bounds}'")
            continue
        if not bounds.contains(version, prereleases=True):
            yield Finding("error", "versions", f"{name} {version} is not {bounds}.", f"pip install '{name}{bounds}'")
        found.append(f"{name} {version}")
    yield Finding("ok", "versions", ", ".join(found) + ".")
    yield check_torchvision(version_of("torch"), version_of("torchvision"))
    if not torch.cuda.is_available() and Path("/dev/nvidia0").exists():
        remedy = "Install the CUDA build of torch, or a newer driver (nvidia-smi shows what it supports)."
        yield Finding("warning", "versions", "this machine has a GPU that torch cannot use.", remedy)


def check_torchvision(torch_version: str, torchvision_version: str) -> Finding:
    """Checks that torch and torchvision belong together: torchvision 0.N is built for torch 2.(N − 15)."""
    expected = (2, Version(torchvision_version).minor - 15)
    if Version(torch_version).release[:2] == expected:
        text = f"torch {torch_version} and torchvision {torchvision_version} belong together."
        return Finding("ok", "versions", text)
    wanted = "{}.{}".format(*expected)
    text = f"torchvision {torchvision_version} belongs to torch {wanted}, not {torch_version}."
    remedy = f"pip install 'torch=={wanted}.*', or the torchvision that belongs to your torch."
    return Finding("error", "versions", text, remedy)

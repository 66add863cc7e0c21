"""Which layers are routed, and with which σ: chosen by patterns of module names.

Convs that share a mask are routed together: all of them, or none.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from matl_scale.errors import InputError, nearest, shortened
from matl_scale.routing.masks import MaskSpec
from matl_scale.routing.units import Stream


def matches(module: str, pattern: str) -> bool:
    """Returns whether a shell-style pattern matches a module's name, or that of a module around it: `layer3` matches
    `layer3.0.conv1`."""
    names = module.split(".")
    return any(fnmatchcase(".".join(names[:end]), pattern) for end in range(1, len(names) + 1))


def matches_any(module: str, patterns: Iterable[str]) -> bool:
    """Returns whether some pattern matches a module's name, or that of a module around it."""
    return any(matches(module, pattern) for pattern in patterns)


def check_patterns(key: str, patterns: Iterable[str], modules: Sequence[str], kind: str) -> None:
    """Raises `InputError` for the first pattern of a config key that matches none of some modules, which are of a `kind`."""
    for pattern in patterns:
        if not any(matches(module, pattern) for module in modules):
            raise InputError(
                f"`{key}` should match layers of the backbone. `{pattern}` matches none of its {kind}, which are "
                f"{shortened(modules)}."
                + nearest(pattern, sorted({part for module in modules for part in module.split(".")}))
            )


def choose_sigmas(streams: Sequence[Stream], convs: Sequence[str], spec: MaskSpec) -> list[float | None]:
    """Returns the σ of each stream; None for one that is not routed: it keeps all units for all routes.

    With `sigma_last`, σ goes linearly from `sigma` at the first routed stream to `sigma_last` at the last one, in the order of
    their first convs; patterns of `sigmas` win. `convs` are the names of all convs, in the order of the graph.

    Raises:
        InputError: A pattern matches no conv, or nothing is left to route.
    """
    for key, patterns in (
        ("layers", spec.layers),
        ("start", [spec.start] if spec.start else []),
        ("sigmas", spec.sigmas),
    ):
        check_patterns(f"routing.{key}", patterns, convs, "convs")
    first = next((i for i, conv in enumerate(convs) if spec.start and matches(conv, spec.start)), 0)
    chosen = {conv for conv in convs[first:] if matches_any(conv, spec.layers)}
    if not any(chosen.issuperset(stream.convs) for stream in streams):
        tied = [conv for stream in streams if chosen.intersection(stream.convs) for conv in stream.convs]
        why = (
            "Convs whose outputs are added share a mask, so that one is routed only with the others: "
            f"{shortened([conv for conv in tied if conv not in chosen])}."
            if tied
            else "What `routing.layers` names lies before `routing.start`, or it names nothing."
        )
        raise InputError(f"`routing.layers` and `routing.start` should leave something to route. {why}")
    routed = sorted(
        (stream for stream in streams if chosen.issuperset(stream.convs)), key=lambda s: convs.index(s.name)
    )
    sigmas = {
        stream.name: sigma_of(stream, spec, depth / max(len(routed) - 1, 1)) for depth, stream in enumerate(routed)
    }
    return [sigmas.get(stream.name) for stream in streams]


def sigma_of(stream: Stream, spec: MaskSpec, depth: float) -> float:
    """Returns the σ of a stream that is routed, at a depth from 0, the first of them, to 1, the last."""
    sigma = spec.sigma
    if spec.sigma_last is not None:
        sigma = round(sigma + depth * (spec.sigma_last - sigma), 12)  # so that 1 stays 1
    for pattern, value in spec.sigmas.items():
        if any(matches(conv, pattern) for conv in stream.convs):
            sigma = value
    return sigma


def find_sigma_key(stream: Stream, spec: MaskSpec) -> str:
    """Returns the key of the section `routing` that gave a routed stream its σ."""
    if any(matches(conv, pattern) for pattern in spec.sigmas for conv in stream.convs):
        return "sigmas"
    return "sigma" if spec.sigma_last is None else "sigma_last"

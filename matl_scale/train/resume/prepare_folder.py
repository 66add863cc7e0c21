"""What a run writes into its folder before its first step, and what it says then."""

from matl_scale.automatic import chosen
from matl_scale.models.routing_config import describe_range
from matl_scale.routing.surgery import active_share
from matl_scale.runs.about import write_about
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.masks import save_masks
from matl_scale.runs.checkpoints.writing import drop_after, set_aside_after
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import LocalLog
from matl_scale.runs.routes import write_routes
from matl_scale.storage.files import write_text
from matl_scale.train.config import Config, describe_changes, dump_config, read_saved, walk
from matl_scale.train.run_data import RunData
from matl_scale.train.state import TrainState


def build_run_folder(config: Config, data: RunData, state: TrainState, devices: list[str]) -> None:
    """Writes config, description, routes and masks, and drops what an earlier start left after the step of `state`.
    `devices` names what each rank computes on."""
    folder = RunFolder(config.run.folder)
    write_network(config, state)
    LocalLog(folder.path).forget_after(state.step)
    set_aside_after(folder.checkpoints_folder, state.step)
    drop_after(folder.best_folder, state.step)
    params = dict(walk(config)) | {"manifest_id": data.manifest.id, "world_size": len(devices)}
    write_about(folder.path, params, data.describe(), devices)
    write_routes(folder.routes_file, data.task_names, state.model.routes)


def write_network(config: Config, state: TrainState) -> None:
    """Writes what follows from the masks: the config, whose first line says what σ came to, and the masks."""
    folder = RunFolder(config.run.folder)
    write_text(folder.config_file, f"# {describe_sigma(config, state)}\n{dump_config(config)}")
    save_masks(folder.path, state.model, state.move_arrays())


def describe_subnetworks(config: Config, state: TrainState) -> str:
    """Writes the masks that the dense part of a run ended with, and returns a line that says so."""
    write_network(config, state)
    smallest, largest = active_share(state.model.trunk)
    share = f"{smallest:.3g}" if smallest == largest else f"{smallest:.3g} to {largest:.3g}"
    return (
        f"step {state.step}: the dense part is over; from here on each route keeps the {share} of a layer's units that matter "
        "most to its tasks"
    )


def describe_sigma(config: Config, state: TrainState) -> str:
    """Says what σ came to in whole units, for the first line of the run's config."""
    smallest, largest = active_share(state.model.trunk)
    share = f"{smallest:.4g}" if smallest == largest else f"{smallest:.4g} to {largest:.4g}"
    if smallest == 1:
        share = "all"
    routing = config.routing
    is_whole = routing.layers == ["*"] and not routing.first_layer
    return (
        f"routing.sigma = {describe_range(routing)} (strategy {routing.strategy}, align {routing.align}): {share} of a "
        f"{'' if is_whole else 'routed '}layer's units are active for a route"
    )


def describe_resumption(checkpoint: CheckpointInfo, config: Config, data: RunData, world_size: int) -> list[str]:
    """Lists in what a resumed run differs from the one that wrote the checkpoint."""
    old = read_saved(checkpoint.config)
    changes = describe_changes(old, config)
    if checkpoint.world_size != world_size:
        old_slots, slots = (
            ranks * chosen(each.train.accumulate)
            for ranks, each in ((checkpoint.world_size, old), (world_size, config))
        )
        changes.append(describe_world_size(checkpoint.world_size, world_size, old_slots, slots))
    if checkpoint.manifest_id != data.manifest.id:
        changes.append(f"labels or other splits of {data.manifest.root} have changed")
    newest = data.manifest.entries[-1]["version"]
    if data.manifest.version != newest:
        changes.append(f"labels are those of version {data.manifest.version}; the newest is {newest} (`data.version`)")
    return changes


def describe_world_size(old: int, new: int, old_slots: int, slots: int) -> str:
    """Says what another number of ranks means for a resumed run, whose steps had `old_slots` slots and now have `slots`."""
    text = f"world size: {old} → {new}"
    if slots == old_slots:
        return f"{text}; a step still averages over {slots} batches, so the network stays the same to rounding"
    hint = f" (train.accumulate {old_slots // new} would keep {old_slots})" if old_slots % new == 0 else ""
    return f"{text}; a step averages over {slots} batches instead of {old_slots}{hint}"

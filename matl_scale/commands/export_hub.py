"""`matl-export --format hub`: a run's network as a hub folder, whose model card has the run's results."""

from pathlib import Path

from matl_scale.deploy.export.export_run import Exported, choose_folder
from matl_scale.deploy.hub.write import SharedNetwork, write_hub
from matl_scale.report.model_card import CardNetwork, find_results, write_card
from matl_scale.tasks import Task

FOLDER = "hub"  # in the run's folder for exports


def export_hub(run: Path, out: Path | None, which: str) -> Exported:
    """Writes a network of a run, chosen as in `open_network`, to a folder; by default to one in the run's folder for exports."""
    network = SharedNetwork.open(run, which)
    checkpoint = network.checkpoint
    card = CardNetwork(
        name=str(checkpoint.config["run"]["name"]),
        step=checkpoint.step,
        tasks=[Task(name=name, classes=tuple(classes)) for name, classes in checkpoint.classes.items()],
        routes=checkpoint.routes,
        decisions=network.decisions,
        config=checkpoint.config,
        manifest_id=checkpoint.manifest_id,
    )
    results = find_results(run, checkpoint.step, checkpoint.sha256)
    return write_hub(network, write_card(card, results), choose_folder(run, out, FOLDER))

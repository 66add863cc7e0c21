"""The weights of others that a run starts from: whether they are on this machine. Nothing is downloaded."""

from collections.abc import Iterator

from matl_scale.doctor.finding import Finding
from matl_scale.models.pretrained import WeightsFile
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders
from matl_scale.runs.layout import RunFolder
from matl_scale.train.config import Config


def check_weights(config: Config) -> Iterator[Finding]:
    """Checks the file of `model.pretrained`, or says which one `model.weights` is, unless the run takes its weights from a
    checkpoint. (That `model.weights` fits has been found before.)"""
    if not config.model.is_trained:
        return
    resumes = config.run.resume != "never" and checkpoint_folders(RunFolder(config.run.folder).checkpoints_folder)
    if config.run.start_from or config.run.resume not in ("auto", "never") or resumes:
        key = "pretrained" if config.model.pretrained else "weights"
        yield Finding("ok", "weights", f"they come from a checkpoint: `model.{key}` asks for none.")
        return
    if config.model.weights:
        found = f"{config.model.weights} fits {config.model.name}; its SHA-256 is {config.model.weights_sha256}."
        yield Finding("ok", "weights", found)
        return
    file = WeightsFile.of_model(config.model.name)
    if problem := file.find_problem():
        yield Finding("error", "weights", problem.text, problem.remedy)
    elif file.path.exists():
        yield Finding("ok", "weights", f"{file.path} is there and whole.")
    else:
        yield Finding(
            "warning",
            "weights",
            f"{file.path} is not there: the run downloads {file.url} when it starts.",
            file.how_to_get_it(),
        )

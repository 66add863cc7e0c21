"""Computes the features of every image of a shard set once, by a network that stays as it is. Runs with `model.name` = features
are trained on them."""

import argparse
import sys
from collections.abc import Sequence

from matl_scale.cli import program_name, run_command
from matl_scale.data.images.fit import CROP, FITS
from matl_scale.errors import InputError, RunError, check_at_least, shortened
from matl_scale.text import count_of

TIMEOUT_S = 7 * 24 * 3600  # ranks meet at the end, and the tars of one may take days longer than those of another


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-embed")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("set", metavar="SET", help="the folder of the shard set, or its URL")
    parser.add_argument(
        "--model",
        default="auto",
        metavar="NAME",
        help="the network, as for `model.name` (default: what the weights say that they are for)",
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="its weights, as for `model.weights`")
    parser.add_argument("--pretrained", action="store_true", help="torchvision's weights, as for `model.pretrained`")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="side length in pixels (default: for which the weights were trained)",
    )
    parser.add_argument("--fit", choices=FITS, default=CROP, help="how other shapes become squares, as for `data.fit`")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="as for `train.precision` (default: fp32)"
    )
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images per batch of a rank")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes per rank that read and decode (default: by cores)"
    )

    def run() -> int:
        return embed_and_print(parser.parse_args(arguments), program)

    return run_command(program, run, RunError, "run the same command again to go on")


def embed_and_print(options: argparse.Namespace, program: str) -> int:
    """Computes the features, and prints what was written. Returns the exit code."""
    check_at_least(1, {"--batch-size": options.batch_size})
    if options.image_size is not None:
        check_at_least(1, {"--image-size": options.image_size})
    if options.model == "features":
        raise InputError("--model should be the network that computes features. Got features.")
    if options.workers is not None:
        check_at_least(0, {"--workers": options.workers})
    from matl_scale.data.loading.config import DataConfig
    from matl_scale.models.config import ModelConfig
    from matl_scale.train.config import Config
    from matl_scale.train.features.embed import embed
    from matl_scale.train.process_group import build_accelerator

    config = Config(
        data=DataConfig(
            path=options.set,
            workers="auto" if options.workers is None else options.workers,
            image_size=options.image_size or "auto",
            fit=options.fit,
        ),
        model=ModelConfig(name=options.model, weights=options.weights, pretrained=options.pretrained),
    )
    accelerator = build_accelerator(options.precision, TIMEOUT_S)
    found = embed(config, accelerator, options.batch_size)
    if accelerator.is_main_process:
        facts, earlier = found.features.trunk, found.num_images - found.num_computed
        print(
            f"{found.features.root}: {count_of(found.num_images, 'image')} × {facts.num_features} features in float16, of "
            f"{facts.model} (weights {facts.weights_sha256[:12]}…), images of {facts.image_size} pixels"
            + (f"; {earlier:,} of them were there already" if earlier else "")
        )
        if found.damaged:
            images = count_of(len(found.damaged), "image")
            print(f"{program}: {images} without features: {shortened(found.damaged)}", file=sys.stderr)
    accelerator.end_training()
    return 1 if found.damaged else 0


if __name__ == "__main__":
    sys.exit(main())

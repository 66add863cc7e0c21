"""`matl-data preview`: real samples of one task as the network sees them, class by class, on a page that opens without a
network."""

import html

import numpy as np

from matl_scale.data.images.data_url import draw_as_url
from matl_scale.data.images.gate import BadImage
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import Damage, SampleReader
from matl_scale.errors import InputError, nearest
from matl_scale.text import count_of

MAX_CLASSES_SHOWN = 100
STYLE = """body{font:15px system-ui,sans-serif;margin:2em;background:#fff;color:#111}h2{margin:1.4em 0 .4em;font-size:1.1em}
p{color:#555}div{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0;width:128px}
img{width:128px;height:128px;object-fit:contain;background:#eee;image-rendering:auto}
figcaption{font-size:11px;color:#555;overflow-wrap:anywhere}"""
SIDE_PX = 128  # at most: the side of a figure


def build_preview(manifest: Manifest, task_name: str, split: str | None, count: int, seed: int) -> str:
    """Builds the page with `count` samples per class from one split, or from all (None); raises `InputError` if there is no
    such task or split.
    """
    if task_name not in manifest.task_names:
        raise InputError(f"{manifest.root} has no task `{task_name}`." + nearest(task_name, manifest.task_names))
    task_id = manifest.task_names.index(task_name)
    task, labels = manifest.tasks[task_id], manifest.labels([task_id])[:, 0]
    sample_ids = manifest.sample_ids(split) if split else np.arange(manifest.num_samples)
    generator, reader = np.random.default_rng(seed), SampleReader(manifest)
    paths, size = manifest.sample_columns("path").column(0), min(manifest.image_size() or SIDE_PX, SIDE_PX)
    sections = []
    missing = int((labels[sample_ids] == MISSING).sum())
    for value, name in [*enumerate(task.classes[:MAX_CLASSES_SHOWN]), (MISSING, "no label")]:
        found = sample_ids[labels[sample_ids] == value]
        chosen = np.sort(generator.permutation(found)[:count])
        figures = "".join(
            draw_sample(image, size, paths[sample_id].as_py())
            for sample_id, image in zip(chosen.tolist(), reader.read(chosen), strict=True)
        )
        share = len(found) / max(len(sample_ids) - missing, 1)
        amount = f"{count_of(len(found), 'image')}" + (f", {share:.1%} of the labelled" if value != MISSING else "")
        sections.append(f"<h2>{html.escape(name)} <small>{amount}</small></h2><div>{figures}</div>")
    more = task.num_classes - MAX_CLASSES_SHOWN
    note = f"<p>{more} more classes are not shown.</p>" if more > 0 else ""
    title = html.escape(f"{task.name} in {manifest.root}")
    subtitle = html.escape(
        f"version {manifest.version} ({manifest.id[:12]}), {split or 'all splits'}, {count_of(len(sample_ids), 'image')}"
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{subtitle}</p>"
        + "".join(sections)
        + note
    )


def draw_sample(image: bytes | Damage, size: int, path: str) -> str:
    """Draws a sample as the network sees it, or says what is wrong with it."""
    picture, caption = "", path
    try:
        if isinstance(image, bytes):
            picture = f'<img alt="" src="{draw_as_url(image, size)}">'
        else:
            caption += f": {image}"
    except BadImage as error:
        caption += f": {error}"
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"

"""Made-up alphabets: many small tasks, whose classes are characters that are drawn like handwriting.

As in Omniglot (Lake, Salakhutdinov, Tenenbaum, Science 2015) there are 50 alphabets of 14 to 55 characters, with 20 drawings of
105 pixels per side each. A character is a few smooth strokes; every drawing moves their points a little, and turns, stretches
and shifts the whole.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from data_prep.dataset import Dataset, from_arrays
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.layout import MISSING
from matl_scale.tasks import Task

NUM_ALPHABETS, FEWEST, MOST = 50, 14, 55  # characters
SIDE = 105  # pixels
SPLITS = ("train",) * 14 + ("val",) * 3 + ("test",) * 3  # of the drawings of a character
STROKE_POINTS = 24  # between two of the points that a stroke passes through
PAPER, INK = 255, 0


def draw_alphabets(seed: int) -> Dataset:
    """Returns a task for each alphabet, each image with a label for one of them."""
    generator = np.random.default_rng(seed)
    pixels, alphabets, characters = list[np.ndarray](), list[int](), list[int]()
    tasks = []
    for alphabet in range(NUM_ALPHABETS):
        pen, num_characters = int(generator.integers(2, 5)), int(generator.integers(FEWEST, MOST + 1))
        tasks.append(
            Task(name=f"alphabet_{alphabet:02d}", classes=tuple(f"character_{i:02d}" for i in range(num_characters)))
        )
        for character in range(num_characters):
            strokes = [
                generator.uniform(0.15, 0.85, (int(generator.integers(3, 6)), 2))
                for _ in range(int(generator.integers(1, 4)))
            ]
            pixels += [draw(strokes, pen, generator) for _ in SPLITS]
            alphabets += [alphabet] * len(SPLITS)
            characters += [character] * len(SPLITS)
    labels = np.full((len(pixels), NUM_ALPHABETS), MISSING, dtype=np.int8)
    labels[np.arange(len(pixels)), alphabets] = characters
    return from_arrays(
        tasks=tasks,
        names=[f"{number:06d}.png" for number in range(len(pixels))],
        labels=labels,
        splits=list(SPLITS) * (len(pixels) // len(SPLITS)),
        images=ArrayImages(root="alphabets", pixels=np.stack(pixels)),
    )


def draw(strokes: list[np.ndarray], pen: int, generator: np.random.Generator) -> np.ndarray:
    """Draws a character once, uint8, shape `(SIDE, SIDE)`; `pen` is the width of its lines in pixels."""
    angle, slant = generator.normal(0, (0.18, 0.12))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    change = turn @ np.array([[1, slant], [0, 1]]) @ np.diag(generator.normal(1, 0.1, 2))
    shift = generator.normal(0, 0.05, 2)
    image = Image.new("L", (SIDE, SIDE), PAPER)
    for stroke in strokes:
        moved = stroke + generator.normal(0, 0.035, stroke.shape)
        line = (np.concatenate(list(smooth(moved))) - 0.5) @ change.T + 0.5 + shift
        ImageDraw.Draw(image).line([tuple(point) for point in line * SIDE], fill=INK, width=pen, joint="curve")
    return np.asarray(image)


def smooth(points: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the parts of a Catmull-Rom spline through some points, each of shape `(STROKE_POINTS, 2)`."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, STROKE_POINTS)[:, None]
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        yield 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)

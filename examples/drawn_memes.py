"""Invented images with captions, in the format of Hateful Memes (img, text, label), for models that read images. Writes
train.jsonl and test.jsonl, and the images under img/.

    python examples/drawn_memes.py memes --train 1500 --test 500
    p2p-dist run paper_table9 task.source=memes

An image shows one shape in one colour, and its caption names a shape. Label 1 says that the two are the same: neither
image nor caption tells the label alone. The column `answer` says what is drawn, for text answers.
"""

import argparse
import json
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "black": (20, 20, 20)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ((112, 112), (112, 140), (168, 112))
CAPTIONS = (
    "on this {} card you see a {}",
    "somebody drew the {} {} by hand",
    "look at my {} picture of a {}",
    "a {} morning with a {}",
    "no {} day without one {}",
)
MOODS = ("nice", "plain", "big", "quiet", "funny", "strange", "early", "late", "cheap", "old")


def draw(colour: str, shape: str, size: tuple[int, int] = SIZES[0], shift: int = 0) -> Image.Image:
    """An image of `size` (width, height) with one shape, `shift` pixels out of the middle."""
    image = Image.new("RGB", size, "white")
    canvas, fill = ImageDraw.Draw(image), COLOURS[colour]
    middle, radius = size[0] // 2 + shift, min(size) // 3
    left, right, top, bottom = middle - radius, middle + radius, size[1] // 2 - radius, size[1] // 2 + radius
    if shape == "circle":
        canvas.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        canvas.rectangle((left, top, right, bottom), fill=fill)
    elif shape == "triangle":
        canvas.polygon([(left, bottom), (right, bottom), (middle, top)], fill=fill)
    else:
        canvas.line((left, top, right, bottom), fill=fill, width=max(3, radius // 3))
        canvas.line((left, bottom, right, top), fill=fill, width=max(3, radius // 3))
    return image


def write_task(folder: Path, train: int, test: int, seed: int = 0) -> Path:
    """Write the rows and images of the task. The same numbers give the same files."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    random = Random(seed)
    for split, count in (("train", train), ("test", test)):
        lines = []
        for number in range(count):
            colour, shape, label = random.choice(sorted(COLOURS)), random.choice(SHAPES), number % 2
            named = shape if label else random.choice([other for other in SHAPES if other != shape])
            path = f"img/{split}-{number}.png"
            draw(colour, shape, random.choice(SIZES), random.randint(-8, 8)).save(folder / path)
            text = f"{random.choice(CAPTIONS).format(random.choice(MOODS), named)}, number {number} of {split}"
            row = {"img": path, "text": text, "label": label, "answer": f"a {colour} {shape}"}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(write_task(given.folder, given.train, given.test, given.seed))


if __name__ == "__main__":
    main()

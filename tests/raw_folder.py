"""A user's folder of photographs and masks, its card, and images written by hand."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine


@pytest.fixture
def folder(tmp_path):
    """A user's folder of photographs and masks: 6 for training, 3 for validation, odd sizes."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for kind in ("photos", "masks"):
            (tmp_path / "street" / kind / split).mkdir(parents=True)
        for index in range(number):
            height, width = 33 + index, 47 + 2 * index
            label = rng.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
            save(
                tmp_path / "street" / "photos" / split / f"im{index}.jpg",
                rng.integers(0, 255, (height, width, 3)),
            )
            save(tmp_path / "street" / "masks" / split / f"im{index}.png", label)
    return tmp_path / "street"


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)


def card(**changes) -> DatasetCard:
    fields = {
        "name": "street",
        "title": "street",
        "splits": {
            split: {"images": f"photos/{split}/{{name}}", "labels": f"masks/{split}/{{name}}.png"}
            for split in ("train", "val")
        },
        "classes": ("road", "car", "person"),
        "palette": ((1, 1, 1), (2, 2, 2), (3, 3, 3)),
        "encoding": {"ignore": (255,)},
        "licence": "ours",
        "source": {"paper": "none"},
        **changes,
    }
    return DatasetCard.model_validate(fields)


@pytest.fixture
def machine(tmp_path):
    return Machine(data=(str(tmp_path),), cache=str(tmp_path / "cache"))


def grey_png(rows, width, bits):
    """Write the format by hand: Pillow writes no grey of 2 or 4 bits."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts

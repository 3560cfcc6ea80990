"""Images that a scored split shares with the training split are counted and reported."""

import io
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data_files import card, folder, machine  # noqa: F401

from segbench.data.photographs import checked_image
from segbench.data.prepared import contents_here
from segbench.data.split import open_split


def _encoded(pixels, kind, mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_images_have_one_digest_if_and_only_if_their_pixels_are_equal(seed):
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.integers(0, 256, (6, 4, 1), dtype=np.uint8), 3, axis=2)  # grey
    files = [
        _encoded(pixels, "PNG"), _encoded(pixels, "BMP"), _encoded(pixels, "PNG", "L"),
        _encoded(pixels, "TIFF"), _encoded(pixels, "PNG", "RGBA"),
    ]  # fmt: skip
    assert len({checked_image(file, "a").digest for file in files}) == 1
    other = pixels.copy()
    other[seed % 6, seed % 4, seed % 3] ^= 1
    turned = pixels.reshape(4, 6, 3)  # the same bytes in another size
    for unlike in (other, turned):
        assert (
            checked_image(_encoded(unlike, "PNG"), "a").digest
            != checked_image(files[0], "a").digest
        )


def test_a_split_that_was_converted_without_digests_opens_as_before(folder, machine):  # noqa: F811
    split = open_split(card(), "val", machine)
    contents = contents_here(card(), "val", machine)
    assert len(set(contents.image_digests)) == 3
    (about,) = (folder.parent / "cache").rglob("about.json")
    about.write_text(
        json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "image_digests"})
    )
    assert open_split(card(), "val", machine).fingerprint == split.fingerprint
    assert contents_here(card(), "val", machine).image_digests is None

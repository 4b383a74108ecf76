"""What a network sees of unusual pixels, and pixel ranges of sources."""

import io

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import examples, pixels, sources
from official_selftrain.data.sources import digits, pools

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


@pytest.fixture
def folder(tmp_path):
    """12 bits in 16, transparency, CMYK, gray and a plain photograph."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    photo = Image.fromarray(pixels[..., :3])
    Image.fromarray(RAMP).save(tmp_path / "deep.png")
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    opaque = pixels.copy()
    opaque[..., 3] = 255
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    photo.convert("CMYK").save(tmp_path / "print.jpg")
    photo.convert("L").save(tmp_path / "gray.jpg")
    photo.save(tmp_path / "plain.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def test_every_kind_is_told(folder):
    found, limits = pixels.of_source(sources.folder(str(folder), (0, 4095)))
    assert limits == (0, 4095) and len(found) == 6
    paths = sorted(str(path) for path in folder.iterdir())
    assert pixels.of_files(paths) == found
    lines = pixels.told(found, limits)
    assert lines == [
        f"images of more than 8 bits: 1 of 6 looked at (first: {folder}/deep.png), "
        "values 0 to 4,080; the network sees 0 to 254 of 255 (pixel_range 0 to 4,095)",
        "images with transparent pixels: 1 of 6 looked at (first: "
        f"{folder}/clear.png); the network sees white there",
        f"gray images: 2 of 6 looked at (first: {folder}/deep.png); the network sees "
        "three equal channels",
        f"CMYK images: 1 of 6 looked at (first: {folder}/print.jpg); converted to RGB",
    ]
    assert pixels.told(found, limits, with_gray=False) == [lines[0], lines[1], lines[3]]


@pytest.mark.parametrize(
    ("values", "limits", "text"),
    [
        (
            (0, 4080),
            None,
            "0 to 4,080; the network sees 0 to 15 .*--pixel_range=0,4095",
        ),
        (
            (0, 4080),
            (0, 65535),
            r"sees 0 to 16 of 255; .* pixel_range = \(0, 4095\) of",
        ),
        ((30000, 31000), None, "sees 117 to 121 of 255; --pixel_range=30000,31000"),
        ((0, 1), None, "--pixel_range=0,1,"),
    ],
)
def test_too_few_gray_levels_are_refused(values, limits, text):
    found = [pixels.Pixels("a.png", "I;16", values, False)]
    with pytest.raises(
        ValueError, match=f"at least 32 gray levels. Received: .*{text}"
    ):
        pixels.told(found, limits)


@pytest.mark.parametrize(
    ("values", "start", "end"),
    [
        (
            (0, 16383),
            "warning: images of",
            "sees 0 to 63 of 255; --pixel_range=0,16383, ",
        ),
        ((0, 65535), "images of", "sees 0 to 255 of 255"),
        ((7, 7), "warning: images of", ""),  # all alike: no range helps
    ],
)
def test_other_ranges_are_told(values, start, end):
    found = [pixels.Pixels("a.png", "I;16", values, False)]
    (line,) = pixels.told(found, with_gray=False)
    assert line.startswith(start) and end in line


def test_nothing_is_told_of_usual_images():
    found, limits = pixels.of_source(digits.scenes("labeled", 2, 0, (32, 32)))
    assert len(found) == 2 and limits is None
    assert pixels.told(found, with_gray=False) == []
    assert pixels.of_contents("a", b"no image") is None


def test_sources_have_a_pixel_range(folder):
    plain = pools.open_pool(str(folder))
    source = pools.open_pool(str(folder), pixel_range=(0, 4095))
    (example,) = [e for e in source.dataset if b"deep" in e["path"].numpy()]
    expected = np.round(RAMP.astype(np.float32) * 255.0 / 4095.0)
    image = examples.read_image(example)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, axis=-1))
    assert "pixel_range" not in plain.dataset.element_spec
    changed = {**plain.fingerprint(), "pixel_range": [0, 4095]}
    assert source.fingerprint() == changed != plain.fingerprint()
    assert source.ledger.content() == plain.ledger.content()


@pytest.mark.parametrize("limits", [(0,), (5, 5), (0.0, 1.0), "12", 7, (-1, 9), (9, 1)])
def test_other_pixel_ranges_are_refused(folder, limits):
    with pytest.raises(ValueError, match="two integers .* Received: pixel_range="):
        sources.folder(str(folder), limits)


def test_embedded_files_are_looked_at():
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "PNG")
    record = {"encoded": file.getvalue(), "id": 3}
    source = examples.from_records([record], has_labels=False)
    (found,), limits = pixels.of_source(source)
    assert (found.name, found.values, limits) == ("id 3", (0, 4080), None)

"""Photographs cut into tiles: boxes by hand, files, and the experiment proposed."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import sources
from official_selftrain.onboarding import new_experiment, own_data, tiles

TILE = (40, 40, 10)


def photograph(place, name="sub/a.png", size=(40, 100), seed=0):
    """Write a photograph of noise; return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place / name)
    return pixels


def boxed(bbox, image_id=1, **more):
    return {"image_id": image_id, "category_id": 3, "bbox": bbox, **more}


def cut(place, annotations, **more):
    """Cut a photograph of 40 x 100 pixels into tiles from columns 0, 30 and 60."""
    content = {
        "images": [{"id": 1, "file_name": "sub/a.png", "height": 40, "width": 100}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cup"}],
    }
    found, lost = tiles.cut(
        content, str(place / "in"), str(place / "out"), TILE, **more
    )
    assert lost == sum(a["bbox"][2] > 15 and not a.get("iscrowd") for a in annotations)
    return found


def boxes_by_tile(content):
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return [
        (names[a["image_id"]], a["bbox"], a["iscrowd"]) for a in content["annotations"]
    ]


def test_tiles_hold_whole_boxes_and_ignore_parts(tmp_path):
    pixels = photograph(tmp_path / "in")
    found = cut(
        tmp_path,
        [
            boxed([32, 5, 6, 8]),  # in the overlap of the first two
            boxed([25, 20, 20, 4]),  # whole in none
            boxed([62, 1, 30, 30], iscrowd=1),
        ],
    )
    first, second, third = (f"sub/a.png_0_{left}.png" for left in (0, 30, 60))
    assert boxes_by_tile(found) == [
        (first, [32, 5, 6, 8], 0),
        (second, [2, 5, 6, 8], 0),
        (first, [25, 20, 15, 4], 1),
        (second, [0, 20, 15, 4], 1),
        (second, [32, 1, 8, 30], 1),
        (third, [2, 1, 30, 30], 1),
    ]
    assert [a["id"] for a in found["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [(i["height"], i["width"]) for i in found["images"]] == [(40, 40)] * 3
    for left in (0, 30, 60):
        part = np.asarray(Image.open(tmp_path / f"out/sub/a.png_0_{left}.png"))
        np.testing.assert_array_equal(part, pixels[:, left : left + 40])


def test_no_more_empty_tiles_than_others(tmp_path):
    photograph(tmp_path / "in")
    found = cut(tmp_path, [boxed([1, 1, 5, 5])])
    assert len(found["images"]) == 2
    files = {path.name for path in (tmp_path / "out/sub").iterdir()}
    assert files == {i["file_name"].split("/")[1] for i in found["images"]}
    every = cut(tmp_path, [], is_labeled=False)
    assert len(every["images"]) == 3 and set(every) == {"images"}


def test_photographs_are_cut_upright_and_jpegs_stay_jpegs(tmp_path):
    pixels = photograph(tmp_path / "in", "b.JPG", (100, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 40 x 100 when upright
    Image.fromarray(pixels).save(tmp_path / "in/b.JPG", exif=exif, quality=95)
    size = {"height": 40, "width": 100}
    content = {"images": [{"id": 1, "file_name": "b.JPG", **size}]}
    found, _ = tiles.cut(content, str(tmp_path / "in"), str(tmp_path), TILE, False)
    names = [image["file_name"] for image in found["images"]]
    assert names == [f"b.JPG_0_{left}.jpg" for left in (0, 30, 60)]
    assert all(Image.open(tmp_path / name).size == (40, 40) for name in names)


@pytest.mark.parametrize(
    "side, frame, expected",
    [
        # Objects of 32 pixels fit a tile of the frame's size; of 64, one twice as
        # large would make them 32; of 20, they can't get larger. The overlap holds
        # two margins of 1 pixel and 1 %, too: 8.4, 8.4, 6.5 and 15.4 pixels.
        (32, 320, (320, 320, 48)),
        (64, 320, (320, 320, 80)),
        (20, 320, (224, 224, 32)),
        (300, 320, (672, 672, 320)),  # at least 2.2 times the objects
    ],
)
def test_a_proposed_tile(side, frame, expected):
    content = {"annotations": [boxed([0, 0, side, side])] * 20}
    assert tiles.propose(content, frame) == expected


def test_photographs_without_tiles_stay_what_they_are(tmp_path):
    """Beside a large one; alone they need no tiles."""
    photograph(tmp_path / "in")
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "in/b.jpg", quality=50)
    entries = [
        {"id": 1, "file_name": "sub/a.png", "height": 40, "width": 100},
        {"id": 2, "file_name": "b.jpg", "height": 20, "width": 30},
    ]
    places = str(tmp_path / "in"), str(tmp_path / "out"), TILE
    tiles.cut({"images": entries}, *places, is_labeled=False)
    copied = (tmp_path / "out/b.jpg").read_bytes()
    assert copied == (tmp_path / "in/b.jpg").read_bytes()
    text = "larger than a tile of 40 x 40 pixels. Received: none of 1 is; leave"
    with pytest.raises(ValueError, match=text):
        tiles.cut({"images": entries[1:]}, *places)


# The experiment


@pytest.fixture
def places(tmp_path):
    """Four photographs of 640 x 900 with six squares of 16 pixels each."""
    rng, annotations, images = np.random.default_rng(0), [], []
    for number in range(1, 5):
        pixels = photograph(tmp_path / "photos", f"{number}.png", (640, 900), number)
        for k in range(6):
            top, left = rng.integers(0, 600), 140 * k + rng.integers(0, 100)
            pixels[top : top + 16, left : left + 16] = 255
            bbox = [int(left), int(top), 16, 16]
            annotations.append(boxed(bbox, number, id=len(annotations) + 1))
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
        size = {"height": 640, "width": 900}
        images.append({"id": number, "file_name": f"{number}.png", **size})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 3, "name": "square"}]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    photograph(tmp_path / "more", "u.png", (640, 900), 9)
    return own_data.Places(
        str(tmp_path / "photos"), str(tmp_path / "boxes.json"), str(tmp_path / "more")
    )


def test_small_objects_are_told_on_the_screen(places, tmp_path, capsys):
    new_experiment.write(places, str(tmp_path / "mine.gin"))
    assert (
        "objects are 5.7 pixels large in the frame of 320 (median), too small to be "
        "learned; cut the photographs into tiles: --tile"
    ) in capsys.readouterr().out


def test_an_experiment_on_tiles(places, tmp_path, capsys):
    new_experiment.write(places, str(tmp_path / "mine.gin"), tile=True)
    said = capsys.readouterr().out
    assert "too small" not in said
    found = re.search(
        r"tiles: (\d+) x \1 pixels, overlapping by 32, in (.*): (\d+) of 3 labeled "
        r"photographs \((\d+) without a box\), with 18 boxes, (\d+) counting those in "
        r"several tiles; (\d+) unlabeled",
        said,
    )
    assert found and found[2] == str(tmp_path / "mine_tiles")
    text = (tmp_path / "mine.gin").read_text()
    assert f"retinanet.RetinaNet.tile = ({found[1]}, {found[1]}, 32)\n" in text
    assert "#       --tile" in text and f"--images={places.images}" in text
    train = sources.coco(str(tmp_path / "mine_train.json"), found[2] + "/labeled")
    assert train.num_images == int(found[3])
    assert train.ledger.labels.went["taught"] == int(found[5]) >= 18
    pool = sources.coco(str(tmp_path / "mine_unlabeled.json"), found[2] + "/unlabeled")
    assert pool.num_images == int(found[6])
    # Validation images stay whole.
    whole = sources.coco(str(tmp_path / "mine_validation.json"), places.images)
    assert whole.num_images == 1 and whole.ledger.labels.held == 6

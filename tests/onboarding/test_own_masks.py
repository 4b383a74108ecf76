"""Inspection of custom masks, and the settings proposed for them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import copies, masks, sources
from official_selftrain.onboarding import data_report, own_data, own_masks, proposals

RED, BLUE = (200, 0, 0), (0, 0, 200)
# 4 x 6 pixels: 20 of class 0, 3 of class 1, 1 of class 2.
MASK = np.zeros((4, 6), np.uint8)
MASK[0, :3], MASK[3, 5] = 1, 2


def photo(path, seed, size=(4, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).resize(size[::-1]).save(path)


def indexed(mask, colors):
    """Return an image with a palette."""
    file = Image.fromarray(mask).convert("P")
    file.putdata(mask.ravel().tolist())
    file.putpalette([value for color in colors for value in color])
    return file


@pytest.fixture
def places(tmp_path):
    """Five images with masks of class ids, in folders of their own."""
    (tmp_path / "masks").mkdir()
    for index, name in enumerate("abcde"):
        photo(tmp_path / "images" / f"{name}.png", index)
        Image.fromarray(MASK).save(tmp_path / "masks" / f"{name}.png")
    return own_data.Places(
        str(tmp_path / "images"), None, "pool", masks=str(tmp_path / "masks")
    )


def draw(places, convert):
    """Write all masks anew: `convert(name)` returns an image."""
    for name in "abcde":
        convert(name).save(f"{places.masks}/{name}.png")


def pixels_of(content):
    """Return the pixels of each class in the first mask."""
    first = content["images"][0]["id"]
    entries = [a for a in content["annotations"] if a["image_id"] == first]
    return {a["category_id"]: a["pixels"] for a in entries}


def trained(places, classes, tmp_path):
    """Return the first mask as `sources.voc` reads it with the found classes."""
    (tmp_path / "own.txt").write_text("a.png\ta.png\n")
    source = sources.voc(
        *("", str(tmp_path / "own.txt"), classes.names),
        mask_values=classes.values,
        image_folder=places.images,
        mask_folder=places.masks,
    )
    (example,) = source.dataset
    return masks.decode(example["mask"]).numpy()


def test_class_ids(places, tmp_path):
    content, findings, classes = own_masks.read(places)
    assert classes.names == ("background", "class_1", "class_2")
    assert classes.values is None
    assert pixels_of(content) == {0: 20, 1: 3, 2: 1}
    assert not any(findings.values())
    assert [i["mask_name"] for i in content["images"]] == [f"{n}.png" for n in "abcde"]
    np.testing.assert_array_equal(trained(places, classes, tmp_path), MASK)
    lines = data_report.labeled_masks(content, findings, classes).splitlines()
    assert lines[1] == "labeled: 5 images, 6 x 4 to 6 x 4 pixels"
    assert lines[2] == "  classes by values, which are class ids"
    assert [line.split() for line in lines[4:7]] == [
        ["background", "0", "83.3", "%", "5"],
        ["class_1", "1", "12.5", "%", "5"],
        ["class_2", "2", "4.2", "%", "5"],
    ]


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        # White objects on black.
        ([0, 255, 255], None, ("background class_1", {0: 0, 255: 1})),
        ([0, 255, 255], "ground,road", ("ground road", {0: 0, 255: 1})),
        ([0, 9, 9], None, ("background class_1", {0: 0, 9: 1})),
        ([0, 1, 255], None, ("background class_1", None)),  # 255 is unknown
        ([0, 50, 90], None, ("background class_50 class_90", {0: 0, 50: 1, 90: 2})),
        (
            [7, 50, 255],
            None,
            ("class_0 class_1", {7: 0, 50: 1, 255: 255}),
        ),
        ([0, 2, 1], "a,b,c,d", ("a b c d", None)),
    ],
)
def test_values(places, tmp_path, values, names, expected):
    values = np.array(values, np.uint8)
    draw(places, lambda name: Image.fromarray(values[MASK]))
    places = dataclasses.replace(places, classes=names)
    content, _, classes = own_masks.read(places)
    assert (" ".join(classes.names), classes.values) == expected
    keys = expected[1] or {k: k for k in range(4)}
    ids = np.array([keys.get(int(value), 255) for value in values])
    counts = dict(zip(*np.unique(ids[MASK], return_counts=True)))
    counts = {int(k): int(n) for k, n in counts.items() if k != 255}
    assert pixels_of(content) == counts
    np.testing.assert_array_equal(trained(places, classes, tmp_path), ids[MASK])


def test_unknown_values_are_told(places):
    draw(places, lambda name: Image.fromarray(np.where(MASK == 2, 7, MASK)))
    places = dataclasses.replace(places, classes="ground,road,car")
    content, findings, classes = own_masks.read(places)
    assert classes.values is None and pixels_of(content) == {0: 20, 1: 3}
    assert findings["strange"][0] == "a.png: 1 of 7"
    lines = data_report.labeled_masks(content, findings, classes)
    assert "unknown" in lines and "4.2 %" in lines


def test_palettes_that_differ_are_read_by_color(places, tmp_path):
    """Index 1 is red in a.png and blue in all others."""
    other = np.array([0, 2, 1], np.uint8)[MASK]

    def convert(name):
        is_first = name == "a"
        colors = [(0, 0, 0), RED, BLUE] if is_first else [(0, 0, 0), BLUE, RED]
        return indexed(MASK if is_first else other, colors)

    draw(places, convert)
    content, _, classes = own_masks.read(places)
    assert classes.values == {(0, 0, 0): 0, BLUE: 1, RED: 2}
    assert classes.names == ("background", "class_1", "class_2")
    assert {a["pixels"] for a in content["annotations"] if a["category_id"] == 2} == {3}
    assert "as palettes differ: index 1 is (200, 0, 0) in the mask of a.png, (0" in (
        classes.reason
    )
    expected = np.array([0, 2, 1])[MASK]
    np.testing.assert_array_equal(trained(places, classes, tmp_path), expected)
    named = dataclasses.replace(places, classes="ground,red,blue")
    text = "name:red,green,blue for each, as masks .*colors are .0, 0, 0., .0, 0, 200."
    with pytest.raises(ValueError, match=text):
        own_masks.read(named)


@pytest.mark.parametrize("is_given", [True, False])
def test_label_maps(places, tmp_path, is_given):
    path = tmp_path / ("colors.txt" if is_given else "labelmap.txt")
    path.write_text("# label:color\nred:200,0,0::\nbackground:0,0,0::\nvoid:0,0,200\n")
    colors = np.array([(0, 0, 0), RED, BLUE], np.uint8)
    draw(places, lambda name: Image.fromarray(colors[MASK]))
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(f"{places.masks}/e.png")
    if is_given:
        places = dataclasses.replace(places, classes=str(path))
    content, findings, classes = own_masks.read(places)
    assert classes.names == ("background", "red")
    assert pixels_of(content) == {0: 20, 1: 3}
    assert findings["mask"] == ["e.png: of 1 colors without a class, such as (9, 9, 9)"]
    expected = np.array([0, 1, 255])[MASK]
    np.testing.assert_array_equal(trained(places, classes, tmp_path), expected)


def test_what_cannot_be_used_is_told_and_counted(places, tmp_path):
    images, folder = tmp_path / "images", tmp_path / "masks"
    Image.fromarray(MASK.T).save(folder / "a.png")
    (folder / "b.png").unlink()
    Image.fromarray(MASK).save(folder / "x.png")
    (images / "copy.png").write_bytes((images / "c.png").read_bytes())
    Image.fromarray(MASK).save(folder / "copy.png")
    (images / "broken.jpg").write_bytes(b"no image")
    Image.fromarray(MASK).save(folder / "broken.png")
    (images / "d.jpg").write_bytes(b"no image")
    photo(images / "sub" / "f.jpg", 9)
    (folder / "sub").mkdir()
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(folder / "sub" / "f.png")
    content, findings, _ = own_masks.read(places)
    names = [image["file_name"] for image in content["images"]]
    assert names == ["c.png", "d.png", "e.png", "sub/f.jpg"]
    assert {kind: lines for kind, lines in findings.items() if lines} == {
        "mask": ["a.png: 4 x 6 pixels, its image a.png has 6 x 4"],
        "maskless": ["b.png"],
        "imageless": ["x.png"],
        "several": ["d.png, not d.jpg"],
        "copy": [str(images / "copy.png")],
        "void": ["sub/f.png"],
        "unreadable": findings["unreadable"],
    }
    assert findings["unreadable"][0].startswith(f"{images / 'broken.jpg'}: ")
    assert findings.ledger.content() == {
        "images": {
            "held": 8,
            "taught": 3,
            "ignored": {"with nothing but ignored labels": 1},
            "left out": {
                "unreadable": 1,
                "duplicates": 1,
                "without a usable mask": 2,
            },
        },
        "masks": {
            "held": 8,
            "taught": 3,
            "ignored": {"without a known pixel": 1},
            "left out": {"missing files": 1, "unreadable": 1, "on images left out": 2},
        },
        "classes": {
            name: {"held": 3, "taught": 3}
            for name in ("background", "class_1", "class_2")
        },
    }


def test_lists_of_pascal_voc_divide(places, tmp_path):
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    places = dataclasses.replace(places, images=str(tmp_path), masks=None)
    content, _, _ = own_masks.read(places)
    assert [image["part"] for image in content["images"]] == [None] * 5
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("d\n")
    content, findings, _ = own_masks.read(places)
    parts = {image["file_name"]: image["part"] for image in content["images"]}
    train = dict.fromkeys(["a.png", "b.png", "c.png"], "train")
    assert parts == {**train, "d.png": "val"}
    assert findings["unlisted"] == ["e.png"]
    (lists / "val.txt").write_text("d\na\n")
    with pytest.raises(ValueError, match="both train.txt and val.txt. .* with a.png"):
        own_masks.read(places)
    with pytest.raises(ValueError, match="to train on and to validate. .* 4 and 0"):
        own_data.divided(content, set())


def test_every_class_is_kept_in_training(places):
    """The only mask with a third class is not held out."""
    two = np.minimum(MASK, 1)
    draw(places, lambda name: Image.fromarray(MASK if name == "c" else two))
    content, findings, _ = own_masks.read(places)
    group_of = own_data.groups(content, findings.looks)
    training, validation = own_data.hold_out(content, group_of=group_of)
    assert len(validation["images"]) == 1
    assert "c.png" in [image["file_name"] for image in training["images"]]


@pytest.mark.parametrize(
    ("convert", "classes", "text"),
    [
        (
            lambda: MASK * 0,
            None,
            "at least two classes. Received: .*, whose pixels are 0",
        ),
        (
            lambda: MASK[:2],
            None,
            "of its name and size. .*2 pixels, its image a.png ha",
        ),
        (
            lambda: np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8),
            None,
            "at most 64 colors.* with 120; state them with --classes, or save",
        ),
        (lambda: MASK, "ground", "at least two classes, .*Received: classes='ground'"),
        (lambda: MASK, "a,a", "at least two classes, .*Received: classes='a,a'"),
        (lambda: MASK + 1, "a,b,c", r"ids of 0 to 2. .*masks, with values of 1 to 3"),
    ],
)
def test_masks_that_are_no_classes(places, convert, classes, text):
    rng = np.random.default_rng(1)

    def mask(name):
        pixels = convert()
        if pixels.ndim == 3:
            pixels = rng.integers(0, 256, (4, 6, 3), np.uint8)
        return Image.fromarray(pixels)

    draw(places, mask)
    with pytest.raises(ValueError, match=text):
        own_masks.read(dataclasses.replace(places, classes=classes))


def test_missing_folders(places):
    for key in ("images", "masks"):
        wrong = dataclasses.replace(places, **{key: "nowhere"})
        with pytest.raises(FileNotFoundError, match=f"folder of {key}.*{key}='nowhere"):
            own_masks.read(wrong)


def test_masks_are_no_unlabeled_images(places, tmp_path):
    photo(tmp_path / "new.png", 50, (16, 16))
    content, findings = own_data.read_unlabeled(
        str(tmp_path), copies.NOTHING, places.masks
    )
    names = [image["file_name"] for image in content["images"]]
    assert names == [*(f"images/{n}.png" for n in "abcde"), "new.png"]
    assert len(findings["masks"]) == 5
    assert findings.ledger.content()["images"]["left out"] == {"other files": 5}


def test_settings_by_hand():
    content = {"images": [{"height": 300, "width": 200}] * 64}
    settings = proposals.propose_masks(content, memory=16.0)
    assert json.loads(json.dumps(settings)) == {
        **{"image_size": [256, 256], "has_weights": True, "batch_size": 8},
        **{"learning_rate": 1e-3, "steps": 800, "epochs": 100.0, "num_gpus": 0},
        "bn_momentum": 0.988,
    }
    settings = proposals.propose_masks(content, num_gpus=2)
    assert (settings["image_size"], settings["batch_size"]) == ((384, 384), 32)
    small = {"images": [{"height": 90, "width": 100}]}
    assert proposals.propose_masks(small)["image_size"] == (128, 128)

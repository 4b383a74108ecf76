"""Inspection of custom data, and the settings proposed for it."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import copies, inspection, sources
from official_selftrain.data.sources import coco_files, voc_files
from official_selftrain.onboarding import own_data, proposals


def entry(number, name, width=40, height=30):
    return {"id": number, "file_name": name, "width": width, "height": height}


def boxed(image_id, category_id, bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def looks(path):
    return copies.of_source(sources.folder(str(path)), 1)


CATEGORIES = [
    {"id": 3, "name": "cup"},
    {"id": 5, "name": "key"},
    {"id": 9, "name": "z"},
]


@pytest.fixture
def folder(tmp_path):
    """Four images of 40 x 30, a broken one and one with EXIF rotation."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png", "d.jpg"):
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    whole = (folder / "b.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 3])
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(folder / "d.jpg").save(folder / "turned.jpg", exif=exif)
    return folder


@pytest.fixture
def write(tmp_path):
    def write(images, annotations, categories=CATEGORIES):
        path = tmp_path / "boxes.json"
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_unusable_data_is_reported_and_left_out(folder, write):
    images = [
        *(entry(1, "a.png"), entry(2, "b.jpg"), entry(3, "broken.jpg")),
        *(entry(4, "gone.png"), entry(5, "c.png", 30, 40), entry(6, "turned.jpg")),
    ]
    annotations = [
        boxed(1, 3, [2, 3, 10, 12], id=1, iscrowd=0),
        boxed(1, 3, [2.1, 3, 10, 12], id=2),  # duplicate
        boxed(1, 5, [2, 3, 10, 12], id=3),  # the same place, another class
        boxed(2, 5, [-4, 20, 14, 20], id=4),  # leaves the image
        boxed(2, 3, [0, 0, 40, 29.5], id=5),  # covers it
        boxed(2, 3, [5, 5, 0, 7], id=6),
        boxed(2, 3, [50, 5, 5, 5], id=7),  # completely outside
        boxed(2, 3, [5, 5, -1, 7], id=8),
        boxed(2, 4, [5, 5, 4, 7], id=9),  # no such category
        boxed(8, 3, [5, 5, 4, 7], id=10),  # no such image
        boxed(3, 3, [1, 1, 4, 4], id=11),  # of an unreadable image
    ]
    path = write(images, annotations)
    content, findings = own_data.read(path, str(folder))
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert content["categories"] == CATEGORIES[:2]
    assert [(a["id"], a["bbox"]) for a in content["annotations"]] == [
        (1, [2.0, 3.0, 10.0, 12.0]),
        (3, [2.0, 3.0, 10.0, 12.0]),
        (4, [0.0, 20.0, 10.0, 10.0]),
        (5, [0.0, 0.0, 40.0, 29.5]),
        (6, [0.0, 0.0, 40.0, 30.0]),  # unknown but for the other objects
        (8, [4.0, 5.0, 1.0, 7.0]),
        (9, [5.0, 5.0, 4.0, 7.0]),
    ]
    ignored = [a["id"] for a in content["annotations"] if a.get("iscrowd")]
    assert ignored == [6, 9]  # no background
    counts = {kind: len(lines) for kind, lines in findings.items() if lines}
    assert counts == {
        **{
            "missing": 1,
            "unreadable": 1,
            "size": 2,
            "wrong": 1,
            "absent": 1,
            "flat": 1,
            "beyond": 1,
        },
        **{"outside": 1, "repeated": 1, "contradictory": 1, "whole": 1, "unused": 1},
        "reversed": 1,
    }
    lines = inspection.summary(findings)
    assert len(lines) == 13
    for text in (
        "missing images, left out: 1 (first: ",
        "images of another shape than their labels state, left out: 2",
        "c.png: 40 x 30, stated 30 x 40 (swapped; if the boxes fit the image as shown,",
        "invalid annotations, ignored in training: 1 (first: annotation 9 in ",
        "annotations of images that aren't listed, left out: 1 (first: annotation 10 ",
        "boxes that extend beyond their image, clipped: 1 (first: annotation 4, ",
        "classes, kept: 1 (first: a.png: key [2.0, 3.0, 10.0, 12.0] and cup)",
        "classes without a box, left out: 1 (first: z)",
    ):
        assert any(text in line for line in lines), text
    text = (
        "turned.jpg: 30 x 40, stated 40 x 30 (the photograph is shown rotated, as its"
    )
    assert text in findings["size"][1]


def test_missing_images_were_not_found_elsewhere(folder, write):
    images = [entry(1, "old/a.png"), entry(2, "old/gone.png")]
    path = write(images, [boxed(1, 3, [1, 2, 5, 5])])
    _, findings = own_data.read(path, str(folder))
    assert findings["moved"] == ["old/a.png is a.png"]
    assert findings["missing"] == [str(folder / "old/gone.png")]


def test_cleaned_data_can_be_loaded(folder, write, tmp_path):
    """`sources.coco` yields the remaining images and boxes."""
    images = [entry(1, "a.png"), entry(2, "broken.jpg"), entry(3, "b.jpg")]
    annotations = [boxed(1, 5, [4, 6, 60, 12]), boxed(2, 3, [1, 1, 4, 4])]
    content, _ = own_data.read(write(images, annotations), str(folder))
    cleaned = tmp_path / "cleaned.json"
    cleaned.write_text(json.dumps(content))
    source = sources.coco(str(cleaned), str(folder))
    assert source.class_names == ("key",)
    first, second = source.dataset.as_numpy_iterator()
    np.testing.assert_allclose(first["boxes"], [[0.2, 0.1, 0.6, 1.0]], rtol=1e-6)
    assert (first["id"], second["id"], len(second["boxes"])) == (1, 3, 0)


def test_validation_images_use_the_labeled_classes(folder, write):
    path = write([entry(1, "a.png")], [boxed(1, 3, [1, 1, 9, 9]), boxed(1, 5, [2] * 4)])
    given = [{"id": 1, "name": "key"}, {"id": 2, "name": "fork"}]
    content, findings = own_data.read(path, str(folder), given)
    assert [a["category_id"] for a in content["annotations"]] == [1]
    assert content["categories"] == given
    assert findings["unknown"] == ["cup"]


@pytest.mark.parametrize(
    "images, annotations, message",
    [
        (
            [entry(1, "a.png")],
            [boxed(1, 3, [0.1, 0.2, 0.5, 0.5])],
            r"Expected boxes .* in pixels. Received: .*boxes.json, whose boxes lie",
        ),
        (
            [entry(1, "broken.jpg")],
            [boxed(1, 3, [1, 2, 5, 5])],
            "Expected at least one box on a readable image. Received: .*boxes.json; "
            "unreadable images, left out: 1",
        ),
        ([entry(1, "a.png")], [], "Expected at least one box on a readable image"),
        (
            [entry(1, "a.png")],
            [boxed(1, 3, [10, 12, 30, 28]), boxed(1, 3, [1, 1, 20, 9])],
            r"in pixels. Received: .*boxes.json: 1 of 2 boxes extend beyond their "
            r"image, but all fit as \[xmin, ymin, xmax, ymax\]",
        ),
    ],
)
def test_data_without_usable_boxes(folder, write, images, annotations, message):
    with pytest.raises(ValueError, match=message):
        own_data.read(write(images, annotations), str(folder))


def test_categories_of_one_name_are_joined(folder, write):
    categories = [{"id": 4, "name": "cup"}, {"id": 2, "name": "cup "}]
    boxes = [boxed(1, 4, [1, 2, 5, 5]), boxed(1, 2, [9, 9, 5, 5])]
    path = write([entry(1, "a.png")], boxes, categories)
    content, findings = own_data.read(path, str(folder))
    assert content["categories"] == [{"id": 2, "name": "cup"}]
    assert [a["category_id"] for a in content["annotations"]] == [2, 2]
    assert findings["joined"] == ["'cup', ids 2 and 4"]


def outline(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (lambda x, y, w, h: [x, 30 - y - h, w, h], "; most fit if y counts from below"),
        (lambda x, y, w, h: [x, y, x + w, y + h], "; most fit as [xmin, ymin, xmax, y"),
        (lambda x, y, w, h: [x + 15, y, w, h], ""),
    ],
)
def test_boxes_that_contradict_their_outlines(folder, write, convert, reason):
    truth = [(4, 2, 9, 7), (2, 5, 8, 6), (1, 1, 7, 5)]
    annotations = [
        boxed(1, 3, convert(*box), id=k, segmentation=outline(*box))
        for k, box in enumerate(truth)
    ]
    annotations.append(boxed(1, 5, [20, 20, 6, 6], segmentation=outline(20, 20, 6, 5)))
    _, findings = own_data.read(write([entry(1, "a.png")], annotations), str(folder))
    lines = findings["outlines"]
    assert len(lines) == 3
    text = "the outline spans [4.0, 2.0, 9.0, 7.0]; 3 of 4 boxes with an outline"
    assert text + reason in lines[0] and len(lines[0]) < 170 + len(reason)


@pytest.mark.parametrize(
    "change", [{"bbox": [5, 5, 0, 20]}, {"iscrowd": 1}, {"category_id": 77}]
)
def test_regions_of_classes_without_a_box(folder, write, change):
    """They are ignored, not background, though the class is left out."""
    images = [entry(1, "a.png"), entry(2, "b.jpg")]
    annotations = [
        boxed(1, 3, [2, 3, 10, 12], id=1),
        {**boxed(2, 5, [5, 5, 10, 20], id=2), **change},
    ]
    content, findings = own_data.read(write(images, annotations), str(folder))
    assert [c["name"] for c in content["categories"]] == ["cup"]
    (region,) = [a for a in content["annotations"] if a["image_id"] == 2]
    assert region["iscrowd"] == 1 and region["category_id"] == 3
    expected = [0, 0, 40, 30] if "bbox" in change else [5, 5, 10, 20]
    assert region["bbox"] == expected


def test_resized_images(folder, write):
    """The image of 40 x 30 was one of 400 x 300 when it was labeled."""
    path = write([entry(1, "a.png", 400, 300)], [boxed(1, 3, [40, 50, 60, 90], area=8)])
    content, findings = own_data.read(path, str(folder))
    assert content["images"] == [entry(1, "a.png")]
    (annotation,) = content["annotations"]
    np.testing.assert_allclose(annotation["bbox"], [4.0, 5.0, 6.0, 9.0])
    assert annotation["area"] == pytest.approx(0.08)
    assert findings["resized"] == [f"{folder}/a.png: 40 x 30, stated 400 x 300"]


def test_duplicate_images(folder, write):
    """Within a file, and between training and validation."""
    shutil.copy(folder / "a.png", folder / "copy.png")
    images = [entry(1, "a.png"), entry(2, "copy.png"), entry(3, "c.png")]
    path = write(images, [boxed(k, 3, [1, 2, 5, 5]) for k in (1, 2, 3)])
    content, findings = own_data.read(path, str(folder))
    assert [image["id"] for image in content["images"]] == [1, 3]
    assert [a["image_id"] for a in content["annotations"]] == [1, 3]
    assert findings["double"] == [str(folder / "copy.png")]
    assert len(findings["repeated"]) == 1  # the same box
    labeled = looks(folder / "c.png")
    content, findings = own_data.read(path, str(folder), labeled=labeled)
    assert [image["id"] for image in content["images"]] == [1]
    assert findings["labeled"] == [f"{folder / 'c.png'} is {folder / 'c.png'}"]
    boxed_copy = write(images[:2], [boxed(2, 3, [1, 2, 5, 5])])
    content, _ = own_data.read(boxed_copy, str(folder))
    (annotation,) = content["annotations"]  # none is another's background
    assert annotation["image_id"] == 1 and annotation["bbox"] == [1, 2, 5, 5]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"category_id": "cup"}, "annotation 7 in .* with category_id='cup'"),
        ({"score": -1}, "annotation 7 in .* with score=-1"),
        ({"image_id": [1]}, r"with image_id=\[1\]"),
    ],
)
def test_malformed_entries(folder, write, change, message):
    right = boxed(1, 3, [1, 2, 5, 5], id=6)
    path = write([entry(1, "a.png")], [right, {**right, "id": 7, **change}])
    content, findings = own_data.read(path, str(folder))
    crowds = {a["id"]: a.get("iscrowd", 0) for a in content["annotations"]}
    assert crowds == ({6: 0} if "image_id" in change else {6: 0, 7: 1})
    (line,) = findings["absent" if "image_id" in change else "wrong"]
    assert re.search(message, line)
    with pytest.raises(ValueError, match=message):  # a run of it stops instead
        sources.coco(path, str(folder))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("annotations", {"a": 1}, "a list of annotations. Received: .* with dict"),
        ("images", [3], r"in every entry. Received: images\[0\] in .*, 3"),
        ("images", [entry(1, "a.png", "wide")], "height=30, width='wide'"),
    ],
)
def test_malformed_lists(folder, tmp_path, key, value, message):
    content = {"images": [entry(1, "a.png")], "annotations": [], "categories": []}
    content["annotations"].append(boxed(1, 3, [1, 2, 5, 5]))
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=message):
        own_data.read(str(path), str(folder))


def test_missing_folder(write):
    path = write([entry(1, "a.png")], [boxed(1, 3, [1, 2, 5, 5])])
    with pytest.raises(FileNotFoundError, match="a folder of images.*images='nowhere'"):
        own_data.read(path, "nowhere")


def test_unlabeled_images(folder, tmp_path):
    """Broken files, labeled images and duplicates are left out."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for name in ("broken.jpg", "a.png", "c.png", "turned.jpg"):
        shutil.copy(folder / name, pool / name)
    shutil.copy(folder / "c.png", pool / "d.png")
    (pool / "notes.txt").write_text("no image")
    (pool / "photo.HEIC").write_bytes(b"ftypheic")
    content, findings = own_data.read_unlabeled(str(pool), looks(folder / "a.png"))
    assert content["images"] == [
        entry(1, "c.png"),
        entry(2, "turned.jpg", 30, 40),
    ]
    assert findings["labeled"] == [f"{pool / 'a.png'} is {folder / 'a.png'}"]
    assert findings["double"] == [str(pool / "d.png")]
    assert findings["foreign"] == [str(pool / "photo.HEIC")]
    (broken,) = findings["unreadable"]
    assert broken.startswith(f"{pool / 'broken.jpg'}: ")
    assert "Invalid JPEG data" in broken and "{{" not in broken
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(content))
    source = sources.coco(str(path), own_data.root(str(pool)))
    assert own_data.root(str(pool / "**" / "c*.png")) == str(pool)
    assert (source.num_images, source.has_labels) == (2, False)
    with pytest.raises(
        ValueError, match=r"isn't labeled. .*pool/a.\*'; images that are"
    ):
        own_data.read_unlabeled(str(pool / "a.*"), looks(folder / "a.png"))
    with pytest.raises(FileNotFoundError, match="with images .*unlabeled='nowhere'"):
        own_data.read_unlabeled("nowhere", copies.NOTHING)


def content_of(num_images, bboxes, width=640, height=480, category_id=3):
    return {
        "images": [entry(k, f"{k}.png", width, height) for k in range(num_images)],
        "annotations": [
            boxed(k, category_id, bbox) for k in range(num_images) for bbox in bboxes
        ],
        "categories": CATEGORIES[:1],
    }


def test_a_fifth_is_held_out():
    content = content_of(10, [[0, 0, 9, 9]])
    training, validation = own_data.hold_out(content)
    assert len(training["images"]) == 8 and len(validation["images"]) == 2
    for part in (training, validation):
        ids = [image["id"] for image in part["images"]]
        assert [a["image_id"] for a in part["annotations"]] == ids
        assert part["categories"] == content["categories"]
    assert own_data.hold_out(content)[1] == validation


def test_the_last_image_of_a_class_is_not_held_out():
    for lonely in range(3):
        content = content_of(3, [[0, 0, 9, 9]])
        content["annotations"].append(boxed(lonely, 5, [0, 0, 5, 5]))
        _, validation = own_data.hold_out(content)
        (image,) = validation["images"]
        assert image["id"] != lonely


def test_crowd_only_images_are_not_held_out():
    """A class of crowds only doesn't count either."""
    content = content_of(5, [])
    content["annotations"] = [
        *(boxed(k, 3, [0, 0, 9, 9]) for k in (0, 1)),
        *(boxed(k, 3, [0, 0, 9, 9], iscrowd=1) for k in (2, 3, 4)),
    ]
    _, validation = own_data.hold_out(content)
    (image,) = validation["images"]
    assert image["id"] in (0, 1)


def test_a_single_image_cannot_be_split():
    with pytest.raises(ValueError, match="every class on two images.* 1 images"):
        own_data.hold_out(content_of(1, [[0, 0, 9, 9]]))


def test_settings_by_hand():
    """64 pixels of 640 are 32 of 320, the largest frame without a GPU."""
    content = content_of(64, [[0, 0, 64, 64]])
    settings = proposals.propose(content, content, memory=16.0)
    assert settings.pop("bn_momentum") == pytest.approx(1 - 10 / 800, abs=1e-3)
    for name in ("small", "median", "large"):
        assert settings.pop(name) == pytest.approx(32.0)
    assert settings == {
        **{"image_size": (320, 320), "anchor_size": 4.0, "max_level": 5},
        **{"aspect_ratios": (1.0,), "coverage": 1.0, "batch_size": 8},
        **{"learning_rate": 1e-3, "steps": 800, "epochs": 100.0, "max_detections": 20},
        **{"has_weights": True, "num_gpus": 0},
    }


@pytest.mark.parametrize(
    "content, machine, expected",
    [
        # Two GPUs: 32 images per step; boxes of 32 of 640 pixels: the largest frame.
        (
            content_of(640, [[0, 0, 32, 32]]),
            {"num_gpus": 2},
            {"image_size": (640, 640), "batch_size": 32, "learning_rate": 2e-3}
            | {"steps": 2000, "epochs": 100.0},
        ),
        # Little memory and few images: the minimum number of steps.
        (
            content_of(5, [[0, 0, 64, 64]]),
            {"memory": 2.0},
            {"batch_size": 4, "steps": 400, "epochs": 320.0, "learning_rate": 0.00071},
        ),
        # No larger than the images: 200 pixels, rounded up to a multiple of 32.
        (content_of(5, [[0, 0, 8, 8]], 200, 90), {}, {"image_size": (224, 224)}),
        # Large boxes of 512 pixels of 640: the smallest frame, 128.
        (
            content_of(5, [[0, 0, 512, 256]]),
            {},
            {"image_size": (128, 128), "anchor_size": 8.0, "aspect_ratios": (2.0,)},
        ),
        # Thirds of width / height: 4, 1 and 1/4; 1.1 is too close to 1.
        (
            content_of(5, [[0, 0, 80, 20], [0, 0, 40, 40], [0, 0, 20, 80]]),
            {},
            {"aspect_ratios": (1.0, 0.25, 4.0)},
        ),
        (
            content_of(5, [[0, 0, 44, 40], [0, 0, 40, 40], [0, 0, 40, 44]]),
            {},
            {"aspect_ratios": (1.0,)},
        ),
        # Boxes of 4 pixels are 2 of 320: no anchor of at least 8 matches them.
        (
            content_of(5, [[0, 0, 4, 4], [64, 64, 64, 64]]),
            {},
            {"image_size": (320, 320), "anchor_size": 1.0, "coverage": 0.5},
        ),
        # Twice the maximum per image.
        (
            content_of(2, [[8 * k, 0, 8, 8] for k in range(60)]),
            {},
            {"max_detections": 120},
        ),
    ],
)
def test_settings_depend_on_data_and_machine(content, machine, expected):
    settings = proposals.propose(content, content, **machine)
    assert {name: settings[name] for name in expected} == expected


def test_detections_suffice_for_the_validation_images():
    training = content_of(2, [[0, 0, 64, 64]])
    crowded = content_of(1, [[8 * k, 0, 8, 8] for k in range(70)])
    assert proposals.propose(training, crowded)["max_detections"] == 140


def test_anchors_cover_large_boxes():
    """320 pixels of 640: 160 of 320; 5 % are that large, the others 16."""
    small, large = [0, 0, 32, 32], [0, 0, 320, 320]
    content = content_of(2, [small] * 8 + [large] * 2)
    settings = proposals.propose(content, content)
    assert settings["image_size"] == (320, 320)
    assert settings["anchor_size"] == 2.0
    # 2 · 2^6 = 128 < 160 <= 2 · 2^7
    assert settings["max_level"] == 6


XML = """<annotation><filename>{name}</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>{first}</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>30</ymax></bndbox></object>
<object><name>key</name>
<bndbox><ymax>6</ymax><xmin>5</xmin><ymin>4</ymin><xmax>8.5</xmax></bndbox>
<part><name>handle</name><bndbox><xmin>0</xmin></bndbox></part></object>
</annotation>"""


def test_boxes_of_pascal_voc(tmp_path):
    (tmp_path / "b.xml").write_text(XML.format(name="b.jpg", first="cup"))
    (tmp_path / "a.xml").write_text(XML.format(name="a.png", first="ball"))
    content, _ = voc_files.boxes(str(tmp_path))
    content, findings = coco_files.checked(content, "voc")
    assert not any(findings.values())
    assert content["images"] == [entry(1, "a.png"), entry(2, "b.jpg")]
    assert content["categories"] == [
        {"id": 1, "name": "ball"},
        {"id": 2, "name": "cup"},
        {"id": 3, "name": "key"},
    ]
    assert content["annotations"] == [
        boxed(1, 1, [0.0, 1.0, 10.0, 29.0], iscrowd=1, id=1),
        boxed(1, 3, [4.0, 3.0, 4.5, 3.0], iscrowd=0, id=2),
        boxed(2, 2, [0.0, 1.0, 10.0, 29.0], iscrowd=1, id=3),
        boxed(2, 3, [4.0, 3.0, 4.5, 3.0], iscrowd=0, id=4),
    ]


def test_a_folder_of_pascal_voc_is_read_like_a_coco_file(folder, tmp_path):
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    (annotations / "a.xml").write_text(XML.format(name="a.png", first="key"))
    content, findings = own_data.read(str(annotations), str(folder))
    assert content["categories"] == [{"id": 1, "name": "key"}]
    assert len(content["annotations"]) == 2
    # The difficult box doesn't affect the settings.
    assert own_data.objects(content) == content["annotations"][1:]
    assert inspection.summary(findings) == [
        "boxes of crowds or difficult objects, ignored in training: 1 "
        "(first: a.png: key [0.0, 1.0, 10.0, 29.0])"
    ]
    np.testing.assert_allclose(proposals.box_sides(content), [[3 / 40, 4.5 / 40]])
    # A class of difficult boxes only is left out, its regions aren't.
    (annotations / "a.xml").write_text(XML.format(name="a.png", first="cup"))
    content, findings = own_data.read(str(annotations), str(folder))
    assert [c["name"] for c in content["categories"]] == ["key"]
    crowd, box = content["annotations"]
    assert crowd["iscrowd"] and not box["iscrowd"]
    assert crowd["bbox"] == [0, 1, 10, 29]
    assert findings["unused"] == ["cup"]


def test_invalid_pascal_voc_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected XML files. Received: ann"):
        voc_files.boxes(str(tmp_path))
    for text, reason in (
        ("<annotation><object/></annotation>", "without a name"),
        ("<annotation><object><name> </name></object></annotation>", "without a name"),
        ("<html></html>", "<html> instead of <annotation>"),
        ("<annotation>", "no element found"),
    ):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(ValueError, match=f"of PASCAL VOC.*: .*a.xml: .*{reason}"):
            voc_files.boxes(str(tmp_path))


BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def xml(name, *boxes, size=""):
    objects = "".join(f"<object><name>key</name>{box}</object>" for box in boxes)
    return f"<annotation>{name}{size}{objects}</annotation>"


@pytest.mark.parametrize(
    "name",
    [
        *("", "<filename/>", "<filename>a.png</filename>", "<filename>a</filename>"),
        "<filename>C:\\photos\\a.png</filename>",
        "<filename>a.bmp</filename>",
        "<filename>export_0001.jpg</filename>",
    ],
)
@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>"]
)
def test_xml_files_without_a_name_or_size(folder, tmp_path, name, size):
    """The image has the name of the XML file, and its own size."""
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    box = BOX.format(5, 4, 8, 6)
    (annotations / "a.xml").write_text(xml(name, box, size=size))
    content, _ = own_data.read(str(annotations), str(folder))
    assert content["images"] == [entry(1, "a.png")]
    assert content["annotations"][0]["bbox"] == [4.0, 3.0, 4.0, 3.0]


def test_xml_boxes_in_other_forms(folder, tmp_path):
    """Exchanged corners, and pixels that count from 0."""
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    boxes = [BOX.format(8, 6, 5, 4), BOX.format(1, 1, 40, 30), "<polygon/>"]
    (annotations / "a.xml").write_text(xml("", *boxes))
    content, findings = own_data.read(str(annotations), str(folder))
    first, second, third = content["annotations"]
    assert first["bbox"] == [4.0, 3.0, 4.0, 3.0]
    assert second["bbox"] == [0.0, 0.0, 40.0, 30.0]
    assert (third["bbox"], third["iscrowd"]) == ([0.0, 0.0, 40.0, 30.0], 1)
    assert findings["reversed"] == ["annotation 1, bbox=[8.0, 6.0, -4.0, -3.0]"]
    assert findings["placeless"] == ["annotation 3, bbox=None"]
    boxes = [BOX.format(8, 6, 5, 4), BOX.format(0, 1, 40, 30)]
    (annotations / "a.xml").write_text(xml("", *boxes))
    content, _ = own_data.read(str(annotations), str(folder))
    first, second = content["annotations"]
    assert first["bbox"] == [5.0, 4.0, 3.0, 2.0]
    assert second["bbox"] == [0.0, 1.0, 40.0, 29.0]

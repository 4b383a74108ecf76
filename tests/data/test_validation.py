"""Every kind of violation is detected, counted and located."""

import json
import re

import numpy as np
import processes
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.data import examples, masks, validation

PNG = tf.io.encode_png(np.zeros((20, 30, 3), np.uint8)).numpy()


def record(number, boxes=((0.1, 0.1, 0.5, 0.5),), classes=None, scores=None, **more):
    count = len(boxes)
    return {
        "id": number,
        "encoded": PNG,
        "path": "",
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.zeros(count, int) if classes is None else np.array(classes),
        "scores": np.full(count, 0.5) if scores is None else np.array(scores),
        "ignore": np.zeros(count, bool),
        "areas": np.ones(count),
        **more,
    }


def written(path, *serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for value in serialized:
            writer.write(value)
    return str(path)


def changed(serialized, **features):
    example = tf.train.Example.FromString(serialized)
    for key, value in features.items():
        del example.features.feature[key.replace("__", "/")].bytes_list.value[:]
        if value is not None:
            example.features.feature[key.replace("__", "/")].bytes_list.value[:] = [
                value
            ]
    return example.SerializeToString()


def test_violations_of_tfrecord_files(tmp_path):
    def good(number, **more):
        return examples.serialize(record(number, **more), 20, 30)

    lengths = tf.train.Example.FromString(good(9))
    del lengths.features.feature["image/object/bbox/ymin"].float_list.value[:]
    path = written(
        tmp_path / "a.tfrecord",
        good(0),
        good(0),
        changed(good(1), image__source_id=b"x7"),
        good(2, boxes=[[-0.1, 0, 1, 1], [0, 0, 1, 1.5], [0, 0, 0, 1]]),
        good(3, boxes=[[0, 0, 1, np.nan]]),
        good(4, scores=[1.5]),
        good(5, classes=[7]),
        good(6, classes=[-1]),
        changed(good(7), image__encoded=b"text"),
        examples.serialize(record(8), 30, 20),
        lengths.SerializeToString(),
        changed(good(10), image__encoded=None),
        good(11, mask=masks.encode(np.full((20, 30), 9))),
        good(12, mask=masks.encode(np.zeros((2, 3)))),
        b"\xff\xff",
    )
    found, book = validation.validate(path, ["a", "b"])
    assert book.images.held == 14
    assert {kind: count for kind, (count, _) in found.items()} == {
        "duplicate": 1,
        "id": 1,
        "outside": 2,
        "area": 1,
        "number": 1,
        "score": 1,
        "class": 2,
        "unreadable": 1,
        "size": 1,
        "lengths": 1,
        "missing": 1,
        "mask": 2,
        "file": 1,
    }
    assert found["outside"][1] == f"{path}, entry 3: -0.1, 0, 1, 1"
    assert found["class"][1] == f"{path}, entry 6: 8"
    assert (
        "unreadable" not in validation.validate(path, ["a", "b"], open_images=False)[0]
    )


def test_truncated_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    written(path, *(examples.serialize(record(n), 20, 30) for n in range(2)))
    path.write_bytes(path.read_bytes()[:-5])
    found, book = validation.validate(str(path))
    assert found == {"file": [1, f"{path}, entry 1"]} and book.images.held == 1


def test_violations_of_a_coco_file(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}

    def box(*bbox, **more):
        return {"image_id": 1, "category_id": 1, "bbox": list(bbox), **more}

    content = {
        "images": [
            image,
            {**image, "id": "b"},
            {**image, "height": 21},
            {**image, "id": 3, "file_name": "none.png"},
            {"id": 4},
        ],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            box(0, 0, 30, 21),
            box(25, 0, 5.1, 5),
            box(0, 0, 0, 5),
            box(0, 0, 5, 5, category_id=2),
            box(0, 0, 5, 5, image_id=99),
            box(0, 0, 5, 5, score=-1.0),
            box(0, 0, 5),
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found, book = validation.validate(str(path))
    assert book.images.held == 5
    assert {kind: count for kind, (count, _) in found.items()} == {
        "id": 1,
        "duplicate": 1,
        "size": 1,
        "unreadable": 1,
        "missing": 2,
        "outside": 1,  # 21 rows fit the second entry of id 1
        "area": 1,
        "class": 1,
        "image_id": 1,
        "score": 1,
        "refused": 1,
    }
    assert found["refused"][1].startswith("Expected id, file_name in every entry.")


def test_readings_of_a_coco_file(tmp_path):
    """What every entry for itself doesn't show."""
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    box = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "id": 5}
    content = {
        "images": [image, {**image, "id": 2}],
        "categories": [
            *({"id": 1, "name": "a"}, {"id": 2, "name": "a "}, {"id": 3, "name": "A"}),
        ],
        "annotations": [{**box, "segmentation": [[9, 9, 9, 19, 19, 19]]}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found, _ = validation.validate(str(path))
    assert found == {
        "joined": [1, "'a', ids 1 and 2"],
        "similar": [1, "a and A"],
        "twice": [1, "a.png"],
        "outlines": [
            1,
            "annotation 5, bbox=[2, 3, 10, 12], but the outline spans [9.0, 9.0, "
            "10.0, 10.0]; 1 of 1 boxes with an outline",
        ],
        "size": [2, "images[0]: (30, 20), stored (20, 30), swapped"],
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, r"lie within 0…1 \(2 of 2\): normalized"),
        ({"iscrowd": 7}, "Expected iscrowd, 0 or 1. Received: annotation 5 in .*=7"),
    ],
)
def test_a_file_that_training_refuses_has_a_violation(tmp_path, change, text):
    box = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], **change}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**box, "id": 5}, {**box, "id": 6}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found, _ = validation.validate(str(path), open_images=False)
    assert set(found) == {"refused"}
    assert re.search(text, found["refused"][1])


def test_malformed_entries_of_a_coco_file(tmp_path):
    """Every one is listed; none ends the check."""
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": "30"}
    box = {"image_id": "1", "category_id": 1.0, "bbox": [0, 0, "5", 5]}
    content = {
        "images": [image, 3, {**image, "id": [2]}, {**image, "id": 4, "width": "x"}],
        "categories": [{"id": 1, "name": "a"}, None],
        "annotations": [
            box,
            "b",
            {**box, "bbox": "abcd"},
            {**box, "bbox": [0, 0, {}, 1]},
        ],
    }
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content).encode("utf-16"))
    found, book = validation.validate(str(path), open_images=False)
    assert book.images.held == 4
    assert found == {
        "missing": [5, "images[1]: file_name, height, id, width"],
        "id": [1, "images[2]: [2]"],
        "number": [1, "annotations[3]: [0, 0, {}, 1], score None"],
        "refused": [
            1,
            f"Expected id, file_name in every entry. Received: images[1] in {path}, 3",
        ],
    }


# Of images of 20 x 30: top, left, bottom, right in pixels.
OBJECTS = np.array(
    [
        *([2, 3, 8, 9], [10, 12, 16, 20], [0, 20, 6, 30], [14, 20, 20, 28]),
        *([5, 16, 9, 22], [9, 1, 15, 6], [12, 0, 17, 5], [8, 14, 14, 19]),
        *([11, 16, 15, 21], [3, 22, 9, 27], [6, 15, 10, 19], [7, 17, 12, 22]),
    ]
)
SIZE = np.array([20, 30, 20, 30])


def stored(path, boxes, scores=None, per_image=3):
    """Write boxes in pixels as stored labels: clipped fractions."""
    boxes = np.clip(boxes / SIZE, 0.0, 1.0).reshape(-1, per_image, 4)
    scores = np.full(boxes.shape[:2], 0.5) if scores is None else scores
    parts = [
        examples.serialize(record(number, boxes=part, scores=values), 20, 30)
        for number, (part, values) in enumerate(zip(boxes, scores))
    ]
    return written(path, *parts)


def test_right_labels_have_no_violation(tmp_path):
    found, book = validation.validate(stored(tmp_path / "a.tfrecord", OBJECTS))
    assert (found, book.images.held) == ({}, 4)
    # Large objects, and images that an object covers.
    boxes = np.concatenate([OBJECTS * 0 + [0, 0, 20, 30], OBJECTS * 0 + [3, 4, 20, 29]])
    found, book = validation.validate(stored(tmp_path / "b.tfrecord", boxes))
    assert (found, book.images.held) == ({}, 8)
    # Human labels beside a teacher's.
    scores = np.repeat([[1.0], [1.0], [1.0], [0.75]], 3, axis=1)
    path = stored(tmp_path / "c.tfrecord", OBJECTS, scores)
    found, book = validation.validate(path)
    assert (found, book.images.held) == ({}, 4)


def test_labels_that_look_wrong_together(tmp_path):
    """Each one for itself is possible."""
    path = stored(tmp_path / "a.tfrecord", OBJECTS / SIZE)
    assert validation.validate(path)[0] == {
        "tiny": [12, f"{path}: 12 of 12 boxes are smaller than a pixel"]
    }
    moved = OBJECTS.copy()
    moved[:, 2:] += moved[:, :2]  # as [x, y, xmax, ymax] is read as width and height
    path = stored(tmp_path / "b.tfrecord", moved)
    assert validation.validate(path)[0] == {
        "corners": [
            11,
            f"{path}: 11 of 12 boxes end at the right or lower border, 2 start at the "
            "left or upper one",
        ]
    }
    scores = np.array([[1.0, 1.0, 0.25]] * 4)
    path = stored(tmp_path / "c.tfrecord", OBJECTS, scores)
    assert validation.validate(path)[0] == {
        "clipped": [8, f"{path}: 8 of 12 scores are 1"]
    }


def test_coco_files_that_look_wrong_together(tmp_path):
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    content = {
        "images": [image],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [x, y, x2 - x, y2 - y]}
            for y, x, y2, x2 in OBJECTS.tolist()
        ],
    }
    path = tmp_path / "a.json"

    def found(**changes):
        for index, annotation in enumerate(content["annotations"]):
            annotation.update({k: change(index) for k, change in changes.items()})
        path.write_text(json.dumps(content))
        return validation.validate(str(path), open_images=False)[0]

    assert found() == {}
    assert found(score=lambda k: 1.0 if k else 0.5) == {
        "clipped": [11, f"{path}: 11 of 12 scores are 1"]
    }
    percent = found(score=lambda k: 8 * k)
    assert percent["score"] == [11, "annotations[1]: 8"]
    assert "Expected score in 0…1. Received: annotation None" in percent["refused"][1]
    assert set(percent) == {"score", "refused"}

    def clipped(index):  # corners that were read as width and height, and stored
        y, x, y2, x2 = OBJECTS[index].tolist()
        return [x, y, min(x2, 30 - x), min(y2, 20 - y)]

    text = "11 of 12 boxes end at the right or lower border, 2 start at the left or upp"
    corners = found(score=lambda k: 0.5, bbox=clipped)
    assert list(corners) == ["corners"] and text in corners["corners"][1]


@pytest.mark.parametrize("name", [["a"], {"a": 1}, None])
def test_names_that_are_none(tmp_path, name):
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    content = {
        "images": [image],
        "categories": [{"id": 1, "name": name}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12]}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    for class_names in (None, ["a"]):
        found, _ = validation.validate(str(path), class_names, open_images=False)
        assert found["refused"][1].startswith("Expected names of categories, text.")


def test_files_without_an_image(tmp_path):
    path = written(tmp_path / "a.tfrecord")
    found, _ = validation.validate(path)
    assert found == {"missing": [1, f"{path}: any image"]}
    path = tmp_path / "a.json"
    path.write_text('{"images": [], "categories": [], "annotations": []}')
    found, _ = validation.validate(str(path), ["a"])
    assert found == {
        "class": [1, f"{path}: no category 'a'"],
        "missing": [1, f"{path}: any image"],
    }


def test_lists_of_another_length(tmp_path):
    example = tf.train.Example.FromString(examples.serialize(record(1), 20, 30))
    example.features.feature["image/object/is_crowd"].int64_list.value.extend([0, 1, 0])
    path = written(tmp_path / "a.tfrecord", example.SerializeToString())
    found, _ = validation.validate(path)
    assert found == {"lengths": [1, f"{path}, entry 0"]}


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected TFRecord files. Received: "):
        validation.validate(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Expected a COCO file. Received: "):
        validation.validate(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="Expected a COCO file with images"):
        validation.validate(str(tmp_path / "a.json"))


@pytest.mark.process
def test_command_line(tmp_path):
    path = written(
        tmp_path / "a.tfrecord", examples.serialize(record(0, classes=[2]), 20, 30)
    )
    result = processes.call("validate", f"--labels={path}", "--classes=a,b")
    assert result.returncode == 2
    assert f"       1  a class is unknown (first: {path}, entry 0: 3)" in result.stdout
    assert "1 images, 1 violations" in result.stdout


def test_the_ledger_of_validated_records(tmp_path):
    """By hand: a box, a crowd and a box, nothing, and lists of different lengths."""
    crowd = {"ignore": np.array([True, False])}
    uneven = tf.train.Example.FromString(examples.serialize(record(4), 20, 30))
    del uneven.features.feature["image/object/bbox/ymin"].float_list.value[:]
    path = written(
        tmp_path / "a.tfrecord",
        examples.serialize(record(1), 20, 30),
        examples.serialize(record(2, boxes=[[0, 0, 1, 1]] * 2, **crowd), 20, 30),
        examples.serialize(record(3, boxes=[]), 20, 30),
        uneven.SerializeToString(),
    )
    _, book = validation.validate(path)
    assert book.content() == {
        "images": {
            "held": 4,
            "taught": 2,
            "without an object": 1,
            "ignored": {"with nothing but ignored labels": 1},
        },
        "boxes": {
            "held": 4,
            "taught": 2,
            "ignored": {"crowds or difficult objects": 1, "invalid": 1},
        },
    }


def test_the_ledger_of_a_validated_coco_file(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]},
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    _, book = validation.validate(str(path), open_images=False)
    assert book.lines() == [
        "1 images: 1 taught",
        "2 boxes: 1 taught, 1 ignored (without area: 1)",
    ]
    content["annotations"] = [{"image_id": 1}]  # refused
    path.write_text(json.dumps(content))
    _, book = validation.validate(str(path), open_images=False)
    assert book.images.held == 1 and book.labels.held == 0

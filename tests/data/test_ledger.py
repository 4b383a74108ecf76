"""The ledger: hand-computed accounts, sums that must agree, and damaged files."""

import json
import random
import re

import numpy as np
import pytest
import tensorflow as tf
from damaged_files import MUTATIONS, files_of, read_damaged
from PIL import Image
from tool_formats import WRITERS, write_images

from official_selftrain.data import examples, ledger, sources, splits
from official_selftrain.onboarding import own_data


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def boxes_of(image_id, category_id, bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


# By hand: of 12 annotations of 7 images


@pytest.fixture
def content(folder):
    """A COCO file with a label for every place that a reader may put it."""
    Image.new("RGB", (60, 40), (9, 9, 9)).save(folder / "c.png")
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    names = ["a.png", "b.jpg", "c.png", "copy.png", "broken.png", "none.png", "a.png"]
    return {
        "images": [
            {"id": k, "file_name": name, "height": 40, "width": 60}
            for k, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            boxes_of(0, 1, [10, 5, 20, 20]),  # taught
            boxes_of(0, 1, [10, 5, 20, 20]),  # repeated
            boxes_of(0, 2, [1, 1, 9, 9], iscrowd=1),  # a crowd
            boxes_of(1, 1, [5, 5, 0, 10]),  # flat
            boxes_of(1, 1, [5, 5, 0, 12]),  # flat, in the same region
            boxes_of(1, 1, None),  # placeless, in the same region
            boxes_of(1, 1, [90, 5, 9, 9]),  # beyond, in the same region
            boxes_of(1, 8, [5, 5, 9, 9]),  # of no category: invalid
            boxes_of(77, 1, [5, 5, 9, 9]),  # of no image
            boxes_of(3, 2, [30, 20, 9, 9]),  # taught, of the copy of a.png
            boxes_of(4, 1, [5, 5, 9, 9]),  # on an unreadable image
            boxes_of(5, 1, [5, 5, 9, 9]),  # on a missing image
        ],
    }


def test_every_annotation_has_its_place(folder, tmp_path, content):
    (tmp_path / "coco.json").write_text(json.dumps(content))
    read, findings = own_data.read(str(tmp_path / "coco.json"), str(folder))
    book = findings.ledger.content()
    assert book["images"] == {
        "held": 7,
        "taught": 1,
        "without an object": 1,
        "ignored": {"with nothing but ignored labels": 1},
        "left out": {
            "listed twice": 1,
            "duplicates": 1,
            "unreadable": 1,
            "missing files": 1,
        },
    }
    assert book["boxes"] == {
        "held": 12,
        "taught": 2,
        "ignored": {
            "crowds or difficult objects": 1,
            "without area": 2,
            "without a usable box": 1,
            "outside their image": 1,
            "invalid": 1,
        },
        "left out": {
            "of images that aren't listed": 1,
            "repeated": 1,
            "on images left out": 2,
        },
    }
    assert book["classes"] == {
        "": {"held": 1, "taught": 0},
        "cat": {"held": 9, "taught": 1},
        "dog": {"held": 2, "taught": 1},
    }
    assert findings.ledger.lines()[1] == (
        "12 boxes: 2 taught, 6 ignored (crowds or difficult objects: 1, invalid: 1, "
        "without a usable box: 1, without area: 2, outside their image: 1), 4 left "
        "out (repeated: 1, of images that aren't listed: 1, on images left out: 2)"
    )
    assert not any(ledger.STANDS_FOR in a for a in read["annotations"])


def test_a_file_of_init_is_taught_whole(folder, tmp_path, content):
    (tmp_path / "coco.json").write_text(json.dumps(content))
    read, _ = own_data.read(str(tmp_path / "coco.json"), str(folder))
    (tmp_path / "read.json").write_text(json.dumps(read))
    source = sources.coco(str(tmp_path / "read.json"), str(folder))
    assert source.ledger.content()["boxes"] == {
        "held": 5,
        "taught": 2,
        "ignored": {"crowds or difficult objects": 3},
    }


def test_boxes_of_other_classes_are_left_out(folder, tmp_path):
    path = WRITERS[0](tmp_path)
    source = sources.coco(str(path), str(folder), class_names=["dog"])
    assert source.ledger.content() == {
        "images": {"held": 2, "taught": 2},
        "boxes": {"held": 3, "taught": 2, "left out": {"of other classes": 1}},
        "classes": {"cat": {"held": 1, "taught": 0}, "dog": {"held": 2, "taught": 2}},
    }


def test_several_files_are_added(folder, tmp_path):
    """The same boxes in three files count three times, and are taught once."""
    paths = [str(write(tmp_path)) for write in WRITERS[:3]]
    _, findings = own_data.read(paths, str(folder))
    assert findings.ledger.content()["images"] == {
        "held": 6, "taught": 2, "left out": {"in several files": 4}
    }  # fmt: skip
    assert findings.ledger.content()["boxes"] == {
        "held": 9, "taught": 3, "left out": {"repeated": 6}
    }  # fmt: skip


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_formats_hold_more_than_boxes(folder, tmp_path, write):
    _, findings = own_data.read(str(write(tmp_path)), str(folder))
    expected = {"held": 3, "taught": 3}
    if write.__name__ == "write_cvat":  # tags of whole images
        expected = {"held": 5, "taught": 3, "left out": {"no shapes": 2}}
    assert findings.ledger.content()["boxes"] == expected
    images = findings.ledger.content()["images"]
    assert images.get("left out", {}) == (
        {"not labeled yet": 1} if write.__name__ == "write_label_studio" else {}
    )


# Sums


def test_a_lost_label_stops_reading():
    book = ledger.Ledger(2, 5, classes={"cat": 5})
    book.labels.put("repeated")
    message = (
        "Expected every label of a.json to be accounted for. Received: 5 boxes, of "
        "which 4 were found again (5 boxes: 3 taught, 1 left out (repeated: 1))"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        book.close("a.json", [[2, 2], [1, 1]], {"cat": 3})


def test_a_label_that_changes_its_class_stops_reading():
    book = ledger.Ledger(1, 3, classes={"cat": 2, "dog": 1})
    with pytest.raises(ValueError, match="1 'dog', of which 2 were found again"):
        book.close("a.json", [[3, 3]], {"cat": 1, "dog": 2})


def test_a_lost_image_stops_reading():
    with pytest.raises(ValueError, match="3 images, of which 2 were found again"):
        ledger.Ledger(3).close("photos", [[0, 0], [0, 0]])


# Sources


def scored(count):
    record = {"encoded": picture(), "id": count, "classes": np.zeros(count)}
    record["boxes"] = np.tile(np.float32([[0.1, 0.1, 0.9, 0.9]]), (count, 1))
    return {**record, "scores": np.linspace(0.1, 0.9, count)}


def picture():
    return tf.io.encode_png(np.zeros((4, 6, 3), np.uint8)).numpy()


def test_thresholds_leave_out_and_ignore():
    """Of 0.1, 0.3, 0.5, 0.7, 0.9 and 0.1: two below 0.2, one up to 0.5."""
    source = examples.from_records([scored(5), scored(1)], ["cat"])
    kept = examples.apply_threshold(source, 0.5, 0.2)
    assert kept.ledger.content() == {
        "images": {"held": 2, "taught": 1, "without an object": 1},
        "boxes": {
            "held": 6,
            "taught": 3,
            "ignored": {"doubtful scores": 1},
            "left out": {"low scores": 2},
        },
    }
    np.testing.assert_array_equal(kept.box_counts, [[4, 3], [0, 0]])


def test_a_fraction_leaves_out_images():
    records = [{**scored(2), "id": k} for k in range(10)]
    source = splits.fraction(lambda: examples.from_records(records, ["cat"]), 0.2)
    assert source.ledger.content()["images"] == {
        "held": 10, "taught": 2, "left out": {"not in the chosen part": 8}
    }  # fmt: skip


def test_a_folder_holds_more_than_images(folder, tmp_path):
    (folder / "notes.txt").write_text("a note")
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    source = sources.folder(str(folder))
    assert source.ledger.content()["images"] == {
        "held": 4,
        "without labels": 2,
        "left out": {"broken links": 1, "other files": 1},
    }


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(examples.serialize(record, 4, 6))


def test_records_hold_flat_boxes_and_crowds(tmp_path):
    flat = {**scored(3), "ignore": np.array([True, False, False])}
    flat["boxes"] = np.float32([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], [0, 0, 0.5, 0.5]])
    write_records(tmp_path / "a.tfrecord", [flat, scored(0)])
    source = sources.tfrecord(str(tmp_path / "a.tfrecord"), ["cat"])
    assert source.ledger.content() == {
        "images": {"held": 2, "taught": 1, "without an object": 1},
        "boxes": {
            "held": 3,
            "taught": 1,
            "ignored": {"without area": 1, "crowds or difficult objects": 1},
        },
    }


# Damaged files: whatever is read, the sums agree; whatever isn't, is refused in a line


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_damaged_files_of_boxes(folder, tmp_path, write):
    place, rng = write(tmp_path), random.Random(write.__name__)

    def read():
        return own_data.read(str(place), str(folder))[1].ledger

    assert read_damaged(read, files_of(place), rng, MUTATIONS) > MUTATIONS // 20


def test_damaged_files_in_training(folder, tmp_path):
    place, rng = WRITERS[0](tmp_path), random.Random(0)

    def read():
        return sources.coco(str(place), str(folder)).ledger

    assert read_damaged(read, files_of(place), rng, MUTATIONS) > MUTATIONS // 20


def test_damaged_lists_of_masks(tmp_path):
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcd":
        pixels = rng.integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(rng.integers(0, 3, (4, 6), np.uint8))
        mask.save(tmp_path / "SegmentationClass" / f"{name}.png")
    path = tmp_path / "ImageSets/Segmentation/train.txt"
    path.write_text("a\nb 1\nJPEGImages/c.jpg\nd\n")

    def read():
        return sources.voc(str(tmp_path), "train", ["background", "x", "y"]).ledger

    found = read_damaged(read, {path: path.read_text()}, random.Random(1), MUTATIONS)
    assert found > MUTATIONS // 20


def damage_record(serialized, rng):
    """Remove, double, rename, shuffle or change a feature of a serialized example."""
    example = tf.train.Example.FromString(serialized)
    features = example.features.feature
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(sorted(features))
        kind = features[key].WhichOneof("kind")
        values = list(getattr(features[key], kind).value) if kind else []
        change = rng.choice("removed doubled renamed shuffled strange typed".split())
        if change == "removed":
            del features[key]
            continue
        if change == "renamed":
            features[key + "s"].CopyFrom(features.pop(key))
            continue
        if change == "doubled":
            values += values[:1]
        elif change == "shuffled":
            rng.shuffle(values)
        elif change == "strange" and values:
            strange = {"bytes_list": b"x", "int64_list": -5, "float_list": float("nan")}
            values[rng.randrange(len(values))] = strange[kind]
        elif change == "typed":
            kind, values = rng.choice([("int64_list", [3]), ("float_list", [0.5])])
        del features[key]
        if kind:
            getattr(features[key], kind).value.extend(values)
    return example.SerializeToString()


def test_damaged_records(tmp_path):
    """Ten in a file: a damaged one stops it, or its sums agree."""
    rng, could = random.Random(0), 0
    good = [examples.serialize(scored(k), 4, 6) for k in (3, 0, 2)]
    for number in range(MUTATIONS // 10):
        path = tmp_path / f"{number}.tfrecord"
        # Most files hold a single damaged kind, so that others aren't hidden.
        damaged = damage_record(rng.choice(good), rng)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for serialized in [damaged] + good * 3:
                writer.write(serialized)
        try:
            book = sources.tfrecord(str(path), ["cat"]).ledger
        except ValueError as error:
            assert "to be accounted for" not in str(error)
        except tf.errors.InvalidArgumentError as error:  # the pipeline names the record
            assert "Expected" in error.message or "Key: image/" in error.message
        else:
            could += 1
            for account in (book.images, book.labels):
                assert account.went.total() == account.held
    assert could > 5

"""Sources: what they read, what they skip, and their error messages."""

import json
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets
from toy_images import BOXES, OBJECTS, jpeg, picture, spec_of

from official_selftrain.checks import messages
from official_selftrain.data import examples, images, pipeline, problems, sources


def annotation(number, image_id, category_id, bbox, **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3] / 2,
        "iscrowd": 0,
        **more,
    }


class CocoFiles:
    """Three images of 40 x 60 pixels and their annotation file."""

    def __init__(self, folder):
        self.images, self.path = folder / "images", folder / "coco.json"
        self.images.mkdir()
        names = ["a.png", "b.jpg", "c.png"]
        for seed, name in enumerate(names):
            picture(seed).save(self.images / name)
        self.content = {
            "images": [
                {"id": 10 + k, "file_name": name, "height": 40, "width": 60}
                for k, name in enumerate(names)
            ],
            "categories": [
                {"id": 90, "name": "dog"},
                {"id": 3, "name": "cat"},
                {"id": 7, "name": "horse"},
            ],
            "annotations": [
                annotation(1, 10, 90, [15, 10, 30, 20]),
                annotation(2, 12, 3, [0, 0, 60, 40], iscrowd=1),
                annotation(3, 10, 7, [30, 5, 3, 8]),
            ],
        }

    def read(self, **arguments):
        self.path.write_text(json.dumps(self.content))
        return sources.coco(str(self.path), str(self.images), **arguments)


@pytest.fixture
def coco_files(tmp_path):
    return CocoFiles(tmp_path)


def records_of(source):
    return list(source.dataset.as_numpy_iterator())


# COCO


def test_coco_by_hand(coco_files):
    source = coco_files.read()
    assert source.class_names == ("cat", "horse", "dog")  # ids 3, 7, 90
    assert (source.num_images, source.has_labels, source.skipped) == (3, True, ())
    first, second, third = records_of(source)
    assert [record["id"] for record in (first, second, third)] == [10, 11, 12]
    assert first["path"] == str(coco_files.images / "a.png").encode()
    assert first["encoded"] == b""
    # x 15 to 45 of 60, y 10 to 30 of 40; x 30 to 33, y 5 to 13.
    expected = np.float32([[0.25, 0.25, 0.75, 0.75], [0.125, 0.5, 0.325, 0.55]])
    np.testing.assert_allclose(first["boxes"], expected, rtol=1e-6)
    np.testing.assert_array_equal(first["classes"], [2, 1])
    np.testing.assert_array_equal(first["scores"], [1.0, 1.0])
    np.testing.assert_array_equal(first["ignore"], [False, False])
    np.testing.assert_array_equal(first["areas"], [300.0, 12.0])
    assert second["boxes"].shape == (0, 4) and second["classes"].shape == (0,)
    np.testing.assert_array_equal(third["boxes"], [[0, 0, 1, 1]])
    np.testing.assert_array_equal(third["ignore"], [True])
    for seed, name in ((0, "a.png"), (2, "c.png")):
        image = examples.read_image({"path": str(coco_files.images / name)})
        np.testing.assert_array_equal(image, np.asarray(picture(seed)))


def test_coco_of_the_tiny_set(tiny_coco):
    source = sources.coco(tiny_coco.annotations, tiny_coco.images)
    assert source.class_names == ("square", "bar", "post")
    assert source.num_images == 6
    for record in records_of(source):
        image = examples.read_image(record).numpy()
        np.testing.assert_array_equal(record["classes"], [0, 1, 2])
        for box, label in zip(record["boxes"], record["classes"]):
            top, left, bottom, right = np.round(box * [64, 96, 64, 96]).astype(int)
            assert (image[top:bottom, left:right, label] > 140).mean() > 0.95


def test_coco_uses_the_requested_classes_in_order(coco_files):
    source = coco_files.read(class_names=["dog", "cat"])
    assert source.class_names == ("dog", "cat")
    first, second, third = records_of(source)
    np.testing.assert_array_equal(first["classes"], [0])
    np.testing.assert_allclose(first["boxes"], [[0.25, 0.25, 0.75, 0.75]])
    np.testing.assert_array_equal(third["classes"], [1])
    assert len(second["classes"]) == 0 and source.num_images == 3


def test_coco_without_annotations_has_no_labels(coco_files):
    coco_files.content["annotations"] = []
    source = coco_files.read()
    assert not source.has_labels and source.num_images == 3
    assert all(len(record["boxes"]) == 0 for record in records_of(source))


def test_coco_names_a_missing_file(tmp_path):
    path = str(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError) as error:
        sources.coco(path, str(tmp_path))
    assert str(error.value) == f"Expected a COCO file. Received: annotations={path!r}"


def test_coco_names_a_file_that_is_not_json(coco_files):
    coco_files.path.write_text('{"images": [')
    with pytest.raises(ValueError) as error:
        sources.coco(str(coco_files.path), str(coco_files.images))
    assert str(error.value).startswith(f"Expected JSON. Received: {coco_files.path}: ")
    assert "line 1 column 13" in str(error.value)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_coco_names_a_missing_key(coco_files, key):
    del coco_files.content[key]
    with pytest.raises(ValueError) as error:
        coco_files.read()
    assert str(error.value) == (
        "Expected a COCO file with images, categories and annotations. "
        f"Received: {coco_files.path} without {key}"
    )


def test_coco_rejects_a_list(coco_files):
    coco_files.content = [1, 2]
    with pytest.raises(ValueError, match="Expected a COCO file .* without images"):
        coco_files.read()


def test_coco_names_a_missing_folder(coco_files):
    coco_files.images = coco_files.images / "none"
    with pytest.raises(FileNotFoundError) as error:
        coco_files.read()
    assert str(error.value) == (
        f"Expected a folder of images. Received: images={str(coco_files.images)!r}"
    )


def test_coco_reports_missing_images(coco_files):
    for name in ("b.jpg", "c.png"):
        (coco_files.images / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        coco_files.read()
    assert str(error.value) == (
        f"Expected every image of the annotation file in {coco_files.images}. "
        "Received: 2 of 3 missing, first 'b.jpg'"
    )


def test_coco_rejects_annotations_of_unlisted_images(coco_files):
    coco_files.content["annotations"].append(annotation(55, 999, 3, [1, 1, 2, 2]))
    with pytest.raises(ValueError) as error:
        coco_files.read()
    assert str(error.value) == (
        "Expected annotations of listed images. Received: annotation 55 in "
        f"{coco_files.path} with image_id=999"
    )


def test_coco_rejects_annotations_of_unlisted_categories(coco_files):
    coco_files.content["annotations"].append(annotation(55, 10, 4, [1, 1, 2, 2]))
    with pytest.raises(ValueError) as error:
        coco_files.read()
    assert str(error.value) == (
        "Expected annotations of listed categories (3, 7, 90). Received: "
        f"annotation 55 in {coco_files.path} with category_id=4"
    )


def test_coco_suggests_the_nearest_class(coco_files):
    with pytest.raises(ValueError) as error:
        coco_files.read(class_names=["dog", "hrose"])
    assert str(error.value) == (
        f"Expected class_names among the 3 categories of {coco_files.path} "
        "(nearest: horse). Received: 'hrose'"
    )


def test_coco_rejects_a_file_without_images(coco_files):
    coco_files.content.update(images=[], annotations=[])
    with pytest.raises(ValueError, match="at least one image. Received: 0 images"):
        coco_files.read()


# Folders


def test_folder_reads_every_supported_image(tmp_path):
    inner = tmp_path / "b" / "c"
    inner.mkdir(parents=True)
    rgb = picture(1)
    rgb.save(tmp_path / "a.png")
    rgb.convert("L").save(inner / "gray.JPG", "JPEG")
    rgb.convert("CMYK").save(inner / "print.jpeg", "JPEG")
    rgb.save(tmp_path / "z.jpg")
    (tmp_path / "b" / "cut.jpg").write_bytes(jpeg(rgb)[:700])
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "readme.txt").write_text("passed over")
    (tmp_path / "folder.png").mkdir()
    source = sources.folder(str(tmp_path))
    actual = records_of(source)
    names = "a.png b/c/gray.JPG b/c/print.jpeg b/cut.jpg notes.jpg z.jpg".split()
    assert [r["path"].decode() for r in actual] == [str(tmp_path / n) for n in names]
    assert [record["id"] for record in actual] == list(range(6))
    assert (source.num_images, source.class_names) == (6, ())
    assert not source.has_labels
    assert all(record["boxes"].shape == (0, 4) for record in actual)
    lines = problems.unreadable_images(source)
    assert len(lines) == 2
    for line, name in zip(lines, ("b/cut.jpg", "notes.jpg")):
        path, reason = line.split(": ", 1)
        assert path == str(tmp_path / name)
        assert 5 < len(reason) < 200 and "[Op:" not in reason
    actual = [actual[index] for index in (0, 1, 2, 5)]
    images = [examples.read_image(record).numpy() for record in actual]
    assert {image.shape for image in images} == {(40, 60, 3)}
    np.testing.assert_array_equal(images[0], np.asarray(rgb))
    np.testing.assert_array_equal(images[1][..., 0], images[1][..., 2])
    difference = images[2].astype(int) - np.asarray(rgb).astype(int)
    assert np.abs(difference).mean() < 40.0  # noise suffers from JPEG


def test_folder_accepts_a_pattern(tmp_path):
    for name in ("a1.png", "a2.png", "b1.png"):
        picture().save(tmp_path / name)
    source = sources.folder(str(tmp_path / "a*.png"))
    assert [r["path"].decode()[-6:] for r in records_of(source)] == ["a1.png", "a2.png"]


def test_folder_may_have_brackets_in_its_name(tmp_path):
    place = tmp_path / "photos [2024]"
    place.mkdir()
    picture().save(place / "a.png")
    assert sources.folder(str(place)).num_images == 1


def test_folder_of_the_tiny_set(tiny_coco):
    source = sources.folder(tiny_coco.unlabeled)
    assert source.num_images == 4 and not source.has_labels


@pytest.mark.parametrize("place", ["", "none", "*.txt"])
def test_folder_without_images_raises(tmp_path, place):
    (tmp_path / "readme.txt").write_text("no image")
    received = str(tmp_path / place)
    with pytest.raises(FileNotFoundError) as error:
        sources.folder(received)
    assert str(error.value) == (
        f"Expected images ({', '.join(images.ENDINGS)}). Received: images={received!r}"
    )


def test_folder_follows_links_once_and_names_broken_ones(tmp_path):
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    picture().save(inner / "a.png")
    (inner / "loop").symlink_to(tmp_path / "photos")
    (inner / "again").symlink_to(inner)
    (inner / "self.jpg").symlink_to(inner / "self.jpg")
    picture().save(inner / ".hidden.png")
    source = sources.folder(str(tmp_path / "photos"))
    assert [r["path"].decode() for r in records_of(source)] == [str(inner / "a.png")]
    (line,) = source.skipped
    assert line == f"{inner / 'self.jpg'}: a broken link"
    everywhere = sources.folder(str(tmp_path / "**" / "*.png"))
    assert everywhere.num_images == 1


# TFRecord


def write_records(path, source):
    """Write a source's images and labels, the images inside."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records_of(source):
            with open(record["path"], "rb") as file:
                inside = {**record, "encoded": file.read(), "path": b""}
            writer.write(examples.serialize(inside, 40, 60))


def test_tfrecord_matches_coco(coco_files, tmp_path):
    written = coco_files.read()
    write_records(tmp_path / "a-00000.tfrecord", examples.part(written, 0, 2))
    write_records(tmp_path / "a-00001.tfrecord", examples.part(written, 2, 1))
    source = sources.tfrecord(str(tmp_path / "a-*"), written.class_names)
    assert source.num_images == 3 and source.has_labels
    assert source.class_names == written.class_names
    actual = records_of(source)
    assert len(actual) == 3
    for record, expected in zip(actual, records_of(written)):
        image, original = examples.read_image(record), examples.read_image(expected)
        np.testing.assert_array_equal(image, original)
        for key in ("id", "boxes", "classes", "scores", "ignore", "areas"):
            np.testing.assert_array_equal(record[key], expected[key])


def test_tfrecord_accepts_label_ids_with_gaps(tmp_path):
    record = {
        "encoded": b"x",
        "id": 0,
        "boxes": np.zeros((2, 4)),
        "classes": [89, 0],  # written as 90 and 1
        "scores": [1.0, 1.0],
        "ignore": [0, 0],
        "areas": [0.0, 0.0],
    }
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(examples.serialize(record, 4, 4))
    source = sources.tfrecord(path, ["a", "b"], class_ids=[1, 90], has_labels=False)
    np.testing.assert_array_equal(records_of(source)[0]["classes"], [1, 0])
    assert not source.has_labels
    text = f"class_ids, 1, 2, or names among class_names, a, b. .*label 90 in {path}"
    with pytest.raises(ValueError, match=text):
        sources.tfrecord(path, ["a", "b"])


CORNERS = ("ymin", "xmin", "ymax", "xmax")


def feature(values):
    """Return a feature of bytes, floats or ints, as the values are."""
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list={"value": values})
    kind = "float_list" if isinstance(values[0], float) else "int64_list"
    return tf.train.Feature(**{kind: {"value": values}})


def write_features(path, *records, **changes):
    """Write records of one box, b of a and b, on 4 x 8 pixels; None removes a key."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for change in records or ({},):
            values = {
                "image/source_id": [b"7"],
                "image/encoded": [b"x"],
                "image/height": [4],
                "image/width": [8],
                "image/object/class/label": [2],
                "image/object/class/text": [b"b"],
                **{
                    f"image/object/bbox/{side}": [value]
                    for side, value in zip(CORNERS, (0.25, 0.125, 0.75, 0.5))
                },
                **{key.replace("__", "/"): v for key, v in changes.items()},
                **change,
            }
            features = {k: feature(v) for k, v in values.items() if v is not None}
            example = tf.train.Example(features={"feature": features})
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"image/source_id": [7]}, None),
        ({"image/object/class/label": [2.0]}, None),
        ({"image/object/class/label": None}, "classes by their names in image/object/"),
        ({"image/object/class/label": [1]}, "classes by their names in image/object/"),
        (dict(zip([f"image/object/bbox/{s}" for s in CORNERS],
                  ([1.0], [1.0], [3.0], [4.0]))), "boxes in pixels, divided by"),
        (dict(zip([f"image/object/bbox/{s}" for s in CORNERS],
                  ([0.75], [0.5], [0.25], [0.125]))), None),
    ],
)  # fmt: skip
def test_tfrecords_in_other_forms(changes, note, tmp_path):
    path = tmp_path / "a.tfrecord"
    if changes.get("image/object/class/label") == [1]:  # labels from 0, names of both
        a = {"image/object/class/label": [0], "image/object/class/text": [b"a"]}
        write_features(path, changes, a)
    else:
        write_features(path, changes)
    source = sources.tfrecord(str(path), ["a", "b"])
    record = records_of(source)[0]
    assert (record["id"], record["classes"].tolist()) == (7, [1])
    assert record["boxes"].tolist() == [[0.25, 0.125, 0.75, 0.5]]
    assert not record["ignore"].any()
    assert [n[: len(note)] for n in source.notes] == ([note] if note else [])


def test_names_in_a_tfrecord_contradict_its_labels(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_features(path, {"image/object/class/label": [1]})
    source = sources.tfrecord(str(path), ["a", "b"])
    assert records_of(source)[0]["classes"].tolist() == [1]
    (note,) = source.notes
    assert "label means 'a' where image/object/class/text is 'b'" in note


def test_one_box_in_pixels_among_fractions_is_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_features(path, {}, {}, {"image/object/bbox/ymax": [3.0]})
    source = sources.tfrecord(str(path), ["a", "b"])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="fractions of their image"
    ):
        records_of(source)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        (
            [{"image/object/class/label": [0], "image/object/class/text": None}],
            "class_ids, 1, 2, or names .* Received: image/object/class/label 0 in",
        ),
        (
            [{"image/object/class/label": None, "image/object/class/text": [b"c"]}],
            "Received: image/object/class/text 'c' in .*a.tfrecord",
        ),
        (
            [{}, {"image/object/class/label": [2.0]}],
            "one type of image/object/class/label .* Received: float, int64 in",
        ),
        ([{"image/source_id": [7.0]}], "source_id, bytes or int64. Received: float"),
        (
            [{"image/object/bbox/ymax": [3.0], "image/height": None}],
            "Expected image/height, since boxes are in pixels. Received: entry 0",
        ),
        (
            [{"image/object/bbox/xmax": [1]}],
            "Expected image/object/bbox/xmax, float. Received: int64 in .*a.tfrecord",
        ),
        (
            [{"image/object/is_crowd": [0.0]}],
            "Expected image/object/is_crowd, int64. Received: float in",
        ),
    ],
)
def test_tfrecords_that_can_be_read_in_more_than_one_way(records, text, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_features(path, *records)
    with pytest.raises(ValueError, match=text):
        sources.tfrecord(str(path), ["a", "b"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image/object/bbox/xmax": [0.5, 0.5]}, "of one length.* 1 1 1 2 0 0 0 for "),
        ({"image/object/is_crowd": [0, 1]}, "of one length.* 1 1 1 1 0 2 0 for labels"),
        ({"image/object/bbox/ymax": [1.5]}, "boxes as fractions of their image"),
        ({"image/object/bbox/ymax": [float("nan")]}, "boxes as fractions of their"),
        ({"image/object/class/label": [3]}, "Expected labels among 1 2 .* labels 3 of"),
        (
            {"image/object/class/text": [b"a"]},
            "Expected the names of the labels, b Received: class/text a of record",
        ),
        (
            {"image/object/class/text": [b"b", b"b"]},
            "labels, b Received: class/text b b",
        ),
    ],
)
def test_wrong_tfrecords_after_the_first_are_named(change, text, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_features(path, *[{}] * 40, {**change, "image/source_id": [b"name"]})
    source = sources.tfrecord(str(path), ["a", "b"])
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        records_of(source)
    message = messages.readable(error.value.message)
    assert re.search(text, message) and message.endswith(" name"), message


def test_objects_of_a_tfrecord_without_area_are_no_background(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_features(path, {"image/object/bbox/ymax": [0.25]})
    (record,) = records_of(sources.tfrecord(str(path), ["a", "b"]))
    assert record["boxes"].tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert record["ignore"].tolist() == [True]


def test_tfrecord_names_a_pattern_without_files(tmp_path):
    pattern = str(tmp_path / "*.tfrecord")
    with pytest.raises(FileNotFoundError) as error:
        sources.tfrecord(pattern, ["a"])
    assert str(error.value) == f"Expected TFRecord files. Received: pattern={pattern!r}"


@pytest.mark.parametrize("missing, entry", [(1, 2), (30, 2)])
def test_tfrecord_rejects_a_truncated_file(coco_files, missing, entry, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, coco_files.read())
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(ValueError) as error:
        sources.tfrecord(str(path), ["a", "b", "c"])
    assert str(error.value) == (
        f"Expected complete TFRecord entries. Received: {path}, truncated or not a "
        f"TFRecord at entry {entry}"
    )


def test_tfrecord_rejects_a_truncated_length(coco_files, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, coco_files.read())
    path.write_bytes(path.read_bytes() + struct.pack("<Q", 9)[:5])
    with pytest.raises(ValueError, match="at entry 3$"):
        sources.tfrecord(str(path), ["a", "b", "c"])


def test_tfrecord_rejects_other_files(tmp_path):
    path = tmp_path / "a.tfrecord"
    picture().save(path, "PNG")
    with pytest.raises(ValueError, match="not a TFRecord at entry 0$"):
        sources.tfrecord(str(path), ["a"])


def test_tfrecord_rejects_files_without_entries(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Received: .*\ba\.tfrecord"):
        sources.tfrecord(str(path), ["a"])


def test_tfrecord_needs_an_id_for_every_class(coco_files, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, coco_files.read())
    with pytest.raises(ValueError) as error:
        sources.tfrecord(str(path), ["a", "b", "c"], class_ids=[1, 2])
    assert str(error.value) == (
        "Expected as many class_ids as class_names. Received: 2 ids, 3 names"
    )


# TensorFlow Datasets


def mocked(items):
    """Mock TFDS to yield these items in order."""

    def as_dataset(self, split, decoders=None, read_config=None, **_):
        assert type(decoders["image"]).__name__ == "SkipDecoding"
        signature = tf.nest.map_structure(spec_of, items[0])
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(items), output_signature=signature
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(len(items)))

    return tensorflow_datasets.testing.mock_data(as_dataset_fn=as_dataset)


@pytest.mark.parametrize(
    "name, num_classes, ignore, areas",
    [
        ("coco/2017", 80, [False, True], [300.0, 12.0]),
        ("voc/2012", 20, [False, False], [0.0, 0.0]),
        ("open_images_v4", 601, [False, True], [0.0, 0.0]),
    ],
)
def test_tfds_by_hand(name, num_classes, ignore, areas):
    images = [jpeg(picture(seed)) for seed in (0, 1)]
    items = [{"image": image, **OBJECTS[name]} for image in images]
    with mocked(items):
        source = sources.tfds(name, "train")
    assert len(source.class_names) == num_classes
    assert source.num_images == 2 and source.has_labels
    actual = records_of(source)
    assert [record["id"] for record in actual] == [0, 1]
    for record, image in zip(actual, images):
        assert record["encoded"] == image and record["path"] == b""
        np.testing.assert_array_equal(record["boxes"], BOXES)
        np.testing.assert_array_equal(record["classes"], [4, 0])
        np.testing.assert_array_equal(record["scores"], [1.0, 1.0])
        np.testing.assert_array_equal(record["ignore"], ignore)
        np.testing.assert_array_equal(record["areas"], areas)


def test_tfds_images_without_objects():
    item = tf.nest.map_structure(
        lambda value: value[:0], OBJECTS["coco/2017"]["objects"]
    )
    with mocked([{"image": jpeg(picture()), "objects": item}]):
        source = sources.tfds("coco/2017", "train")
    record = records_of(source)[0]
    assert record["boxes"].shape == (0, 4) and record["ignore"].shape == (0,)


def test_tfds_imagenet_is_unlabeled_by_default():
    images = [jpeg(picture(seed)) for seed in (0, 1, 2)]
    with mocked([{"image": i, **OBJECTS["imagenet2012"]} for i in images]):
        source = sources.tfds("imagenet2012", "train")
    assert source.class_names == () and not source.has_labels
    assert source.num_images == 3
    actual = records_of(source)
    assert [record["encoded"] for record in actual] == images
    assert all(record["boxes"].shape == (0, 4) for record in actual)
    batch = next(pipeline.training_batches(source, 3, (16, 16)).as_numpy_iterator())
    assert (batch["classes"] == -1).all() and np.isfinite(batch["images"]).all()


def test_tfds_imagenet_with_image_classes():
    """An image's class is that of a box that covers it."""
    with mocked([{"image": jpeg(picture()), **OBJECTS["imagenet2012"]}]):
        source = sources.tfds("imagenet2012", "train", has_image_classes=True)
    assert len(source.class_names) == 1000 and source.has_labels
    (record,) = records_of(source)
    np.testing.assert_array_equal(record["boxes"], [[0.0, 0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(record["classes"], [OBJECTS["imagenet2012"]["label"]])
    np.testing.assert_array_equal(record["scores"], [1.0])
    with pytest.raises(ValueError, match="classes: imagenet2012. .*'coco/2017'"):
        sources.tfds("coco/2017", "train", has_image_classes=True)


def test_tfds_lists_the_supported_names():
    with pytest.raises(ValueError) as error:
        sources.tfds("mnist", "train")
    assert str(error.value) == (
        "Expected one of coco, voc, open_images_v4, imagenet2012. "
        "Received: name='mnist'"
    )


@pytest.mark.parametrize("name", list(OBJECTS))
def test_tfds_explains_how_to_prepare_a_data_set(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        sources.tfds(name, "train", data_dir=str(tmp_path))
    text = str(error.value)
    assert text.startswith(f"Expected {name} in {tmp_path}")
    call = f"tensorflow_datasets.builder({name!r}, data_dir={str(tmp_path)!r})"
    assert f"Prepare it in Python with: {call}.download_and_prepare()" in text


# All together


def test_all_sources_give_the_same_batch(coco_files, tmp_path):
    for image in coco_files.content["images"]:
        image["id"] -= 10  # as TFDS counts
    for row in coco_files.content["annotations"]:
        row["image_id"] -= 10
        row["area"] = int(row["area"])  # as TFDS has them
    coco = coco_files.read()
    write_records(tmp_path / "a.tfrecord", coco)
    items = []
    for record in records_of(coco):
        with open(record["path"], "rb") as file:
            content = file.read()
        objects = {
            "area": record["areas"].astype(np.int64),
            "bbox": record["boxes"],
            "is_crowd": record["ignore"],
            "label": record["classes"].astype(np.int64),
        }
        items.append({"image": content, "objects": objects})
    with mocked(items):
        tfds = sources.tfds("coco/2017", "train")
    tfrecord = sources.tfrecord(str(tmp_path / "a.tfrecord"), coco.class_names)
    batches = [
        list(
            pipeline.training_batches(source, 2, (32, 48), seed=4)
            .take(3)
            .as_numpy_iterator()
        )
        for source in (coco, tfrecord, tfds)
    ]
    assert sum((batch["classes"] >= 0).sum() for batch in batches[0]) > 2
    for other in batches[1:]:
        for batch, expected in zip(other, batches[0]):
            assert set(batch) == set(expected)
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["images"][1].update(height="a"), r"images\[1\] in .* height='a'"),
        (lambda c: c["images"][0].update(width=-5), "height=64, width=-5"),
        (lambda c: c["images"][0].update(file_name=7), r"images\[0\] .*file_name=7"),
        (lambda c: c["annotations"][0].update(score=98), r"annotation 1 .* score=98"),
        (lambda c: c["annotations"][0].update(iscrowd=2), r"annotation 1 .* iscrowd=2"),
        (lambda c: c["annotations"][0].pop("image_id"), r"s\[0\] .*without image_id"),
        (lambda c: c["images"][1].update(id=100), r"images\[1\] .* with id=100"),
        (lambda c: c["images"][0].update(id=[1]), r"images\[0\] .* with id=\[1\]"),
        (lambda c: c["images"][0].update(id=True), r"images\[0\] .* with id=True"),
        (lambda c: c["categories"][1].update(name=" "), r"categories\[1\] .*name=' '"),
        (lambda c: c["categories"][2].pop("name"), r"categories\[2\].* without name"),
    ],
)
def test_coco_rejects_invalid_entries(tiny_coco, change, text):
    content = json.loads(tiny_coco.annotations.read_text())
    change(content)
    tiny_coco.annotations.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=text):
        sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))


def test_coco_rejects_a_binary_file(tiny_coco):
    tiny_coco.annotations.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="or UTF-16. Received: .*annotations.json"):
        sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))


def test_tfds_rejects_an_unknown_version():
    with pytest.raises(
        ValueError, match="data set of TFDS. Received: name='voc:9.9.9'"
    ):
        sources.tfds("voc:9.9.9", "train")

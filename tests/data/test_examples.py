"""Examples: records, the TFRecord format, thresholds, parts, decoding."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.data import examples

KEYS = {
    *("encoded", "path", "id", "boxes", "classes", "scores", "ignore", "areas"),
    *("mask", "confidence"),
}
# Those of a TFRecord's examples.
PARSED_KEYS = {*KEYS, "stated_size"}
NO_MASK = {"mask": b"", "confidence": b""}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def full_record():
    return {
        "encoded": png(np.full((4, 6, 3), 7, np.uint8)),
        "id": 42,
        "boxes": np.float32([[0.0, 0.25, 0.5, 1.0], [0.125, 0.0, 1.0, 0.75]]),
        "classes": np.int32([2, 0]),
        "scores": np.float32([0.625, 1.0]),
        "ignore": np.array([False, True]),
        "areas": np.float32([9.5, 0.0]),
    }


def values_of(example):
    return {key: value.numpy() for key, value in example.items()}


def assert_same(example, expected):
    assert set(example) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(example[key], value, err_msg=key)


def example_with(features):
    """Serialize a record with one box, or with the given features."""
    floats = {f"image/object/bbox/{s}": [0.5] for s in ("ymin", "xmin", "ymax", "xmax")}
    ints = {"image/object/class/label": [1]}
    strings = {"image/source_id": b"1", "image/encoded": b"x"}
    feature = {
        **{k: tf.train.Feature(float_list={"value": v}) for k, v in floats.items()},
        **{k: tf.train.Feature(int64_list={"value": v}) for k, v in ints.items()},
        **{k: tf.train.Feature(bytes_list={"value": [v]}) for k, v in strings.items()},
        **features,
    }
    return tf.train.Example(
        features=tf.train.Features(feature=feature)
    ).SerializeToString()


def test_from_records_looks_up_every_record():
    first = full_record()
    second = {"path": "b.png", "id": 7}
    third = {
        "path": "c.png",
        "id": -3,
        "boxes": [[0.1, 0.2, 0.3, 0.4]],
        "classes": [1],
        "scores": [0.5],
        "ignore": [False],
        "areas": [2],
    }
    source = examples.from_records(
        [first, second, third], ["a", "b", "c"], skipped=["d.png: broken"]
    )
    actual = [values_of(example) for example in source.dataset]
    assert_same(actual[0], {**first, "path": b"", **NO_MASK})
    empty = {
        "boxes": np.zeros((0, 4)),
        **{key: [] for key in ("classes", "scores", "ignore", "areas")},
        **NO_MASK,
    }
    assert_same(actual[1], {"encoded": b"", "path": b"b.png", "id": 7, **empty})
    assert actual[2]["path"] == b"c.png" and actual[2]["id"] == -3
    np.testing.assert_array_equal(actual[2]["boxes"], np.float32(third["boxes"]))
    np.testing.assert_array_equal(actual[2]["classes"], [1])
    np.testing.assert_array_equal(actual[2]["areas"], [2.0])
    assert source.class_names == ("a", "b", "c")
    assert (source.num_images, source.has_labels) == (3, True)
    assert source.skipped == ("d.png: broken",)


def test_from_records_dtypes():
    source = examples.from_records([full_record()])
    assert source.dataset.element_spec == {
        "encoded": tf.TensorSpec((), tf.string),
        "path": tf.TensorSpec((), tf.string),
        "id": tf.TensorSpec((), tf.int64),
        "boxes": tf.TensorSpec((None, 4), tf.float32),
        "classes": tf.TensorSpec((None,), tf.int32),
        "scores": tf.TensorSpec((None,), tf.float32),
        "ignore": tf.TensorSpec((None,), tf.bool),
        "areas": tf.TensorSpec((None,), tf.float32),
        "mask": tf.TensorSpec((), tf.string),
        "confidence": tf.TensorSpec((), tf.string),
    }
    assert not source.has_masks


def test_boxes_alone_are_confident_objects():
    record = {"path": "a.jpg", "id": 1, "boxes": np.zeros((2, 4)), "classes": [0, 1]}
    (example,) = examples.from_records([record], "ab").dataset.as_numpy_iterator()
    assert example["scores"].tolist() == [1.0, 1.0]
    assert example["ignore"].tolist() == [False, False]
    assert example["areas"].tolist() == [0.0, 0.0]
    assert example["classes"].tolist() == [0, 1]


@pytest.mark.parametrize("key", ["classes", "scores", "ignore", "areas"])
def test_labels_that_do_not_match_their_boxes(key):
    record = {"path": "a.jpg", "id": 7, "boxes": np.zeros((2, 4)), "classes": [0, 1]}
    record[key] = [0, 0, 0]
    with pytest.raises(ValueError, match=f"{key} for 2 boxes. Received: 3 .* id=7"):
        examples.from_records([record], "ab")


def test_from_records_without_records_raises():
    with pytest.raises(ValueError, match="at least one image.* 0 images, 2 skipped"):
        examples.from_records([], skipped=["a", "b"])


@pytest.mark.parametrize("num_boxes", [2, 0])
def test_serialization_round_trip(num_boxes):
    record = full_record()
    for key in ("boxes", "classes", "scores", "ignore", "areas"):
        record[key] = record[key][:num_boxes]
    parsed = examples.parse(examples.serialize(record, 4, 6), [1, 2, 3])
    same = {**record, "path": b"", "stated_size": [4, 6], **NO_MASK}
    assert_same(values_of(parsed), same)
    assert {key: parsed[key].dtype for key in ("id", "classes", "ignore")} == {
        "id": tf.int64,
        "classes": tf.int32,
        "ignore": tf.bool,
    }


def test_a_path_is_serialized_instead_of_an_image():
    record = {**full_record(), "encoded": b"", "path": "photos/a.jpg"}
    parsed = examples.parse(examples.serialize(record, 4, 6), [1, 2, 3])
    assert parsed["path"] == "photos/a.jpg" and parsed["encoded"] == ""


def test_an_encoded_image_takes_precedence_over_its_path():
    name = tf.train.Feature(bytes_list={"value": [b"000.jpg"]})
    parsed = examples.parse(example_with({"image/filename": name}), [1])
    assert parsed["encoded"] == "x" and parsed["path"] == ""


def test_serialized_features_are_those_of_the_model_garden():
    record = full_record()
    example = tf.train.Example.FromString(examples.serialize(record, 4, 6))
    feature = example.features.feature
    actual = {
        key: list(getattr(value, value.WhichOneof("kind")).value)
        for key, value in feature.items()
    }
    assert actual == {
        "image/encoded": [record["encoded"]],
        "image/source_id": [b"42"],
        "image/height": [4],
        "image/width": [6],
        "image/object/bbox/ymin": [0.0, 0.125],
        "image/object/bbox/xmin": [0.25, 0.0],
        "image/object/bbox/ymax": [0.5, 1.0],
        "image/object/bbox/xmax": [1.0, 0.75],
        "image/object/bbox/confidence": [0.625, 1.0],
        "image/object/class/label": [3, 1],
        "image/object/is_crowd": [0, 1],
        "image/object/area": [9.5, 0.0],
    }


def test_features_of_masks():
    record = {"path": "a.jpg", "id": 1, "mask": b"m", "confidence": b"c"}
    example = tf.train.Example.FromString(examples.serialize(record, 4, 6))
    actual = {
        key: value.bytes_list.value[:]
        for key, value in example.features.feature.items()
        if "segmentation" in key
    }
    assert actual == {
        "image/segmentation/class/encoded": [b"m"],
        "image/segmentation/class/format": [b"png"],
        "image/segmentation/class/confidence": [b"c"],
    }


def test_serialization_is_deterministic():
    assert examples.serialize(full_record(), 4, 6) == examples.serialize(
        full_record(), 4, 6
    )


def test_missing_features_have_defaults():
    parsed = values_of(examples.parse(example_with({}), [1]))
    assert set(parsed) == PARSED_KEYS
    assert parsed["stated_size"].tolist() == [0, 0]
    np.testing.assert_array_equal(parsed["boxes"], [[0.5] * 4])
    assert [list(parsed[key]) for key in ("scores", "ignore", "areas")] == [
        [1.0],
        [False],
        [0.0],
    ]


def test_label_ids_may_have_gaps():
    labels = tf.train.Feature(int64_list={"value": [90, 1, 3, 90]})
    corner = tf.train.Feature(float_list={"value": [0.5] * 4})
    features = {"image/object/class/label": labels}
    for side in ("ymin", "xmin", "ymax", "xmax"):
        features[f"image/object/bbox/{side}"] = corner
    parsed = examples.parse(example_with(features), [1, 3, 90])
    np.testing.assert_array_equal(parsed["classes"], [2, 0, 1, 2])


def test_an_unknown_label_raises_and_is_named():
    label = tf.train.Feature(int64_list={"value": [17]})
    serialized = example_with({"image/object/class/label": label})
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        examples.parse(serialized, [1, 3, 90])
    assert "Expected labels among" in error.value.message
    assert "17" in error.value.message and "90" in error.value.message


def thresholded(*thresholds):
    scores = np.float32([0.25, 0.5, 0.75, 0.125])
    record = {
        "encoded": b"x",
        "id": 0,
        "boxes": np.float32([[0, 0, k / 8, 1] for k in range(1, 5)]),
        "classes": np.arange(4),
        "scores": scores,
        "ignore": np.array([False, True, False, False]),
        "areas": np.arange(4) * 10,
    }
    source = examples.apply_threshold(examples.from_records([record]), *thresholds)
    return next(source.dataset.as_numpy_iterator())


def test_threshold_keeps_confident_boxes():
    kept = thresholded(0.5)
    np.testing.assert_array_equal(kept["scores"], [0.5, 0.75])
    np.testing.assert_array_equal(kept["classes"], [1, 2])
    np.testing.assert_array_equal(kept["boxes"][:, 2], [2 / 8, 3 / 8])
    np.testing.assert_array_equal(kept["ignore"], [True, False])
    np.testing.assert_array_equal(kept["areas"], [10.0, 20.0])
    assert set(kept) == KEYS


def test_boxes_between_the_thresholds_are_ignored():
    kept = thresholded(0.5, 0.25)
    np.testing.assert_array_equal(kept["scores"], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(kept["ignore"], [True, True, False])


def test_extreme_thresholds():
    assert len(thresholded(0.0)["scores"]) == 4
    assert len(thresholded(1.0)["scores"]) == 0
    assert thresholded(1.0, 0.0)["ignore"].all()


@pytest.mark.parametrize(
    "score, ignore", [(1.5, None), (-0.5, None), (0.5, 0.625), (0.5, -0.25)]
)
def test_thresholds_out_of_order_raise(score, ignore):
    source = examples.from_records([full_record()])
    with pytest.raises(ValueError) as error:
        examples.apply_threshold(source, score, ignore)
    assert str(error.value) == (
        "Expected 0 <= ignore_threshold <= score_threshold <= 1. Received: "
        f"ignore_threshold={ignore}, score_threshold={score}"
    )


@pytest.mark.parametrize(
    "start, size, ids",
    [(0, 2, [0, 1]), (2, 2, [2, 3]), (4, 9, [4]), (5, 1, []), (0, 5, [0, 1, 2, 3, 4])],
)
def test_a_part_counts_its_images(start, size, ids):
    source = examples.from_records(
        [{"path": f"{k}.png", "id": k} for k in range(5)], ["a"], has_labels=False
    )
    part = examples.part(source, start, size)
    assert [int(example["id"]) for example in part.dataset] == ids
    assert part.num_images == len(ids)
    assert part.class_names == ("a",) and not part.has_labels


def test_images_are_read_from_bytes_and_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))
    source = examples.from_records(
        [
            {"encoded": png(pixels), "id": 0},
            {"path": str(tmp_path / "a.png"), "id": 1},
        ]
    )
    for example in source.dataset:
        image = examples.read_image(example)
        assert image.dtype == tf.uint8
        np.testing.assert_array_equal(image, pixels)


def test_gray_images_get_three_channels():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = examples.read_image({"path": tf.constant(""), "encoded": png(gray)})
    np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=2))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    image = examples.read_image({"path": tf.constant(""), "encoded": file.getvalue()})
    np.testing.assert_array_equal(image, np.full((3, 4, 3), [255, 0, 0]))


@pytest.mark.parametrize("source_id", ["0", "139", "900000000000000001"])
def test_integer_ids_are_kept(source_id):
    assert int(examples._integer_id(tf.constant(source_id))) == int(source_id)


def test_non_numeric_ids_are_hashed():
    ids = [int(examples._integer_id(tf.constant(t))) for t in ("a1f", "a1e", "a1f", "")]
    assert ids[0] == ids[2] and len(set(ids)) == 3
    assert all(0 <= value < 2**62 for value in ids)


def test_file_names_of_other_encodings_are_named():
    with pytest.raises(ValueError, match=r"names in UTF-8. Received: 'a.udcff.jpg'"):
        examples.from_records([{"path": "a\udcff.jpg", "id": 1}])

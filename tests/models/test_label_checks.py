"""What labels and pixels must look like before a model learns from them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy_training

from official_selftrain.models import label_checks

FRAME = (32, 48)
WHERE = " of the stream labeled"


def detection(**changes):
    """A batch of one image with two objects and a crowd, and one without any."""
    boxes = np.zeros((2, 4, 4), np.float32)
    boxes[0, :3] = [[2, 3, 20, 45], [8, 30, 30, 47], [0, 0, 32, 10.5]]
    batch = {
        "images": np.full((2, *FRAME, 3), 100.0, np.float32),
        "boxes": boxes,
        "classes": np.array([[0, 2, -1, -1], [-1] * 4]),
        "ignore": np.array([[0, 0, 1, 0], [0] * 4], bool),
        "scores": np.array([[1, 0.4, 1, 0], [0] * 4], np.float32),
        "sample_weights": np.array([0.0, 2.5]),
    }
    return {**batch, **changes}


def check(batch):
    label_checks.check_images(batch, FRAME, WHERE)
    label_checks.check_boxes(batch, 3, FRAME, WHERE)


def of_image(values):
    images = np.zeros((2, *FRAME, 3), np.float32)
    images[0, 0, :, 0] = np.resize(values, 48)
    return images


NOTHING = np.full((2, 4), -1)
BOXES = detection()["boxes"]
Y, X, Y2, X2 = np.moveaxis(BOXES, -1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images": of_image([0])},  # black
        {"images": of_image([0, 1])},  # dark, but not a fraction of 1
        {"images": of_image([1, 1]).astype("uint8")},
        {"images": of_image([0.5, 1.5])},
        {"images": of_image([-20, 270.5])},  # interpolated
        {"images": of_image([-0.2, 9])},  # dark, interpolated
        {"images": of_image([-1e-5, 0])},  # black, rounded
        {"images": of_image([0, 255]).astype("uint8")},
        {"images": of_image([7]).astype("float16")},
        {"classes": NOTHING, "ignore": np.zeros((2, 4), int)},
        {"classes": NOTHING, "boxes": BOXES * 0 - 1, "ignore": np.zeros((2, 4))},
        {"classes": np.float32([[0, 2, -1, -1], [-1] * 4])},
        {"classes": np.array([[1, 2, -1, -1], [-1] * 4])},  # 3 would say from 1
        {"boxes": BOXES + [0, 0, 0, 1]},  # to 48 of 48, and an empty slot's
        {"boxes": BOXES.astype("float16")},
    ],
)
def test_right_labels_are_accepted(changes):
    check(detection(**changes))
    batch = detection(**changes)
    del batch["scores"], batch["sample_weights"], batch["images"]
    check(batch)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": of_image([0.5, 1])}, "of 0 to 255, .*: values of 0 to 1$"),
        ({"images": of_image([-1, 1])}, "labeled of 0 to 255, .*: values of -1 to 1$"),
        ({"images": of_image([-2.1, 2.6])}, "Received: values of -2.1 to 2.6$"),
        ({"images": of_image([-124, 151])}, "Received: values of -124 to 151$"),
        ({"images": of_image([-0.5])}, "Received: values of -0.5 to 0$"),
        ({"images": of_image([0, 4095])}, "Received: values of 0 to 4095$"),
        ({"images": of_image([np.nan])}, "Received: values of nan to nan$"),
        (
            {"images": np.zeros((2, 48, 32, 3))},
            r"images of the stream labeled, numbers \[B, 32, 48, 3\]. Received: "
            r"float64 of shape \(2, 48, 32, 3\)$",
        ),
        ({"images": np.zeros((2, *FRAME, 3), bool)}, "Received: bool of shape"),
        (
            {"images": np.zeros((3, *FRAME, 3))},
            r"\[3\]. Received: float64 of shape .2,",
        ),
        ({"sample_weights": np.float32([1, -2])}, "labeled of at least 0. .*: -2$"),
        ({"sample_weights": np.float32([1, np.nan])}, "of at least 0. Received: nan$"),
        ({"sample_weights": np.ones((2, 1))}, r"numbers \[2\]. .* of shape \(2, 1\)$"),
        ({"weight": np.ones(2)}, r"as sample_weights, float \[B\]. Received: weight$"),
        (
            {"classes": np.array([[1, 3, -1, -1], [2, -1, -1, -1]])},
            "classes 0 to 2, -1 as padding, in classes of the stream labeled. "
            "Received: 1 to 3, which are counted from 1: subtract 1$",
        ),
        ({"classes": np.array([[0, 3, -1, -1], [-1] * 4])}, "Received: 3$"),
        ({"classes": np.array([[0, -2, -1, -1], [-1] * 4])}, "Received: -2$"),
        ({"classes": np.eye(4)[None]}, r"classes .* numbers \[2, 4\]. .*\(1, 4, 4\)$"),
        (
            {"classes": np.array([[0, 2, 1, 0], [0] * 4])},
            "Expected -1 as the class of a slot without a box, in classes of the "
            r"stream labeled. Received: 0 for the box \[0, 0, 0, 0\]$",
        ),
        ({"ignore": np.full((2, 4), 2)}, "bool or 0 and 1. Received: 2$"),
        ({"ignore": np.zeros((2, 3))}, r"ignore .* numbers \[2, 4\]. .* \(2, 3\)$"),
        ({"scores": np.full((2, 4), 87.5)}, "labeled of 0 to 1. Received: 87.5$"),
        ({"scores": np.full((2, 4), np.nan)}, "of 0 to 1. Received: nan$"),
        ({"scores": np.zeros(2)}, r"scores .* numbers \[2, 4\]. .* shape \(2,\)$"),
        ({"boxes": BOXES[:, :2]}, r"classes .* numbers \[2, 2\]. .* \(2, 4\)$"),
        ({"boxes": BOXES[..., :3]}, r"numbers \[B, M, 4\]. .* \(2, 4, 3\)$"),
        ({"boxes": BOXES.astype(str)}, r"numbers \[B, M, 4\]. Received: str"),
        (
            {"boxes": BOXES / [32, 48, 32, 48]},
            "in pixels of the frame of 32 x 48. Received: coordinates of at most 1, "
            "which are fractions of its size: multiply by it$",
        ),
        ({"boxes": BOXES / 25}, "Received: coordinates of at most 1.88, which are"),
        (
            {"boxes": np.stack([X, Y, X2, Y2], -1)},
            r"Received: \[3, 2, 45, 20\], where all boxes fit as "
            r"\(xmin, ymin, xmax, ymax\)$",
        ),
        (
            {"boxes": np.stack([X, Y, X2 - X, Y2 - Y], -1)},
            r"Received: \[3, 2, 42, 18\], where all boxes fit as "
            r"\(x, y, width, height\)$",
        ),
        ({"boxes": BOXES + [0, 0, 2.5, 0]}, r"32 x 48. .*: \[0, 0, 34.5, 10.5\]$"),
        ({"boxes": BOXES - [2, 0, 0, 0]}, r"32 x 48. Received: \[-2, 0, 32, 10.5\]$"),
        ({"boxes": BOXES * np.nan}, r"Received: \[nan, nan, nan, nan\]$"),
    ],
)
def test_wrong_labels_are_named(changes, text):
    with pytest.raises(ValueError, match=text) as error:
        check(detection(**changes))
    assert "\n" not in str(error.value) and str(error.value).startswith("Expected ")


def test_boxes_are_of_as_many_images():
    batch = detection()
    del batch["sample_weights"]
    batch["images"] = batch["images"][:1]
    with pytest.raises(ValueError, match="for each image. Received: 2 for 1 images$"):
        check(batch)


def test_missing_boxes_are_named():
    batch = detection()
    del batch["boxes"]
    with pytest.raises(ValueError, match=r"Expected boxes.* Received: keys=\['classes"):
        label_checks.check_boxes(batch, 3, FRAME)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (np.full((1, *FRAME), 255), None),
        (np.full((1, *FRAME), 2), None),
        (np.zeros((1, *FRAME), "uint8"), None),
        (
            np.resize([1, 2, 3, 255], (1, *FRAME)),
            "classes 0 to 2, 255 where it is unknown, in mask. Received: 1 to 3, which",
        ),
        (np.resize([0, 0.5], (1, *FRAME)), "mask, whole numbers. Received: 0.5$"),
        (np.zeros((1, 48, 32)), r"numbers \[B, 32, 48\]. .* of shape \(1, 48, 32\)$"),
        (np.zeros((1, *FRAME, 3)), r"numbers \[B, 32, 48\]. .* \(1, 32, 48, 3\)$"),
    ],
)
def test_masks(mask, text):
    if text is None:
        label_checks.check_mask({"mask": mask}, 3, FRAME)
        return
    with pytest.raises(ValueError, match=text):
        label_checks.check_mask({"mask": mask}, 3, FRAME)


def own_labels(scale=1.0):
    return {
        "boxes": np.float32([[[2, 2, 20, 20]]]) * scale,
        "classes": np.array([[1]]),
        "ignore": np.zeros((1, 1), bool),
    }


def test_a_model_checks_the_first_labels_outside_of_graphs():
    model = toy_training.tiny_model()
    outputs = model(np.zeros((1, 32, 32, 3), np.float32))
    # A graph has no values to check.
    graph = tf.function(lambda labels: model.compute_losses(outputs, labels)["loss"])
    wrong = own_labels(1 / 32)
    in_graph = float(graph(keras.tree.map_structure(tf.constant, wrong)))
    for labels in (wrong, keras.tree.map_structure(tf.constant, wrong)):
        with pytest.raises(ValueError, match="coordinates of at most 0.625, which are"):
            model.compute_losses(outputs, labels)
        with pytest.raises(ValueError, match="coordinates of at most 0.625, which are"):
            model.loss_sum(outputs, labels)
    model.compute_losses(outputs, own_labels())
    # Only the first ones are checked.
    later = float(model.compute_losses(outputs, wrong)["loss"])
    assert later == pytest.approx(in_graph, rel=1e-6)
    assert "check" not in str(model.get_config())


def test_a_marked_model_is_not_checked():
    model = toy_training.tiny_model()
    label_checks.mark(model)
    outputs = model(np.zeros((1, 32, 32, 3), np.float32))
    assert float(model.compute_losses(outputs, own_labels(1 / 32))["loss"]) > 0.0

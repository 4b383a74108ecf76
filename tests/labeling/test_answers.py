"""The same box in every convention; answers that can't be read in one way only."""

import types

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import masks
from official_selftrain.labeling import answers

NAMES = ("cat", "dog")
SIZE = np.array([40, 80])

# In an image of 40 x 80: ymin 10, xmin 20, ymax 30, xmax 60; a dog with score 0.75.
BOXES = {
    "yxyx": [10, 20, 30, 60],
    "xyxy": [20, 10, 60, 30],
    "xywh": [20, 10, 40, 20],
    "center_xywh": [40, 20, 40, 20],
    "rel_yxyx": [0.25, 0.25, 0.75, 0.75],
    "rel_xyxy": [0.25, 0.25, 0.75, 0.75],
    "rel_xywh": [0.25, 0.25, 0.5, 0.5],
}


class Tensor:
    """The methods of a PyTorch tensor on a GPU that has gradients."""

    def __init__(self, value, is_detached=False, is_near=False):
        self.value, self.is_detached, self.is_near = value, is_detached, is_near

    def detach(self):
        return Tensor(self.value, True, self.is_near)

    def cpu(self):
        return Tensor(self.value, self.is_detached, True)

    def numpy(self):
        if not (self.is_detached and self.is_near):
            raise TypeError("can't convert a tensor")
        return np.asarray(self.value)


def result(xyxy, conf, cls, **others):
    """A result object of Ultralytics."""
    boxes = types.SimpleNamespace(
        xyxy=Tensor(np.float32(xyxy)),
        conf=Tensor(np.float32(conf)),
        cls=Tensor(np.float32(cls)),
    )
    fields = {"boxes": boxes, "names": dict(enumerate(NAMES)), "orig_shape": (40, 80)}
    return types.SimpleNamespace(**{**fields, **others})


def reading_of(answer, box_format="auto", box_units="auto", kind="list", **settings):
    convention = answers.convention_of(answer)
    classes = answers.Classes(NAMES, (0, 1), kind, settings.pop("first_id", None))
    return answers.Reading(
        "my:teacher",
        convention,
        NAMES,
        classes.ids(convention),
        answers.stated_format(convention, box_format, box_units),
        **settings,
    )


def read(answer, *args, **kwargs):
    reading = reading_of(answer, *args, **kwargs)
    return answers.read(answer, SIZE, reading, image="a.jpg")


def assert_is_the_dog(labels):
    assert labels["boxes"].tolist() == [BOXES["yxyx"]]
    assert labels["classes"].tolist() == [1] and labels["scores"].tolist() == [0.75]
    assert labels["boxes"].dtype == labels["scores"].dtype == np.float32
    assert labels["classes"].dtype == np.int32


def keras(box, names=("boxes", "confidence", "classes"), **others):
    """An answer of KerasCV: padded with -1."""
    values = ([box, [-1] * 4], [0.75, -1], [1, -1])
    return {**dict(zip(names, map(np.float32, values))), **others}


@pytest.mark.parametrize("box_format", BOXES)
def test_formats_of_keras(box_format):
    box = BOXES[box_format]
    assert_is_the_dog(read(keras(box, num_detections=np.int32(1)), box_format))
    assert_is_the_dog(read(keras(box, ("boxes", "confidence", "labels")), box_format))


def test_suppression_of_keras():
    """What KerasCV's own layer returns: two boxes of which one is suppressed."""
    suppress = keras_cv.layers.NonMaxSuppression("xywh", False, max_detections=5)
    boxes = tf.constant([[BOXES["xywh"], BOXES["xywh"], [0, 0, 9, 9]]], tf.float32)
    found = suppress(boxes, tf.constant([[[0.25, 0.75], [0.6, 0.1], [0.1, 0.2]]]))
    assert set(found) == {"boxes", "confidence", "classes", "num_detections"}
    answer = {name: value[0] for name, value in found.items()}
    assert answer["confidence"].numpy().tolist() == [0.75, -1, -1, -1, -1]
    assert_is_the_dog(read(answer, "xywh"))
    assert_is_the_dog(read({**answer, "num_detections": 5}, "xywh"))


def test_own_names():
    for box_format, box in BOXES.items():
        answer = {"boxes": [box], "scores": [0.75], "classes": [1]}
        assert_is_the_dog(read(answer, box_format))


def test_torchvision_and_transformers():
    answer = {
        "boxes": Tensor([BOXES["xyxy"]]),
        "scores": Tensor([0.75]),
        "labels": Tensor([1]),
        "masks": None,
    }
    assert_is_the_dog(read(answer, kind="ids"))
    assert_is_the_dog(read({**answer, "labels": [2]}, first_id=1))
    answer["boxes"] = [BOXES["rel_xyxy"]]
    assert_is_the_dog(read(answer, box_units="normalized", kind="ids"))


def test_object_detection_api():
    """Classes from 1 as floats, padded with zeros; fractions, or pixels."""
    for box_format in ("rel_yxyx", "yxyx"):
        answer = {
            "detection_boxes": tf.constant([BOXES[box_format], [0] * 4], tf.float32),
            "detection_scores": tf.constant([0.75, 0.0]),
            "detection_classes": tf.constant([2.0, 1.0]),
            "num_detections": tf.constant(1.0),
            "raw_detection_boxes": tf.zeros([9, 4]),
        }
        assert_is_the_dog(read(answer))
        assert_is_the_dog(read(answer, box_format))


def test_ultralytics():
    assert_is_the_dog(read(result([BOXES["xyxy"]], [0.75], [1])))
    assert_is_the_dog(read(result([BOXES["xyxy"]], [0.75], [1]), kind="ids"))


@pytest.mark.parametrize(
    "answer",
    [
        result(np.zeros((0, 4)), [], []),
        {"boxes": [], "confidence": [], "classes": []},
        keras([0, 0, 5, 5], num_detections=0),
    ],
)
def test_no_boxes(answer):
    is_result = not isinstance(answer, dict)
    labels = read(answer, "auto" if is_result else "xywh")
    assert labels["boxes"].shape == (0, 4) and labels["classes"].shape == (0,)


def test_masks():
    mask = np.array([[0, 1, 255]])
    for confidence in ([[0.0, 0.5, 1.0]], np.uint8([[0, 128, 255]])):
        answer = {"mask": Tensor(mask), "confidence": confidence}
        reading = reading_of(answer)
        labels = answers.read(answer, np.array([1, 3]), reading)
        assert masks.decode(labels["mask"]).numpy().tolist() == mask.tolist()
        assert masks.decode(labels["confidence"]).numpy().tolist() == [[0, 128, 255]]


def dog(**changed):
    answer = {"boxes": [BOXES["xyxy"]], "scores": [0.75], "labels": [1]}
    return {**answer, **changed}


@pytest.mark.parametrize(
    ("answer", "box_format", "text"),
    [
        (
            dog(boxes=[[1, 2, 3]]),
            "auto",
            r"\(n, 4\), .* Received: boxes \(1, 3\)",
        ),
        (dog(boxes=[1, 2, 3, 4]), "auto", r"Received: boxes \(4,\), scores \(1,\)"),
        (dog(scores=[0.5, 0.5]), "auto", r"scores \(2,\), labels \(1,\)"),
        (dog(labels=[[1]]), "auto", r"labels \(1, 1\)"),
        (dog(scores=[75.0]), "auto", "Expected scores of 0 to 1. Received: 75.0"),
        (dog(scores=[-1.0]), "auto", "Expected scores of 0 to 1. Received: -1.0"),
        (dog(scores=[np.nan]), "auto", "Expected scores of 0 to 1. Received: nan"),
        (dog(boxes=[[20, 10, np.inf, 30]]), "auto", r"finite boxes. Received: \[20.0"),
        (dog(labels=[0.5]), "auto", "whole numbers as labels. Received: 0.5"),
        (dog(labels=["dog"]), "auto", r"numbers as labels. Received: \['dog'\]"),
        (dog(boxes=[[1, 2], [3]]), "auto", "numbers as boxes. Received: setting an"),
        (dog(labels=[3]), "auto", r"ids among {0: 'cat', 1: 'dog'}. Received: 3"),
        (dog(num_detections=2), "auto", "num_detections of 0 to 1. Received: 2"),
        (dog(num_detections=0.5), "auto", "num_detections of 0 to 1. Received: 0.5"),
        (dog(image_info=np.ones((1, 4))), "auto", r"\[4, 2\]. Received: .* \[1, 4\]"),
        (["boxes", "scores", "labels"], "auto", "a dict or a result. Received: list"),
        # Units and orders that don't fit.
        (dog(), "rel_xyxy", "fractions, as .*=rel_xyxy says. Received: .* of 60"),
        (
            dog(boxes=[BOXES["rel_xyxy"]]),
            "auto",
            "Expected pixels, as box_format=xyxy says. .*state --box_format=rel_xyxy",
        ),
        (dog(boxes=[[60, 10, 20, 30]]), "auto", "ends follow their starts"),
        (dog(boxes=[[50, 10, 60, 30]]), "xywh", r"\[10.0, 50.0, 40.0, 110.0\]"),
        (dog(boxes=[[90, 10, 95, 30]]), "auto", r"\[10.0, 90.0, 30.0, 95.0\]"),
        (dog(boxes=[[-9, 10, -5, 30]]), "auto", r"\[10.0, -9.0, 30.0, -5.0\]"),
        (dog(), "yxyx", r"\[20.0, 10.0, 60.0, 30.0\].*read as box_format=yxyx"),
        (keras([20, 10, 60, 30]), "yxyx", "boxes in the image of 40 x 80"),
        # Result objects.
        (result([[0, 0, 9, 9]], [0.9], [0], orig_shape=(80, 40)), "auto", "40 x 80"),
        (result([[0, 0, 9, 9]], [0.9], [2]), "auto", "ids among .* Received: 2"),
        (
            result([], [], [], boxes=None, obb="turned"),
            "auto",
            "as a detector gives. Received: boxes=None, obb",
        ),
    ],
)
def test_refused_values(answer, box_format, text):
    with pytest.raises(ValueError, match=f"{text}.*; a.jpg, teacher my:teacher"):
        read(answer, box_format, kind="ids")


def test_boxes_may_reach_a_little_beyond_the_image():
    labels = read(dog(boxes=[[-2, 10, 90, 30]]), kind="ids")
    assert labels["boxes"].tolist() == [[10, -2, 30, 90]]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"logits": 0}, "Received: logits; convert other outputs in a function"),
        ({**dog(), "classes": [1]}, "Received: boxes, classes, labels, scores"),
        ({**dog(), "confidence": [1]}, "Received: boxes, confidence, labels, scores"),
        ({"boxes": [], "scores": []}, "Received: boxes, scores;"),
        (np.zeros((3, 3)), "Received: ndarray"),
        (None, "Received: NoneType"),
    ],
)
def test_unrecognized_answers(answer, text):
    with pytest.raises(ValueError, match=f"Expected outputs detection_boxes, .*{text}"):
        answers.convention_of(answer)


def test_formats_that_must_be_stated():
    for answer in (keras([1, 2, 3, 4]), {"boxes": 0, "scores": 0, "classes": 0}):
        names = ", ".join(answer)
        for units in ("auto", "pixels", "normalized"):
            with pytest.raises(
                ValueError, match=f"Expected --box_format, .* Received: {names}, as of"
            ):
                answers.stated_format(answers.convention_of(answer), "auto", units)
    with pytest.raises(ValueError, match=r"nearest: xywh\). Received: .*'xyhw'"):
        answers.stated_format(answers.DETECTION, "xyhw")
    # KerasCV's formats may be written with capitals.
    assert answers.stated_format(answers.DETECTION, "xyWH") == "xywh"


def test_formats_that_contradict():
    for stated in (("rel_xyxy", "pixels"), ("xywh", "normalized")):
        text = "box_format={}, box_units={}".format(*stated)
        with pytest.raises(ValueError, match=f"of the stated units. Received: {text}"):
            answers.stated_format(answers.DETECTION, *stated)
    for stated in (("xywh", "auto"), ("auto", "normalized")):
        with pytest.raises(ValueError, match="box_format=xyxy, that of results of Ul"):
            answers.stated_format(answers.ULTRALYTICS, *stated)
    assert answers.stated_format(answers.DETECTION, "auto", "normalized") == "rel_yxyx"
    assert answers.stated_format(answers.DETECTION, "yxyx", "pixels") == "yxyx"
    assert answers.stated_format(answers.ULTRALYTICS, "xyxy") == "xyxy"


def ids_of(names, kind="list", first_id=None, numbers=(0, 1)):
    convention = answers.convention_of(names)
    return answers.Classes(NAMES, numbers, kind, first_id).ids(convention)


def test_first_ids():
    """Of conventions, lists and files; 0 and 1 where either may be meant."""
    keras_names, labels = (
        ("boxes", "confidence", "classes"),
        ("boxes", "scores", "labels"),
    )
    classes = ("boxes", "scores", "classes")
    assert ids_of(answers.DETECTION.names, "file") == {1: 0, 2: 1}
    assert ids_of(keras_names, "file") == ids_of(keras_names) == {0: 0, 1: 1}
    assert ids_of(classes) == {0: 0, 1: 1}
    assert ids_of(classes, "file", 1) == ids_of(labels, "file", 1) == {1: 0, 2: 1}
    assert ids_of(labels, "coco", None, (3, 90)) == {3: 0, 90: 1}
    for names, kind in ((classes, "file"), (labels, "file"), (labels, "list")):
        text = f"Expected --first_class_id, or .*{names[2]} count from 0 in some"
        with pytest.raises(ValueError, match=text):
            ids_of(names, kind)
    with pytest.raises(ValueError, match="0 to 1, as KerasCV counts. .*{1: 0, 2: 1}"):
        ids_of(keras_names, "coco", None, (1, 2))
    with pytest.raises(ValueError, match="0 to 1, as masks counts. .*{1: 0, 2: 1}"):
        ids_of(("mask", "confidence"), "file", 1)


def test_classes_in_python():
    found = answers.classes_of({"1": "cat", 3: "dog", 2: "N/A"}, "x")
    assert (found.names, found.numbers, found.kind) == (NAMES, (1, 3), "ids")
    found = answers.classes_of(["__background__", "cat", "???", "dog"], "x")
    assert (found.names, found.numbers, found.first_id) == (NAMES, (1, 3), 0)
    twice, halves = {1: "cat", "1": "dog"}, {1.5: "cat", 2.5: "dog"}
    for wrong in ([], "cat", ["cat"] * 2, [1, 2], {"a": "cat"}, None, twice, halves):
        with pytest.raises(ValueError, match="class names, each once, in x: a list"):
            answers.classes_of(wrong, "x")


@pytest.mark.parametrize(
    ("mask", "confidence", "text"),
    [
        ([[0, 2]], [[0.5, 0.5]], r"mask of 0 to 1 or 255, for the classes \['cat', 'd"),
        ([[0, -1]], [[0.5, 0.5]], "Received: -1"),
        ([[0.5, 0]], [[0.5, 0.5]], "Received: 0.5"),
        ([[0, 1]], [[0.5]], r"Received: \(1, 2\) and \(1, 1\)"),
        ([[0], [1]], [[0.5], [0.5]], r"size, 1 x 2 \(height x width\)"),
        ([[0, 1]], [[0.5, 7.0]], "float64 of 0.5 to 7.0"),
        ([[0, 1]], [[0, 1]], "floats of 0 to 1, or uint8 .*int64 of 0 to 1"),
    ],
)
def test_refused_masks(mask, confidence, text):
    answer = {"mask": mask, "confidence": confidence}
    with pytest.raises(ValueError, match=text):
        answers.read(answer, np.array([1, 2]), reading_of(answer))


def test_answers_of_another_kind():
    reading = reading_of(dog(), kind="ids")
    with pytest.raises(ValueError, match="kind, as of torchvision. .* of KerasCV; b"):
        answers.read(keras([0, 0, 9, 9]), SIZE, reading, image="b")

"""Teachers: classes by name and id."""

import json

import numpy as np
import pytest

from official_selftrain.data import masks
from official_selftrain.labeling import teachers


def fixed_teacher(class_names, **labels):
    return teachers.Teacher(
        lambda *_: {},
        lambda items: [labels] * len(items),
        class_names,
        False,
        {},
    )


def test_classes_are_matched_by_name():
    teacher = fixed_teacher(
        ("dog", "cat", "cow"),
        boxes=np.arange(12.0).reshape(3, 4),
        classes=np.array([0, 1, 2]),
        scores=np.array([0.9, 0.8, 0.7]),
    )
    (found,) = teachers.for_classes(teacher, ["cow", "dog"], True).label([None])
    assert found["classes"].tolist() == [1, 0]
    assert found["scores"].tolist() == [0.9, 0.7]
    assert found["boxes"][:, 0].tolist() == [0.0, 8.0]
    same = teachers.for_classes(teacher, ["dog", "cat", "cow"])
    assert same is teacher


def test_classes_of_masks_are_matched_by_name():
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    labels = {"mask": masks.encode(mask), "confidence": masks.encode(mask)}
    teacher = teachers.Teacher(
        None, lambda items: [labels], ("background", "a", "b"), True, {}
    )
    renamed = teachers.for_classes(teacher, ["background", "b"], drop_others=True)
    (found,) = renamed.label([None])
    assert masks.decode(found["mask"]).numpy().tolist() == [[0, 255, 1, 255]]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (
            ["cat"],
            r"student's classes, \['cat'\], or drop the others with "
            r"--drop_others. Received: a teacher of \['dog', 'cat'\]; missing: "
            r"\[\], others: \['dog'\]",
        ),
        (
            ["cat", "cow"],
            r"Received: a teacher of \['dog', 'cat'\]; missing: \['cow'\]",
        ),
    ],
)
def test_mismatched_classes_list_both_sets(wanted, text):
    with pytest.raises(ValueError, match=text):
        teachers.for_classes(fixed_teacher(("dog", "cat")), wanted)


def test_class_files(tmp_path):
    text = tmp_path / "labels.txt"
    text.write_text("person\n???\ncar\n\n")
    assert teachers.read_classes(str(text)) == (["person", "car"], {1: 0, 3: 1})
    assert teachers.read_classes(str(text), 0)[1] == {0: 0, 2: 1}
    coco = tmp_path / "coco.json"
    categories = [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}]
    coco.write_text(json.dumps({"categories": categories}))
    assert teachers.read_classes(str(coco)) == (["person", "brush"], {1: 0, 90: 1})
    coco.write_text(json.dumps({"categories": categories}), encoding="utf-16")
    assert teachers.read_classes(str(coco))[0] == ["person", "brush"]
    text.write_text("a\na\n")
    with pytest.raises(
        ValueError, match=r"each once. Received: .*labels.txt with \['a'"
    ):
        teachers.read_classes(str(text))


def test_number_of_names_must_equal_number_of_classes():
    class Model:
        num_classes = 3

    with pytest.raises(ValueError, match=r"3 classes. Received: 2 names, \['a', 'b'\]"):
        teachers.keras_teacher(Model(), ["a", "b"])

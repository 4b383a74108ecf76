"""Functions as teachers: imported by name, called with lists of images."""

import dataclasses
import itertools
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import sources
from official_selftrain.labeling import (
    answers,
    function_teacher,
    label_store,
    opening,
    workers,
)

# One box in the left half of every image.
HALVES = """
import numpy as np

def teacher(images):
    assert all(i.dtype == np.uint8 and i.ndim == 3 for i in images), images
    return [
        {"boxes": [[0, 0, i.shape[1] / 2, i.shape[0]]], "scores": [0.75], "labels": [1]}
        for i in images
    ]

teacher.class_names = {0: "cat", 1: "dog"}
"""
NUMBERS = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module and returns its name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    names = []

    def write(text):
        names.append(f"written_teacher_{next(NUMBERS)}")
        pathlib.Path(f"{names[-1]}.py").write_text(text)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def item(teacher, size, path="photos/a.jpg", number=7):
    example = {"path": tf.constant(path), "id": tf.constant(number, tf.int64)}
    image = tf.zeros((*size, 3), tf.uint8)
    return {**teacher.prepare(example, image), "size": tf.constant(size)}


def test_images_of_different_sizes(module):
    name = module(HALVES)
    teacher = function_teacher.function_teacher(f"python:{name}:teacher")
    assert teacher.class_names == ("cat", "dog") and not teacher.has_masks
    found = teacher.label([item(teacher, size) for size in ((40, 80), (30, 20))])
    assert [f["boxes"].tolist() for f in found] == [[[0, 0, 40, 40]], [[0, 0, 30, 10]]]
    assert [f["classes"].tolist() for f in found] == [[1], [1]]
    digest = teacher.origin.pop("sha256")
    assert len(digest) == 64
    assert teacher.origin == {
        "kind": "python",
        "function": f"{name}:teacher",
        "box_format": "xyxy",
        "class_ids": [0, 1],
    }


def test_the_file_of_a_module_identifies_it(module):
    """A changed module can't continue the labels of the previous one."""
    teachers = [
        function_teacher.function_teacher(f"{module(HALVES + end)}:teacher")
        for end in ("", "# changed")
    ]
    first, second = (teacher.origin["sha256"] for teacher in teachers)
    assert first != second


def test_methods_and_masks(module):
    name = module(
        "import numpy as np\n"
        "class Segmenter:\n"
        "    class_names = ['background', 'tree']\n"
        "    def label(self, images):\n"
        "        return [{'mask': i[..., 0] > 99, 'confidence': i[..., 0] / 255}\n"
        "                for i in images]\n"
        "    def ids(self, images):\n"
        "        return [{**a, 'mask': a['mask'] * 1} for a in self.label(images)]\n"
        "    ids.class_names = class_names\n"
        "forest = Segmenter()\n"
    )
    teacher = function_teacher.function_teacher(f"{name}:forest.ids")
    assert teacher.has_masks and teacher.class_names == ("background", "tree")
    (found,) = teacher.label([item(teacher, (2, 3))])
    assert tf.io.decode_png(found["mask"])[..., 0].numpy().tolist() == [[0] * 3] * 2
    with pytest.raises(ValueError, match="Received: neither"):
        function_teacher.function_teacher(f"{name}:forest.label")


ULTRALYTICS = """
import types
import numpy as np

def teacher(images):
    boxes = types.SimpleNamespace(
        xyxy=np.float32([[20, 10, 60, 30]]),
        conf=np.float32([0.75]),
        cls=np.float32([1]),
    )
    return [
        types.SimpleNamespace(boxes=boxes, names=NAMES, orig_shape=i.shape[:2])
        for i in images
    ]

NAMES = {0: "cat", 1: "dog"}
"""


def test_results_of_ultralytics(module):
    """They know their classes; what else names them must agree."""
    name = module(ULTRALYTICS)
    teacher = function_teacher.function_teacher(f"{name}:teacher")
    assert teacher.class_names == ("cat", "dog")
    (found,) = teacher.label([item(teacher, (40, 80))])
    assert found["boxes"].tolist() == [[10, 20, 30, 60]]
    assert found["classes"].tolist() == [1]
    sys.modules[name].NAMES = {0: "dog", 1: "cat"}
    with pytest.raises(ValueError, match="names of the first result, .*'dog', 1: 'ca"):
        teacher.label([item(teacher, (40, 80))])
    for names, first in ((("dog", "cat"), None), (("cat",), None), (("cat", "dog"), 1)):
        numbers = tuple(range(len(names)))
        stated = answers.Classes(names, numbers, "file", first)
        with pytest.raises(ValueError, match="same classes .* in --labels and names."):
            function_teacher.function_teacher(f"{module(ULTRALYTICS)}:teacher", stated)
    stated = answers.Classes(("cat", "dog"), (0, 1), "file")
    name = module(ULTRALYTICS)
    teacher = function_teacher.function_teacher(f"{name}:teacher", stated)
    assert teacher.origin["class_ids"] == [0, 1]


def test_first_class_id(module):
    """`labels` of a list of names are ids from 0 or from 1, as is stated."""
    listed = HALVES.replace('{0: "cat", 1: "dog"}', '["dog", "cat"]')
    reference = f"{module(listed)}:teacher"
    with pytest.raises(
        ValueError, match="Expected --first_class_id, or class_names as"
    ):
        function_teacher.function_teacher(reference)
    for first, index in ((0, 1), (1, 0)):
        teacher = function_teacher.function_teacher(reference, first_class_id=first)
        (found,) = teacher.label([item(teacher, (40, 80))])
        assert found["classes"].tolist() == [index]
    background = HALVES.replace('{0: "cat", 1: "dog"}', '["__background__", "cat"]')
    reference = f"{module(background)}:teacher"
    teacher = function_teacher.function_teacher(reference)
    (found,) = teacher.label([item(teacher, (40, 80))])
    assert teacher.class_names == ("cat",) and found["classes"].tolist() == [0]
    with pytest.raises(ValueError, match="=0, as class_names begin with '__back"):
        function_teacher.function_teacher(reference, first_class_id=1)


def test_first_class_id_of_known_ids(module):
    for text, place in ((HALVES, "class_names"), (ULTRALYTICS, "names")):
        reference = f"{module(text)}:teacher"
        message = rf"no --first_class_id, as {place} has the ids \(0, 1\). Received: 1"
        with pytest.raises(ValueError, match=message):
            function_teacher.function_teacher(reference, first_class_id=1)
        function_teacher.function_teacher(reference, first_class_id=0)


def test_formats(module):
    classes = HALVES.replace("labels", "classes")
    reference = f"{module(classes)}:teacher"
    with pytest.raises(
        ValueError, match="Expected --box_format, or box_format of a fun"
    ):
        function_teacher.function_teacher(reference)
    teacher = function_teacher.function_teacher(reference, box_format="xyxy")
    (found,) = teacher.label([item(teacher, (40, 80))])
    assert found["boxes"].tolist() == [[0, 0, 40, 40]]
    assert teacher.origin["box_format"] == "xyxy"
    wrong = module(f"{classes}\nteacher.box_format = 'x'")
    with pytest.raises(ValueError, match="box_format to be one of auto, .*'x'"):
        function_teacher.function_teacher(f"{wrong}:teacher")
    stated = module(f"{classes}\nteacher.box_format = 'xyXY'")
    reference = f"{stated}:teacher"
    with pytest.raises(
        ValueError,
        match=f"Received: --box_format=xywh and {reference}.box_format='xyxy",
    ):
        function_teacher.function_teacher(reference, box_format="xywh")
    teacher = function_teacher.function_teacher(reference)
    assert teacher.origin["box_format"] == "xyxy"


@pytest.mark.parametrize(
    ("text", "path", "error", "message"),
    [
        (
            "",
            "teacher",
            ValueError,
            "Expected teacher in the module .*there is no teach",
        ),
        ("a = 3", "a", ValueError, "a function of a list of images. .*:a, int"),
        ("a = 3", "a.b", ValueError, "Expected a.b in .*there is no b"),
        ("a = 3", "", ValueError, "Expected python:my_module:my_function. Received"),
        ("\n\nimport absent_one", "a", RuntimeError, "'absent_one' at .*py, line 3"),
        ("\n1 / 0", "a", RuntimeError, "ZeroDivisionError: .* at written.*, line 2"),
        ("\ndef a(:", "a", RuntimeError, "SyntaxError: .*at written.*py, line 2"),
        (
            "def a(images):\n  return [i.shape[3] for i in images]",
            "a",
            RuntimeError,
            "the teacher .*:a raised IndexError: tuple index .* at written.*, line 2",
        ),
        (
            # The line of the function, not that of NumPy.
            "import numpy as np\ndef a(images):\n  return np.stack([])",
            "a",
            RuntimeError,
            "raised ValueError: need at least .* at written.*, line 3",
        ),
        (
            "import sys\ndef a(i):\n  sys.exit(0)",
            "a",
            RuntimeError,
            "the teacher .*:a raised SystemExit: 0 at written.*, line 3",
        ),
        (
            "def a(i):\n  return {'boxes': 1}",
            "a",
            ValueError,
            "Received: dict of boxes",
        ),
        (
            "def a(i):\n  return []",
            "a",
            ValueError,
            "Expected 1 answers, .* Received: 0",
        ),
        (
            "def a(i):\n  return [3]",
            "a",
            ValueError,
            "Expected outputs .*Received: int",
        ),
    ],
)
def test_refused_functions(module, text, path, error, message):
    name = module(text)
    with pytest.raises(error, match=message):
        function_teacher.function_teacher(f"python:{name}:{path}")


def test_no_module(module):
    for name in ("absent_module", "absent.module"):
        text = (
            f"a module {name}, in the current folder .*=python:{name}:a; there is no "
        )
        with pytest.raises(ValueError, match=text):
            function_teacher.function_teacher(f"python:{name}:a")


def test_a_message_names_the_image(module):
    name = module(HALVES)
    teacher = function_teacher.function_teacher(f"{name}:teacher")
    module_of = sys.modules[name]
    module_of.teacher.__code__ = (
        lambda images: [{"boxes": [[0, 0, 9, 9]], "scores": [2.0], "labels": [0]}]
    ).__code__
    for path, text in (("photos/a.jpg", "photos/a.jpg"), ("", "id 7")):
        with pytest.raises(
            ValueError, match=f"Received: 2.0; {text}, teacher {name}:t"
        ):
            teacher.label([item(teacher, (40, 80), path)])


def test_a_worker_labels_with_a_function(module, tiny_coco, tmp_path):
    """The file of names and the student's classes apply; labels continue."""
    name = module(HALVES.replace("teacher.class_names", "unused"))
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    settings = opening.TeacherSettings(
        f"python:{name}:teacher",
        labels=str(labels),
        first_class_id=0,
        classes="dog",
        drop_others=True,
    )
    job = workers.Job(
        settings,
        (str(tiny_coco.annotations), str(tiny_coco.images), None),
        str(tmp_path / "out"),
        label_store.Storage(shard_size=2),
    )
    workers.label(job)
    workers.label(job)
    stored = label_store.read(job.output_dir, ["dog"]).dataset
    truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images)).dataset
    for example, target in zip(stored, truth, strict=True):
        assert example["id"] == target["id"]
        assert example["boxes"].numpy().tolist() == [[0, 0, 1, 0.5]]
        assert example["scores"].numpy().tolist() == [0.75]
    changed = dataclasses.replace(settings, box_format="xywh")
    with pytest.raises(ValueError, match="box_format.*choose another output_dir"):
        workers.label(dataclasses.replace(job, teacher=changed))


def test_absent_names_of_a_result():
    """Anything with boxes and names is taken for a result of Ultralytics."""
    result = types.SimpleNamespace(boxes=None, names={})
    assert answers.convention_of(result) is answers.ULTRALYTICS
    assert answers.convention_of({"mask": 0, "confidence": 0}) is answers.MASKS
    assert np.array_equal(answers.as_array(tf.constant([1, 2]), "x"), [1, 2])

"""Every row of the paper builds its model and takes two steps at toy size.

`make smoke` runs it. The row's own model is built by shape; then teacher, labels and
student run on mocked data sets of TFDS, with one block in every stage of the backbone
and frames of 128 x 128. All else is the row's.
"""

import json
import shutil

import bound
import conftest
import gin
import numpy as np
import processes
import pytest
import tensorflow_datasets
from tensorflow import data, nest
from test_claims import cells_of
from test_gin import FILES, clean_gin, run_on_tiny_voc  # noqa: F401
from toy_images import OBJECTS, jpeg, picture, spec_of

from official_selftrain.cli import gin_files
from official_selftrain.models import backbones
from official_selftrain.training import fitting

ROWS = sorted(name for name in FILES if name.startswith(("coco", "pascal")))


def as_dataset(self, split, decoders=None, read_config=None, **_):
    name = self.name if self.name in OBJECTS else f"{self.name}/2017"
    items = [{"image": jpeg(picture(seed)), **OBJECTS[name]} for seed in range(6)]
    signature = nest.map_structure(spec_of, items[0])
    dataset = data.Dataset.from_generator(
        lambda: iter(items), output_signature=signature
    )
    return dataset.apply(data.experimental.assert_cardinality(len(items)))


# Levels 3 to 7 of 640 x 640: 80² + 40² + 20² + 10² + 5² cells of 9 anchors; four times
# as many of 1280 x 1280.
NUM_ANCHORS = {(640, 640): 76_725, (1280, 1280): 306_900}

BUILT = {}


@pytest.fixture(autouse=True)
def freed_memory():
    """Free the models of each row."""
    yield
    conftest.free_memory()


def model_settings():
    """Return the settings of the row's model, except for initial weights."""
    found = {
        key: values
        for key, values in gin.config._CONFIG.items()
        if (".models." in key[1] and "checkpoints" not in key[1])
        or key[0] == "BACKBONE"
    }
    return repr(sorted(found.items(), key=repr))


def shapes_of_outputs(name, params):
    """Build the row's model; return its outputs' shapes."""
    load(name, params)
    settings = bound.of_experiment()
    num_classes = 21 if name.startswith("pascal") else 80
    model = settings["model"](
        num_classes=num_classes, image_size=settings["image_size"]
    )
    return {k: tuple(v.shape) for k, v in model.output.items()}


def check_model(name, params):
    """Build the row's model, once for all rows that share it."""
    size = bound.of_experiment()["image_size"]
    key = model_settings() + repr(size)
    if key not in BUILT:
        BUILT[key] = processes.apart(shapes_of_outputs, name, params)
    if name.startswith("pascal"):
        assert BUILT[key] == {"mask_logits": (None, 128, 128, 21)}
    else:
        count = NUM_ANCHORS[size]
        expected = {"class_logits": (None, count, 80), "box_deltas": (None, count, 4)}
        assert BUILT[key] == expected


def figure_2():
    """Return the flags of one cell per row of Figure 2, at alpha 3."""
    _, cells = cells_of("coco_figure_2", {"columns": {"3": ("ALPHA = 3.0",)}})
    gin.clear_config()
    return {f"resnet101, {cell['row']}": cell["command"] for cell in cells}


CELLS = figure_2()


def load(name, params):
    """Parse a row's gin file, or those of a cell of Figure 2."""
    flags = [flag.split("=", 1) for flag in CELLS.get(name, ())]
    files = [value for kind, value in flags if kind == "--gin_file"]
    lines = [value for kind, value in flags if kind == "--gin_param"]
    files = files or [str(FILES[name])]
    gin_files.load_config(files, [*lines, *params])


def add_augmented_set(root):
    """Add a list and masks as if of the augmented set: those of the training set."""
    lists = root / "ImageSets" / "Segmentation"
    shutil.copy(lists / "train.txt", lists / "trainaug.txt")
    shutil.copytree(root / "SegmentationClass", root / "SegmentationClassAug")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, *CELLS])
def test_every_row(name, tiny_voc, tiny_coco, tmp_path, monkeypatch):
    text = "" if name in CELLS else FILES[name].read_text()
    optional = {
        "CHECKPOINT": "CHECKPOINT = None",
        "SPLIT_FILE": f'SPLIT_FILE = "{tmp_path}/split.json"',
        "pascal_coco": f'UNLABELED_IMAGES = "{tiny_coco.unlabeled}"',
    }
    params = [line for word, line in optional.items() if word in text]
    load(name, params)
    check_model(name, params)
    gin.clear_config()

    # One block per stage.
    small = dict.fromkeys(backbones._EFFICIENTNETS, (1.0, 0.1))
    monkeypatch.setattr(backbones, "_EFFICIENTNETS", small)
    if "resnet" in name:
        params += ["backbones.resnet.blocks = (1, 1, 1, 1)"]
    model_dir = tmp_path / "run"
    stages = ["teacher", "pseudo_labels", "student"]
    with tensorflow_datasets.testing.mock_data(as_dataset_fn=as_dataset):
        if name.startswith("pascal"):
            params += ["segmenter.SemanticSegmenter.num_repeats = 1"]
            params += ["experiment.Labeling.scales = (0.5, 1.5)"]
            add_augmented_set(tiny_voc.root)
            run_on_tiny_voc(name, params, tiny_voc, model_dir, monkeypatch, stages)
        else:
            params += [
                *("TEACHER_STEPS = 2", "STUDENT_STEPS = 2", "WARMUP_STEPS = 1"),
                *("BATCH_SIZE = 2", "IMAGE_SIZE = (128, 128)"),
                "retinanet.RetinaNet.num_head_convs = 1",
                # Before training every score is 0.01.
                *("SCORE_THRESHOLD = 0.0", "retinanet.RetinaNet.score_threshold = 0.0"),
            ]
            load(name, params)
            # The rows' rates are for batches of 128 and 256.
            for schedule in ("cosine", "stepwise"):
                key = f"schedules.{schedule}.learning_rate"
                with gin.unlock_config():
                    if schedule in repr(
                        gin.query_parameter("training.Optimization.schedule")
                    ):
                        gin.bind_parameter(key, 0.001)
                        if "larger rate" in name:
                            gin.bind_parameter(f"student/{key}", 0.002)
            run = bound.run
            run(str(model_dir), stages=stages)
    is_joint = "_joint_" in name
    for stage in ("teacher", "student"):
        summary = json.loads((model_dir / stage / "fit.json").read_text())
        streams = (1 if stage == "teacher" else 2) + is_joint
        assert (summary["steps"], summary["images"]) == (2, 4 * streams)
        (row,) = fitting.read_history(str(model_dir / stage))
        assert all(np.isfinite(value) for value in row.values())
        assert row["labeled_loss"] > 0.1
        if is_joint:  # a thousand classes, nothing learned yet
            assert row["classified_loss"] == pytest.approx(np.log(1000), 0.2)
    if "SPLIT_FILE" in text:
        split = json.loads((tmp_path / "split.json").read_text())
        assert split["images"] == 6 and len(split["ids"]) in (1, 3)

"""Every row of the paper takes two steps of teacher and student, at toy size.

`make smoke` runs it: data sets of TFDS are mocked, EfficientNet is B0, frames are
128 x 128; all else is the row's.
"""

import json
import pathlib

import gin
import numpy as np
import pytest
import tensorflow_datasets
from tensorflow import data, nest
from test_gin import clean_gin, run_on_tiny_voc  # noqa: F401
from test_sources import OBJECTS, jpeg, picture, spec_of

from official_selftrain import configuration, experiment, fitting

ROOT = pathlib.Path(__file__).parent.parent
ROWS = sorted(
    path.name
    for path in (ROOT / "gin").glob("*.gin")
    if path.name.startswith(("coco", "pascal"))
)


def as_dataset(self, split, decoders=None, read_config=None, **_):
    name = self.name if self.name in OBJECTS else f"{self.name}/2017"
    items = [{"image": jpeg(picture(seed)), **OBJECTS[name]} for seed in range(6)]
    signature = nest.map_structure(spec_of, items[0])
    dataset = data.Dataset.from_generator(
        lambda: iter(items), output_signature=signature
    )
    return dataset.apply(data.experimental.assert_cardinality(len(items)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_two_steps_of_every_row(name, tiny_voc, tiny_coco, tmp_path, monkeypatch):
    text = (ROOT / "gin" / name).read_text()
    optional = {
        "efficientnet": 'BACKBONE = "B0"',
        "CHECKPOINT": "CHECKPOINT = None",
        "SPLIT_FILE": f'SPLIT_FILE = "{tmp_path}/split.json"',
        "pascal_coco": f'UNLABELED_IMAGES = "{tiny_coco.unlabeled}"',
    }
    params = [line for word, line in optional.items() if word in text]
    model_dir = tmp_path / "run"
    with tensorflow_datasets.testing.mock_data(as_dataset_fn=as_dataset):
        if name.startswith("pascal"):
            params += ["segmenter.SemanticSegmenter.num_repeats = 1"]
            params += ["experiment.run.label_scales = (0.5, 1.5)"]
            run_on_tiny_voc(name, params, tiny_voc, model_dir, monkeypatch)
        else:
            params += [
                *("TEACHER_STEPS = 2", "STUDENT_STEPS = 2", "WARMUP_STEPS = 1"),
                *("BATCH_SIZE = 2", "IMAGE_SIZE = (128, 128)"),
                # Before training every score is 0.01.
                *("SCORE_THRESHOLD = 0.0", "retinanet.RetinaNet.score_threshold = 0.0"),
            ]
            configuration.load_config([str(ROOT / "gin" / name)], params)
            # The rows' rates belong to batches of 128 and 256.
            for schedule in ("cosine", "stepwise"):
                key = f"schedules.{schedule}.learning_rate"
                with gin.unlock_config():
                    if schedule in repr(gin.query_parameter("fitting.fit.schedule")):
                        gin.bind_parameter(key, 0.001)
            run = gin.get_configurable(experiment.run)
            run(str(model_dir), stages=["teacher", "pseudo_labels", "student"])
    for stage in ("teacher", "student"):
        summary = json.loads((model_dir / stage / "fit.json").read_text())
        images = 4 if stage == "teacher" else 8
        assert (summary["steps"], summary["images"]) == (2, images)
        (row,) = fitting.read_history(str(model_dir / stage))
        assert all(np.isfinite(value) for value in row.values())
        assert row["labeled_loss"] > 0.1
    if "SPLIT_FILE" in text:
        split = json.loads((tmp_path / "split.json").read_text())
        assert split["images"] == 6 and len(split["ids"]) in (1, 3)

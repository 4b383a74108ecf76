"""The mean intersection over union by hand."""

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import examples, masks
from official_selftrain.inference import evaluation
from official_selftrain.metrics import MeanIoU


def test_values_outside_the_classes_are_unknown():
    metric = MeanIoU(3)
    truth = np.array([[[0, 1, 2, 3], [255, -1, 2, 200]]])
    guess = np.array([[[0, 1, 1, 0], [2, 2, 2, 1]]])
    metric.update({"mask": guess}, {"mask": truth})
    # Class 0: 1 of 1; class 1: 1 of 2; class 2: 1 of 2. 3, -1 and 200 are no class.
    expected = {"mIoU": 200 / 3, "class_IoU": [100.0, 50.0, 50.0], "accuracy": 3 / 4}
    assert metric.result() == expected
    assert metric.unknown == 3
    metric.update({"mask": guess}, {"mask": np.full((1, 2, 4), 77)})
    assert metric.result() == expected
    assert metric.unknown == 11


def test_another_ignored_class():
    """255 is then a value like others outside the classes."""
    metric = MeanIoU(3, ignore_class=0)
    truth, guess = np.array([[[0, 1, 255]]]), np.array([[[2, 1, 0]]])
    metric.update({"mask": guess}, {"mask": truth})
    assert metric.result()["class_IoU"] == [None, 100.0, None]
    assert metric.unknown == 1


@pytest.mark.parametrize("wrong", [3, -1, 255])
def test_predictions_outside_the_classes_are_refused(wrong):
    metric = MeanIoU(3)
    truth = np.array([[[0, 1]]])
    text = f"predicted classes of 0 to 2. Received: {wrong}$"
    with pytest.raises(ValueError, match=text):
        metric.update({"mask": np.array([[[0, wrong]]])}, {"mask": truth})
    # Where nothing is evaluated they don't matter.
    truth[0, 0, 1] = 255
    metric.update({"mask": np.array([[[0, wrong]]])}, {"mask": truth})
    assert (metric.result()["mIoU"], metric.unknown) == (100.0, 0)


class Background:
    """A model that predicts class 0 everywhere."""

    image_size = (2, 4)

    def __call__(self, images, training):
        return images

    def predictions(self, outputs, sizes):
        return {"mask": tf.zeros(tf.shape(outputs)[:3], tf.int32)}

    def metric(self):
        return MeanIoU(3)


@pytest.mark.parametrize("values", [(7, 9), (1, 255)])
def test_an_evaluation_tells_how_many_pixels_are_unknown(values, capsys):
    mask = masks.encode(np.array([[0, 0, 0, 1], [0, 0, *values]]))
    records = [{"encoded": mask, "id": k, "mask": mask} for k in range(2)]
    source = examples.from_records(records, ["background", "a", "b"])
    figures = evaluation.evaluate_model(Background(), source, name="validation")
    line = (
        "evaluation of validation: 4 pixels have a value outside the 3 classes and "
        "count as unknown\n"
    )
    is_told = values == (7, 9)
    assert capsys.readouterr().out == line * is_told
    # Of 6, or 7, evaluated pixels 5 are background.
    expected = 5 / (6 if is_told else 7)
    assert figures["class_IoU"] == pytest.approx([100 * expected, 0.0, None])

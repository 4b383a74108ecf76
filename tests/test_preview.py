"""The contact sheet of augmentations."""

import functools
import pathlib

import numpy as np
import processes
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.data import examples, masks
from official_selftrain.data.augmentation import augment, placement
from official_selftrain.data.sources import digits
from official_selftrain.inference import pictures

TINY = pathlib.Path(__file__).parent / "tiny.gin"


preview = functools.partial(processes.call, "preview")


@pytest.mark.process
def test_command_draws_a_sheet(tmp_path):
    output = tmp_path / "new" / "sheet.png"
    done = preview(f"--gin_file={TINY}", f"--output={output}", "--num_images=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"augmentations: {output}"
    with Image.open(output) as image:
        # 6 rows and 2 columns.
        assert 2.2 < image.height / image.width < 3.2
        assert np.asarray(image.convert("L")).std() > 20.0


@pytest.mark.process
def test_a_mistake_is_one_line(tmp_path):
    done = preview(f"--gin_file={TINY}", f"--output={tmp_path / 'sheet.jpg'}")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert line.startswith("preview: Expected a .png file. Received: output='")
    assert "Traceback" not in done.stderr


def test_the_sheet_shows_every_row_with_its_boxes_and_masks():
    source = digits.scenes("labeled", 3, 0, (48, 48))
    calls = []

    def spy(image, labels, image_size, seed):
        calls.append((image, labels, image_size, seed.numpy().tolist()))
        return augment.fit(image, labels, image_size, seed)

    figure = pictures.contact_sheet(
        source, {"S1": spy, "own": spy}, (40, 56), 2, seed=4
    )
    titles = [axes.get_ylabel() for axes in figure.axes]
    assert titles == ["image", "", "S1", "", "own", ""]
    assert [call[3] for call in calls] == [[4, 0], [4, 0], [4, 1], [4, 1]]
    for axes, call in zip(figure.axes[2:6:2], calls[:2]):
        picture, mask = (image.get_array() for image in axes.images)
        assert picture.shape == (40, 56, 3) and mask.shape == (40, 56, 4)
        boxes = call[1]["boxes"].numpy()
        assert len(axes.patches) == len(boxes) > 0
        ymin, xmin, _, _ = boxes[0] * 40 / 48
        np.testing.assert_allclose(axes.patches[0].get_xy(), (xmin, ymin), atol=0.1)
        # The middle of a box is tinted, the padding on the right hatched.
        center = (boxes[0][:2] + boxes[0][2:]) / 2 * 40 / 48
        assert mask[int(center[0]), int(center[1]), 3] > 0.0
        assert 0.1 < (mask[:, 41:, 3] > 0).mean() < 0.5


def test_masks_are_filled_boxes():
    labels = {
        "boxes": tf.constant([[1.0, 2.0, 3.0, 5.0], [2.0, 0.0, 4.0, 3.0]]),
        "classes": tf.constant([4, 0]),
    }
    np.testing.assert_array_equal(
        pictures._painted(labels, (4, 6)),
        [
            [0, 0, 0, 0, 0, 0],
            [0, 0, 5, 5, 5, 0],
            [1, 1, 1, 5, 5, 0],
            [1, 1, 1, 0, 0, 0],
        ],
    )
    colors = pictures._mask_colors(np.array([[0, 3, placement.IGNORE_CLASS]]))
    assert colors[0, 0, 3] == 0.0 and colors[0, 1, 3] == 0.55


def test_values_outside_the_classes_are_drawn_as_unknown():
    mask = masks.encode(np.array([[0, 1, 9, 255]]))
    record = {"encoded": mask, "id": 0, "mask": mask}
    source = examples.from_records([record], ["background", "a"])
    (sample,) = pictures.samples(source, 1)
    assert sample["labels"]["labels"]["mask"].tolist() == [[0, 1, 255, 255]]
    # Those of a training batch are as they are stored.
    sample["labels"]["labels"]["mask"] = np.array([[0, 1, 9, 255]])
    figure = pictures.grid([sample], source.class_names)
    colors = figure.axes[1].images[1].get_array()
    np.testing.assert_array_equal(colors[0, 2], colors[0, 3])

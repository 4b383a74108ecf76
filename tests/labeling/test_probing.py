"""A teacher that finds nothing is tried with pixels of other values."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.labeling import label_store, opening, probing, workers


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Images of which the first three are red, and a detector of red in 0…1."""
    folder = tmp_path_factory.mktemp("probing")
    for number in range(4):
        color = (250, 20, 20) if number < 3 else (20, 250, 20)
        Image.new("RGB", (12, 8), color).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")

    class Red(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        def serve(self, images):
            mean = tf.reduce_mean(images, axis=(1, 2))
            is_red = (mean[:, 0] > 0.9) & (mean[:, 2] < 0.1) & (mean[:, 0] < 1.1)
            score = tf.where(is_red, 0.75, 0.125)[:, None]
            box = tf.ones_like(score)[..., None] * [0.25, 0.25, 0.75, 0.75]
            return {
                "detection_boxes": box,
                "detection_scores": score,
                "detection_classes": tf.ones_like(score),
            }

    module = Red()
    tf.saved_model.save(module, str(folder / "red"), module.serve)
    (folder / "labels.txt").write_text("red\n")
    teacher = opening.TeacherSettings(
        str(folder / "red"), labels=str(folder / "labels.txt")
    )
    return workers.Job(teacher, (str(folder / "?.png"), None, None), str(folder / "o"))


def test_the_values_that_give_labels_are_told(job):
    assert probing.advice(job, 0.5) == (
        "a trial on 5 images gives 3 labels (mean score 0.59) with pixels of 0..1 in "
        "rgb, instead of 0 (mean score 0.12): label again with --pixel_scale=0..1 and "
        "another --output_dir"
    )
    given = dataclasses.replace(job.teacher, channels="bgr")
    assert "with --pixel_scale=0..1 --channels=rgb and another" in probing.advice(
        dataclasses.replace(job, teacher=given), 0.5
    )
    assert probing.advice(job, 0.9) == (
        "a trial on 5 images with other ranges of pixels and orders of channels gives "
        "no more labels"
    )


def test_labels_with_these_values(job, tmp_path):
    teacher = dataclasses.replace(job.teacher, pixel_scale="0..1")
    workers.label(dataclasses.replace(job, teacher=teacher, output_dir=str(tmp_path)))
    stored = list(label_store.read(str(tmp_path)).dataset.as_numpy_iterator())
    assert [example["scores"].tolist() for example in stored] == [[0.75]] * 3 + [
        [0.125]
    ]
    np.testing.assert_allclose(stored[0]["boxes"], [[0.25, 0.25, 0.75, 0.75]])
    text = "teacher.pixel_scale=None, was '0..1'; choose another"
    with pytest.raises(ValueError, match=text):
        workers.label(dataclasses.replace(job, output_dir=str(tmp_path)))


def test_teachers_whose_pixels_are_no_choice(job, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "names.txt").write_text("red\n")
    teacher = opening.TeacherSettings(
        str(tmp_path / "results.json"), labels=str(tmp_path / "names.txt")
    )
    assert probing.advice(dataclasses.replace(job, teacher=teacher), 0.5) is None


def test_the_surest_object_of_a_mask():
    mask = tf.io.encode_png(np.uint8([[0, 1, 255]])[..., None])
    confidence = tf.io.encode_png(np.uint8([[255, 51, 204]])[..., None])
    labels = {"mask": mask, "confidence": confidence}
    assert probing._scores(labels).tolist() == [0.2]

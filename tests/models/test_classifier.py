"""ImageClassifier, its metric, and the joint training of a backbone by two tasks."""

import dataclasses
import functools
import json
import pathlib
import shutil

import bound
import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toy_training import assert_equal_weights, fit, scenes, tiny_model

from official_selftrain import experiment, metrics
from official_selftrain.cli import gin_files
from official_selftrain.data import pipeline, sources
from official_selftrain.data.augmentation import augment
from official_selftrain.data.augmentation.policies import RandAugment
from official_selftrain.data.sources import digits
from official_selftrain.models import SemanticSegmenter, backbones
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.serving import saved_models
from official_selftrain.training import fitting
from official_selftrain.training.self_trainer import SelfTrainer

TINY = str(pathlib.Path(__file__).parents[1] / "tiny.gin")


def small_backbone(filters=4):
    return backbones.resnet(50, blocks=(1, 1), filters=(filters, filters))


def small(num_classes=3, backbone=None):
    keras.utils.set_random_seed(0)
    return ImageClassifier(num_classes, (32, 32), backbone or small_backbone())


def icons(count=6):
    return digits.icons(count, 0, (32, 32), (5, 6, 7), (12, 24))


def images(count=4):
    pixels = np.random.default_rng(1).uniform(0, 255, (count, 32, 32, 3))
    return pixels.astype(np.float32)


def test_loss_by_hand():
    """Log-softmax of (0, ln 2, ln 5) is ln (1, 2, 5) / 8; the third is unknown."""
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [9.0, 9.0, 9.0]])
    labels = {"classes": np.array([[2, 0], [1, -1], [-1, 2]])}
    model = small()
    outputs = {"image_logits": logits.astype(np.float32)}
    expected = -(np.log(5 / 8) + np.log(2 / 8)) / 2
    losses = model.compute_losses(outputs, labels)
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-6)
    # As a half of a batch with 8 known images.
    total, count = model.loss_sum(outputs, labels)
    assert float(count) == 2.0
    part = total / model.divisor(8.0)
    assert float(part) == pytest.approx(expected / 4, rel=1e-6)
    nothing = model.compute_losses(outputs, {"classes": np.full((3, 1), -1)})
    assert float(nothing["loss"]) == 0.0


def test_weighted_loss_by_hand():
    """As above, with the first image twice and half of the second one."""
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [9.0, 9.0, 9.0]])
    labels = {
        "classes": np.array([[2], [1], [-1]]),
        "sample_weights": np.array([2.0, 0.5, 7.0]),
    }
    model, outputs = small(), {"image_logits": logits.astype(np.float32)}
    total, count = model.loss_sum(outputs, labels)
    expected = -2.0 * np.log(5 / 8) - 0.5 * np.log(2 / 8)
    assert float(total) == pytest.approx(expected, rel=1e-6) and float(count) == 2.5
    loss = model.compute_losses(outputs, labels)["loss"]
    assert float(loss) == pytest.approx(expected / 2.5, rel=1e-6)
    labels["sample_weights"] = np.zeros(3)
    assert float(model.compute_losses(outputs, labels)["loss"]) == 0.0


def test_images_of_another_scale_and_classes_from_one_are_refused():
    model = small()
    outputs = {"image_logits": np.zeros((2, 3), np.float32)}
    classes = np.array([[1], [3]])
    with pytest.raises(ValueError, match="classes. Received: 1 to 3, which are count"):
        model.compute_losses(outputs, {"classes": classes})
    labels = {"classes": classes - 1, "images": images(2) / 255.0}
    with pytest.raises(ValueError, match="of 0 to 255, .*: values of .* to 0.9999$"):
        model.compute_losses(outputs, labels)
    assert float(model.compute_losses(outputs, {"classes": classes - 1})["loss"]) > 0


def test_predictions_cover_their_images():
    logits = np.log([[1.0, 2.0, 5.0], [6.0, 2.0, 2.0]]).astype(np.float32)
    actual = small().predictions({"image_logits": logits}, np.array([[30, 50], [7, 9]]))
    np.testing.assert_array_equal(actual["classes"], [[2], [0]])
    np.testing.assert_allclose(actual["scores"], [[5 / 8], [0.6]], rtol=1e-6)
    np.testing.assert_array_equal(actual["boxes"], [[[0, 0, 30, 50]], [[0, 0, 7, 9]]])
    np.testing.assert_array_equal(actual["num_detections"], [1, 1])


def test_accuracy_by_hand():
    metric = metrics.Accuracy()
    assert metric.result() == {"top1": None}
    metric.update({"classes": [[1], [2]]}, {"classes": [[1, 0], [0, 0]]})
    metric.update({"classes": [[0], [3]]}, {"classes": [[0], [-1]]})
    assert metric.result() == {"top1": pytest.approx(200.0 / 3.0)}


def test_logits_depend_on_the_mean_of_the_last_level():
    model = small()
    kernel, bias = model.get_layer("classification_predict").get_weights()
    backbone = model.backbone((images() - [123.675, 116.28, 103.53]) / STDDEV)
    mean = np.mean(backbone["P3"], axis=(1, 2))
    np.testing.assert_allclose(
        model(images())["image_logits"], mean @ kernel + bias, rtol=1e-3, atol=1e-4
    )


STDDEV = np.array([58.395, 57.12, 57.375])


def test_every_weight_gets_a_gradient_and_is_saved(tmp_path):
    model = small()
    with tf.GradientTape() as tape:
        outputs = model(images(), training=True)
        loss = model.compute_losses(
            outputs, {"classes": np.array([[0], [1], [2], [1]])}
        )
    for weight, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss["loss"], model.trainable_variables),
    ):
        assert np.abs(gradient).max() > 0, weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded(images())["image_logits"], model(images())["image_logits"]
    )


def test_a_classifier_cannot_be_exported(tmp_path):
    with pytest.raises(
        TypeError, match="Received: model=classifier, a classifier of w"
    ):
        saved_models.export(small(), str(tmp_path), "digits", ["5", "6", "7"])


def test_mixed_precision_ends_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(images())["image_logits"].dtype == "float32"
    assert model.backbone.layers[1].compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("at least 2 classes. Received: num_classes=1", lambda: small(1)),
        ("multiples of 8.*image_size=", lambda: _sized((36, 32))),
        ("Received: backbone=None", lambda: ImageClassifier(2, (32, 32), None)),
        ("num_images=0", lambda: digits.icons(0)),
        ("classes=\\(5, 5\\)", lambda: digits.icons(1, classes=(5, 5))),
        ("classes=\\(10,\\)", lambda: digits.icons(1, classes=(10,))),
        ("digit_height=\\(20, 60\\)", lambda: digits.icons(1, digit_height=(20, 60))),
        ("nearest: test.*pool='tests'", lambda: digits.icons(1, pool="tests")),
    ],
)
def test_errors_name_the_received_value(text, make):
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def _sized(image_size):
    return ImageClassifier(2, image_size, small_backbone())


def test_icons_show_their_digit_and_pools_share_none():
    source = icons(40)
    assert source.class_names == ("5", "6", "7") and source.num_images == 40
    records = list(source.dataset.as_numpy_iterator())
    assert {int(r["classes"][0]) for r in records} == {0, 1, 2}
    for record in records:
        np.testing.assert_array_equal(record["boxes"], [[0.0, 0.0, 1.0, 1.0]])
        assert tf.io.decode_png(record["encoded"]).shape == (32, 32, 3)
    again = list(icons(3).dataset.as_numpy_iterator())
    assert [r["encoded"] for r in again] == [r["encoded"] for r in records[:3]]
    parts = [digits._digits_of((5, 6, 7), 0, pool)[0] for pool in ("training", "test")]
    seen = [{digit.tobytes() for digit in part} for part in parts]
    # 182 + 181 + 179 scans of 5, 6, 7; 28 % of them for the test.
    assert (len(parts[0]), len(parts[1])) == (390, 152)
    assert not seen[0] & seen[1]
    # The scenes' digits are others altogether.
    scenes_digits = {d.tobytes() for d in digits._pool_digits("unlabeled", 0, 5)[0]}
    assert not scenes_digits & (seen[0] | seen[1])


def test_folders_name_the_classes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b/c.png", "ant/z.png", ".hidden/x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(path)
    (tmp_path / "readme.txt").write_text("not a class")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = sources.class_folders(str(tmp_path))
    assert source.class_names == ("ant", "cat") and source.has_labels
    assert source.skipped == (f"{tmp_path}/cat/gone.png: a broken link",)
    actual = [
        (r["id"], r["path"].decode()[len(str(tmp_path)) :], list(r["classes"]))
        for r in source.dataset.as_numpy_iterator()
    ]
    assert actual == [
        (0, "/ant/z.png", [0]),
        (1, "/cat/a.png", [1]),
        (2, "/cat/b/c.png", [1]),
    ]
    batch = next(iter(pipeline.training_batches(source, 3, (16, 16))))
    assert sorted(batch["classes"].numpy().tolist()) == [[0], [1], [1]]
    with pytest.raises(FileNotFoundError, match="class folders. Received: .*'none'"):
        sources.class_folders("none")
    with pytest.raises(TypeError, match="a path. Received: folder=None"):
        sources.class_folders(None)
    with pytest.raises(ValueError, match="two classes. Received: .*cat' with 1"):
        sources.class_folders(str(tmp_path / "cat"))
    (tmp_path / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Expected images .*dog'"):
        sources.class_folders(str(tmp_path))


def test_an_unreadable_classified_image_is_named(run, tmp_path, monkeypatch):
    for name in ("cat/a.png", "ant/z.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        (tmp_path / "pictures" / name).write_bytes(b"no image")
    folder = f'sources.class_folders.folder = "{tmp_path}/pictures"\n'
    lines = JOINT.split("digits.icons.num_images")[0].replace(
        "@classified/digits.icons", "@sources.class_folders"
    )
    lines = lines.replace("data.sources import digits", "data import sources")
    end = "TEACHER_STEPS = 2\nSTUDENT_STEPS = 2\n"
    monkeypatch.setattr(f"{__name__}.JOINT", lines + folder + end)
    with pytest.raises(ValueError, match=r"readable images. .*z.png.*\(2 of 2 images"):
        run(tmp_path / "run", stages=["teacher"])


def test_classes_survive_augmentation():
    """An image keeps its class as long as part of it is visible.

    S2 to S4 with operations that move: others can't lose a box.
    """
    turned = [[("Rotate", 1.0, 10.0), ("ShearX", 1.0, 8.0)]]
    shifted = [[("TranslateY", 1.0, 2.0), ("ShearY", 1.0, 10.0)]]
    moves = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
    for kind, settings in (
        (augment.s1, {}),
        (augment.s2, {"policy": turned, "reference_size": 640}),
        (augment.s3, {"policy": shifted, "reference_size": 640}),
        (
            augment.s4,
            {
                "rand_augment": RandAugment(operations=moves),
                "reference_size": 640,
            },
        ),
    ):
        moved = functools.partial(kind, flip_probability=0.0, **settings)
        batches = pipeline.training_batches(icons(), 6, (32, 32), moved)
        truth = {r["id"]: r["classes"][0] for r in icons().dataset.as_numpy_iterator()}
        for batch in batches.take(5).as_numpy_iterator():
            assert [truth[i] for i in batch["ids"]] == list(batch["classes"][:, 0])


# Joint training.


def trainer_and_batch(weight=0.5, **settings):
    model = tiny_model()
    keras.utils.set_random_seed(1)
    classifier = ImageClassifier(3, (32, 32), model.backbone)
    trainer = SelfTrainer(
        model, classifier=classifier, classification_weight=weight, **settings
    )

    return trainer, dict(streams_of(settings.get("accumulation", 1) * 2))


@functools.cache
def streams_of(size):
    """Return batches of scenes and icons, which no test changes."""

    def batch(source, seed):
        batches = pipeline.training_batches(source, size, (32, 32), augment.fit, seed)
        return next(iter(batches))

    return {"labeled": batch(scenes("labeled"), 0), "classified": batch(icons(), 1)}


def test_joint_loss_by_hand():
    trainer, batch = trainer_and_batch(weight=0.3)
    loss = float(trainer.compute_loss(batch, y_pred=trainer(batch), training=False))
    detector, classifier = trainer.model, trainer.classifier
    labeled, classified = batch["labeled"], batch["classified"]
    first = detector.compute_losses(detector(labeled["images"]), labeled)["loss"]
    second = classifier.compute_losses(classifier(classified["images"]), classified)
    expected = float(first) + 0.3 * float(second["loss"])
    assert loss == pytest.approx(expected, rel=1e-6)
    # With pseudo-labels it stands beside the normalized loss.
    batch["pseudo"] = labeled
    loss = float(trainer.compute_loss(batch, y_pred=trainer(batch), training=False))
    assert loss == pytest.approx(expected, rel=1e-6)  # L_h = L_p: their mean is L_h


def test_a_step_updates_both_heads_and_l2_counts_shared_weights_once():
    trainer, batch = trainer_and_batch(l2=0.1)
    trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    kernels = [w for w in trainer.model.trainable_weights if w.name == "kernel"]
    head = trainer.classifier.get_layer("classification_predict")
    squares = sum(float(np.sum(np.square(w))) for w in [*kernels, head.kernel])
    assert float(trainer.penalty()) == pytest.approx(0.05 * squares, rel=1e-6)
    before = head.get_weights() + trainer.model.get_weights()
    terms = trainer.step(batch)
    after = head.get_weights() + trainer.model.get_weights()
    assert all(np.any(a != b) for a, b in zip(before[:2], after[:2]))
    changed = [np.any(a != b) for a, b in zip(before[2:], after[2:])]
    assert sum(changed) == len(changed)
    assert float(terms["loss"]) == pytest.approx(
        float(terms["labeled_loss"])
        + 0.5 * float(terms["classified_loss"])
        # The penalty of the weights before the step.
        + 0.05 * squares,
        rel=1e-5,
    )


def test_weight_zero_equals_a_step_without_the_stream():
    actual = []
    for is_there in (True, False):
        trainer, batch = trainer_and_batch(weight=0.0)
        if not is_there:
            batch.pop("classified")
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        assert set(trainer.step(batch)) == {"loss", "labeled_loss", "gradient_norm"}
        actual.append(trainer.model.get_weights())
    for a, b in zip(*actual):
        np.testing.assert_array_equal(a, b)


def test_parts_of_a_joint_batch_add_up():
    """With frozen batch statistics, accumulation equals one step on the whole batch."""
    actual = []
    for parts in (2, 1):
        trainer, batch = trainer_and_batch(accumulation=2)
        trainer.accumulation = parts
        for layer in trainer.model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        terms = trainer.step(batch)
        actual.append([float(terms["loss"]), *trainer.get_weights()])
    for a, b in zip(*actual):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_backbone_stays_shared_when_a_trainer_is_saved(tmp_path):
    trainer, batch = trainer_and_batch()
    trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    data = tf.data.Dataset.from_tensors(batch).repeat()
    history = trainer.fit(data, steps_per_epoch=2, epochs=1, verbose=0)
    assert set(history.history) == {"loss", "labeled_loss", "classified_loss"}
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.classifier.backbone is loaded.model.backbone
    assert loaded.classification_weight == 0.5
    a, b = trainer(batch), loaded(batch)
    np.testing.assert_array_equal(
        a["classified"]["image_logits"], b["classified"]["image_logits"]
    )
    np.testing.assert_array_equal(
        a["labeled"]["class_logits"], b["labeled"]["class_logits"]
    )


def test_invalid_joint_training():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"own backbone .* Received: another"):
        SelfTrainer(model, classifier=small())
    with pytest.raises(ValueError, match="Received: classification_weight=-1"):
        SelfTrainer(model, classification_weight=-1)
    for wrong in ("x", model):
        with pytest.raises(TypeError, match="ImageClassifier or None. Received: class"):
            SelfTrainer(model, classifier=wrong)
    trainer, batch = trainer_and_batch()
    trainer.classifier = None
    with pytest.raises(ValueError, match="Received: classifier=None"):
        trainer(batch)
    flat = {"classes": np.array([0, 1])}
    with pytest.raises(ValueError, match=r"classes \[B, M\].*of shape \(2,\)"):
        small().compute_losses({"image_logits": np.zeros((2, 3), np.float32)}, flat)


def test_a_fit_with_classified_images(tmp_path, monkeypatch):
    def start(folder):
        model = tiny_model()
        keras.utils.set_random_seed(1)
        classifier = ImageClassifier(3, (32, 32), model.backbone)
        fit(
            tmp_path / folder,
            steps=6,
            model=model,
            pseudo=scenes("unlabeled"),
            classified=icons(),
            classifier=classifier,
            classification_weight=0.5,
        )
        return model, classifier

    model, classifier = start("whole")
    folder = tmp_path / "whole"
    summary = json.loads((folder / "fit.json").read_text())
    assert (summary["steps"], summary["images"]) == (6, 6 * 3 * 2)
    rows = fitting.read_history(str(folder))
    for row in rows:
        # The averages are young: the scaled pseudo loss is about the labeled one.
        joint = row["labeled_loss"] + 0.5 * row["classified_loss"]
        assert row["loss"] == pytest.approx(joint, rel=0.05)
        assert 0.0 < row["classified_loss"] < 10.0
    loaded = keras.saving.load_model(folder / "classifier.keras")
    assert_equal_weights(loaded, classifier)
    assert_equal_weights(keras.saving.load_model(folder / "model.keras"), model)

    # Interrupted, it goes on with the classifier's head and optimizer too.
    save = fitting.tf.train.CheckpointManager.save

    def save_and_die(self, checkpoint_number):
        save(self, checkpoint_number=checkpoint_number)
        if checkpoint_number == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting.tf.train.CheckpointManager, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        start("cut")
    monkeypatch.undo()
    resumed = start("cut")
    assert_equal_weights(resumed[0], model)
    assert_equal_weights(resumed[1], classifier)
    with pytest.raises(ValueError, match="classifier for classified images. Received"):
        fit(tmp_path / "none", classified=icons())
    wrong = {"model": model, "classifier": classifier}
    with pytest.raises(ValueError, match="Received: classification_weight='0.5'"):
        fit(tmp_path / "a", **wrong, classified=icons(), classification_weight="0.5")
    with pytest.raises(ValueError, match="images of 3 classes. Received: 5"):
        fit(tmp_path / "b", **wrong, classified=digits.icons(2, 0, (48, 48)))
    unlabeled = dataclasses.replace(icons(), has_labels=False)
    with pytest.raises(ValueError, match="a class each. Received: images without"):
        fit(tmp_path / "c", **wrong, classified=unlabeled)


JOINT = """
from __gin__ import dynamic_registration

from official_selftrain import experiment
from official_selftrain.data.sources import digits

experiment.Data.classified = @classified/digits.icons
digits.icons.num_images = 6
digits.icons.image_size = %IMAGE_SIZE
digits.icons.digit_height = (12, 24)
TEACHER_STEPS = 4
STUDENT_STEPS = 2
"""


WEIGHT = "student/training.Loss.classification_weight = 0.2"


@pytest.fixture
def run(tmp_path):
    """Run the tiny experiment with joint training."""

    def start(model_dir, *params, stages=experiment.STAGES, keep=False):
        path = tmp_path / "joint.gin"
        path.write_text(JOINT)
        gin.clear_config()
        gin_files.load_config([TINY, str(path)], list(params))
        return bound.run(str(model_dir), stages=stages, keep=keep)

    gin.clear_config()
    yield start
    gin.clear_config()


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory):
    """A finished experiment with joint training: its folder and its results."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "joint.gin").write_text(JOINT)
    gin.clear_config()
    gin_files.load_config([TINY, str(folder / "joint.gin")], [WEIGHT])
    results = bound.run(str(folder / "run"))
    gin.clear_config()
    return folder / "run", results


def test_an_experiment_with_joint_training(joint_run):
    folder, results = joint_run
    images = {stage: results[stage]["images"] for stage in ("teacher", "student")}
    assert images == {"teacher": 4 * 2 * 4, "student": 2 * 3 * 4}
    assert results["control"]["images"] == results["student"]["images"]
    heads = {}
    for stage in ("teacher", "student", "control"):
        rows = fitting.read_history(str(folder / stage))
        assert all(0.0 < row["classified_loss"] < 10.0 for row in rows)
        model = keras.saving.load_model(folder / stage / "classifier.keras")
        heads[stage] = model.get_layer("classification_predict").get_weights()[0]
        detector = keras.saving.load_model(folder / stage / "model.keras")
        assert_equal_weights(detector.backbone, model.backbone)
    # The student's head goes on from the teacher's: two steps at 0.01 move it little.
    distance = np.abs(heads["student"] - heads["teacher"]).max()
    assert 0.0 < distance < 0.1 < np.abs(heads["teacher"]).max()


def test_invalid_experiments_with_joint_training(run, tmp_path, monkeypatch):
    pool = 'classified/digits.scenes.pool = "labeled"\n'
    masks = JOINT.replace("digits.icons.digit_height = (12, 24)\n", pool)
    masks = masks.replace("digits.icons", "digits.scenes")
    masks += "classified/digits.scenes.has_masks = True\n"
    monkeypatch.setattr(f"{__name__}.JOINT", masks)
    with pytest.raises(ValueError, match="a class each. Received: masks"):
        run(tmp_path / "run", stages=["teacher"])


def test_the_classes_of_classified_images_stay_the_same(
    run, joint_run, tmp_path, monkeypatch
):
    """Other classes for the student, or other names, would change their meaning."""
    later = shutil.ignore_patterns("student", "control", "pseudo_labels")
    shutil.copytree(joint_run[0], tmp_path / "run", ignore=later)
    names = (tmp_path / "run" / "classified_labels.txt").read_text()
    assert names == "5\n6\n7\n8\n9\n"
    other = JOINT + "digits.icons.classes = (6, 5, 7, 8, 9)\n"
    monkeypatch.setattr(f"{__name__}.JOINT", other)
    changed = "teacher was trained.*classified: .*classes 6/5/7/8/9, were 5/6/7/8/9"
    with pytest.raises(ValueError, match=changed):
        run(tmp_path / "run", WEIGHT, stages=["control"])
    with pytest.raises(ValueError, match=r"classified_labels.txt, \['5', '6'.*: \['6'"):
        run(tmp_path / "run", WEIGHT, stages=["control"], keep=True)


def test_joint_training_needs_a_backbone(run, tmp_path):
    class Bare:
        def __init__(self, **_):
            pass

    (tmp_path / "joint.gin").write_text(JOINT)
    gin_files.load_config([TINY, str(tmp_path / "joint.gin")], [])
    with pytest.raises(TypeError, match="a backbone to share .* Received: Bare"):
        bound.run(str(tmp_path / "run"), model=Bare, stages=["teacher"])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_joint_steps_in_half_precision(run, tmp_path, policy):
    params = [f'PRECISION = "{policy}"', "EMA_DECAY = 0.5"]
    results = run(tmp_path / "run", *params, stages=["teacher", "evaluation"])
    assert results["teacher_average"]["steps"] == 4
    rows = fitting.read_history(str(tmp_path / "run" / "teacher"))
    assert all(0.0 < row["classified_loss"] < 10.0 for row in rows)


def test_a_student_from_scratch_has_a_fresh_head(run, tmp_path):
    run(
        tmp_path / "run",
        'experiment.Teaching.student_init = "random"',
        "STUDENT_STEPS = 1",
        "training.Loss.classification_weight = 1e-6",
        "training.Monitoring.log_every = 1",
        stages=["teacher", "pseudo_labels", "student"],
    )
    heads = [
        keras.saving.load_model(tmp_path / "run" / stage / "classifier.keras")
        .get_layer("classification_predict")
        .get_weights()[0]
        for stage in ("teacher", "student")
    ]
    # The same seed makes both heads; a weight of 1e-6 hardly moves them.
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-5)


def test_a_segmenter_trains_jointly():
    model = SemanticSegmenter(
        3,
        (128, 128),
        backbones.resnet(18, filters=(4, 4, 4, 4)),
        num_filters=4,
        num_repeats=1,
        num_head_convs=1,
    )
    trainer = SelfTrainer(
        model, classifier=ImageClassifier(3, (128, 128), model.backbone)
    )
    trainer.compile(optimizer=keras.optimizers.SGD(0.01))
    masks = digits.scenes("labeled", 2, 0, (128, 128), num_classes=2, has_masks=True)
    pictures = digits.icons(2, 0, (128, 128), (5, 6, 7))
    batch = {
        name: next(iter(pipeline.training_batches(source, 2, (128, 128), augment.fit)))
        for name, source in (("labeled", masks), ("classified", pictures))
    }
    terms = {name: float(value) for name, value in trainer.step(batch).items()}
    joint = terms["labeled_loss"] + terms["classified_loss"]
    assert terms["loss"] == pytest.approx(joint, rel=1e-5)
    assert terms["labeled_loss"] == pytest.approx(np.log(3), rel=0.5)

"""RetinaNet and its parts: contract, golden arrays, architecture facts."""

import inspect
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.geometry import boxes
from official_selftrain.models import (
    ImageClassifier,
    RetinaNet,
    SemanticSegmenter,
    anchors,
    backbones,
)
from official_selftrain.models.blocks import BatchNorm, ResidualAdd
from official_selftrain.models.heads import Tower, retinanet_head

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def small_backbone():
    return backbones.resnet(50, blocks=(1, 1, 1), filters=(8, 8, 8))


def small_model(**kwargs):
    keras.utils.set_random_seed(0)
    settings = {
        "num_classes": 3,
        "image_size": (64, 96),
        "backbone": small_backbone(),
        "max_level": 5,
        "num_filters": 16,
        "num_head_convs": 2,
        **kwargs,
    }
    return RetinaNet(**settings)


@pytest.fixture(scope="module")
def default_model():
    """A small model for tests that change nothing in it."""
    return small_model()


@pytest.fixture(scope="module")
def golden_model():
    """A model with the anchors of the golden outputs."""
    return small_model(image_size=(128, 128), max_level=7, num_classes=5)


def images(count=2, size=(64, 96)):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, 3)).astype("float32")


def labels(count=2, objects=1, ignore=False):
    actual = {
        "boxes": np.zeros((count, 4, 4), np.float32),
        "classes": np.full((count, 4), -1),
        "ignore": np.zeros((count, 4), bool),
    }
    actual["boxes"][:, :objects] = [8, 10, 44, 50]
    actual["classes"][:, :objects] = 1
    actual["ignore"][:, :objects] = ignore
    return actual


def gradients(model, batch_labels):
    with tf.GradientTape() as tape:
        outputs = model(images(size=model.image_size), training=True)
        losses = model.compute_losses(outputs, batch_labels)
    return losses, tape.gradient(losses["loss"], model.trainable_variables)


def test_outputs(default_model):
    model = default_model
    outputs = model(images())
    # 8 x 12 + 4 x 6 + 2 x 3 cells of 9 anchors.
    assert outputs["class_logits"].shape == (2, 9 * (96 + 24 + 6), 3)
    assert outputs["box_deltas"].shape == (2, 9 * 126, 4)
    assert model.anchors.shape == (9 * 126, 4)
    # Every score starts at the prior, every box at its anchor.
    scores = keras.ops.sigmoid(outputs["class_logits"])
    np.testing.assert_allclose(scores, 0.01, rtol=1e-2)
    np.testing.assert_allclose(outputs["box_deltas"], 0.0, atol=1e-2)


@pytest.mark.parametrize("separable", [False, True])
def test_every_weight_gets_a_gradient(separable):
    model = small_model(separable_head=separable, image_size=(128, 128))
    # Away from the tiny initial kernels of the predictions, so that the towers
    # below them have gradients that float32 can hold.
    for weight in model.trainable_variables:
        if "predict" in weight.path and weight.name.endswith("kernel"):
            weight.assign(keras.random.normal(weight.shape, 0.0, 0.1, seed=1))
    every_level = labels(objects=3)
    every_level["boxes"][:, :3] = [[0, 0, 32, 32], [64, 64, 128, 128], [0, 0, 128, 128]]
    losses, actual = gradients(model, every_level)
    assert all(np.isfinite(float(value)) for value in losses.values())
    assert float(losses["loss"]) == pytest.approx(
        float(losses["class_loss"]) + 50.0 * float(losses["box_loss"]), rel=1e-6
    )
    for weight, gradient in zip(model.trainable_variables, actual, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        # A bias before batch normalization has none by construction.
        before_bn = weight.name == "bias" and "predict" not in weight.path
        assert before_bn or np.abs(gradient).max() > 0, weight.path


@pytest.mark.parametrize("case", ["no objects", "padding only", "all ignored"])
def test_loss_without_boxes_is_finite(case):
    batch_labels = {
        "no objects": labels(objects=0),
        "padding only": labels(objects=0),
        "all ignored": labels(ignore=True),
    }[case]
    if case == "padding only":
        batch_labels["boxes"][:] = -1.0
    losses, actual = gradients(small_model(), batch_labels)
    assert float(losses["box_loss"]) == 0.0
    assert 0.0 < float(losses["class_loss"]) < 100.0
    assert all(np.isfinite(g).all() for g in actual)


def test_loss_matches_the_authors():
    """The authors' batch of targets replaces the assigned ones."""
    golden = np.load(GOLDEN / "losses.npz")

    def joined(kind, depth):
        return np.concatenate(
            [golden[f"in/{kind}/{level}"].reshape(2, -1, depth) for level in (3, 4, 5)],
            1,
        )

    model = small_model(num_classes=5, image_size=(64, 64), max_level=5)
    classes = joined("clst", 1)[..., 0]
    outputs = {"class_logits": joined("cls", 5), "box_deltas": joined("box", 4)}
    with pytest.MonkeyPatch.context() as patch:
        # Here their class 0, the background that never is positive, stays a class.
        patch.setattr(
            "official_selftrain.models.anchors.assign_targets",
            lambda *_: (keras.ops.convert_to_tensor(classes), joined("boxt", 4)),
        )
        losses = model.compute_losses(outputs, labels())
    assert (classes >= 0).sum() == golden["in/num_positives"].sum()
    assert float(losses["class_loss"]) == pytest.approx(
        golden["out/cls_loss"], rel=1e-5
    )
    assert float(losses["box_loss"]) == pytest.approx(golden["out/box_loss"], rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(golden["out/total_w50"], rel=1e-5)


def test_loss_without_objects_matches_the_authors():
    """The authors' batch of logits with our targets: every anchor is negative."""
    golden = np.load(GOLDEN / "losses.npz")
    logits = [golden[f"in/cls/{level}"].reshape(2, -1, 5) for level in (3, 4, 5)]
    deltas = [golden[f"in/box/{level}"].reshape(2, -1, 4) for level in (3, 4, 5)]
    outputs = {
        "class_logits": np.concatenate(logits, 1),
        "box_deltas": np.concatenate(deltas, 1),
    }
    model = small_model(num_classes=5, image_size=(64, 64))
    losses = model.compute_losses(outputs, labels(objects=0))
    expected = float(golden["out/cls_loss_empty"])
    assert float(losses["class_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["box_loss"]) == golden["out/box_loss_empty"] == 0.0


def test_weights_count_images_more_than_once(default_model):
    """Weights 2, 0 and 1: the first image twice, the second not at all."""
    model, rng = default_model, np.random.default_rng(0)
    outputs = {
        "class_logits": rng.normal(size=(3, len(model.anchors), 3)),
        "box_deltas": rng.normal(size=(3, len(model.anchors), 4)),
    }
    batch_labels = labels(3)
    batch_labels["boxes"][1:, 0] = [[0, 0, 60, 30], [20, 40, 50, 90]]
    batch_labels["ignore"][2, 1], batch_labels["boxes"][2, 1] = True, [0, 0, 40, 40]

    def chosen(tree, *indices):
        return {key: value[list(indices)] for key, value in tree.items()}

    weights = {"sample_weights": np.array([2.0, 0.0, 1.0])}
    found = model.compute_losses(outputs, {**batch_labels, **weights})
    total, count = model.loss_sum(outputs, {**batch_labels, **weights})
    doubled = chosen(outputs, 0, 0, 2), chosen(batch_labels, 0, 0, 2)
    expected = model.compute_losses(*doubled)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5), name
    expected_total, expected_count = model.loss_sum(*doubled)
    assert float(count) == float(expected_count) > 3.0
    assert float(total) == pytest.approx(float(expected_total), rel=1e-5)
    # One image and nothing else.
    weights = {"sample_weights": np.array([1.0, 0.0, 0.0])}
    found = model.compute_losses(outputs, {**batch_labels, **weights})
    expected = model.compute_losses(chosen(outputs, 0), chosen(batch_labels, 0))
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5), name
    ones = model.compute_losses(outputs, {**batch_labels, "sample_weights": np.ones(3)})
    plain = model.compute_losses(outputs, batch_labels)
    assert {k: float(v) for k, v in ones.items()} == {
        k: float(v) for k, v in plain.items()
    }


def test_loss_settings_take_effect():
    """Every constant differs from its default; compared with formulas in NumPy."""
    model = small_model(
        match_threshold=0.6,
        unmatched_threshold=0.3,
        focal_alpha=0.4,
        focal_gamma=0.5,
        huber_delta=0.7,
        box_weight=3.0,
    )
    rng = np.random.default_rng(0)
    logits, deltas = (
        rng.normal(size=(2, len(model.anchors), depth)).astype("float32")
        for depth in (3, 4)
    )
    classes, targets = (
        np.array(x)
        for x in anchors.assign_targets(model.anchors, labels(objects=2), 0.6, 0.3)
    )
    positive = classes >= 0
    assert positive.any() and (classes == anchors.IGNORED).any()
    normalizer = positive.sum() + 1
    is_class = classes[..., None] == np.arange(3)
    score = 1 / (1 + np.exp(-logits.astype("float64")))
    p_true = np.where(is_class, score, 1 - score)
    focal = np.where(is_class, 0.4, 0.6) * -np.sqrt(1 - p_true) * np.log(p_true)
    class_loss = focal[classes != anchors.IGNORED].sum() / normalizer
    error = np.abs(deltas - targets)[positive]
    huber = np.where(error <= 0.7, error**2 / 2, 0.7 * error - 0.7**2 / 2)
    box_loss = huber.sum() / (4 * normalizer)

    losses = model.compute_losses(
        {"class_logits": logits, "box_deltas": deltas}, labels(objects=2)
    )
    assert float(losses["class_loss"]) == pytest.approx(class_loss, rel=1e-5)
    assert float(losses["box_loss"]) == pytest.approx(box_loss, rel=1e-5)
    total = class_loss + 3.0 * box_loss
    assert float(losses["loss"]) == pytest.approx(total, rel=1e-5)


def level_inputs(golden, levels):
    return {
        f"P{k}": keras.Input(golden[f"in/{k}"].shape[1:], name=f"P{k}") for k in levels
    }


def set_golden_weights(model, golden, names):
    """Set the weights of layers by their names in the golden file."""
    for layer_name, golden_name in names.items():
        layer = model.get_layer(layer_name)
        layer.set_weights([golden[f"{golden_name}/{w.name}"] for w in layer.weights])


@pytest.mark.parametrize(
    ("tower", "depth", "prior"), [("class", 5, 0.01), ("box", 4, None)]
)
def test_head_matches_the_authors(tower, depth, prior):
    golden = np.load(GOLDEN / "head.npz")
    inputs = level_inputs(golden, range(3, 8))
    settings = Tower(2, 16, "swish", bn=BatchNorm(epsilon=1e-3))
    head = retinanet_head(inputs, 9 * depth, tower, settings, prior)
    model = keras.Model(inputs, head)
    start = golden["init/class_predict_bias"] if prior else np.zeros(36)
    np.testing.assert_allclose(
        model.get_layer(f"{tower}_predict").bias, start, rtol=1e-5
    )
    path = f"w/retinanet/{tower}_net/{tower}"
    names = {f"{tower}_conv{i}": f"{path}-{i}" for i in range(2)}
    names[f"{tower}_predict"] = f"{path}-predict"
    names |= {
        f"{tower}_bn{i}_p{k}": f"{path}-{i}-{k}" for i in range(2) for k in range(3, 8)
    }
    set_golden_weights(model, golden, names)
    outputs = model({f"P{k}": golden[f"in/{k}"] for k in range(3, 8)})
    kind = "cls" if tower == "class" else "box"
    for level in range(3, 8):
        np.testing.assert_allclose(
            outputs[f"P{level}"], golden[f"out/{kind}/{level}"], rtol=1e-4, atol=1e-4
        )


def golden_outputs(golden):
    """Return raw outputs of the golden head, without the background class."""

    def joined(kind, depth):
        return np.concatenate(
            [golden[f"in/{kind}/{k}"].reshape(2, -1, depth) for k in range(3, 8)], 1
        )

    return {"class_logits": joined("cls", 6)[..., 1:], "box_deltas": joined("box", 4)}


def test_decoding_matches_the_authors(golden_model):
    """Their decoder counts the last pixel as inside and clips to h - 1, w - 1."""
    golden = np.load(GOLDEN / "postprocess.npz")
    outputs = golden_outputs(golden)
    model = golden_model
    one = np.array([0, 0, 1, 1], np.float32)
    decoded = np.array(boxes.decode(outputs["box_deltas"], model.anchors + one)) - one
    for row, size in enumerate(golden["in/image_shape"]):
        limits = np.concatenate([size, size]) - 1
        got = np.clip(decoded[row], 0, limits)
        expected = golden["out/none_iou50/raw_boxes"][row, :, 0]
        np.testing.assert_allclose(got, expected, atol=1e-3)
    scores = keras.ops.sigmoid(outputs["class_logits"])
    np.testing.assert_allclose(scores, golden["out/none_iou50/raw_scores"], atol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_detections_match_the_authors(threshold, monkeypatch):
    """Suppression and ranking on their decoded boxes.

    Except for the boxes that lie beside the image: theirs are clipped to no area.
    """
    golden = np.load(GOLDEN / "postprocess.npz")
    model = small_model(
        image_size=(128, 128), max_level=7, num_classes=5, nms_threshold=threshold
    )
    monkeypatch.setattr(
        boxes, "decode", lambda *_: golden["out/none_iou50/raw_boxes"][:, :, 0]
    )
    sizes = np.array([[128, 128], [128, 128]])
    actual = model.predictions(golden_outputs(golden), sizes)
    key = f"out/v1_iou{round(100 * threshold)}"
    for row, count in enumerate(golden[f"{key}/num_detections"]):
        theirs = golden[f"{key}/detection_boxes"][row][:count]
        inside = (theirs[:, 2:] > theirs[:, :2]).all(axis=1)
        used = slice(0, inside.sum())
        # Where theirs fill all 100 slots, ours have room for others.
        assert inside.sum() <= int(actual["num_detections"][row]) <= count
        assert count == 100 or int(actual["num_detections"][row]) == inside.sum()
        np.testing.assert_allclose(
            actual["scores"][row][used],
            golden[f"{key}/detection_scores"][row][:count][inside],
            atol=1e-5,
        )
        np.testing.assert_array_equal(
            actual["classes"][row][used] + 1,
            golden[f"{key}/detection_classes"][row][:count][inside],
        )
        np.testing.assert_allclose(
            actual["boxes"][row][used], theirs[inside], atol=1e-3
        )


def test_predictions_are_in_pixels_of_the_given_sizes(default_model):
    """One anchor is raised; an image twice as large has boxes twice as large."""
    model = default_model
    anchor = 9 * (12 * 4 + 6)  # in the middle of P3
    logits = np.full((1, len(model.anchors), 3), -9.0, np.float32)
    logits[0, anchor, 2] = 3.0
    outputs = {
        "class_logits": logits,
        "box_deltas": np.zeros((1, len(model.anchors), 4), np.float32),
    }
    for factor in (1, 2):
        actual = model.predictions(outputs, np.array([[64 * factor, 96 * factor]]))
        assert int(actual["num_detections"][0]) == 1
        assert int(actual["classes"][0, 0]) == 2
        assert float(actual["scores"][0, 0]) == pytest.approx(1 / (1 + np.exp(-3)))
        np.testing.assert_allclose(
            actual["boxes"][0, 0], model.anchors[anchor] * factor, rtol=1e-5
        )
        assert (np.array(actual["classes"])[0, 1:] == -1).all()
        assert not np.array(actual["boxes"])[0, 1:].any()


def test_each_image_of_a_batch_has_its_own_scale_and_border():
    """A box beyond the frame is clipped at the border of its own image."""
    model = small_model(max_detections=3)
    logits = np.full((2, len(model.anchors), 3), -9.0, np.float32)
    logits[:, 0, 1] = 2.0
    deltas = np.zeros((2, len(model.anchors), 4), np.float32)
    # The corner's anchor is centered on (4, 4); the box is far larger than the frame.
    deltas[:, 0, 2:] = 4.0
    outputs = {"class_logits": logits, "box_deltas": deltas}
    actual = model.predictions(outputs, np.array([[128, 150], [30, 96]]))
    np.testing.assert_allclose(
        np.array(actual["boxes"])[:, 0], [[0, 0, 128, 150], [0, 0, 30, 96]]
    )
    # The first image was halved, the second one kept.
    deltas[:, 0, 2:] = -2.0
    actual = model.predictions(outputs, np.array([[128, 192], [30, 96]]))
    half = 16 * np.exp(-2)
    near, far = 4 - half, 4 + half
    expected = np.array([[near, near, far, far]])
    np.testing.assert_allclose(
        np.array(actual["boxes"])[:, 0], expected * [[2], [1]], rtol=1e-5
    )


def test_detection_settings_take_effect():
    """Seven anchors far apart with scores from 0.2 to 0.8."""
    outputs = {
        "class_logits": np.full((1, 126 * 9, 3), -9.0, np.float32),
        "box_deltas": np.zeros((1, 126 * 9, 4), np.float32),
    }
    outputs["box_deltas"][..., 2:] = -3.0  # small boxes, which share nothing
    scores = np.linspace(0.2, 0.8, 7)
    outputs["class_logits"][0, 90 : 90 + 7 * 9 : 9, 0] = np.log(scores / (1 - scores))
    sizes = np.array([[64, 96]])
    for settings, expected in (
        ({}, scores[::-1]),
        ({"score_threshold": 0.45}, [0.8, 0.7, 0.6, 0.5]),
        ({"max_detections": 2}, [0.8, 0.7]),
    ):
        actual = small_model(**settings).predictions(outputs, sizes)
        assert actual["scores"].shape == (1, settings.get("max_detections", 100))
        assert int(actual["num_detections"][0]) == len(expected)
        np.testing.assert_allclose(
            actual["scores"][0, : len(expected)], expected, rtol=1e-5
        )


def test_predictions_compile_under_xla():
    model = small_model(max_detections=10)
    outputs = {
        "class_logits": tf.random.stateless_normal((2, len(model.anchors), 3), [0, 1]),
        "box_deltas": tf.random.stateless_normal((2, len(model.anchors), 4), [0, 2]),
    }
    sizes = tf.constant([[64, 96], [50, 96]])
    plain = model.predictions(outputs, sizes)
    compiled = tf.function(model.predictions, jit_compile=True)(outputs, sizes)
    for key, value in plain.items():
        np.testing.assert_allclose(value, compiled[key], rtol=1e-4, atol=1e-4)


def test_save_and_load(tmp_path):
    """Non-default arguments and the outputs survive a round trip."""
    settings = {
        "num_classes": 2,
        "image_size": (64, 96),
        "min_level": 2,
        "max_level": 4,
        "decoder": "none",
        "num_repeats": 2,
        "separable_decoder": True,
        "num_filters": 12,
        "num_head_convs": 1,
        "separable_head": True,
        "activation": "swish",
        "anchor_size": 3.0,
        "num_scales": 2,
        "aspect_ratios": (1.0, 0.5),
        "match_threshold": 0.6,
        "unmatched_threshold": 0.4,
        "focal_alpha": 0.3,
        "focal_gamma": 2.0,
        "huber_delta": 0.2,
        "box_weight": 10.0,
        "bn_momentum": 0.9,
        "bn_epsilon": 1e-3,
        "bn_sync": True,
        "score_threshold": 0.1,
        "nms_threshold": 0.4,
        "soft_nms_sigma": 0.2,
        "max_detections": 7,
        "tile": None,
        "name": "detector",
    }
    arguments = inspect.signature(RetinaNet).parameters
    assert set(settings) | {"backbone"} == set(arguments)
    # A tile, which excludes Soft-NMS, is saved in the tests of tiles.
    same = [k for k, value in settings.items() if value == arguments[k].default]
    assert same == ["tile"]
    model = small_model(**settings)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    config, again = model.get_config(), loaded.get_config()
    del config["backbone"], again["backbone"]
    assert config.pop("dtype_policy") == again.pop("dtype_policy") == "float32"
    assert config == settings and again == settings
    actual = loaded(images())
    for key, value in model(images()).items():
        np.testing.assert_array_equal(value, actual[key])
    np.testing.assert_array_equal(model.anchors, loaded.anchors)
    # The layers have received their arguments.
    norms = [x for x in loaded.layers if "_bn" in x.name]
    assert {(x.momentum, x.epsilon) for x in norms} == {(0.9, 1e-3)}
    convs = [x for x in loaded.layers if x.name.startswith(("class_conv", "box_conv"))]
    assert [(type(x).__name__, x.filters) for x in convs] == [
        ("SeparableConv2D", 12)
    ] * 2


def test_nothing_is_detected_in_the_padding():
    """The image covers the upper half of the frame; the best score is below it."""
    model = small_model()
    sizes = np.array([[model.image_size[0] // 2, model.image_size[1]]])
    centers = (model.anchors[:, 0] + model.anchors[:, 2]) / 2
    heights = model.anchors[:, 2] - model.anchors[:, 0]
    below = np.flatnonzero(centers - heights / 2 > model.image_size[0] / 2)
    above = np.flatnonzero(centers < model.image_size[0] / 4)
    logits = np.full((1, len(model.anchors), model.num_classes), -9.0, np.float32)
    logits[0, below, 0] = 4.0
    logits[0, above[0], 1] = 2.0
    outputs = {
        "class_logits": logits,
        "box_deltas": np.zeros((1, len(model.anchors), 4), np.float32),
    }
    found = {k: np.array(v)[0] for k, v in model.predictions(outputs, sizes).items()}
    assert len(below) and found["num_detections"] == 1
    np.testing.assert_array_equal(found["classes"][:2], [1, -1])
    assert found["scores"][0] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model()
        outputs = model(images())
        assert model.backbone.output["P3"].dtype == "bfloat16"
        assert {keras.backend.standardize_dtype(v.dtype) for v in outputs.values()} == {
            "float32"
        }
        losses, actual = gradients(model, labels())
        assert np.isfinite(float(losses["loss"]))
    finally:
        keras.config.set_dtype_policy(policy)


def test_pixels_are_normalized_inside_the_model(default_model):
    model = default_model
    got = keras.Model(model.input, model.get_layer("normalize_pixels").output)(
        np.full((1, 64, 96, 3), 255.0)
    )
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(got[0, 0, 0], expected, rtol=1e-4)


def test_efficientnet_matches_keras_applications():
    """B0 with the same weights, up to the last block."""
    ours = backbones.efficientnet("B0")
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    rng = np.random.default_rng(0)
    skipped = {"normalization", "rescaling", "top_conv", "top_bn"}
    weights = []
    for layer in reference.layers:
        if layer.weights and not layer.name.startswith(tuple(skipped)):
            values = [
                rng.normal(0, 0.05, w.shape)
                + ("variance" in w.name or w.name == "gamma")
                for w in layer.weights
            ]
            layer.set_weights(values)
            weights += values
    ours.set_weights(weights)
    inputs = rng.normal(size=(1, 64, 64, 3)).astype("float32")
    names = {"P2": "block2b_add", "P3": "block3b_add", "P4": "block5c_add"}
    names["P5"] = "block7a_project_bn"
    blocks = keras.Model(
        reference.get_layer("stem_conv_pad").input,
        {level: reference.get_layer(name).output for level, name in names.items()},
    )
    got, expected = ours(inputs), blocks(inputs)
    for level in names:
        np.testing.assert_allclose(got[level], expected[level], rtol=1e-4, atol=1e-4)


def test_efficientnet_saving_and_gradients(tmp_path):
    """A saved file must keep the corrections of KerasCV's layers."""
    keras.utils.set_random_seed(0)
    backbone = backbones.efficientnet("B0", drop_connect_rate=0.1)
    path = tmp_path / "backbone.keras"
    backbone.save(path)
    loaded = keras.saving.load_model(path)
    inputs = tf.random.stateless_normal((2, 64, 64, 3), [0, 1])
    actual = loaded(inputs)
    for level, value in backbone(inputs).items():
        np.testing.assert_array_equal(value, actual[level])
    rates = [x.rate for x in loaded.layers if isinstance(x, ResidualAdd)]
    # Blocks with a shortcut, of 16.
    residual = [2, 4, 6, 7, 9, 10, 12, 13, 14]
    np.testing.assert_allclose(rates, [0.1 * k / 16 for k in residual])
    with tf.GradientTape() as tape:
        outputs = loaded(inputs)
        total = sum(tf.reduce_sum(x**2) for x in outputs.values())
    weights = loaded.trainable_variables
    for weight, gradient in zip(weights, tape.gradient(total, weights), strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_efficientnet_b7_facts(zeros):
    """Levels' channels, the linear drop-connect rule, and the size of the detector."""
    backbone = backbones.efficientnet("B7")
    channels = {level: tensor.shape[-1] for level, tensor in backbone.output.items()}
    assert channels == {"P2": 48, "P3": 80, "P4": 224, "P5": 640}
    drops = [x for x in backbone.layers if isinstance(x, ResidualAdd)]
    # 55 blocks; the first of each stage has no shortcut, and so nothing to drop.
    residual = sorted(set(range(55)) - {0, 4, 11, 18, 28, 38, 51})
    np.testing.assert_allclose(
        [x.rate for x in drops], [0.2 * k / 55 for k in residual]
    )
    # Whole samples are dropped, not elements.
    assert {tuple(x.drop.noise_shape) for x in drops} == {(None, 1, 1, 1)}
    model = RetinaNet(91, (128, 128), backbone)
    # The authors' 76.26 M less 4.20 M of a classification head that they carry along.
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    assert trainable / 1e6 == pytest.approx(76.26 - 4.20, abs=0.02)


@pytest.mark.parametrize(
    ("depth", "trainable"), [(50, 34_091_159), (101, 53_083_287), (152, 68_726_935)]
)
def test_resnet_sizes_match_the_published_ones(depth, trainable, zeros):
    model = RetinaNet(91, (128, 128), backbones.resnet(depth))
    assert sum(int(np.prod(w.shape)) for w in model.trainable_variables) == trainable


def test_batch_normalization_momentum_is_an_argument():
    backbone = backbones.resnet(18, filters=(16, 16, 16, 16), bn_momentum=0.9)
    model = small_model(backbone=backbone, bn_momentum=0.8)
    layers = [x for x in model.backbone.layers if "momentum" in x.get_config()]
    assert {layer.momentum for layer in layers} == {0.9}
    assert model.get_layer("fpn_bn_p3").momentum == 0.8


@pytest.mark.parametrize(
    ("text", "make"),
    [
        (
            r"18, 34, 50, 101, 152 \(nearest: 50\). Received: depth=51",
            lambda: backbones.resnet(51),
        ),
        (
            r"Received: blocks=\(1, 1\), filters=\(8,\)",
            lambda: backbones.resnet(50, blocks=(1, 1), filters=(8,)),
        ),
        (
            r"\(nearest: B7\). Received: variant='b7'",
            lambda: backbones.efficientnet("b7"),
        ),
        (
            "Received: min_level=4, max_level=3",
            lambda: small_model(min_level=4, max_level=3),
        ),
        ("Received: num_scales=0", lambda: small_model(num_scales=0)),
        (r"Received: num_classes=0", lambda: small_model(num_classes=0)),
        (r"Received: max_detections=0", lambda: small_model(max_detections=0)),
        (
            r"multiples of 16.*level P4. Received: image_size=\(64, 90\)",
            lambda: small_model(image_size=(64, 90)),
        ),
        (
            r"such as {\"P3\": …, .* Received: backbone=other with keys=\[3, 4\]$",
            lambda: small_model(backbone=other_backbone({3: 3, 4: 4})),
        ),
        (
            r"one after the other, .* with keys=\['3', '4'\]$",
            lambda: small_model(backbone=other_backbone({"3": 3, "4": 4})),
        ),
        (
            r"one after the other, .* with keys=\['P3', 'P5'\]$",
            lambda: small_model(backbone=other_backbone({"P3": 3, "P5": 5})),
        ),
        (
            r"one after the other, .* with keys=\['P3', 'top'\]$",
            lambda: small_model(backbone=other_backbone({"P3": 3, "top": 4})),
        ),
        (
            r"P3 of stride 8, features of 8 x 12 cells for images of 64 x 96. "
            r"Received: backbone=other with P3 of shape \(None, 16, 24, 2\)$",
            lambda: small_model(backbone=other_backbone({"P3": 2, "P4": 3})),
        ),
        (
            r"P5 of stride 32, .* with P5 of shape \(None, 4, 6, 2\)$",
            lambda: ImageClassifier(2, (64, 96), other_backbone({"P5": 4})),
        ),
        (
            r"level P3, .*min_level. Received: features=\['P4', 'P5'\]",
            lambda: small_model(backbone=other_backbone({"P4": 4, "P5": 5})),
        ),
        (
            r"level P6.*Received: features=\['P2', 'P3', 'P4'\]",
            lambda: small_model(min_level=6, max_level=7),
        ),
    ],
)
def test_errors_name_the_received_value(text, make):
    with pytest.raises(ValueError, match=text):
        make()


def features(deepest=5):
    """Return images and features of strides 2 to 2^deepest by level."""
    x = inputs = keras.Input((64, 96, 3))
    levels = {}
    for level in range(1, deepest + 1):
        x = levels[level] = keras.layers.Conv2D(2, 3, 2, "same")(x)
    return inputs, levels


def other_backbone(keys):
    inputs, levels = features()
    outputs = {key: levels[level] for key, level in keys.items()}
    return keras.Model(inputs, outputs, name="other")


@pytest.mark.parametrize("kind", ["tensor", "list", "application", "subclass"])
def test_a_backbone_without_a_dict_of_levels_is_refused(kind):
    inputs, levels = features()
    received = "KerasTensor"
    if kind == "tensor":
        backbone = keras.Model(inputs, levels[5])
    elif kind == "list":
        backbone, received = keras.Model(inputs, [levels[3], levels[4]]), "list"
    elif kind == "application":
        backbone = keras.applications.MobileNetV2(
            (64, 96, 3), 0.35, include_top=False, weights=None
        )
    else:
        backbone, received = keras.Sequential(), "NoneType"
    text = rf'a dict {{"P3": …, .* such as backbones.resnet\(50\). .* {received}$'
    for make in (RetinaNet, SemanticSegmenter, ImageClassifier):
        with pytest.raises(TypeError, match=text):
            make(2, (64, 96), backbone)


def test_a_backbone_of_levels_in_any_order_is_a_backbone():
    backbone = other_backbone({"P5": 5, "P3": 3, "P4": 4})
    model = small_model(backbone=backbone)
    assert model(images())["class_logits"].shape == (2, 9 * 126, 3)


def test_a_diverged_model_returns_no_detections(default_model):
    model = default_model
    outputs = {
        key: np.full_like(value, np.nan) for key, value in model(images()).items()
    }
    actual = model.predictions(outputs, np.array([[64, 96]] * 2))
    assert np.array(actual["num_detections"]).tolist() == [0, 0]
    assert not np.array(actual["boxes"]).any()
    for wrong in ([64, 96], [[64, 96]], [[64, 96, 3]] * 2):
        with pytest.raises(ValueError, match=r"sizes \[2, 2\]. Received: shape="):
            model.predictions(outputs, np.array(wrong))
    # Nor where only the boxes have.
    outputs["class_logits"] = np.full_like(outputs["class_logits"], 5.0)
    outputs["box_deltas"] = np.zeros_like(outputs["box_deltas"])
    outputs["box_deltas"][0] = np.nan
    actual = model.predictions(outputs, np.array([[64, 96]] * 2))
    detections = np.array(actual["num_detections"])
    assert detections[0] == 0 and detections[1] > 0
    assert np.isfinite(actual["boxes"]).all()

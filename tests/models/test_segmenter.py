"""The segmenter: ignored pixels, mask alignment and multi-scale inference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.models import RetinaNet, SemanticSegmenter, backbones

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1, 1, 1), filters=(16, 16, 16, 16))
    made = SemanticSegmenter(
        4, (128, 256), backbone, num_filters=16, num_repeats=1, num_head_convs=1
    )
    # The logits of a new model are all equal: make them differ.
    made.layers[-2].kernel.assign(RNG.normal(size=(1, 1, 16, 4)))
    return made


@pytest.fixture(scope="module")
def images():
    return RNG.uniform(0, 255, (2, 128, 256, 3)).astype(np.float32)


def loss_of(model, logits, mask):
    return model.compute_losses({"mask_logits": logits}, {"mask": mask})["loss"]


def test_ignored_pixels_get_no_gradient(model):
    logits = tf.Variable(RNG.normal(size=(2, 32, 64, 4)).astype(np.float32))
    mask = RNG.integers(0, 4, (2, 128, 256))
    mask[RNG.random(mask.shape) < 0.4] = 255
    with tf.GradientTape() as tape:
        loss = loss_of(model, logits, mask)
    gradient = tape.gradient(loss, logits).numpy()
    labeled = mask[:, ::4, ::4] != 255
    assert (gradient[~labeled] == 0.0).all()
    assert (np.abs(gradient[labeled]).sum(-1) > 0.0).all()
    # What is predicted there doesn't matter, nor what the mask says in between.
    changed = logits.numpy()
    changed[~labeled] += 100.0
    between = mask.copy()
    between[:, 1::4] = 3
    assert float(loss_of(model, changed, between)) == float(loss)
    # Every value outside the classes counts as unlabeled.
    others = np.where(mask == 255, RNG.choice([-1, 4, 99, 256], mask.shape), mask)
    assert float(loss_of(model, logits, others)) == float(loss)


def test_weights_count_images_more_than_once(model):
    """Weights 2, 0 and 1/2 of three images, of which the last one has half a mask."""
    logits = RNG.normal(size=(3, 32, 64, 4)).astype(np.float32)
    mask = RNG.integers(0, 4, (3, 128, 256))
    mask[2, :64] = 255
    labels = {"mask": mask, "sample_weights": np.array([2.0, 0.0, 0.5])}
    total, count = model.loss_sum({"mask_logits": logits}, labels)
    sums = [
        float(model.loss_sum({"mask_logits": logits[k : k + 1]}, {"mask": m})[0])
        for k, m in enumerate(mask[:, None])
    ]
    assert float(count) == 2.0 * 32 * 64 + 0.5 * 16 * 64
    assert float(total) == pytest.approx(2.0 * sums[0] + 0.5 * sums[2], rel=1e-5)
    weighted = model.compute_losses({"mask_logits": logits}, labels)["loss"]
    assert float(weighted) == pytest.approx(float(total) / float(count), rel=1e-6)
    labels["sample_weights"] = np.array([2.0, 0.0, 0.0])
    weighted = model.compute_losses({"mask_logits": logits}, labels)["loss"]
    doubled = loss_of(model, logits[[0, 0]], mask[[0, 0]])
    assert float(weighted) == pytest.approx(float(doubled), rel=1e-6)


def test_masks_that_count_from_one_and_scaled_images_are_refused(model, images):
    model = model.from_config(model.get_config())  # one that has seen no labels
    outputs = {"mask_logits": np.zeros((2, 32, 64, 4), np.float32)}
    mask = RNG.integers(1, 5, (2, 128, 256))
    with pytest.raises(ValueError, match="in mask. Received: 1 to 4, which are count"):
        model.compute_losses(outputs, {"mask": mask})
    labels = {"mask": mask - 1, "images": images / 255.0}
    with pytest.raises(ValueError, match="of 0 to 255, .* Received: values of "):
        model.compute_losses(outputs, labels)


def test_a_batch_without_labeled_pixels_has_zero_loss(model):
    logits = tf.Variable(RNG.normal(size=(2, 32, 64, 4)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = loss_of(model, logits, np.full((2, 128, 256), 255))
    assert float(loss) == 0.0
    assert (tape.gradient(loss, logits).numpy() == 0.0).all()


def test_masks_align_with_the_labels(model):
    """Logits that encode every label exactly reproduce a disc in its place."""
    rows, columns = np.indices((128, 256))
    disc = (rows - 60) ** 2 + (columns - 101) ** 2 <= 40**2
    logits = 10.0 * np.eye(4, dtype=np.float32)[disc[None, ::4, ::4].astype(int)]
    actual = np.asarray(model.predictions({"mask_logits": logits}, None)["mask"][0])
    # Half a cell of enlarging is the error left, not one and a half pixels more.
    center = np.array([axis[actual == 1].mean() for axis in (rows, columns)])
    np.testing.assert_allclose(center, [60, 101], atol=0.6)
    overlap = ((actual == 1) & disc).sum() / ((actual == 1) | disc).sum()
    assert overlap > 0.95


def test_a_single_scale_equals_plain_inference(model, images):
    outputs = model(images, training=False)
    plain = model.predictions(outputs, None)
    probabilities = np.asarray(model.multi_scale((1.0,))(images))
    np.testing.assert_array_equal(probabilities.argmax(-1), plain["mask"])
    np.testing.assert_array_equal(probabilities.max(-1), plain["scores"])


def test_probabilities_are_averaged_over_scales_and_flips(model, images):
    scales = (0.5, 1.0, 1.3)
    alone = [np.asarray(model.multi_scale((scale,))(images)) for scale in scales]
    mirrored = [
        np.asarray(model.multi_scale((scale,))(images[:, :, ::-1]))[:, :, ::-1]
        for scale in scales
    ]
    for actual in (*alone, *mirrored):
        assert actual.shape == (2, 128, 256, 4)
        np.testing.assert_allclose(actual.sum(-1), 1.0, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(
        model.multi_scale(scales)(images), np.mean(alone, 0), atol=1e-5
    )
    np.testing.assert_allclose(
        model.multi_scale(scales, flip=True)(images),
        np.mean(alone + mirrored, 0),
        atol=1e-5,
    )


def test_a_scale_runs_the_model_on_the_scaled_frame(model, images):
    """A scale of 1.5 gives 192 x 384, padded to 256 x 384 with the mean color."""
    large = SemanticSegmenter.from_config(
        {**model.get_config(), "image_size": (256, 384)}
    )
    large.set_weights(model.get_weights())
    frame = np.full((2, 256, 384, 3), [123.675, 116.28, 103.53], np.float32)
    frame[:, :192] = tf.image.resize(images, (192, 384))
    actual = np.asarray(large.multi_scale((1.0,))(frame))[:, :192]
    np.testing.assert_allclose(
        model.multi_scale((1.5,))(images),
        tf.image.resize(actual, (128, 256)),
        atol=1e-5,
    )


def test_scaled_models_share_the_weights(model, images):
    probabilities = model.multi_scale((2.0,))
    before = np.asarray(probabilities(images))
    weights = model.get_weights()
    model.layers[-2].kernel.assign(-model.layers[-2].kernel)
    changed = np.asarray(probabilities(images))
    model.set_weights(weights)
    assert np.abs(changed - before).max() > 0.01
    np.testing.assert_array_equal(probabilities(images), before)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), ("1",)])
def test_invalid_scales_raise(model, scales):
    with pytest.raises(ValueError, match="Expected scales, numbers above 0. Received"):
        model.multi_scale(scales)


def test_invalid_labels_raise(model):
    logits = np.zeros((1, 32, 64, 4), np.float32)
    with pytest.raises(ValueError, match=r"with a mask .* Received: keys=\['boxes'\]"):
        model.compute_losses({"mask_logits": logits}, {"boxes": 0})
    for shape in ((1, 128, 128), (1, 128, 256, 1), (128, 256)):
        with pytest.raises(ValueError, match=r"mask \[B, 128, 256\]. Received: shape="):
            loss_of(model, logits, np.zeros(shape))
    backbone = backbones.resnet(18, blocks=(1,), filters=(16,))
    retinanet = RetinaNet(
        3, (64, 64), backbones.resnet(18, (1, 1), (16, 16)), max_level=3, num_filters=16
    )
    with pytest.raises(ValueError, match=r"with boxes .* Received: keys=\['mask'\]"):
        retinanet.compute_losses({}, {"mask": 0})
    empty = {"boxes": np.zeros((2, 0, 4)), "classes": 0, "ignore": 0}
    with pytest.raises(ValueError, match=r"one slot, .*, boxes \(2, 0, 4\)"):
        retinanet.compute_losses({}, empty)
    for num_classes in (1, 256):
        with pytest.raises(ValueError, match=f"2 to 255 .*num_classes={num_classes}"):
            SemanticSegmenter(num_classes, (128, 128), backbone)


@pytest.mark.parametrize("kind", ["segmenter", "retinanet"])
def test_a_model_keeps_its_precision(kind, tmp_path):
    """Saved under one policy, loaded under another: the same outputs."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = backbones.resnet(50, (1, 1, 1, 1), (16,) * 4, drop_connect_rate=0.1)
        small = {"num_filters": 16, "num_head_convs": 1}
        if kind == "segmenter":
            made = SemanticSegmenter(3, (128, 128), backbone, num_repeats=1, **small)
        else:
            made = RetinaNet(3, (128, 128), backbone, **small)
    finally:
        keras.config.set_dtype_policy("float32")
    made.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    pixels = RNG.uniform(0, 255, (1, 128, 128, 3)).astype(np.float32)
    actual = loaded(pixels, training=False)
    for name, expected in made(pixels, training=False).items():
        np.testing.assert_array_equal(actual[name], expected)
    assert keras.config.dtype_policy().name == "float32"
    policies = [
        [
            layer.dtype_policy.name
            for layer in m.layers
            if not isinstance(layer, keras.Model)
        ]
        for m in (made, loaded)
    ]
    assert policies[0] == policies[1] and "mixed_bfloat16" in policies[0]

"""The paper's architectures: published sizes, the authors' features, gradients."""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.models import (
    RetinaNet,
    SemanticSegmenter,
    backbones,
    checkpoints,
    spinenet,
)
from official_selftrain.models.blocks import BatchNorm, ResidualAdd
from official_selftrain.models.fpn import fpn
from official_selftrain.models.heads import (
    ResizeBilinear,
    Tower,
    retinanet_head,
    segmentation_head,
)
from official_selftrain.models.inputs import dtype_policy, normalized_pixels
from official_selftrain.models.nasfpn import nasfpn
from official_selftrain.models.sizes import sizes

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def spinenet_retinanet(variant, size, **settings):
    return RetinaNet(
        91,
        (size, size),
        spinenet(variant),
        decoder="none",
        activation="swish",
        **settings,
    )


def resnet_retinanet(depth, **settings):
    return RetinaNet(91, (640, 640), backbones.resnet(depth), **settings)


def efficientnet_retinanet(variant):
    return RetinaNet(91, (640, 640), backbones.efficientnet(variant))


def segmenter(variant):
    return SemanticSegmenter(21, (512, 512), backbones.efficientnet(variant))


# Model: (builder, trainable parameters, 10^9 multiply-adds) with 91 class channels,
# from running the authors' layers under their profiler.
PUBLISHED = {
    "SpineNet-49S": (
        lambda: spinenet_retinanet("49S", 640, num_filters=128),
        *(11_265_942, 30.89),
    ),
    "SpineNet-49": (lambda: spinenet_retinanet("49", 640), 28_543_383, 85.46),
    "SpineNet-96": (lambda: spinenet_retinanet("96", 1024), 42_974_871, 265.63),
    "SpineNet-143": (lambda: spinenet_retinanet("143", 1280), 66_959_511, 524.59),
    "SpineNet-190": (
        lambda: spinenet_retinanet("190", 1280, num_filters=512, num_head_convs=7),
        *(163_637_351, 1883.92),
    ),
    "ResNet-50": (lambda: resnet_retinanet(50), 34_091_159, 96.96),
    "ResNet-101": (lambda: resnet_retinanet(101), 53_083_287, 127.30),
    "ResNet-152": (lambda: resnet_retinanet(152), 68_726_935, 157.63),
    "ResNet-50 NAS-FPN": (
        lambda: resnet_retinanet(50, decoder="nasfpn"),
        *(51_810_455, 126.55),
    ),
    "ResNet-50 NAS-FPN 7": (
        lambda: resnet_retinanet(50, decoder="nasfpn", num_repeats=7),
        *(60_078_743, 140.40),
    ),
    "EfficientNet-B0": (lambda: efficientnet_retinanet("B0"), 13_381_843, 65.4),
    "EfficientNet-B1": (lambda: efficientnet_retinanet("B1"), 15_887_479, 67.0),
    "EfficientNet-B2": (lambda: efficientnet_retinanet("B2"), 17_001_305, 67.7),
    "EfficientNet-B3": (lambda: efficientnet_retinanet("B3"), 19_914_367, 70.2),
    "EfficientNet-B4": (lambda: efficientnet_retinanet("B4"), 26_577_823, 74.7),
    "EfficientNet-B5": (lambda: efficientnet_retinanet("B5"), 37_146_247, 81.8),
    "EfficientNet-B6": (lambda: efficientnet_retinanet("B6"), 49_286_703, 90.1),
    "EfficientNet-B7": (lambda: efficientnet_retinanet("B7"), 72_050_727, 105.0),
    "EfficientNet-B7 segmenter": (lambda: segmenter("B7"), 67_527_317, 60.17),
    "EfficientNet-L2 segmenter": (lambda: segmenter("L2"), 472_883_289, 229.44),
}


# Built by the plain test command; the others by the longer one.
QUICK = ("SpineNet-49S", "SpineNet-143", "ResNet-50", "EfficientNet-B0")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in PUBLISHED
    ],
)
def test_sizes_match_the_published_ones(name, zeros):
    build, parameters, multiply_adds = PUBLISHED[name]
    model = build()
    counted = sizes(model)
    assert counted["total"]["trainable"] == parameters
    assert counted["total"]["parameters"] == sum(
        int(np.prod(weight.shape)) for weight in model.weights
    )
    count = counted["total"]["multiply_adds"]
    tolerance = 0.005
    if name.startswith("EfficientNet"):
        # The authors' graph still runs its unused classification convolution.
        channels = model.backbone.output["P5"].shape[-1]
        side = model.image_size[0] // 32
        count += channels * 4 * channels * side * side
        tolerance = 0.01
    assert count / 1e9 == pytest.approx(multiply_adds, rel=tolerance)


def test_parts_of_resnet_50_match_the_published_ones(zeros):
    parts = sizes(resnet_retinanet(50))
    assert parts["backbone"]["trainable"] == 23_508_032
    assert parts["decoder"]["trainable"] == 3_871_232
    assert parts["head"]["trainable"] == 6_711_895
    assert parts["total"]["parameters"] == 34_167_319


@pytest.mark.parametrize(
    "depth, repeats, trainable, parameters",
    [
        (18, (2, 2, 2, 2), 11_180_736, 11_190_464),
        (34, (3, 4, 6, 3), 21_288_896, 21_306_048),
    ],
)
def test_basic_blocks_project_in_every_stage(
    depth, repeats, trainable, parameters, zeros
):
    """The parameters by hand: kernels without bias, and 2 (4) a normalized channel.

    A stage of n blocks from b to c channels has b c for the projection, 9 b c for the
    first convolution, and 9 c c for each of the 2 n - 1 others.

                                      ResNet-18                    ResNet-34
    stem, 7 x 7 x 3 x 64                  9,408                        9,408
    stage 1, 64 to 64     4,096 + 4 x 36,864 =     4,096 + 6 x 36,864 =
                                        151,552                      225,280
    stage 2, 64 to 128    8,192 + 73,728           8,192 + 73,728
                          + 3 x 147,456 =          + 7 x 147,456 =
                                        524,288                    1,114,112
    stage 3, 128 to 256   32,768 + 294,912         32,768 + 294,912
                          + 3 x 589,824 =          + 11 x 589,824 =
                                      2,097,152                    6,815,744
    stage 4, 256 to 512   131,072 + 1,179,648      131,072 + 1,179,648
                          + 3 x 2,359,296 =        + 5 x 2,359,296 =
                                      8,388,608                   13,107,200
    all kernels                      11,171,008                   21,271,744
    normalized channels   64 + 5 x (64 + 128       64 + 7 x 64 + 9 x 128
                          + 256 + 512) = 4,864     + 13 x 256 + 7 x 512 = 8,576
    trainable, 2 each                11,180,736                   21,288,896
    all, 4 each                      11,190,464                   21,306,048

    He et al.'s have an identity in stage 1 and 512 x 1,000 + 1,000 of a classifier:
    11,689,512 - 513,000 + 4,096 + 2 x 64 = 11,180,736, and
    21,797,672 - 513,000 + 4,096 + 2 x 64 = 21,288,896.
    """
    model = backbones.resnet(depth)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == trainable
    assert model.count_params() == parameters
    # In the order in which the authors' layers are made, hence numbered.
    expected, before = [(7, 7, 3, 64)], 64
    for count, filters in zip(repeats, (64, 128, 256, 512)):
        expected += [(1, 1, before, filters), (3, 3, before, filters)]
        expected += [(3, 3, filters, filters)] * (2 * count - 1)
        before = filters
    names = checkpoints.source_names(model)
    shapes = [tuple(v.shape) for k, (v, _) in names.items() if k.endswith("/kernel")]
    assert sorted(shapes) == sorted(expected)
    for number, shape in enumerate(expected):
        suffix = f"_{number}" if number else ""
        kernel, _ = names[f"RESNET/conv2d{suffix}/kernel"]
        assert tuple(kernel.shape) == shape
        assert f"RESNET/batch_normalization{suffix}/gamma" in names
    projection, _ = names["RESNET/conv2d_1/kernel"]
    assert projection.shape == (1, 1, 64, 64)


def test_the_first_stage_projects_its_shortcut():
    model = backbones.resnet(18, blocks=(1,), filters=(64,))
    model.get_layer("resnet_conv2d_1").set_weights([2.0 * np.eye(64)[None, None]])
    gamma = model.get_layer("resnet_batch_normalization_3").gamma
    gamma.assign(np.zeros(64))  # nothing of the branch is left
    pooled = keras.Model(model.input, model.get_layer("resnet_pool").output)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    expected = 2.0 * np.asarray(pooled(image)) / np.sqrt(1 + 1e-4)
    assert expected.max() > 0.1
    np.testing.assert_allclose(model(image)["P2"], expected, rtol=1e-5)


def test_a_reduced_bottleneck_keeps_its_identity():
    """The stem's 64 channels are four times 16: no projection in stage 1."""
    model = backbones.resnet(50, blocks=(1, 1), filters=(16, 16))
    names = checkpoints.source_names(model)
    shapes = [tuple(v.shape) for k, (v, _) in names.items() if k.endswith("/kernel")]
    first = [(1, 1, 64, 16), (3, 3, 16, 16), (1, 1, 16, 64)]
    second = [(1, 1, 64, 64), (1, 1, 64, 16), (3, 3, 16, 16), (1, 1, 16, 64)]
    assert sorted(shapes) == sorted([(7, 7, 3, 64), *first, *second])


@pytest.mark.parametrize(
    "variant, parameters", [("49S", 9_089_215), ("49", 21_831_488), ("96", 36_262_976)]
)
def test_spinenets_have_the_published_parameters(variant, parameters, zeros):
    model = spinenet(variant)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters
    filters = 128 if variant == "49S" else 256
    shapes = {name: tensor.shape[-1] for name, tensor in model.output.items()}
    assert shapes == {f"P{level}": filters for level in range(3, 8)}


@pytest.mark.parametrize(
    "variant, parameters",
    [
        # KerasCV's backbone less its classification convolution and normalization.
        ("Lite0", 3_413_024 - 1280 * (320 + 4)),
        ("Lite1", 4_189_344 - 1280 * (320 + 4)),
        ("Lite2", 4_869_168 - 1280 * (352 + 4)),
    ],
)
def test_lites_have_the_published_parameters(variant, parameters, zeros):
    assert backbones.efficientnet(variant).count_params() == parameters


# The authors' features


def set_weights(model, golden, prefix):
    """Set every weight by its name in the authors' model."""
    names = checkpoints.source_names(model)
    for name, (variable, _) in names.items():
        variable.assign(golden[f"{prefix}{name}"])
    assert len(names) == len([key for key in golden.files if key.startswith(prefix)])


def inputs_of(golden, levels):
    return {
        f"P{k}": keras.Input(golden[f"in/{k}"].shape[1:], name=f"P{k}") for k in levels
    }


def assert_close(actual, expected, tolerance):
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_spinenet_matches_the_authors():
    golden = np.load(GOLDEN / "spinenet.npz")
    model = spinenet("49", filter_scale=0.25, num_filters=32, bn_epsilon=1e-3)
    set_weights(model, golden, "s25_49/w/")
    outputs = model(golden["in/image"].astype("float32"), training=False)
    for level in range(3, 8):
        assert_close(outputs[f"P{level}"], golden[f"s25_49/out/{level}"], 1e-4)


@pytest.mark.parametrize("name", ["fpn", "fpn_sep", "nasfpn", "nasfpn_sep"])
def test_decoders_match_the_authors(name):
    golden = np.load(GOLDEN / "decoders.npz")
    inputs = inputs_of(golden, (3, 4, 5))
    separable = name.endswith("_sep")
    if name.startswith("fpn"):
        outputs = fpn(inputs, 3, 7, 16, separable, bn=BatchNorm(epsilon=1e-3))
    else:
        outputs = nasfpn(inputs, 16, 2, separable, bn=BatchNorm(epsilon=1e-3))
    model = keras.Model(inputs, outputs)
    set_weights(model, golden, f"{name}/w/")
    features = {f"P{k}": golden[f"in/{k}"] for k in (3, 4, 5)}
    for training, kind in ((False, "out"), (True, "train_out")):
        outputs = model(features, training=training)
        for level in range(3, 8):
            expected = golden[f"{name}/{kind}/{level}"]
            assert_close(outputs[f"P{level}"], expected, 1e-5)


def test_segmentation_head_matches_the_authors():
    golden = np.load(GOLDEN / "segmentation_head.npz")
    inputs = inputs_of(golden, range(3, 8))
    head = segmentation_head(inputs, 5, num_filters=16, bn=BatchNorm(epsilon=1e-3))
    model = keras.Model(inputs, head)
    set_weights(model, golden, "w/")
    features = {f"P{k}": golden[f"in/{k}"] for k in range(3, 8)}
    assert_close(model(features, training=False), golden["out/logits"], 1e-5)
    fused = keras.Model(inputs, model.get_layer("segmentation_fuse").output)
    assert_close(fused(features), golden["out/fused"], 1e-5)


def test_upsampling_by_hand():
    layer = ResizeBilinear(2)
    enlarged = layer(np.float32([[0, 4], [8, 12]])[None, :, :, None])[0, :, :, 0]
    np.testing.assert_allclose(
        enlarged, [[0, 2, 4, 4], [4, 6, 8, 8], [8, 10, 12, 12], [8, 10, 12, 12]]
    )


def small_segmenter(side=128, **settings):
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1, 1, 1), filters=(8, 8, 8, 8))
    return SemanticSegmenter(
        5, (side, side), backbone, num_filters=16, num_repeats=1, **settings
    )


@pytest.fixture(scope="module")
def any_segmenter():
    """A segmenter for tests that give it outputs: its weights don't matter."""
    return small_segmenter()


def test_segmentation_loss_matches_the_authors(any_segmenter):
    golden = np.load(GOLDEN / "segmentation_loss.npz")
    # The arrays are of 64 x 64: four times the same side by side has the same mean.
    mask = np.tile(golden["in/labels"][..., 0].astype("int32"), (1, 2, 2))
    logits = np.tile(golden["in/logits"], (1, 2, 2, 1))
    loss = any_segmenter.compute_losses({"mask_logits": logits}, {"mask": mask})
    assert float(loss["loss"]) == pytest.approx(
        float(golden["out/gtdim0_ls0_cw0"]), rel=1e-5
    )


def test_segmentation_loss_by_hand(any_segmenter):
    logits = np.zeros((1, 32, 32, 5), np.float32)
    logits[..., 2] = np.log(4.0)  # probabilities 1/8, 1/8, 4/8, 1/8, 1/8
    mask = np.full((1, 128, 128), 255)
    mask[0, 0:8, 0:4] = 2  # two cells
    mask[0, 8:12, 0:4] = 1  # one
    model = any_segmenter
    loss = model.compute_losses({"mask_logits": logits}, {"mask": mask})["loss"]
    assert float(loss) == pytest.approx((2 * np.log(2) + np.log(8)) / 3, rel=1e-5)
    # Only the pixel in a cell's top left corner counts: 9 is no class to blend in.
    mask[0, 1:4, 1:4] = 9
    again = model.compute_losses({"mask_logits": logits}, {"mask": mask})["loss"]
    assert float(again) == float(loss)
    nothing = np.full((1, 128, 128), 255)
    loss = model.compute_losses({"mask_logits": logits}, {"mask": nothing})["loss"]
    assert float(loss) == 0.0


def test_segmenter_predictions_and_mean_iou(any_segmenter):
    model = any_segmenter
    logits = np.zeros((2, 32, 32, 5), np.float32)
    logits[:, :16, :, 1] = 3.0
    logits[:, 16:, :, 4] = 3.0
    predictions = model.predictions({"mask_logits": logits}, np.full((2, 2), 128))
    mask = np.asarray(predictions["mask"])
    assert mask.shape == (2, 128, 128)
    assert (mask[:, :62] == 1).all() and (mask[:, 66:] == 4).all()
    expected = np.exp(3.0) / (np.exp(3.0) + 4.0)
    np.testing.assert_allclose(predictions["scores"][:, :60], expected, rtol=1e-5)
    truth = np.full((2, 128, 128), 255)
    truth[:, :32] = 1  # right
    truth[:, 32:48] = 0  # taken for 1
    truth[:, 80:] = 4  # right
    metric = model.metric()
    metric.update(predictions, {"mask": truth})
    result = metric.result()
    # Class 1: 32 of 48 rows; 0: none of 16; 4: all; 2 and 3 don't occur.
    assert result["class_IoU"] == pytest.approx([0.0, 200 / 3, None, None, 100.0])
    assert result["mIoU"] == pytest.approx((0 + 200 / 3 + 100) / 3)
    assert result["accuracy"] == pytest.approx((32 + 48) / (32 + 16 + 48))
    assert model.metric().result()["mIoU"] is None
    with pytest.raises(ValueError, match=r"one size. Received: predicted \(2, 128"):
        metric.update(predictions, {"mask": truth[:, :64]})


# Every model


def toy_models(side=128):
    small = {"num_filters": 16, "num_head_convs": 1, "image_size": (side, side)}
    # Not 8 filters: a 1x1 convolution of stride 2 with 8 in and out corrupts memory
    # in the gradient of TensorFlow 2.21 with oneDNN.
    cut = {"blocks": (1, 1, 1, 1), "filters": (16, 16, 16, 16)}
    return {
        "resnet": lambda: RetinaNet(3, backbone=backbones.resnet(50, **cut), **small),
        "basic resnet": lambda: RetinaNet(
            3, backbone=backbones.resnet(18, **cut), **small
        ),
        "spinenet": lambda: RetinaNet(
            3,
            backbone=spinenet(
                "49S", filter_scale=0.125, num_filters=16, drop_connect_rate=0.0
            ),
            decoder="none",
            activation="swish",
            **small,
        ),
        "nasfpn": lambda: RetinaNet(
            3,
            backbone=backbones.resnet(50, **cut),
            decoder="nasfpn",
            num_repeats=2,
            separable_decoder=True,
            **small,
        ),
        "lite": lambda: RetinaNet(3, backbone=backbones.efficientnet("Lite0"), **small),
        "segmenter": lambda: small_segmenter(side),
    }


TOYS = tuple(toy_models())


def toy(name, side=128):
    keras.utils.set_random_seed(0)
    return toy_models(side)[name]()


def toy_labels(name, empty=False, side=128):
    if name == "segmenter":
        mask = np.tile(np.arange(side)[:, None] * 5 // side, (2, 1, side))
        return {"mask": np.full_like(mask, 255) if empty else mask}
    boxes = [[0, 0, 32, 32], [64, 64, 128, 128], [0, 0, 128, 128], [8, 90, 30, 120]]
    classes = np.full((2, 4), -1) if empty else np.tile([0, 1, 2, 0], (2, 1))
    return {
        "boxes": np.tile(np.float32(boxes) * side / 128, (2, 1, 1)),
        "classes": classes,
        "ignore": np.zeros((2, 4), bool),
    }


def toy_images(side=128):
    images = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3))
    return images.astype("float32")


# P7 has 2 x 2 cells: with one, a shift before batch normalization is lost.
TOY_SIDE = 256


@pytest.fixture(scope="module", params=TOYS)
def named_toy(request):
    """A model's name and the model, shared by the tests that follow."""
    return request.param, toy(request.param, TOY_SIDE)


def test_every_weight_of_every_model_gets_a_gradient(named_toy):
    name, model = named_toy
    for weight in model.trainable_variables:
        # Predictions start with tiny kernels, which hide the layers below.
        if "predict" in weight.path and weight.name.endswith("kernel"):
            weight.assign(keras.random.normal(weight.shape, 0.0, 0.1, seed=1))
    losses, totals = [], []
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(toy_images(TOY_SIDE), training=True)
        # The loss, and a term by which every level has something to learn.
        squares = [tf.reduce_mean(value**2) for value in outputs.values()]
        for empty in (False, True):
            labels = toy_labels(name, empty, TOY_SIDE)
            losses.append(model.compute_losses(outputs, labels)["loss"])
            totals.append(losses[-1] + 1e-3 * sum(squares))
    for empty, loss, total in zip((False, True), losses, totals):
        gradients = tape.gradient(total, model.trainable_variables)
        assert np.isfinite(float(loss))
        for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
            assert gradient is not None, weight.path
            assert np.isfinite(gradient).all(), weight.path
            # A bias before batch normalization has none by construction.
            before_bn = weight.name == "bias" and "predict" not in weight.path
            if not empty and not before_bn:
                assert np.abs(gradient).max() > 0, weight.path


def test_every_model_is_saved_and_loaded(named_toy, tmp_path):
    _, model = named_toy
    images = toy_images(TOY_SIDE)
    model(images, training=True)  # moves the statistics
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    expected, actual = (m(images, training=False) for m in (model, loaded))
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["spinenet", "segmenter"])
def test_mixed_precision_is_finite(name, precision):
    keras.config.set_dtype_policy(precision)
    try:
        model = toy(name)
        outputs = model(toy_images(), training=True)
        losses = model.compute_losses(outputs, toy_labels(name))
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(value.dtype == "float32" for value in outputs.values())
    assert all(np.isfinite(np.asarray(value)).all() for value in outputs.values())
    assert np.isfinite(float(losses["loss"]))


def test_stochastic_depth_keeps_the_mean_and_drops_whole_images():
    layer = ResidualAdd(0.4)
    branch, shortcut = (
        np.ones((4000, 2, 2, 3), "float32"),
        np.full((4000, 2, 2, 3), 5.0),
    )
    np.testing.assert_array_equal(layer([branch, shortcut]), np.full_like(branch, 6.0))
    trained = np.asarray(layer([branch, shortcut], training=True)) - 5.0
    assert (trained == trained[:, :1, :1, :1]).all()
    values = trained[:, 0, 0, 0]
    np.testing.assert_allclose(values[values > 0], 1 / 0.6, rtol=1e-5)
    assert 0.56 < (values > 0).mean() < 0.64  # 5 standard deviations


def rates(model):
    return [layer.rate for layer in model.layers if isinstance(layer, ResidualAdd)]


def test_stochastic_depth_follows_the_published_rules(zeros):
    # SpineNet-49: nodes 2 to 16 grow linearly to the rate, the stem has none.
    expected = [0.0, 0.0, *(0.15 * (k + 1) / 15 for k in range(15))]
    actual = rates(spinenet("49S", filter_scale=0.125, drop_connect_rate=0.15))
    assert sorted(actual) == pytest.approx(expected)
    # EfficientNet-B0: block i of 16 has 0.2 i / 16, where there is a shortcut.
    blocks = [2, 4, 6, 7, 9, 10, 12, 13, 14]
    actual = rates(backbones.efficientnet("B0", drop_connect_rate=0.2))
    assert actual == pytest.approx([0.2 * block / 16 for block in blocks])
    # ResNet: stage l of 2 to 5 has l / 5 of the rate.
    actual = rates(
        backbones.resnet(50, filters=(16, 16, 16, 16), drop_connect_rate=0.1)
    )
    stages = [2] * 3 + [3] * 4 + [4] * 6 + [5] * 3
    assert actual == pytest.approx([0.1 * level / 5 for level in stages])


@pytest.mark.parametrize(
    "build",
    [
        lambda **bn: backbones.resnet(18, filters=(16, 16, 16, 16), **bn),
        lambda **bn: backbones.efficientnet("Lite0", **bn),
        lambda **bn: spinenet("49S", filter_scale=0.125, **bn),
        lambda **bn: RetinaNet(
            3,
            (128, 128),
            backbones.resnet(18, blocks=(1, 1, 1, 1), filters=(16, 16, 16, 16), **bn),
            decoder="nasfpn",
            num_filters=16,
            num_head_convs=1,
            **bn,
        ),
        lambda **bn: small_segmenter(**bn),
    ],
)
def test_batch_normalization_is_an_argument(build):
    model = build(bn_momentum=0.9, bn_epsilon=0.01, bn_sync=True)
    normalizations = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(normalizations) > 5
    for layer in normalizations:
        assert (layer.momentum, layer.epsilon) == (0.9, 0.01)
        assert layer.synchronized


def test_soft_nms_decays_scores_instead_of_dropping_boxes():
    cut = {"blocks": (1, 1, 1), "filters": (8, 8, 8)}
    model = RetinaNet(
        1,
        (64, 64),
        backbones.resnet(50, **cut),
        max_level=3,
        num_filters=16,
        soft_nms_sigma=0.3,
        score_threshold=0.3,
    )
    logits = np.full((1, len(model.anchors), 1), -9.0, np.float32)
    first, second = 300, 301  # neighbors in scale at one place
    logits[0, first], logits[0, second] = 2.0, 1.0
    outputs = {"class_logits": logits, "box_deltas": np.zeros((1, len(logits[0]), 4))}
    boxes = np.clip(model.anchors[[first, second]], 0, 64)
    low, high = boxes[:, :2].max(0), boxes[:, 2:].min(0)
    common = np.prod(np.maximum(high - low, 0))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    overlap = common / (areas.sum() - common)
    assert overlap > 0.3
    predictions = model.predictions(outputs, np.array([[64, 64]]))
    scores = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    decayed = scores[1] * np.exp(-(overlap**2) / 0.6)
    np.testing.assert_allclose(
        predictions["scores"][0, :2], [scores[0], decayed], rtol=1e-4
    )


@functools.cache
def short_resnet():
    """A backbone of levels P2 to P5 that no test changes."""
    return backbones.resnet(18, blocks=(1, 1, 1, 1), filters=(16, 16, 16, 16))


@pytest.mark.parametrize(
    "text, make",
    [
        (
            r"variant to be one of 49S, 49, .*nearest: 143.*variant='141'",
            lambda: spinenet("141"),
        ),
        (
            r"decoder to be one of fpn, nasfpn, none.*decoder='bifpn'",
            lambda: RetinaNet(
                3, (128, 128), short_resnet(), decoder="bifpn", num_filters=8
            ),
        ),
        (
            r"levels P3 to P7 from decoder='none'.*\['P2', 'P3', 'P4', 'P5'\]",
            lambda: RetinaNet(
                3, (128, 128), short_resnet(), decoder="none", num_filters=8
            ),
        ),
        (
            r"multiples of 128.*image_size=\(96, 128\)",
            lambda: SemanticSegmenter(3, (96, 128), short_resnet()),
        ),
        (
            r"num_repeats, an integer of at least 1.*num_repeats=0",
            lambda: SemanticSegmenter(3, (128, 128), short_resnet(), num_repeats=0),
        ),
        (
            r"level P3. Received: features=\['P4'\]",
            lambda: nasfpn({"P4": None}, bn=BatchNorm()),
        ),
        (
            r"rate of at least 0 and below 1. Received: rate=1.5",
            lambda: ResidualAdd(1.5),
        ),
        (
            # An invalid decoder isn't reported as an invalid size.
            r"decoder to be one of fpn, nasfpn, none.*decoder='FPN'",
            lambda: RetinaNet(3, (320, 320), short_resnet(), decoder="FPN"),
        ),
        (
            r"multiples of 128, the stride of level P7. .*\(96, 96\)",
            lambda: RetinaNet(
                3, (96, 96), short_resnet(), decoder="nasfpn", max_level=5
            ),
        ),
        (
            r"image_size, \(height, width\) in pixels. Received: image_size=128",
            lambda: RetinaNet(3, 128, short_resnet()),
        ),
        (
            r"Received: image_size=\(128, 128, 3\)",
            lambda: SemanticSegmenter(3, (128, 128, 3), short_resnet()),
        ),
        (
            r"num_classes, an integer of at least 1. Received: num_classes='3'",
            lambda: RetinaNet("3", (128, 128), short_resnet()),
        ),
        (
            r"aspect_ratios and anchor_size above 0. .*aspect_ratios=\(-1.0,\)",
            lambda: RetinaNet(3, (128, 128), short_resnet(), aspect_ratios=(-1.0,)),
        ),
        (
            r"0 <= unmatched_threshold <= match_threshold <= 1. .*match_threshold=0.3",
            lambda: RetinaNet(3, (128, 128), short_resnet(), match_threshold=0.3),
        ),
        (
            r"blocks of at least 1 .*blocks=\(1, 0\)",
            lambda: backbones.resnet(50, blocks=(1, 0), filters=(16, 16)),
        ),
    ],
)
def test_invalid_arguments_are_named(text, make):
    with pytest.raises(ValueError, match=text):
        make()


def test_sizes_need_a_whole_model():
    with pytest.raises(ValueError, match="image_size, .* Received: backbone"):
        sizes(backbones.resnet(50, blocks=(1,), filters=(16,)))


def test_a_function_as_backbone_raises():
    with pytest.raises(TypeError, match="such as backbones.resnet.50.. Received: back"):
        RetinaNet(3, (128, 128), backbones.resnet)


def test_fpn_extends_a_short_backbone_at_any_size():
    """P5 to P7 come from strided convolutions: only P4's stride matters."""
    short = backbones.resnet(50, blocks=(1, 1, 1), filters=(16, 16, 16))
    model = RetinaNet(3, (48, 80), short, num_filters=16, num_head_convs=1)
    outputs = model(np.zeros((1, 48, 80, 3), "float32"))
    assert outputs["class_logits"].shape[1] == len(model.anchors)


def test_pixel_values_stay_distinct_in_bfloat16():
    gray = keras.Input((1, 256, 3))
    with dtype_policy("mixed_bfloat16"):
        model = keras.Model(gray, normalized_pixels(gray))
    pixels = np.broadcast_to(np.arange(256.0)[:, None], (1, 1, 256, 3))
    values = np.asarray(model(pixels), np.float32)[0, 0, :, 0]
    np.testing.assert_allclose(values, (np.arange(256) - 123.675) / 58.395, atol=1e-5)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("separable", [False, True])
def test_retinanet_head_matches_the_authors(separable):
    golden = np.load(GOLDEN / "head.npz")
    inputs = inputs_of(golden, range(3, 8))
    settings = Tower(2, 16, "swish", separable, BatchNorm(epsilon=1e-3))
    towers = {
        "cls": retinanet_head(inputs, 45, "class", settings),
        "box": retinanet_head(inputs, 36, "box", settings),
    }
    model = keras.Model(inputs, towers)
    prefix = "sep/" if separable else ""
    set_weights(model, golden, f"{prefix}w/")
    features = {f"P{k}": golden[f"in/{k}"] for k in range(3, 8)}
    kinds = [(False, "out")] if separable else [(False, "out"), (True, "train_out")]
    for training, kind in kinds:
        outputs = model(features, training=training)
        for tower, maps in outputs.items():
            for level in range(3, 8):
                expected = golden[f"{prefix}{kind}/{tower}/{level}"]
                assert_close(maps[f"P{level}"], expected, 1e-4)

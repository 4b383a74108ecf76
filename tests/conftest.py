"""Small data sets shared by several tests, and what every module gives back."""

import ctypes
import gc
import json
import os
import pathlib
import sys
import types

# Two test processes share the cores. Read when TensorFlow is imported.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")

import keras
import numpy as np
import pytest
from PIL import Image
from tensorflow.python.framework import ops

GRADIENTS = ops.gradient_registry._registry
CLASS_NAMES = ["square", "bar", "post"]


# Tracing makes millions of objects: the default collects them again and again.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


def pytest_collection_modifyitems(items):
    """Run the tutorials first: at the end, one process would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)


@pytest.fixture(autouse=True)
def garbage():
    """Collect what a test leaves: an old iterator of tf.data takes a minute to die."""
    yield
    gc.collect(1)


@pytest.fixture(autouse=True, scope="module")
def memory():
    """Free a module's models and graphs: a test process runs hundreds of them."""
    yield
    free_memory()


def free_memory():
    """Give unused models and graphs back to the machine."""
    # TensorFlow keeps the gradient of every swish, and the graph that it is part of.
    for name in [name for name in GRADIENTS if name.startswith("CustomGradient-")]:
        del GRADIENTS[name]
    gc.collect()
    gc.freeze()  # what is left, stays: the next collection passes over it
    if sys.platform == "linux":  # glibc keeps freed memory otherwise
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def zeros(monkeypatch):
    """Sizes don't depend on weights: zeros are made faster than random numbers."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
    )


def painted(seed, height=64, width=96):
    """Return an image with painted objects, uint8, and their pixel boxes x, y, w, h."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    objects = []
    for label, (w, h) in enumerate([(24, 24), (32, 16), (16, 32)]):
        x = 32 * label + int(rng.integers(0, 33 - w)) if w < 32 else 32 * label
        y = int(rng.integers(0, height - h + 1))
        image[y : y + h, x : x + w] = 120 + 60 * (np.arange(3) == label)
        objects.append((label, [x, y, w, h]))
    return image, objects


@pytest.fixture
def tiny_coco(tmp_path):
    """Create six labeled images as COCO files and four more in a plain folder.

    Returns a namespace of `annotations` (file), `images` (folder), `unlabeled`
    (folder) and `class_names`. Category ids are 1, 3 and 90.
    """
    images = tmp_path / "images"
    unlabeled = tmp_path / "unlabeled"
    images.mkdir()
    unlabeled.mkdir()
    content = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": key, "name": name}
            for key, name in zip((1, 3, 90), CLASS_NAMES, strict=True)
        ],
    }
    for index in range(6):
        pixels, objects = painted(index)
        name = f"{index:03d}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(pixels).save(images / name)
        content["images"].append(
            {"id": 100 + index, "file_name": name, "height": 64, "width": 96}
        )
        for label, bbox in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 100 + index,
                    "category_id": (1, 3, 90)[label],
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    for index in range(4):
        pixels, _ = painted(50 + index)
        Image.fromarray(pixels).save(unlabeled / f"{index}.png")
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(content))
    return types.SimpleNamespace(
        annotations=pathlib.Path(annotations),
        images=images,
        unlabeled=unlabeled,
        class_names=CLASS_NAMES,
    )


@pytest.fixture
def tiny_voc(tmp_path):
    """Create six images of odd sizes in VOC's layout, four of them with masks.

    Returns a namespace of `root`, `masks` (dict of name to uint8 array) and
    `class_names`: the background and those of `painted`. Masks of even images have a
    palette, those of odd images are gray; a row of each is 255. Lists: `train` (0 to
    2), `val` (3), `aug` (4 and 5).
    """
    root = tmp_path / "VOC2012"
    folders = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    for folder in folders:
        (root / folder).mkdir(parents=True)
    palette = np.random.default_rng(0).integers(0, 256, 768).tolist()
    masks = {}
    for index in range(6):
        pixels, objects = painted(index, 64 + index, 97)
        name = f"2007_{index:06d}"
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        if index >= 4:
            continue
        mask = np.zeros(pixels.shape[:2], np.uint8)
        for label, (x, y, w, h) in objects:
            mask[y : y + h, x : x + w] = label + 1
        mask[-1] = 255
        masks[name] = mask
        file = Image.fromarray(mask)
        if index % 2 == 0:
            file = file.convert("P")
            file.putdata(mask.ravel().tolist())
            file.putpalette(palette)
        file.save(root / "SegmentationClass" / f"{name}.png")
    for split, indices in {"train": (0, 1, 2), "val": (3,), "aug": (4, 5)}.items():
        lines = "".join(f"2007_{index:06d}\n" for index in indices)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)
    return types.SimpleNamespace(
        root=root, masks=masks, class_names=["background", *CLASS_NAMES]
    )

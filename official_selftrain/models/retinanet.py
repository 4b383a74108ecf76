"""RetinaNet: a detector with its own normalization, targets, loss and decoding.

Letters in shapes: B batch, H W pixels, A anchors, K classes, M label slots,
D detections.
"""

import math

import keras
from keras import ops

from official_selftrain import metrics
from official_selftrain.checks import arguments
from official_selftrain.geometry import boxes as box_ops
from official_selftrain.geometry import letterbox, suppression
from official_selftrain.models import anchors, label_checks, losses
from official_selftrain.models.blocks import BatchNorm
from official_selftrain.models.fpn import fpn
from official_selftrain.models.heads import Tower, retinanet_head
from official_selftrain.models.inputs import (
    check_model,
    check_stride,
    check_tile,
    from_config,
    level_features,
)
from official_selftrain.models.nasfpn import nasfpn

# The initial score of every anchor.
_CLASS_PRIOR = 0.01

# Candidates that enter non-maximum suppression.
_MAX_CANDIDATES = 5000


@keras.saving.register_keras_serializable(package="official_selftrain")
class RetinaNet(keras.Model):
    """Detect objects with one dense head over a feature pyramid.

    A functional Keras model from images to raw outputs, with their loss and decoding;
    see `official_selftrain.models` for the contract.

    Args:
        num_classes: int K; there is no background class.
        image_size: (height, width) of the input in pixels, multiples of the stride of
            the backbone's last level: at most 32 with FPN, 128 with NAS-FPN and
            SpineNet.
        backbone: `keras.Model` from normalized images to a dict of levels,
            see `backbones`.
        min_level: int, first level of the pyramid.
        max_level: int, last level of the pyramid.
        decoder: `"fpn"`; `"nasfpn"`, for levels 3 to 7; or `"none"` for a backbone
            that is itself a pyramid, such as SpineNet.
        num_repeats: int, cells of NAS-FPN.
        separable_decoder: bool, depthwise-separable convolutions in the decoder.
        num_filters: int, channels of the pyramid and the head.
        num_head_convs: int, convolutions of each of the head's two towers.
        separable_head: bool, depthwise-separable convolutions in the head.
        activation: name of the activation of decoder and head.
        anchor_size: float, side of an anchor in strides.
        num_scales: int, anchor scales per octave.
        aspect_ratios: anchors' width over height.
        match_threshold: float, IoU from which an anchor is positive.
        unmatched_threshold: float, IoU below which an anchor is negative.
        focal_alpha: float, weight of the positives.
        focal_gamma: float, exponent of the focal loss.
        huber_delta: float, where the box loss becomes linear.
        box_weight: float, weight of the box loss.
        bn_momentum: float, for pyramid and head.
        bn_epsilon: float, for pyramid and head.
        bn_sync: bool, whether to synchronize batch statistics across replicas.
        score_threshold: float, minimum score of detections, exclusive.
        nms_threshold: float, IoU above which NMS suppresses a box.
        soft_nms_sigma: float; above 0, scores of overlapping boxes decay instead
            (Soft-NMS, 0.3 in the paper's SpineNet rows), and `nms_threshold` has no
            effect.
        max_detections: int D, maximum number of detections per image, or per tile.
        tile: (height, width, overlap) in pixels of an image; larger images are labeled,
            evaluated and served tile by tile (see `inference.tiles`). None: an image is
            fitted into the frame as a whole.

    Raises:
        ValueError: if `image_size` doesn't fit the strides, or a count is
            below 1.

    Source: Lin et al. 2017; constants of the authors' detection code.
    """

    def __init__(  # noqa: PLR0913 -- a model's settings are its keywords
        self,
        num_classes,
        image_size,
        backbone,
        min_level=3,
        max_level=7,
        decoder="fpn",
        num_repeats=5,
        separable_decoder=False,
        num_filters=256,
        num_head_convs=4,
        separable_head=False,
        activation="relu",
        anchor_size=4.0,
        num_scales=3,
        aspect_ratios=(1.0, 2.0, 0.5),
        match_threshold=0.5,
        unmatched_threshold=0.5,
        focal_alpha=0.25,
        focal_gamma=1.5,
        huber_delta=0.1,
        box_weight=50.0,
        bn_momentum=0.997,
        bn_epsilon=1e-4,
        bn_sync=False,
        score_threshold=0.05,
        nms_threshold=0.5,
        soft_nms_sigma=0.0,
        max_detections=100,
        tile=None,
        name="retinanet",
    ):
        arguments.check_choice("decoder", decoder, ("fpn", "nasfpn", "none"))
        image_size = check_model(
            image_size,
            backbone,
            num_classes=num_classes,
            max_detections=max_detections,
            num_scales=num_scales,
            num_filters=num_filters,
            num_repeats=num_repeats,
            num_head_convs=num_head_convs,
        )
        # Above the backbone's last level, FPN's strided convolutions take any size.
        last_level = max(int(name[1:]) for name in backbone.output)
        check_stride(image_size, 7 if decoder == "nasfpn" else last_level)
        if min_level > max_level:
            raise ValueError(
                "Expected min_level up to max_level. Received: "
                f"min_level={min_level}, max_level={max_level}"
            )
        positive = all(ratio > 0.0 for ratio in aspect_ratios)
        if not aspect_ratios or not positive or anchor_size <= 0.0:
            raise ValueError(
                "Expected aspect_ratios and anchor_size above 0. Received: "
                f"aspect_ratios={aspect_ratios!r}, anchor_size={anchor_size!r}"
            )
        if not 0.0 <= unmatched_threshold <= match_threshold <= 1.0:
            raise ValueError(
                "Expected 0 <= unmatched_threshold <= match_threshold <= 1. Received: "
                f"unmatched_threshold={unmatched_threshold!r}, "
                f"match_threshold={match_threshold!r}"
            )
        _check_numbers(
            {
                "focal_alpha": focal_alpha,
                "score_threshold": score_threshold,
                "nms_threshold": nms_threshold,
            },
            {
                "focal_gamma": focal_gamma,
                "huber_delta": huber_delta,
                "box_weight": box_weight,
                "soft_nms_sigma": soft_nms_sigma,
            },
        )
        inputs = keras.Input((*image_size, 3), name="images")
        bn = BatchNorm(bn_momentum, bn_epsilon, bn_sync)
        features = _decode_features(
            level_features(backbone, inputs),
            decoder,
            (min_level, max_level),
            num_filters=num_filters,
            num_repeats=num_repeats,
            separable=separable_decoder,
            activation=activation,
            bn=bn,
        )
        num_anchors = num_scales * len(aspect_ratios)
        tower = Tower(num_head_convs, num_filters, activation, separable_head, bn)
        class_logits = retinanet_head(
            features, num_anchors * num_classes, "class", tower, _CLASS_PRIOR
        )
        box_deltas = retinanet_head(features, num_anchors * 4, "box", tower)
        super().__init__(
            inputs=inputs,
            outputs={
                "class_logits": _join_levels(class_logits, num_classes, "class_logits"),
                "box_deltas": _join_levels(box_deltas, 4, "box_deltas"),
            },
            name=name,
        )
        self.num_classes = num_classes
        self.image_size = image_size
        self.backbone = backbone
        self.min_level = min_level
        self.max_level = max_level
        self.decoder = decoder
        self.num_repeats = num_repeats
        self.separable_decoder = separable_decoder
        self.num_filters = num_filters
        self.num_head_convs = num_head_convs
        self.separable_head = separable_head
        self.activation = activation
        self.anchor_size = anchor_size
        self.num_scales = num_scales
        self.aspect_ratios = tuple(aspect_ratios)
        self.match_threshold = match_threshold
        self.unmatched_threshold = unmatched_threshold
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.huber_delta = huber_delta
        self.box_weight = box_weight
        self.bn_momentum, self.bn_epsilon = bn_momentum, bn_epsilon
        self.bn_sync = bn_sync
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.soft_nms_sigma = soft_nms_sigma
        self.max_detections, self.tile = (
            max_detections,
            check_tile(tile, soft_nms_sigma),
        )
        self._policy = keras.config.dtype_policy().name
        self.anchors = anchors.anchor_boxes(
            image_size, min_level, max_level, anchor_size, num_scales, aspect_ratios
        )

    def compute_losses(self, outputs, labels):
        """Return the loss of a batch and its terms.

        The class loss is the focal loss summed over all anchors that aren't ignored;
        the box loss is the Huber loss summed over the positives and divided by 4. Both
        are divided by the number of positives in the batch plus 1.
        `loss = class_loss + box_weight · box_loss`. All are finite even without boxes.

        Args:
            outputs: dict with `class_logits` `[B, A, K]` and `box_deltas`
                `[B, A, 4]`.
            labels: dict with `boxes` float32 `[B, M, 4]` in pixels of the
                input, `classes` int32 `[B, M]` (-1 is padding), `ignore` bool
                `[B, M]` and, for doubtful boxes, `scores` float32 `[B, M]`; see
                `anchors.assign_targets`. With `sample_weights` float `[B]`, the
                losses and the positives of an image count that many times.

        Returns:
            dict of float32 scalars: `loss`, `class_loss`, `box_loss`.

        Raises:
            ValueError: for labels without boxes, or without label slots; outside of
                graphs, for the first labels, as `check_labels` does.

        Source: Lin et al. 2017; normalization as in the authors' detection code.
        """
        class_sum, box_sum, count = self._sums(outputs, labels)
        class_loss = class_sum / self.divisor(count)
        box_loss = box_sum / (4.0 * self.divisor(count))
        return {
            "loss": class_loss + self.box_weight * box_loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
        }

    def loss_sum(self, outputs, labels):
        """Return the loss of a part of a batch before normalization.

        Args:
            outputs: as in `compute_losses`.
            labels: as in `compute_losses`.

        Returns:
            `(sum, count)`, float32 scalars: the loss, and the number of positives.
        """
        class_sum, box_sum, count = self._sums(outputs, labels)
        return class_sum + self.box_weight * box_sum / 4.0, count

    def divisor(self, count):
        """Return the normalizer of the losses of a batch with `count` positives."""
        return count + 1.0

    def _sums(self, outputs, labels):
        """Return the summed class and box losses and the number of positives."""
        class_targets, box_targets = self._targets(labels)
        positive = losses.weighted(ops.cast(class_targets >= 0, "float32"), labels)
        included = ops.cast(class_targets != anchors.IGNORED, "float32")
        included = losses.weighted(included, labels)

        one_hot = ops.one_hot(class_targets, self.num_classes, dtype="float32")
        class_loss = losses.focal_loss(
            one_hot,
            ops.cast(outputs["class_logits"], "float32"),
            self.focal_alpha,
            self.focal_gamma,
        )
        errors = ops.cast(outputs["box_deltas"], "float32") - box_targets
        box_loss = losses.huber_loss(errors, self.huber_delta) * positive[..., None]
        return (
            ops.sum(class_loss * included[..., None]),
            ops.sum(box_loss),
            ops.sum(positive),
        )

    def check_labels(self, labels, where=""):
        """Check values that would train the model wrongly without an error.

        Args:
            labels: dict of arrays as in `compute_losses`, possibly with `images`.
            where: str, what they belong to, as `" of the stream labeled"`.

        Raises:
            ValueError: for classes counted from 1, boxes that aren't corners in pixels
                of the frame, images that aren't of 0…255, and other faults.
        """
        _check_keys(labels, where)
        label_checks.check_images(labels, self.image_size, where)
        label_checks.check_boxes(labels, self.num_classes, self.image_size, where)

    def _targets(self, labels):
        """Return the class and box targets of every anchor."""
        _check_keys(labels)
        label_checks.check_first(self, labels)
        levels = self.min_level, self.max_level
        per_cell = self.num_scales * len(self.aspect_ratios)
        return anchors.assign_targets(
            self.anchors,
            labels,
            self.match_threshold,
            self.unmatched_threshold,
            self.image_size,
            anchors.anchors_per_level(self.image_size, *levels, per_cell),
        )

    def predictions(self, outputs, sizes):
        """Decode outputs into detections.

        The images must have been fitted into the input frame by `letterbox.fit`.

        Args:
            outputs: dict with `class_logits` `[B, A, K]` and `box_deltas`
                `[B, A, 4]`.
            sizes: int `[B, 2]`, height and width of the images whose pixels are the
                unit of the returned boxes.

        Returns:
            dict with `boxes` float32 `[B, D, 4]` in pixels, clipped to the
            image; `scores` float32 `[B, D]` in descending order; `classes`
            int32 `[B, D]`, -1 in unused slots; `num_detections` int32 `[B]`.

        Raises:
            ValueError: for sizes of another shape.

        Source: Lin et al. 2017; limits of the authors' detection code, except that the
            5,000 candidates are over all classes, not per class.
        """
        scores = ops.sigmoid(ops.cast(outputs["class_logits"], "float32"))
        sizes = ops.convert_to_tensor(sizes)
        batch, shape = scores.shape[0], tuple(sizes.shape)
        is_static = batch is not None and shape[:1] != (None,)
        if shape[1:] != (2,) or (is_static and shape[0] != batch):
            raise ValueError(f"Expected sizes [{batch}, 2]. Received: shape={shape}")
        # A diverged model returns no detections.
        deltas = ops.cast(outputs["box_deltas"], "float32")
        finite = ops.all(ops.isfinite(deltas), axis=-1, keepdims=True)
        scores = ops.where(finite & ~ops.isnan(scores), scores, 0.0)
        scale = letterbox.letterbox_scale(sizes, self.image_size)
        boxes = box_ops.decode(deltas, ops.convert_to_tensor(self.anchors))
        scale = ops.concatenate([scale, scale], axis=-1)[:, None]
        boxes = boxes / scale
        boxes = box_ops.clip(boxes, sizes)
        # Nothing can be detected in the padding.
        scores = ops.where(box_ops.area(boxes)[..., None] > 0.0, scores, 0.0)

        num_scores = scores.shape[1] * self.num_classes
        flat_scores = ops.reshape(scores, (-1, num_scores))
        candidates = min(_MAX_CANDIDATES, num_scores)
        top_scores, top = ops.top_k(flat_scores, candidates)
        top_classes = ops.cast(top % self.num_classes, "int32")
        top_boxes = box_ops.take(boxes, top // self.num_classes)

        # Boxes of different classes are shifted apart, so that one pass of NMS treats
        # every class separately. In frame pixels the offsets are small enough for
        # float32.
        shift = ops.cast(top_classes, "float32") * (max(self.image_size) + 1.0)
        picked, picked_scores = suppression.non_max_suppression(
            top_boxes * scale + shift[..., None],
            top_scores,
            self.max_detections,
            self.nms_threshold,
            score_threshold=self.score_threshold,
            soft_sigma=self.soft_nms_sigma,
        )
        used = picked_scores > 0.0
        picked_boxes = box_ops.take(top_boxes, picked)
        picked_classes = ops.take_along_axis(top_classes, picked, 1)
        return {
            "boxes": ops.where(used[..., None], picked_boxes, 0.0),
            "scores": picked_scores,
            "classes": ops.where(used, picked_classes, -1),
            "num_detections": ops.sum(ops.cast(used, "int32"), axis=1),
        }

    def metric(self):
        """Return a new `metrics.CocoMetric`."""
        return metrics.CocoMetric(self.num_classes)

    def get_config(self):
        """Return the constructor arguments, with backbone and precision serialized."""
        return {
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "min_level": self.min_level,
            "max_level": self.max_level,
            "decoder": self.decoder,
            "num_repeats": self.num_repeats,
            "separable_decoder": self.separable_decoder,
            "num_filters": self.num_filters,
            "num_head_convs": self.num_head_convs,
            "separable_head": self.separable_head,
            "activation": self.activation,
            "anchor_size": self.anchor_size,
            "num_scales": self.num_scales,
            "aspect_ratios": self.aspect_ratios,
            "match_threshold": self.match_threshold,
            "unmatched_threshold": self.unmatched_threshold,
            "focal_alpha": self.focal_alpha,
            "focal_gamma": self.focal_gamma,
            "huber_delta": self.huber_delta,
            "box_weight": self.box_weight,
            "bn_momentum": self.bn_momentum,
            "bn_epsilon": self.bn_epsilon,
            "bn_sync": self.bn_sync,
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "soft_nms_sigma": self.soft_nms_sigma,
            "max_detections": self.max_detections,
            "tile": self.tile,
            "name": self.name,
            "dtype_policy": self._policy,
        }

    @classmethod
    def from_config(cls, config):
        """Build a model from `get_config`'s result."""
        return from_config(cls, config)


def _check_keys(labels, where=""):
    missing = [k for k in ("boxes", "classes", "ignore") if k not in labels]
    if missing or tuple(labels["boxes"].shape[1:2]) == (0,):
        raise ValueError(
            f"Expected labels{where} with boxes [B, M, 4], classes and ignore [B, M], "
            f"at least one slot, for a RetinaNet. Received: keys={sorted(labels)}"
            + ("" if missing else f", boxes {tuple(labels['boxes'].shape)}")
        )


def _check_numbers(fractions, others):
    """Check dicts of numbers: fractions in 0…1, and others of at least 0."""
    for name, value in {**fractions, **others}.items():
        highest = 1.0 if name in fractions else math.inf
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0.0 <= value <= highest:
            within = "in 0…1" if name in fractions else "of at least 0"
            raise ValueError(f"Expected {name} {within}. Received: {name}={value!r}")


def _decode_features(
    features, decoder, levels, *, num_filters, num_repeats, separable, activation, bn
):
    if decoder == "fpn":
        return fpn(features, *levels, num_filters, separable, bn=bn)
    if decoder == "nasfpn":
        features = nasfpn(
            features, num_filters, num_repeats, separable, activation, bn=bn
        )
    names = [f"P{level}" for level in range(levels[0], levels[1] + 1)]
    missing = [name for name in names if name not in features]
    if missing:
        raise ValueError(
            f"Expected levels {names[0]} to {names[-1]} from decoder={decoder!r}. "
            f"Received: features={sorted(features)}"
        )
    return {name: features[name] for name in names}


def _join_levels(tensors, depth, name):
    """Concatenate `[B, h, w, anchors · depth]` maps into `[B, A, depth]`."""
    flat = [
        keras.layers.Reshape((-1, depth), name=f"{name}_{level.lower()}")(tensor)
        for level, tensor in tensors.items()
    ]
    # Losses and scores are computed in float32 for any precision of the model.
    if len(flat) == 1:
        return keras.layers.Identity(name=name, dtype="float32")(flat[0])
    return keras.layers.Concatenate(axis=1, name=name, dtype="float32")(flat)

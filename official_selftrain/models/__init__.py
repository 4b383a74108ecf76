"""Models and the contract they implement.

A model of this package is a `keras.Model` whose constructor takes keyword arguments,
with a complete `get_config`, registered for serialization. `SelfTrainer`, labeling and
evaluation use five members. Any Keras model with these members can be trained,
evaluated and used for labeling:

- `model(images, training)`
    float `[B, H, W, 3]`, RGB in 0…255 → outputs. The model normalizes pixels
    itself.
- `model.compute_losses(outputs, labels)`
    → dict of float32 scalars, always with `"loss"`.
- `model.predictions(outputs, sizes)`
    → predictions in pixels of images of the given sizes (int `[B, 2]`).
- `model.metric()`
    → new metric with `update(predictions, batch)` and `result()`, a dict.
- `model.image_size`
    (height, width) of the frame that images are fitted into.

A model that is trained on several replicas, or with gradient accumulation, should have
two more, so that the losses of a batch's parts add up to the loss of the batch.
Without them, all parts have equal weight, which is correct for losses that are means
over images:

- `model.loss_sum(outputs, labels)`
    → `(sum, count)`, float32 scalars: the loss of a part of a batch before
    normalization, and the number of terms (positive anchors, labeled pixels).
- `model.divisor(count)`
    → the normalizer of a batch with that count:
    `compute_losses(…)["loss"]` is `sum / divisor(count)`.

A model may check what no shape tells; `SelfTrainer.fit` calls it with the first batch:

- `model.check_labels(labels, where)`
    raises a `ValueError` for values that would train it wrongly without an error, such
    as pixels in 0…1. `labels` are arrays, with `images`; `where` is a str to name them.

A model with mask labels has another, for labeling:

- `model.multi_scale(scales, flip)`
    → function that maps images to probabilities, float32 `[B, H, W, K]`.

Detection:

| dict | keys |
|---|---|
| batch | `images` float32 `[B, H, W, 3]`, `sizes` int32 `[B, 2]`, `ids` int64 `[B]` and the labels |
| labels | `boxes` float32 `[B, M, 4]` (ymin, xmin, ymax, xmax); `classes` int32 `[B, M]`, -1 in unused slots; `scores` float32 `[B, M]`, 1.0 for human labels; `ignore` bool `[B, M]`: with a score of 1.0 a region such as a crowd, with a lower one a doubtful object |
| outputs | `class_logits` float32 `[B, A, K]`, `box_deltas` float32 `[B, A, 4]` |
| predictions | `boxes` float32 `[B, D, 4]`, `scores` float32 `[B, D]`, `classes` int32 `[B, D]`, `num_detections` int32 `[B]` |

Segmentation:

| dict | keys |
|---|---|
| labels | `mask` int32 `[B, H, W]`; where a value is outside 0…K - 1, such as 255, the class is unknown |
| outputs | `mask_logits` float32 `[B, H / 4, W / 4, K]` |
| predictions | `mask` int32 `[B, H, W]`, `scores` float32 `[B, H, W]` |

Image classification: an image's class is that of its first box, which covers the image.
Outputs are `image_logits` float32 `[B, K]`; predictions are those of a detector with one
box. It is used for pre-training a backbone and for joint training (`SelfTrainer`).

The labels of a training batch may have `sample_weights`, float `[B]`, at least 0: in the
loss an image of weight w counts as if it were in the batch w times. Its losses and its
terms of the count (positive anchors, labeled pixels, known classes) are multiplied by
w, so `sum = Σ w · sum of the image` and `count = Σ w · count of the image`. An image of
weight 0 has no part in the loss. Batch statistics, of batch normalization, aren't
weighted. Without `sample_weights` all weights are 1.

In a training batch, boxes are in pixels of the frame and `sizes` is the part of the
frame that the image covers. In an evaluation batch, both refer to the original image.
Masks always have the size of the frame.
"""

from official_selftrain.models import backbones
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.models.retinanet import RetinaNet
from official_selftrain.models.segmenter import SemanticSegmenter
from official_selftrain.models.spinenet import spinenet

__all__ = [
    "ImageClassifier",
    "RetinaNet",
    "SemanticSegmenter",
    "backbones",
    "spinenet",
]

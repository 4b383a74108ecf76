"""Models and the contract they obey.

A model of this package is a `keras.Model` whose constructor takes keywords,
with a complete `get_config`, registered for serialization. `SelfTrainer`, the
labeling and the evaluation ask five things of it, so any Keras model that
offers them can be trained, can label and can be evaluated here:

- `model(images, training)`
    float `[B, H, W, 3]`, RGB in 0…255 → outputs. The model normalizes pixels
    itself.
- `model.compute_losses(outputs, labels)`
    → dict of float32 scalars, always with `"loss"`.
- `model.predictions(outputs, sizes)`
    → predictions in pixels of images of the given sizes (int `[B, 2]`).
- `model.metric()`
    → fresh metric with `update(predictions, batch)` and `result()`, a dict.
- `model.image_size`
    (height, width) of the frame that images are fitted into.

A model that is trained on several replicas, or with gradient accumulation, should
offer two things more, so that what a batch's parts add up to is the batch's loss.
Without them the parts count alike, which is right for losses that are means over
images:

- `model.loss_sum(outputs, labels)`
    → `(sum, count)`, float32 scalars: the loss of a part of a batch before it is
    divided, and the count of what it is a mean over (positive anchors, known pixels).
- `model.divisor(count)`
    → what the sum of a batch with that count is divided by:
    `compute_losses(…)["loss"]` is `sum / divisor(count)`.

A model whose labels are masks offers another, for labeling:

- `model.multi_scale(scales, flip)`
    → function from images to probabilities float32 `[B, H, W, K]`.

Detection:

| dict | keys |
|---|---|
| batch | `images` float32 `[B, H, W, 3]`, `sizes` int32 `[B, 2]`, `ids` int64 `[B]` and the labels |
| labels | `boxes` float32 `[B, M, 4]` (ymin, xmin, ymax, xmax); `classes` int32 `[B, M]`, -1 in unused slots; `scores` float32 `[B, M]`, 1.0 for humans; `ignore` bool `[B, M]` |
| outputs | `class_logits` float32 `[B, A, K]`, `box_deltas` float32 `[B, A, 4]` |
| predictions | `boxes` float32 `[B, D, 4]`, `scores` float32 `[B, D]`, `classes` int32 `[B, D]`, `num_detections` int32 `[B]` |

Segmentation:

| dict | keys |
|---|---|
| labels | `mask` int32 `[B, H, W]`, 255 where nothing is known |
| outputs | `mask_logits` float32 `[B, H / 4, W / 4, K]` |
| predictions | `mask` int32 `[B, H, W]`, `scores` float32 `[B, H, W]` |

Classification of whole images: an image's class is that of its first box, which covers
the image; outputs are `image_logits` float32 `[B, K]`, predictions a detector's with one
box. It is for pre-training a backbone and for joint training (`SelfTrainer`).

In a training batch, boxes are in pixels of the frame and `sizes` is the part
of it that the image covers. In an evaluation batch both are those of the
original image. Masks are always those of the frame.
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

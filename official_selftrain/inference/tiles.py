"""Detect objects in large images, tile by tile, in the image's own pixels."""

import functools

import tensorflow as tf

from official_selftrain.geometry import letterbox, tiling

# A box at a tile's border is part of another one that holds this fraction of it.
_PART = 0.7


def detector(model, batch_size=8):
    """Return a function that detects objects in an image of any size.

    An image is cut into the model's tiles, each is fitted into the frame, and what is
    found in them is put together: of an object that several tiles hold, the best box
    stays; a part of an object that a border cuts is left to the tile that holds all of
    it (see `tiling.at_borders`).

    Args:
        model: `RetinaNet` with a `tile`.
        batch_size: int, tiles that go through the model at once.

    Returns:
        function (image uint8 `[h, w, 3]`) → dict of `boxes` float32 `[N, 4]` in pixels
        of the image, `scores` float32 `[N]` in descending order, and `classes` int32
        `[N]`.

    Source: own.
    """
    frame, slots = tuple(model.image_size), model.max_detections
    found = {
        "boxes": tf.TensorSpec((None, slots, 4), tf.float32),
        "scores": tf.TensorSpec((None, slots), tf.float32),
        "classes": tf.TensorSpec((None, slots), tf.int32),
    }

    def detect(image):
        size = tf.shape(image)[:2]
        places = tiling.windows(size, model.tile)

        def predict(group):
            frames = tf.map_fn(
                functools.partial(_cut, image, frame=frame),
                group,
                fn_output_signature=tf.TensorSpec((*frame, 3)),
            )
            predictions = model.predictions(model(frames, training=False), group[:, 2:])
            return {key: predictions[key] for key in found}

        # The last group is filled with the last tile.
        count = tf.shape(places)[0]
        length = tf.minimum(count, batch_size)
        filled = (count + length - 1) // length * length
        rows = tf.minimum(tf.range(filled), count - 1)
        groups = tf.reshape(tf.gather(places, rows), (-1, length, 4))
        parts = tf.map_fn(predict, groups, fn_output_signature=found)
        parts = {
            key: tf.reshape(part, (-1, *spec.shape[1:]))[:count]
            for (key, part), spec in zip(parts.items(), found.values())
        }
        return _joined(parts, places, size, model)

    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    return tf.function(detect, input_signature=[spec], autograph=False)


def as_batch(found):
    """Return what `detector` found in an image as predictions of a batch of one."""
    count = tf.shape(found["scores"])[0]
    return {key: value[None] for key, value in found.items()} | {
        "num_detections": count[None]
    }


def _cut(image, place, frame):
    top, left, height, width = tf.unstack(place)
    part = image[top : top + height, left : left + width]
    return letterbox.fit(part, frame)


def _joined(parts, places, size, model):
    """Put what was found in the tiles together; shift boxes to their places."""
    at_border, is_left = tiling.at_borders(parts["boxes"], places, size, model.tile)
    rows = tf.where(~is_left & (parts["classes"] >= 0))
    corners = tf.cast(tf.tile(places[:, None, :2], (1, 1, 2)), tf.float32)
    boxes = tf.gather_nd(parts["boxes"] + corners, rows)
    scores, classes = (tf.gather_nd(parts[key], rows) for key in ("scores", "classes"))
    # Boxes of different classes are shifted apart.
    shift = tf.cast(classes * (tf.reduce_max(size) + 1), tf.float32)
    kept = tf.image.non_max_suppression(
        boxes + shift[:, None], scores, tf.shape(scores)[0], model.nms_threshold
    )
    is_part = _are_parts(
        tf.gather(boxes + shift[:, None], kept),
        tf.gather(tf.gather_nd(at_border, rows), kept),
    )
    kept = tf.boolean_mask(kept, ~is_part)
    return {
        "boxes": tf.gather(boxes, kept),
        "scores": tf.gather(scores, kept),
        "classes": tf.gather(classes, kept),
    }


def _are_parts(boxes, at_border):
    """Return which boxes at a border lie in a box that isn't at one, bool `[N]`.

    They are parts of an object that is longer than the overlap, but whole in a tile.
    """
    part, whole = tf.where(at_border)[:, 0], tf.boolean_mask(boxes, ~at_border)
    parts = tf.gather(boxes, part)[:, None]
    low = tf.maximum(parts[..., :2], whole[None, :, :2])
    high = tf.minimum(parts[..., 2:], whole[None, :, 2:])
    inside = tf.reduce_prod(tf.maximum(high - low, 0.0), axis=-1)
    area = tf.reduce_prod(parts[..., 2:] - parts[..., :2], axis=-1)
    is_part = tf.reduce_any(inside >= _PART * area, axis=1)
    return tf.scatter_nd(part[:, None], is_part, tf.shape(at_border, tf.int64))

"""The letterbox: how images are fitted into a frame, aspect ratio kept."""

from keras import ops


def letterbox_scale(sizes, image_size):
    """Return the factors that fit images into a frame, aspect ratio kept.

    The scaled image has whole pixels, so the two axes' factors can differ by
    a rounding.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        float32 `[B, 2]`: pixels of the frame per pixel of the image, by axis.

    Source: own; the authors' preprocessing rounds in the same way.
    """
    sizes = ops.cast(sizes, "float32")
    frame = ops.convert_to_tensor(image_size, dtype="float32")
    scale = ops.min(frame / sizes, axis=-1, keepdims=True)
    return ops.maximum(ops.round(sizes * scale), 1.0) / sizes


def covered_size(sizes, image_size):
    """Return the part of a frame that images fitted into it cover.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        int32 `[B, 2]`, height and width in pixels of the frame.

    Source: see `letterbox_scale`.
    """
    scale = letterbox_scale(sizes, image_size)
    return ops.cast(ops.round(ops.cast(sizes, "float32") * scale), "int32")

"""What every model does with its images first."""

import keras

# ImageNet's mean and standard deviation of RGB in 0…255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STDDEV = (58.395, 57.12, 57.375)


def normalized_pixels(images):
    """Build the normalisation of RGB in 0…255 by ImageNet's mean and deviation."""
    return keras.layers.Rescaling(
        scale=[1.0 / stddev for stddev in PIXEL_STDDEV],
        offset=[-m / s for m, s in zip(PIXEL_MEAN, PIXEL_STDDEV)],
        name="normalize_pixels",
    )(images)


def check_frame(image_size, stride, **counts):
    """Check a model's image size and counts.

    Raises:
        ValueError: if a count is below 1 or a side is no multiple of `stride`.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1. Received: {name}={value}")
    if any(side < stride or side % stride for side in image_size):
        raise ValueError(
            f"Expected image_size in multiples of {stride}, the stride of the last "
            f"backbone level. Received: image_size={image_size}"
        )

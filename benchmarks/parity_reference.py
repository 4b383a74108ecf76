"""Run TensorFlow Addons' image operations on seeded images and write the results.

Needs TensorFlow 2.15 and tensorflow-addons 0.23, which isn't compatible with Keras 3:
`make parity` creates that environment. See parity.py.

python benchmarks/parity_reference.py parity.npz
"""

import sys

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa


def images():
    """Return two seeded images: noise, and waves with a little noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:64, 0:48]
    waves = [120 + 90 * np.sin((k + 1) * x / 9) * np.cos(y / (7 + k)) for k in range(3)]
    waves = np.stack(waves, axis=-1) + rng.normal(0.0, 4.0, (64, 48, 3))
    return {
        "noise": rng.integers(0, 256, (33, 47, 3)).astype(np.uint8),
        "waves": waves.clip(0, 255).astype(np.uint8),
    }


def results(image):
    """Return the result of each operation on an image."""
    image = tf.constant(image)
    gray = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
    black = tf.zeros_like(image)
    fill = 128.0
    return {
        "rotate": tfa.image.rotate(image, np.deg2rad(24.0), fill_value=fill),
        "rotate_back": tfa.image.rotate(image, np.deg2rad(-45.0), fill_value=fill),
        "translate": tfa.image.translate(image, [-7.0, 4.0], fill_value=fill),
        "shear_x": tfa.image.shear_x(image, 0.18, [128] * 3),
        "shear_y": tfa.image.shear_y(image, -0.27, [128] * 3),
        "transform": tfa.image.transform(
            image, [0.913, 0.207, 3.1, -0.107, 1.1, -2.3, 0.0, 0.0], fill_value=fill
        ),
        # Tenths: many sampling points lie exactly halfway between two pixels.
        "transform_of_tenths": tfa.image.transform(
            image, [0.9, 0.2, 3.0, -0.1, 1.1, -2.0, 0.0, 0.0], fill_value=fill
        ),
        "equalize": tfa.image.equalize(image),
        "sharpness": tfa.image.sharpness(image, 1.54),
        "smooth": tfa.image.sharpness(image, 0.1),
        "color": tfa.image.blend(gray, image, 1.54),
        "grey": tfa.image.blend(gray, image, 0.46),
        "brightness": tfa.image.blend(black, image, 1.18),
        "adjust_contrast": tf.image.adjust_contrast(image, 1.54),
        "adjust_saturation": tf.image.adjust_saturation(image, 1.54),
        "cutout": tfa.image.cutout(image[None], (16, 16), (20, 25), 128)[0],
        "cutout_at_the_edge": tfa.image.cutout(image[None], (16, 16), (2, 45), 128)[0],
    }


def main(path):
    """Write inputs and results as `IMAGE/in` and `IMAGE/OPERATION`."""
    arrays = {}
    for name, image in images().items():
        arrays[f"{name}/in"] = image
        for operation, result in results(image).items():
            arrays[f"{name}/{operation}"] = np.asarray(result)
    arrays["versions"] = np.array([tf.__version__, tfa.__version__])
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])

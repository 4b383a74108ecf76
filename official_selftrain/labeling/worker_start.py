"""Start a labeling process.

A fresh Python unpickles its first function here, so this module doesn't import
TensorFlow: `start` does, without its notes.
"""

from official_selftrain.cli import quiet


def start(done, order):
    """Initialize a process: the shared counter, and its own GPU if available.

    Args:
        done: shared int, the number of images that all processes have labeled.
        order: shared int, the number of processes that have a GPU.
    """
    global _done
    _done = done
    quiet.import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        with order.get_lock():
            tf.config.set_visible_devices(gpus[order.value % len(gpus)], "GPU")
            order.value += 1


def count(images):
    """Add images to those that all processes have labeled.

    Args:
        images: int.
    """
    with _done.get_lock():
        _done.value += images

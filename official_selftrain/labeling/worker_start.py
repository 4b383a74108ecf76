"""Start a labeling process.

A fresh Python unpickles its first function here, so this module doesn't import
TensorFlow: `start` does, without its notes.
"""

import signal

from official_selftrain.cli import quiet


def start(done, order, stopped):
    """Initialize a process: the shared counter, and its own GPU if available.

    Args:
        done: shared int, the number of images that all processes have labeled.
        order: shared int, the number of processes that have a GPU.
        stopped: shared event, set when all processes must stop.
    """
    global _done, _stopped
    _done, _stopped = done, stopped
    # A terminal sends Ctrl-C to all processes; the parent stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet.import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        with order.get_lock():
            tf.config.set_visible_devices(gpus[order.value % len(gpus)], "GPU")
            order.value += 1


def is_stopped():
    """Return whether all processes must stop."""
    return _stopped.is_set()


def count(images):
    """Add images to those that all processes have labeled.

    Args:
        images: int.
    """
    with _done.get_lock():
        _done.value += images

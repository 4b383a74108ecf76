"""Error messages of TensorFlow, shortened to what a user needs."""

import re


def readable(message):
    """Return the readable part of a TensorFlow error's message.

    Args:
        message: str, the `message` of a `tf.errors.OpError`.

    Returns:
        str, empty if nothing is left.
    """
    text = message.split("[Op:")[0].split("\n\t [[")[0].split("\nTraceback (")[0]
    # One of our own assertions, as a list of parts.
    if "Summarized data:" in text:
        text = text.split("Summarized data:")[1]
        text = re.sub(r"""b(["'])(.*?)\1""", r"\2", text)
    elif "assertion failed: [" in text:
        text = text.split("assertion failed: [")[1].removesuffix("]")
        text = text.replace("] [", " ")
    return " ".join(text.split("}}")[-1].split()).rstrip(". ")

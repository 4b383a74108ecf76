"""Argument checks that several modules use."""

import difflib


def check_choice(name, value, choices):
    """Check that a value is one of a set.

    Args:
        name: str, the argument's name.
        value: the value.
        choices: collection of allowed values.

    Raises:
        ValueError: if it isn't; the message lists all choices and the nearest.
    """
    if value in choices:
        return
    texts = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(value), texts, 1, 0.0)
    raise ValueError(
        f"Expected {name} to be one of {', '.join(texts)} (nearest: {near[0]}). "
        f"Received: {name}={value!r}"
    )


def check_counts(**counts):
    """Check that every argument is an integer of at least 1.

    Raises:
        ValueError: for the first one that isn't.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"Expected {name}, an integer of at least 1. Received: {name}={value!r}"
            )


def check_decay(**decays):
    """Check that every argument is a number in 0…1, below 1.

    Raises:
        ValueError: for the first one that isn't.
    """
    for name, value in decays.items():
        if not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
            raise ValueError(
                f"Expected {name} of at least 0 and below 1. Received: {name}={value!r}"
            )

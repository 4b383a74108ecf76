"""Checks of arguments that several modules make."""

import difflib


def check_choice(name, value, choices):
    """Check that a value is one of a set.

    Args:
        name: str, what the value is called.
        value: the value.
        choices: collection of what is allowed.

    Raises:
        ValueError: with all choices and the nearest, if it isn't.
    """
    if value in choices:
        return
    texts = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(value), texts, 1, 0.0)
    raise ValueError(
        f"Expected {name} out of {', '.join(texts)} (nearest: {near[0]}). "
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

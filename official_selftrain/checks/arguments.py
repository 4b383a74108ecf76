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

"""Checks of arguments: one line that says what was expected and what came."""

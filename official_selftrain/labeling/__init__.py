"""Teachers, the labels they produce, their storage and their quality."""

"""List all violations in label files.

    python -m official_selftrain.validate --labels=labels

Reads TFRecord shards (a folder, path or glob) or a COCO .json, written by pseudo_label
or any other tool. Exit codes: 0 none, 1 a mistake in the call, 2 violations.
"""

import os

from absl import app, flags

from official_selftrain.cli import command_line, quiet

flags.adopt_module_key_flags(command_line)

flags.DEFINE_string(
    "labels",
    None,
    "A folder or glob of TFRecord files, or a COCO .json.",
    required=True,
)
flags.DEFINE_string(
    "classes",
    None,
    "Valid classes: a text file, a COCO .json, or comma-separated names.",
)
flags.DEFINE_string("image_dir", None, "The folder of a COCO file's images.")
flags.DEFINE_bool("open_images", True, "Also decode every image.")


def main(argv):
    """Run the command line."""
    return command_line.exit_code("validate", argv, _validate)


def _validate():
    command_line.check_paths(labels=flags.FLAGS.labels, image_dir=flags.FLAGS.image_dir)
    quiet.import_tensorflow()
    from official_selftrain.data import validation
    from official_selftrain.labeling import teachers

    classes = flags.FLAGS.classes
    if classes is not None:
        is_file = os.path.isfile(classes)
        classes = teachers.read_classes(classes)[0] if is_file else classes.split(",")
    violations, book = validation.validate(
        flags.FLAGS.labels, classes, flags.FLAGS.image_dir, flags.FLAGS.open_images
    )
    for kind, (count, place) in violations.items():
        print(f"{count:>8}  {validation.VIOLATIONS[kind]} (first: {place})")
    total = sum(count for count, _ in violations.values())
    for line in book.lines("valid unless listed above"):
        print(line)
    print(f"{book.images.held} images, {total} violations")
    return 2 if violations else 0


if __name__ == "__main__":
    app.run(main)

"""Print the size of an experiment's model.

    python -m official_selftrain.describe --gin_file=gin/coco_s4.gin --num_classes=80

Prints a table of parameters and multiply-adds of backbone, decoder and head. Exit
codes: 0 done, 1 a mistake in the call.
"""

import contextlib

import gin
from absl import app, flags

from official_selftrain.cli import command_line, gin_files

flags.adopt_module_key_flags(gin_files)

_NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", 80, "Number of classes; the data isn't read.", lower_bound=1
)


def main(argv):
    """Run the command line."""
    return command_line.exit_code("describe", argv, _describe)


def _describe():
    gin_files.load()
    from official_selftrain.models import sizes

    groups = {"model": "experiment.Experiment", "image_size": "experiment.Data"}
    settings = {}
    for group in groups.values():
        with contextlib.suppress(ValueError):  # no file mentions the group
            settings |= gin.get_bindings(group)
    for name, group in groups.items():
        if name not in settings:
            raise ValueError(
                f"Expected {group}.{name} to be set, for example by "
                "--gin_param='experiment.Data.image_size = (640, 640)'. Received: "
                f"files that set {', '.join(sorted(settings)) or 'neither'}"
            )
    model = settings["model"](
        num_classes=_NUM_CLASSES.value, image_size=settings["image_size"]
    )
    height, width = model.image_size
    print(f"{model.name}, {height} x {width}, {_NUM_CLASSES.value} classes")
    print(sizes.table(model))


if __name__ == "__main__":
    app.run(main)

"""Draw an experiment's labeled images under several augmentations.

    python -m official_selftrain.preview \\
        --gin_file=gin/quickstart.gin --output=augmentations.png

Writes a contact sheet with one column per image, and rows for the original image, the
experiment's augmentation and Augment-S1 to S4, with boxes and masks. For images without
masks, filled boxes serve as masks, to show that both move together. Exit codes: 0
done, 1 a mistake in the call or the data.
"""

import functools
import os

import gin
from absl import app, flags

from official_selftrain.cli import command_line, gin_files

flags.adopt_module_key_flags(gin_files)

_OUTPUT = flags.DEFINE_string("output", None, "The PNG file to write.", required=True)
_NUM_IMAGES = flags.DEFINE_integer("num_images", 6, "Columns.", lower_bound=1)
_REFERENCE_SIZE = flags.DEFINE_integer(
    "reference_size",
    640,
    "The longer side, in pixels, of the images that the policies' pixel values are "
    "meant for; 0 uses the values unchanged, as the paper does.",
    lower_bound=0,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the augmentations.", lower_bound=0)


def main(argv):
    """Run the command line."""
    return command_line.exit_code("preview", argv, _preview)


def _preview():
    if not _OUTPUT.value.lower().endswith(".png"):
        raise ValueError(f"Expected a .png file. Received: output={_OUTPUT.value!r}")
    gin_files.load()
    from official_selftrain.data.augmentation import augment
    from official_selftrain.inference import pictures

    settings = gin.get_bindings("experiment.Data")
    reference = {"reference_size": _REFERENCE_SIZE.value or None}
    with gin.config_scope("student"):  # groups of settings are made as for a student
        student = gin.get_bindings("training.fit")
    rows = {
        "this experiment": student.get("augment", augment.flip_and_jitter),
        "S1": augment.s1,
        "S2": functools.partial(augment.s2, **reference),
        "S3": functools.partial(augment.s3, **reference),
        "S4": functools.partial(augment.s4, **reference),
    }
    source = settings["labeled"]()
    if not source.has_labels:
        raise ValueError(
            "Expected labeled images. Received: images without annotations"
        )
    sheet = pictures.contact_sheet(
        source, rows, settings["image_size"], _NUM_IMAGES.value, _SEED.value
    )
    os.makedirs(os.path.dirname(os.path.abspath(_OUTPUT.value)), exist_ok=True)
    sheet.savefig(_OUTPUT.value, format="png", dpi=110)
    print(f"augmentations: {_OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)

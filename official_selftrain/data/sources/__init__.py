"""Sources of examples: one format, however the images and labels are stored.

Each function returns an `examples.Source`; its examples are described in
`official_selftrain.data.examples`. The embedded data is in `digits`.
"""

from official_selftrain.data.sources.coco_files import coco
from official_selftrain.data.sources.folders import class_folders, folder
from official_selftrain.data.sources.tfds_datasets import tfds
from official_selftrain.data.sources.tfrecord_files import tfrecord
from official_selftrain.data.sources.voc_files import voc

__all__ = ["class_folders", "coco", "folder", "tfds", "tfrecord", "voc"]

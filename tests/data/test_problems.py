"""Images that aren't where their source says."""

import pytest

from official_selftrain.data import problems, sources
from official_selftrain.data.sources import digits


def test_missing_images_are_counted(tiny_coco):
    source = sources.folder(str(tiny_coco.unlabeled))
    problems.check_places(source)
    for name in ("1.png", "3.png"):
        (tiny_coco.unlabeled / name).unlink()
    text = r"no '.*unlabeled/1.png' \(2 of the first 4 images are missing\); start in"
    with pytest.raises(FileNotFoundError, match=text):
        problems.check_places(source)
    with pytest.raises(FileNotFoundError, match=r"\(1 of the first 2 images are"):
        problems.check_places(source, 2)


def test_images_in_the_source_have_no_place():
    scenes = digits.scenes("unlabeled", 2, 0, (32, 32), num_classes=2)
    assert problems.check_places(scenes) is None

"""Damaged COCO files are read rightly or refused in one line that names the place."""

import copy
import functools
import json
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from official_selftrain.data import sources

WIDTH, HEIGHT = 60, 40
NAMES = ("a.png", "b.jpg", "c.png")
LABELS = ("cat", "dog", "bird")
CONTENT = {
    "images": [
        {"id": 10 + k, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for k, name in enumerate(NAMES)
    ],
    "categories": [{"id": 3 * k + 1, "name": name} for k, name in enumerate(LABELS)],
    "annotations": [
        {
            "id": 100 + k,
            "image_id": 10 + k // 2,
            "category_id": 3 * (k % 3) + 1,
            "bbox": [2 * k, 3 + k, 10 + k, 20 - k],
            "area": 50,
            "iscrowd": 0,
            "score": 0.5,
            "segmentation": [[2 * k, 3 + k, 12 + 3 * k, 3 + k, 12 + 3 * k, 23]],
        }
        for k in range(6)
    ],
}

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**70), 10**400, -1, 0, 1, 11, 12, 4]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["1", "11", " 4 ", "1e3", "nan", "inf", "a.png", "../a.png", "\\"]),
    st.lists(
        st.one_of(st.integers(-99, 99), st.floats(), st.text(max_size=2)), max_size=5
    ),
    st.just({}),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.lists(st.lists(st.floats(-99, 99), max_size=8), max_size=2),
    st.builds(
        lambda size, counts: {"size": size, "counts": counts},
        st.lists(st.integers(-1, 99), max_size=3),
        st.one_of(st.text(max_size=9), st.lists(st.integers(-1, 999), max_size=4)),
    ),
)


@st.composite
def damaged(draw):
    """Return a changed content, and the places of the entries that are as before."""
    content = copy.deepcopy(CONTENT)
    touched = set()
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(sorted(CONTENT)))
        index = draw(st.integers(0, len(CONTENT[kind]) - 1))
        entry = content[kind][index]
        touched.add((kind, index))
        if not isinstance(entry, dict) or not entry:
            continue
        field = draw(st.sampled_from(sorted(entry)))
        action = draw(st.sampled_from(["replace", "remove", "rename", "entry", "item"]))
        if action == "replace":
            entry[field] = draw(JUNK)
        elif action == "remove":
            del entry[field]
        elif action == "rename":
            entry[draw(st.sampled_from(["ID", "name", "bbox", "x"]))] = entry.pop(field)
        elif action == "entry":
            content[kind][index] = draw(JUNK)
        elif isinstance(entry[field], list) and entry[field]:
            place = draw(st.integers(0, len(entry[field]) - 1))
            entry[field][place] = draw(JUNK)
    return content, touched


@functools.cache
def folder():
    place = tempfile.TemporaryDirectory()
    images = pathlib.Path(place.name) / "images"
    images.mkdir()
    for name in NAMES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / name)
    return place, images


def check(content, touched):
    place, images = folder()
    path = pathlib.Path(place.name) / "boxes.json"
    path.write_text(json.dumps(content))
    try:
        source = sources.coco(str(path), str(images))
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert "\n" not in text and ("boxes.json" in text or "images" in text), text
        assert len(text) < 1000
        return
    found = {}
    for example in source.dataset.as_numpy_iterator():
        boxes = example["boxes"]
        assert np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= 1).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((example["scores"] >= 0) & (example["scores"] <= 1)).all()
        labels = [source.class_names[k] for k in example["classes"]]
        pixels = boxes[:, [1, 0, 3, 2]] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        name = example["path"].decode().rpartition("/")[2]
        found.setdefault(name, []).extend(
            (label, tuple(np.round(box, 2)))
            for label, box, ignored in zip(labels, pixels, example["ignore"])
            if not ignored
        )
    for index, annotation in enumerate(CONTENT["annotations"]):
        image = annotation["image_id"] - 10
        label = annotation["category_id"] // 3
        entries = {("annotations", index), ("images", image), ("categories", label)}
        if entries & touched:
            continue
        x, y, w, h = annotation["bbox"]
        expected = LABELS[label], (x, y, x + w, y + h)
        assert expected in found[NAMES[image]], (expected, found)


OPTIONS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@settings(max_examples=300, **OPTIONS)
@given(damaged())
def test_damaged_files(drawn):
    check(*drawn)


@pytest.mark.slow
@settings(max_examples=10_000, **OPTIONS)
@given(damaged())
def test_ten_thousand_damaged_files(drawn):
    check(*drawn)

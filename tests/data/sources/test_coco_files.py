"""COCO files as tools and scripts write them: read rightly, or refused in one line."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from official_selftrain.data import pipeline, problems, shapes, sources
from official_selftrain.data.sources import coco_files
from official_selftrain.onboarding import own_data

# The objects of the two images, in the order of the files: class, and xmin, ymin, xmax,
# ymax in pixels.
CAT, DOG = 0, 1
OBJECTS = {
    "a.png": [(CAT, (10, 5, 30, 25)), (DOG, (0, 0, 60, 40))],
    "b.jpg": [(DOG, (1, 2, 4, 8))],
}


@pytest.fixture
def folder(tmp_path):
    """Two images of 40 x 60 pixels (height x width)."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def content():
    """Return the content of a file of both images and three objects."""
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 5, 20, 20], "area": 9},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 60, 40], "area": 0},
        {"id": 3, "image_id": 8, "category_id": 5, "bbox": [1, 2, 3, 6], "area": 18},
    ]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 8, "file_name": "b.jpg", "height": 40, "width": 60},
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": annotations,
    }


@pytest.fixture
def read(tmp_path, folder):
    """Write a file's content, and read it as `sources.coco`."""

    def read(content, encoding="utf-8", **arguments):
        path = tmp_path / "boxes.json"
        path.write_bytes(json.dumps(content).encode(encoding))
        return sources.coco(str(path), str(folder), **arguments)

    return read


def objects(source, crowds=False):
    """Return the objects of a source by file name, as those in `OBJECTS`."""
    found = {}
    for example in source.dataset.as_numpy_iterator():
        pixels = example["boxes"][:, [1, 0, 3, 2]] * [60, 40, 60, 40]
        assert ((pixels >= 0) & (pixels <= [60, 40, 60, 40])).all()
        found[example["path"].decode().rpartition("images/")[2]] = [
            (int(label), tuple(np.round(box, 3).tolist()))
            for label, box, is_crowd in zip(
                example["classes"], pixels, example["ignore"], strict=True
            )
            if is_crowd == crowds
        ]
    return found


def first(content, kind="annotations"):
    return content[kind][0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(read, content, encoding):
    source = read(content, encoding)
    assert objects(source) == OBJECTS and source.notes == ()
    assert source.class_names == ("cat", "dog")


def set_ids(content, convert):
    """Replace the ids of images and categories where they are listed."""
    for entry in content["images"] + content["categories"]:
        entry["id"] = convert(entry["id"])


@pytest.mark.parametrize(
    "convert", [str, float, lambda n: f" {n}", lambda n: f"{n:03}"]
)
def test_ids_of_other_types(read, content, convert):
    set_ids(content, convert)
    assert objects(read(content)) == OBJECTS
    for annotation in content["annotations"]:
        for key in ("image_id", "category_id"):
            annotation[key] = convert(annotation[key])
    source = read(content)
    assert objects(source) == OBJECTS and source.notes == ()
    assert [e["id"] for e in source.dataset.as_numpy_iterator()] == [7, 8]


def test_ids_that_are_no_numbers(read, content):
    def convert(number):
        return {7: "x/7", 8: "y/8", 2: 2.5, 5: "five"}[number]

    for annotation in content["annotations"]:
        annotation["image_id"] = convert(annotation["image_id"])
    for entry in content["images"]:
        entry["id"] = convert(entry["id"])
    source = read(content)
    assert objects(source) == OBJECTS
    assert [e["id"] for e in source.dataset.as_numpy_iterator()] == [1, 2]
    assert source.notes == (
        "ids that aren't whole numbers, renumbered: 2 (first: images: 'x/7' is 1)",
    )
    first(content, "categories")["id"] = 2.5
    with pytest.raises(ValueError, match=r"numbers or text. .*\[0\] .* with id=2.5"):
        read(content)


def test_numbers_as_text(read, content):
    for image in content["images"]:
        image.update(height="40", width="60.0")
    for annotation in content["annotations"]:
        annotation["bbox"] = [str(value) for value in annotation["bbox"]]
        annotation.update(area=str(annotation["area"]), iscrowd="0", score="0.25")
    source = read(content)
    assert objects(source) == OBJECTS
    example = next(source.dataset.as_numpy_iterator())
    assert example["areas"].tolist() == [9.0, 0.0]
    assert example["scores"].tolist() == [0.25, 0.25]


SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]


def mask_of(left, top, right, bottom):
    mask = np.zeros((40, 60), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def compressed(*corners):
    encoded = coco_masks.encode(np.asfortranarray(mask_of(*corners)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(*corners):
    pixels = mask_of(*corners).T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]]))
    return {"size": [40, 60], "counts": counts.tolist()}


@pytest.mark.parametrize("bbox", [None, [], "absent", [10, 5], ["a", 5, 20, 20]])
@pytest.mark.parametrize(
    "shape",
    [
        [SQUARE],
        SQUARE,
        [SQUARE[:6], SQUARE[2:]],
        compressed(10, 5, 30, 25),
        uncompressed(10, 5, 30, 25),
    ],
    ids=["polygon", "flat", "parts", "compressed", "uncompressed"],
)
def test_boxes_from_shapes(read, content, bbox, shape):
    first(content).update(segmentation=shape, bbox=bbox)
    if bbox == "absent":
        del first(content)["bbox"]
    source = read(content)
    assert objects(source) == OBJECTS
    note = "boxes computed from polygons or masks: 1 (first: annotation 1)"
    assert source.notes == (note,)
    first(content)["iscrowd"] = 1
    assert objects(read(content), crowds=True)["a.png"] == OBJECTS["a.png"][:1]


def test_boxes_of_masks():
    """Equal to those of pycocotools."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 40, 2).tolist()
        mask = (rng.random((height, width)) < rng.random() ** 3).astype(np.uint8)
        encoded = coco_masks.encode(np.asfortranarray(mask))
        counts = encoded["counts"].decode()
        found = shapes.box({"size": [height, width], "counts": counts})
        expected = coco_masks.toBbox(encoded).tolist() if mask.any() else None
        assert found == expected


@pytest.mark.parametrize(
    "shape",
    [
        *(None, [], [[]], "text", 3, [1, 2, 3], [["a", "b"]], [[1, 2], 3], {}),
        *([[float("nan"), 1, 2, 3]], {"size": [40, 60]}, {"size": [40], "counts": []}),
        {"size": [40, 60], "counts": [1, 2]},
        {"size": [40, 60], "counts": [2400]},
        {"size": [40, 60], "counts": [-1, 2401]},
        {"size": [40, 60], "counts": "no runs"},
        {"size": [40, 60], "counts": "ooooooooooooooo"},
        {"size": [10**9, 10**9], "counts": [5, 10**18 - 5]},
    ],
)
def test_unusable_shapes(shape):
    assert shapes.box(shape) is None


@pytest.mark.parametrize(
    "bbox", [[30, 25, -20, -20], [10, 25, 20, -20], [30, 5, -20, 20]]
)
def test_exchanged_corners(read, content, bbox):
    first(content)["bbox"] = bbox
    source = read(content)
    assert objects(source) == OBJECTS
    (note,) = source.notes
    assert note.startswith("boxes whose corners were exchanged, put in order: 1 (first")
    assert f"annotation 1, bbox={bbox}" in note


@pytest.mark.parametrize(
    ("bbox", "text"),
    [
        ([10, 5, 0, 20], "boxes without area"),
        ([10, 5, 0, 0], "boxes without area"),
        ([60, 5, 9, 9], "boxes outside their image"),
        ([-9, -9, 9, 9], "boxes outside their image"),
        ([10, 5, float("nan"), 20], "objects without a usable box"),
        ([10, 5, float("inf"), 20], "objects without a usable box"),
        ([10, 5, 20], "objects without a usable box"),
        (None, "objects without a usable box"),
        ("10 5 20 20", "objects without a usable box"),
    ],
)
def test_objects_without_a_place_are_no_background(read, content, bbox, text):
    """All of their image but its other objects is unknown."""
    first(content)["bbox"] = bbox
    source = read(content)
    assert objects(source) == {**OBJECTS, "a.png": OBJECTS["a.png"][1:]}
    expected = {"a.png": [(CAT, (0, 0, 60, 40))], "b.jpg": []}
    assert objects(source, crowds=True) == expected
    (note,) = source.notes if text == "b" else source.notes[:1]
    assert note.startswith(text) and ": 1 (first: annotation 1, bbox=" in note


def test_boxes_end_at_the_border(read, content):
    first(content)["bbox"] = [-3, 30, 20, 30]
    assert objects(read(content))["a.png"][0] == (CAT, (0, 30, 17, 40))


@pytest.mark.parametrize("missing", [None, 0, "absent"])
def test_sizes_of_the_images_themselves(read, content, folder, missing):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    pixels = np.zeros((60, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "b.jpg", exif=exif)
    for image in content["images"]:
        image["height"] = missing
        if missing == "absent":
            del image["height"]
    source = read(content)
    assert objects(source) == OBJECTS
    sizes = [e["stated_size"].tolist() for e in source.dataset.as_numpy_iterator()]
    assert sizes == [[40, 60], [40, 60]]
    (folder / "b.jpg").write_text("no image")
    with pytest.raises(ValueError, match="to read them from. Received: b.jpg in "):
        read(content)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("./a.png", "./a.png"),
        ("images/a.png", "a.png"),
        ("images\\a.png", "a.png"),
        ("C:\\data\\images\\sub\\c.png", "sub/c.png"),
        ("/mnt/someone/images/sub/c.png", "sub/c.png"),
        ("https://example.com/data/a.png?size=3", "a.png"),
        ("file:///data/sub/c%2Epng", "sub/c.png"),
        ("sub/../a.png", "a.png"),
        ("../images/a.png", "a.png"),
        ("../../a.png", "a.png"),
    ],
)
def test_file_names_of_other_machines(read, content, name, found):
    first(content, "images")["file_name"] = name
    source = read(content)
    assert source.num_images == 2
    example = next(source.dataset.as_numpy_iterator())
    assert example["path"].decode().endswith(f"/images/{found}")
    if name != found:
        (note,) = source.notes
        assert f": 1 (first: {name} is {found})" in note


@pytest.mark.parametrize("name", ["../boxes.json", "/etc/hostname", "x/none.png"])
def test_files_outside_the_folder_are_not_found(read, content, name):
    first(content, "images")["file_name"] = name
    with pytest.raises(FileNotFoundError, match="1 of 2 missing, first '[a-z./]*'"):
        read(content)


def test_two_names_of_one_file(read, content):
    """The image of one of both is missing."""
    for image, place in zip(content["images"], ("train", "val")):
        image["file_name"] = f"{place}/a.png"
    text = "'train/a.png' and 'val/a.png', both only found as 'a.png'"
    with pytest.raises(ValueError, match=f"one image per file of .*: .* with {text}"):
        read(content)


def test_categories_of_one_name(read, content):
    content["categories"] += [{"id": 9, "name": " cat"}, {"id": 1, "name": "Dog"}]
    first(content)["category_id"] = 9
    source = read(content)
    assert source.class_names == ("Dog", "cat", "dog")
    moved = {k: [(label + 1, b) for label, b in v] for k, v in OBJECTS.items()}
    assert objects(source) == moved
    assert source.notes == (
        "categories of the same name, joined: 1 (first: 'cat', ids 2 and 9)",
        "category names that differ in case only, kept apart: 1 (first: Dog and dog)",
        "classes without a box: 1 (first: Dog)",
    )


@pytest.mark.parametrize(
    ("bboxes", "text"),
    [
        (
            [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]],
            "whose boxes lie within 0…1",
        ),
        ([[10, 5, 50, 35], [30, 20, 55, 40]], "1 of 2 boxes extend .* fit as .xmin"),
    ],
)
def test_boxes_in_other_forms(read, content, bboxes, text):
    del content["annotations"][2]
    for annotation, bbox in zip(content["annotations"], bboxes, strict=True):
        annotation["bbox"] = bbox
    with pytest.raises(ValueError, match=f"in pixels. Received: .*boxes.json.* {text}"):
        read(content)


@pytest.mark.parametrize(
    ("size", "stated", "turned", "text"),
    [
        ((40, 60), (400, 600), False, None),
        ((40, 60), (20, 30), False, None),
        ((33, 50), (667, 1000), False, None),
        ((40, 60), (60, 40), False, "60, 40 Received: 40, 60 .swapped; if the boxes"),
        ((40, 60), (40, 60), True, "40, 60 Received: 60, 40 .the photograph is shown"),
        ((40, 60), (60, 40), True, None),
        ((40, 60), (40, 50), False, "40, 50 Received: 40, 60 .another image"),
        ((40, 41), (40, 41), True, "40, 41 Received: 41, 40 .the photograph is shown"),
        ((40, 41), (41, 40), True, None),
        ((40, 41), (41, 40), False, "41, 40 Received: 40, 41 .swapped; if the boxes"),
        ((50, 50), (50, 50), True, None),
    ],
)
def test_stated_sizes(read, content, folder, tmp_path, size, stated, turned, text):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    pixels = np.zeros((*size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "b.jpg", exif=exif)
    content["images"][1].update(height=stated[0], width=stated[1])
    source = read(content)
    lines = problems.unreadable_images(source)
    if text is None:
        assert lines == []
        problems.check_sizes(source)
        _, example = source.dataset.as_numpy_iterator()
        box = example["boxes"][0] * np.tile(stated, 2)
        np.testing.assert_allclose(box, [2, 1, 8, 4], rtol=1e-6)
        return
    (line,) = lines
    assert line.startswith(f"{folder}/b.jpg: Expected the stated height and width ")
    assert text.replace(" .", " (") in line
    # `init` says the same.
    _, findings = own_data.read(str(tmp_path / "boxes.json"), str(folder))
    (found,) = findings["size"]
    assert found.endswith(line[line.index("(") :])
    # So does the plan, from headers.
    with pytest.raises(ValueError, match=r"their labels state. .*1 of the first 2 im"):
        problems.check_sizes(source)


def test_areas_are_those_of_the_resized_image(read, content):
    """18 pixels of 400 x 600 are 0.18 of 40 x 60."""
    content["images"][1].update(height=400, width=600)
    batches = pipeline.evaluation_batches(read(content), 2, (64, 64))
    (batch,) = batches.as_numpy_iterator()
    np.testing.assert_allclose(batch["areas"], [[9, 0], [0.18, 0]], rtol=1e-6)
    np.testing.assert_allclose(batch["boxes"][1, 0], [0.2, 0.1, 0.8, 0.4], rtol=1e-6)


def test_images_without_boxes_may_have_any_size(read, content):
    content["images"][1].update(height=999, width=3)
    del content["annotations"][2]
    assert problems.unreadable_images(read(content)) == []


def test_file_names_are_found_by_their_longest_ending(folder):
    (folder / "c.png").write_bytes(b"")
    names = coco_files.FileNames(str(folder))
    assert names.find("data/sub/c.png") == "sub/c.png"
    assert names.find("data/other/c.png") == "c.png"


def test_boxes_of_numbers_and_text(read, content):
    first(content)["bbox"] = [10, "5", 20, "20"]
    assert objects(read(content)) == OBJECTS


@pytest.mark.parametrize("bbox", [[0, 0, 0, 0], [500, 5, 20, 20]])
def test_an_outline_replaces_a_box_without_a_place(read, content, bbox):
    first(content).update(bbox=bbox, segmentation=[SQUARE])
    assert objects(read(content)) == OBJECTS


def test_odd_boxes_do_not_hide_other_units(read, content):
    rows = [
        {**first(content), "id": k, "bbox": [0.1, 0.2, 0.3, 0.4]} for k in range(19)
    ]
    odd = {**first(content), "bbox": [1, 1, 50, 30]}
    with pytest.raises(ValueError, match=r"lie within 0…1 \(19 of 20\): normalized"):
        read({**content, "annotations": [*rows, odd]})
    for row in rows:
        row["bbox"] = [30, 20, 55, 38]
    odd["bbox"] = [0, 0, 0, 0]
    with pytest.raises(ValueError, match="19 of 19 boxes extend .* all fit as .xmin"):
        read({**content, "annotations": [*rows, odd]})


@pytest.mark.parametrize("name", ["a.png", "./a.png"])
def test_an_image_listed_twice(read, content, name):
    """Its objects belong together: none is another entry's background."""
    again = {**first(content, "images"), "id": 9, "file_name": name}
    content["images"].append(again)
    content["annotations"][1]["image_id"] = 9
    source = read(content)
    assert objects(source) == OBJECTS
    assert f"listed twice, their boxes joined: 1 (first: {name})" in source.notes[0]
    again["width"] = 61
    with pytest.raises(ValueError, match=r"listed twice. .*images\[2\] .*\(40, 61\)"):
        read(content)


def test_files_that_state_other_sizes_of_an_image(folder, content, tmp_path):
    """The second file's boxes are for twice the size."""
    other = json.loads(json.dumps(content))
    for image in other["images"]:
        image.update(height=80, width=120)
    for annotation in other["annotations"]:
        annotation["bbox"] = [2 * side for side in annotation["bbox"]]
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, values in zip(paths, (content, other)):
        path.write_text(json.dumps(values))
    source = sources.coco([str(path) for path in paths], str(folder))
    assert objects(source) == OBJECTS
    text = "duplicate boxes, left out: 3 (first: a.png: [10.0, 5.0, 20.0, 20.0])"
    assert text in source.notes


def test_names_of_several_files_that_differ_in_case(folder, content, tmp_path):
    other = json.loads(json.dumps(content))
    other["categories"][0]["name"] = "Cat"
    other["annotations"][0]["bbox"] = [1, 1, 5, 5]
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, values in zip(paths, (content, other)):
        path.write_text(json.dumps(values))
    source = sources.coco([str(path) for path in paths], str(folder))
    assert source.class_names == ("cat", "dog", "Cat")
    text = "category names that differ in case only, kept apart: 1 (first: cat and Cat)"
    assert text in source.notes


def test_a_region_of_another_file_repeats_no_object(folder, content, tmp_path):
    other = json.loads(json.dumps(content))
    region = {**other["annotations"][1], "iscrowd": 1}
    other["annotations"] = [region]
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, values in zip(paths, (other, content)):
        path.write_text(json.dumps(values))
    source = sources.coco([str(path) for path in paths], str(folder))
    assert objects(source) == OBJECTS
    assert objects(source, crowds=True)["a.png"] == OBJECTS["a.png"][1:]


@pytest.mark.parametrize("side", ["height", "width"])
def test_half_a_size_is_that_of_the_image_or_refused(read, content, side):
    image = first(content, "images")
    image[side] = None
    assert objects(read(content)) == OBJECTS
    image[{"height": "width", "width": "height"}[side]] = 120
    with pytest.raises(ValueError, match=r"of the image, \(40, 60\). .*images\[0\]"):
        read(content)


def test_masks_of_another_size(read, content):
    """A box is taken from the mask of a resized image, not from another image's."""
    mask = np.zeros((80, 120), np.uint8, order="F")
    mask[10:50, 20:60] = 1
    encoded = coco_masks.encode(mask)
    encoded["counts"] = encoded["counts"].decode()
    first(content).update(bbox=None, segmentation=encoded)
    assert objects(read(content)) == OBJECTS
    mask = coco_masks.encode(np.ones((40, 40), np.uint8, order="F"))
    first(content)["segmentation"] = {**mask, "counts": mask["counts"].decode()}
    source = read(content)
    assert objects(source)["a.png"] == OBJECTS["a.png"][1:]
    assert objects(source, crowds=True)["a.png"] == [(CAT, (0, 0, 60, 40))]


def test_boxes_that_contradict_their_outlines_are_told(read, content):
    first(content)["segmentation"] = [[1, 30, 5, 30, 5, 39, 1, 39]]
    (note,) = read(content).notes
    assert note.startswith(
        "boxes that don't match their polygon or mask, kept: 1 (first: annotation 1, "
        "bbox=[10, 5, 20, 20], but the outline spans [1.0, 30.0, 4.0, 9.0]; 1 of 1 "
    )


def test_a_class_of_unusable_boxes_is_named(read, content):
    first(content)["bbox"] = None
    assert "classes without a box: 1 (first: cat)" in read(content).notes


def test_names_that_are_folders_are_no_images(read, content):
    for name in ("..", "/", "sub", "http://[a/none.png"):
        first(content, "images")["file_name"] = name
        with pytest.raises(FileNotFoundError, match="1 of 2 missing"):
            read(content)

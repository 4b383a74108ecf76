"""Results of other tools: what their numbers mean is read from the whole file."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
from damaged_files import MUTATIONS, read_damaged
from PIL import Image

from official_selftrain.data import examples, ledger, sources
from official_selftrain.data.sources import pools
from official_selftrain.labeling import answers, label_store, opening, results_files

# Height and width of the images 1, 2 and 3.
SIZES = {1: (40, 60), 2: (40, 60), 3: (50, 80)}
CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}]
# Of the images 1, 1, 2, 2, 3, 3: x, y, width and height in pixels, and the class.
BOXES = [
    ([10, 20, 30, 5], 90),
    ([0, 0, 10, 20], 1),
    ([40, 5, 16, 30], 90),
    ([48, 30, 8, 8], 90),
    ([60, 10, 12, 30], 1),
    ([70, 40, 10, 10], 1),
]


def results(**changes):
    """The results of three images, with functions of an index that change fields."""
    found = [
        {
            "image_id": 1 + index // 2,
            "category_id": category,
            "bbox": bbox,
            "score": 0.25 + 0.125 * index,
        }
        for index, (bbox, category) in enumerate(BOXES)
    ]
    for field, change in changes.items():
        for index, result in enumerate(found):
            result[field] = change(index)
    return found


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A COCO file without boxes: the folder's images a/1.png, a/2.png and b/c.png."""
    folder = tmp_path_factory.mktemp("pool")
    entries = []
    for number, name in enumerate(("a/x.png", "a/y.png", "b/z.png"), 1):
        (folder / name).parent.mkdir(exist_ok=True)
        height, width = SIZES[number]
        Image.new("RGB", (width, height)).save(folder / name)
        entries.append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
    path = folder / "pool.json"
    path.write_text(json.dumps({"images": entries, "categories": CATEGORIES}))
    return path


def opened(content, pool, tmp_path, images=None, encoding="utf-8", **settings):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content), encoding=encoding)
    settings = opening.TeacherSettings(str(path), **settings)
    return opening.open_teacher(settings, images or str(pool))


def labels(teacher, numbers=(1, 2, 3)):
    items = [
        {"id": tf.constant(key), "size": tf.constant(size)}
        for key, size in zip(numbers, SIZES.values())
    ]
    return teacher.label(items)


def assert_right(teacher, numbers=(1, 2, 3)):
    found = labels(teacher, numbers)
    assert [image["boxes"].tolist() for image in found] == [
        [[20, 10, 25, 40], [0, 0, 20, 10]],
        [[5, 40, 35, 56], [30, 48, 38, 56]],
        [[10, 60, 40, 72], [40, 70, 50, 80]],
    ]
    names = [[teacher.class_names[k] for k in image["classes"]] for image in found]
    assert names == [["brush", "person"], ["brush", "brush"], ["person", "person"]]
    scores = np.concatenate([image["scores"] for image in found])
    np.testing.assert_allclose(scores, 0.25 + 0.125 * np.arange(6), rtol=1e-6)


def test_results_by_hand(pool, tmp_path):
    teacher = opened(results(), pool, tmp_path)
    assert teacher.class_names == ("person", "brush") and not teacher.has_masks
    assert_right(teacher)
    assert labels(teacher, [1, 2, 8])[2]["boxes"].shape == (0, 4)
    assert teacher.notes == (
        "results of 3 images, matched by id; classes by the images' categories; boxes "
        "as xywh; scores of 0 to 1",
    )
    teacher = opened([], pool, tmp_path)
    assert [len(image["scores"]) for image in labels(teacher)] == [0, 0, 0]


def test_numbers_as_text_in_utf_16(pool, tmp_path):
    content = results(
        image_id=lambda k: f"{1 + k // 2}",
        category_id=lambda k: float(BOXES[k][1]),
        bbox=lambda k: [str(side) for side in BOXES[k][0]],
        score=lambda k: str(0.25 + 0.125 * k),
    )
    assert_right(opened(content, pool, tmp_path, encoding="utf-16"))


def test_scores_in_percent(pool, tmp_path):
    content = results(score=lambda k: 25 + 12.5 * k)
    text = (
        r"scores of 0 to 1. Received: .*results.json with score=87.5 \(6 of 6 outside\)"
        "; for percent state --score_scale=100"
    )
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)
    teacher = opened(content, pool, tmp_path, score_scale=100)
    assert_right(teacher)
    assert teacher.origin["score_scale"] == 100
    with pytest.raises(ValueError, match="in percent, .*none above 0.875; leave out"):
        opened(results(), pool, tmp_path, score_scale=100)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (
            -2.5,
            r"of 0 to 1. Received: .*with score=-2.5 \(1 of 6 outside\); write prob",
        ),
        (300, r"with score=300 \(1 of 6 outside\)$"),
        (float("nan"), r"with score=nan \(1 of 6 outside\)$"),
        ("sure", r"with score=sure \(1 of 6 outside\)$"),
        ([0.5], r"with score=\[0.5\] \(1 of 6 outside\)$"),
    ],
)
def test_scores_that_are_none(pool, tmp_path, score, text):
    content = results()
    content[2]["score"] = score
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)


def test_a_score_a_little_over_one(pool, tmp_path):
    content = results(score=lambda k: 1.0005)
    assert labels(opened(content, pool, tmp_path))[0]["scores"].tolist() == [1.0, 1.0]


def fractions(index):
    height, width = SIZES[1 + index // 2]
    x, y, w, h = BOXES[index][0]
    return [x / width, y / height, w / width, h / height]


def corners(index):
    x, y, w, h = BOXES[index][0]
    return [x, y, x + w, y + h]


def centers(index):
    x, y, w, h = BOXES[index][0]
    return [x + w / 2, y + h / 2, w, h]


@pytest.mark.parametrize(
    ("form", "box_format", "text"),
    [
        (
            fractions,
            "rel_xywh",
            r"lie within 0…1 \(6 of 6\): normalized\?; state their form with "
            "--box_format, such as rel_xywh or xyxy$",
        ),
        (
            corners,
            "xyxy",
            r"5 of 6 boxes extend beyond their image, but all fit as \[xmin, ymin, "
            r"xmax, ymax\]; state their form with --box_format",
        ),
        (
            centers,
            "center_xywh",
            r"4 of 6 boxes, read as xywh, extend beyond their image or have their ends "
            r"before their starts \(first: \[\[48.0, 20.0, 16.0, 30.0\]\]\), but most "
            "fit as center_xywh; state their form with --box_format=center_xywh$",
        ),
    ],
)
def test_boxes_in_another_form(pool, tmp_path, form, box_format, text):
    """They are refused, and read as stated."""
    with pytest.raises(ValueError, match=text):
        opened(results(bbox=form), pool, tmp_path)
    teacher = opened(results(bbox=form), pool, tmp_path, box_format=box_format)
    found = np.concatenate([image["boxes"] for image in labels(teacher)])
    wanted = np.array([box for box, _ in BOXES], float)[:, [1, 0, 3, 2]]
    wanted[:, 2:] += wanted[:, :2]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert teacher.origin["box_format"] == box_format


def test_the_stated_form_is_checked(pool, tmp_path):
    text = (
        r"6 of 6 boxes, read as xyxy, .*, but most fit as xywh; .* --box_format=xywh$"
    )
    with pytest.raises(ValueError, match=text):
        content = results(bbox=lambda k: [30 + k, 20, 5, 6])
        opened(content, pool, tmp_path, box_format="xyxy")
    text = "fractions, as box_format=rel_xywh says. Received: .*a coordinate of 70$"
    with pytest.raises(ValueError, match=text):
        opened(results(), pool, tmp_path, box_format="rel_xywh")
    teacher = opened(results(bbox=fractions), pool, tmp_path, box_units="normalized")
    assert teacher.origin["box_format"] == "rel_xywh"


def test_boxes_of_other_images(pool, tmp_path):
    content = results(bbox=lambda k: [90 * (k == 5), 0, 30, 30])
    text = r"1 of 6 boxes, .* \(first: \[\[90.0, 0.0, 30.0, 30.0\]\]\): results of oth"
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)
    # Detectors may not clip.
    content = results(bbox=lambda k: [-3, -2, 30, 20])
    assert (
        labels(opened(content, pool, tmp_path))[0]["boxes"].tolist()
        == [[-2, -3, 18, 27]] * 2
    )


NAMES = ("a/x.png", "a/y.png", "b/z.png")


def whole_file(names=NAMES, ids=(3, 2, 1), sizes=None):
    """A COCO file with other image ids and other category ids."""
    return {
        "images": [
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
            for number, name, size in zip(ids, names, sizes or SIZES.values())
        ],
        "categories": [{"id": 1, "name": "brush"}, {"id": 2, "name": "person"}],
        "annotations": results(
            image_id=lambda k: ids[k // 2],
            category_id=lambda k: {90: 1, 1: 2}[BOXES[k][1]],
        ),
    }


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ("x.png", "y.png", "z.png"),
        ("C:\\data\\a\\x.png", "https://host/a/y.png?v=1", "elsewhere/b/z.png"),
        ("x", "a/y", "z"),
    ],
)
def test_names_decide_where_ids_differ(pool, tmp_path, names):
    teacher = opened(whole_file(names), pool, tmp_path)
    assert teacher.class_names == ("person", "brush")
    assert_right(teacher)
    assert "matched by file name; classes by its own categories" in teacher.notes[0]
    assert teacher.origin["matched_by"] == "file name"
    assert teacher.origin["class_ids"] == [["1", 1], ["2", 0]]
    # Names in the results themselves.
    content = results(image_id=lambda k: names[k // 2])
    assert_right(opened(content, pool, tmp_path))
    content = results(image_id=lambda k: 7 - k // 2, file_name=lambda k: names[k // 2])
    assert_right(opened(content, pool, tmp_path))


def test_names_find_images_of_a_folder(pool, tmp_path):
    folder = str(pool.parent)
    teacher = opened(whole_file(), pool, tmp_path, folder)
    assert teacher.class_names == ("brush", "person")
    assert_right(teacher, (0, 1, 2))
    text = r"the ids that the results name, .* Received: images='.*', image_id=1 in"
    names = tmp_path / "names.txt"
    names.write_text("person\n" + "???\n" * 88 + "brush\n")
    with pytest.raises(ValueError, match=text):
        opened(results(), pool, tmp_path, folder, labels=str(names))
    with pytest.raises(FileNotFoundError, match="--labels=FILE. Received: labels=None"):
        content = results(image_id=lambda k: NAMES[k // 2])
        opened(content, pool, tmp_path, folder)
    with pytest.raises(ValueError, match="a folder. Received: images='tfds:x:train'"):
        opened(results(), pool, tmp_path, "tfds:x:train")


def test_names_that_are_numbers(tmp_path):
    """Of a folder's images: there is no other id. Otherwise ids, if they fit."""
    for number, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(tmp_path / f"000{number}.png")
    names = tmp_path / "names.txt"
    names.write_text("person\n" + "???\n" * 88 + "brush\n")
    folder = str(tmp_path)
    teacher = opened(results(), None, tmp_path, folder, labels=str(names))
    assert_right(teacher, (0, 1, 2))
    content = results(image_id=lambda k: 1 + k // 4)  # maybe those after 0001 and 0002
    with pytest.raises(
        ValueError, match=r"the ids that the results name, .*image_id=1"
    ):
        opened(content, None, tmp_path, folder, labels=str(names))
    entries = [
        {"id": key, "file_name": f"000{name}.png"}
        for key, name in zip((1, 2, 3), (3, 2, 1))
    ]
    images = tmp_path / "pool.json"
    images.write_text(json.dumps({"images": entries, "categories": CATEGORIES}))
    text = r"is an id or a name. Received: 1 in .*the id of '.*0003.png' and the name "
    with pytest.raises(ValueError, match=text):
        opened(results(), images, tmp_path)


@pytest.mark.parametrize("first", [1, 2**59])
def test_ids_in_tfrecord_files(tmp_path, first):
    """Also those that floats can't tell apart."""
    path = tmp_path / "pool.tfrecord"
    ids = (first, first + 1, first + 2)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, size in zip(ids, SIZES.values()):
            png = tf.io.encode_png(np.zeros((*size, 3), np.uint8)).numpy()
            writer.write(examples.serialize({"id": number, "encoded": png}, *size))
    content = {**whole_file(ids=ids), "images": []}
    teacher = opened(content, path, tmp_path)
    assert_right(teacher, ids)
    assert "matched by id" in teacher.notes[0]
    with pytest.raises(ValueError, match="read as xywh, extend .* another size"):
        content = whole_file(ids=ids[::-1])
        del content["images"]
        opened(content, path, tmp_path)


@pytest.mark.parametrize(
    ("shift", "numbers", "text"),
    [
        (-1, (1, 2, 3), r"image_id=0, while 3 of 3 ids are there with \+1: counted"),
        (1, (1, 2, 3), "image_id=4, while 3 of 3 ids are there with -1: counted"),
        (-1, (1, 2, 9), r"image_id=0, while 2 of 3 ids are there with \+1: counted"),
    ],
)
def test_ids_counted_from_another_start(pool, tmp_path, shift, numbers, text):
    content = results(image_id=lambda k: numbers[k // 2] + shift)
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)


def test_results_of_more_images(pool, tmp_path):
    """They are left out, and so are duplicates; both are told."""
    content = results() + results()[:2] + results(image_id=lambda k: 100 + k // 2)
    teacher = opened(content, pool, tmp_path)
    assert_right(teacher)
    assert teacher.notes[0].endswith(
        "; 6 results of 3 images that aren't to be labeled, left out; 2 duplicate "
        "results, left out; boxes as xywh; scores of 0 to 1"
    )
    with pytest.raises(ValueError, match=r"such as '.*x.png'. Received: .* with 101,"):
        opened(results(image_id=lambda k: 101), pool, tmp_path)
    with pytest.raises(ValueError, match="Received: .* with 'q/x0.png', and no image"):
        opened(whole_file(("q/x0.png", "r.png", "s.png")), pool, tmp_path)


def test_images_of_another_size_or_twice(pool, tmp_path):
    sizes = [(80, 120), (80, 120), (100, 160)]
    text = "with 80 x 120 .* of 'a/x.png', whose image has 40 x 60; scale the boxes"
    with pytest.raises(ValueError, match=text):
        opened(whole_file(sizes=sizes), pool, tmp_path)
    text = "different images. Received: .* with 3 and 2, both '.*/a/x.png'"
    with pytest.raises(ValueError, match=text):
        opened(whole_file(("a/x.png", "x.png", "b/z.png")), pool, tmp_path)
    content = results(image_id=lambda k: 5, file_name=lambda k: NAMES[k // 2])
    text = "one file_name of an image_id. Received: .*'a/x.png' and 'a/y.png' of 5"
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)


def test_names_of_other_folders_are_told(tmp_path):
    """Of cam1's and cam2's images of one name, those of cam2 are to be labeled."""
    folder = tmp_path / "photos/cam2"
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(folder / "x.png")
    names = "cam1/x.png", "cam2/x.png", "y.png"
    content = whole_file(names, sizes=[(40, 60)] * 3)
    teacher = opened(content, None, tmp_path, str(folder))
    assert teacher.left_out == {"repeated": 0, "unlisted": 4}
    content["images"] = [content["images"][0]]
    content["annotations"] = content["annotations"][:2]
    (note,) = opened(content, None, tmp_path, str(folder)).notes
    assert f"(1 in other folders, such as cam1/x.png is {folder}/x.png)" in note


def test_a_name_of_two_images(tmp_path):
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    content = whole_file(("x.png", "x.png", "x.png"))
    text = "of one image each. Received: .* with 'x.png', which may be .*a/x.png and "
    with pytest.raises(ValueError, match=text):
        opened(content, None, tmp_path, str(tmp_path))


def test_classes_of_the_file_and_of_the_images(pool, tmp_path):
    content = whole_file()
    content["categories"].append({"id": 3, "name": "cup"})
    teacher = opened(content, pool, tmp_path)
    assert teacher.class_names == ("brush", "person", "cup")
    assert_right(teacher)
    names = tmp_path / "names.txt"
    names.write_text("person\nbrush\n")
    text = r"--labels, \['person', 'brush'\]. Received: .* its own: \['cup'\]; leave"
    with pytest.raises(ValueError, match=text.replace("its own", "of its own")):
        opened(content, pool, tmp_path, labels=str(names))
    by_name = results(category_id=lambda k: {90: "brush", 1: "person"}[BOXES[k][1]])
    assert_right(opened(by_name, pool, tmp_path))
    text = r"class ids among \{1: 'person', 90: 'brush'\}. Received: 2; name the"
    with pytest.raises(ValueError, match=text):
        opened(results(category_id=lambda k: 2), pool, tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"images": []}, "Expected a list of COCO results. Received: .*results.json"),
        ([3], "bbox of four numbers and score. Received: result 0 in .*json: 3"),
        (results(bbox=lambda k: [1, 2]), r"bbox=\[1, 2\] \(6 of 6\)"),
        (results(bbox=lambda k: [1, 2, 3, 1e400]), r"result 0 in .*inf\] \(6 of 6\)"),
        (results(image_id=lambda k: None), "number or text. .*image_id=None"),
        (results(iscrowd=lambda k: 1), "each of one object. .* iscrowd=1; leave out"),
        (
            [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            "Expected a score in every result. Received: none in result 0 in .*; anno",
        ),
    ],
)
def test_invalid_results(pool, tmp_path, content, text):
    with pytest.raises(ValueError, match=text):
        opened(content, pool, tmp_path)


def test_a_pool_with_text_as_ids(tmp_path):
    """They are numbered, and matched as they are written."""
    entries = []
    for key, (number, (height, width)) in zip("pqr", SIZES.items()):
        Image.new("RGB", (width, height)).save(tmp_path / f"image{number}.png")
        entries.append({"id": key, "file_name": f"image{number}.png"})
    images = tmp_path / "pool.json"
    images.write_text(json.dumps({"images": entries, "categories": CATEGORIES}))
    content = results(image_id=lambda k: "pqr"[k // 2])
    assert_right(opened(content, images, tmp_path))
    assert [int(e["id"]) for e in pools.open_pool(str(images)).dataset] == [1, 2, 3]
    with pytest.raises(ValueError, match="Expected results of the images to label"):
        opened(results(), images, tmp_path)


def test_the_source_is_not_opened_again(pool, tmp_path, monkeypatch):
    source = sources.coco(str(pool), str(pool.parent))
    monkeypatch.setattr(pools, "open_pool", None)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    settings = opening.TeacherSettings(str(path))
    assert_right(opening.open_teacher(settings, str(pool), source))
    assert results_files.SCORE_SCALES == (1, 100)
    assert answers.RESULTS.order == "xywh"


# Nothing is lost


def test_what_is_left_out_is_counted(pool, tmp_path):
    """A result twice, and two of an image that isn't to be labeled."""
    others = [{**r, "image_id": 9} for r in results()[:2]]
    teacher = opened([*results(), results()[3], *others], pool, tmp_path)
    assert teacher.left_out == {"repeated": 1, "unlisted": 2}
    assert_right(teacher)
    source = pools.open_pool(str(pool))
    manifest = label_store.write(teacher, source, str(tmp_path / "labels"))
    assert manifest["ledger"]["boxes"] == {
        "held": 9,
        "taught": 6,
        "left out": {"repeated": 1, "of images that aren't listed": 2},
    }


@pytest.mark.parametrize("is_whole", [False, True])
def test_damaged_results(pool, tmp_path, is_whole):
    """A whole COCO file names its images and classes."""
    path, content = tmp_path / "results.json", results()
    if is_whole:
        content = {**json.loads(pool.read_text()), "annotations": content}
    source = pools.open_pool(str(pool))

    def read():
        settings = opening.TeacherSettings(str(path))
        teacher = opening.open_teacher(settings, str(pool), source)
        damaged = json.loads(path.read_text())
        held = damaged["annotations"] if is_whole else damaged
        book = ledger.Ledger(len(SIZES), len(held))
        book.labels.went.update(teacher.left_out)
        counts = [[len(image["boxes"])] * 2 for image in labels(teacher)]
        return book.close("the results", counts)

    files = {path: json.dumps(content)}
    rng = random.Random(int(is_whole))
    assert read_damaged(read, files, rng, MUTATIONS) > MUTATIONS // 20

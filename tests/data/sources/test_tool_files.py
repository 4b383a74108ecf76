"""Files of annotation tools: the same images and boxes in every format."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from tool_formats import (
    HEIGHT,
    OBJECTS,
    WIDTH,
    WRITERS,
    write_coco,
    write_images,
    write_voc,
    write_yolo,
)

from official_selftrain.data.sources import coco_files, tool_files
from official_selftrain.onboarding import own_data


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def objects(content):
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = {image["file_name"]: [] for image in content["images"]}
    owners = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, w, h = np.round(annotation["bbox"], 4).tolist()
        box = names[annotation["category_id"]], (x, y, x + w, y + h)
        found[owners[annotation["image_id"]]].append(box)
    return found


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_boxes(write, folder, tmp_path):
    path = str(write(tmp_path))
    content, findings = tool_files.read(path, str(folder))
    assert objects(content) == OBJECTS
    sizes = {(image["height"], image["width"]) for image in content["images"]}
    assert sizes == {(HEIGHT, WIDTH)}
    assert not any(lines for kind, lines in findings.items() if kind != "moved")
    cleaned, _ = own_data.read(path, str(folder))
    assert objects(cleaned) == OBJECTS


def test_several_files_at_once(folder, tmp_path):
    """Ids and names collide; folders and formats differ."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    two = tmp_path / "two" / "images"
    two.mkdir()
    for path in folder.iterdir():
        (two / path.name).write_bytes(path.read_bytes()[::1])
    places = [str(write_coco(tmp_path / "one")), str(write_voc(tmp_path / "two"))]
    folders = (str(folder), str(two))
    content, findings = tool_files.read(places, folders)
    assert coco_files.root(folders) == str(tmp_path)
    expected = {f"images/{name}": boxes for name, boxes in OBJECTS.items()}
    expected |= {f"two/images/{name}": boxes for name, boxes in OBJECTS.items()}
    assert objects(content) == expected
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4]
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    # The same images twice: what is in both files counts once.
    content, findings = tool_files.read(places, str(folder))
    assert objects(content) == OBJECTS
    assert findings["shared"] == ["a.png", "b.jpg"]
    assert len(findings["repeated"]) == 3
    with pytest.raises(ValueError, match="Received: 3 folders, 2 files"):
        tool_files.read(places, (*folders, str(two)))
    for read in (tool_files.read, coco_files.coco):
        with pytest.raises(ValueError, match="Received: 2 folders, 1 files"):
            read(places[0], folders)


def test_coco_of_several_files(folder, tmp_path):
    (tmp_path / "two").mkdir()
    paths = [str(write_coco(tmp_path)), str(write_coco(tmp_path / "two"))]
    source = coco_files.coco(paths, str(folder))
    assert source.num_images == 2
    counts = [len(e["boxes"]) for e in source.dataset.as_numpy_iterator()]
    assert counts == [2, 1]
    assert source.notes == (
        "images in several annotation files, their boxes joined: 2 (first: a.png)",
        "duplicate boxes, left out: 3 (first: a.png: [10.0, 5.0, 20.0, 20.0])",
    )


def test_files_that_contradict_each_other_about_a_size(folder, tmp_path):
    """Scaled to the other file's shape, boxes would be wrong without a word."""
    (tmp_path / "two").mkdir()
    paths = [write_coco(tmp_path), write_coco(tmp_path / "two")]
    content = json.loads(paths[1].read_text())
    content["images"][0].update(height=WIDTH, width=HEIGHT)
    paths[1].write_text(json.dumps(content))
    with pytest.raises(
        ValueError,
        match=rf"one shape .*a.png .*\({WIDTH}, {HEIGHT}\) and \({HEIGHT}, {WIDTH}\)",
    ):
        coco_files.coco([str(path) for path in paths], str(folder))


def read_objects(path, folder):
    content, _ = tool_files.read(str(path), str(folder))
    return [(a["bbox"], a.get("iscrowd", 0)) for a in content["annotations"]]


RECTANGLE = {"x": 10, "y": 20, "width": 50, "height": 30}
REGION = {"type": "rectanglelabels", "value": {**RECTANGLE, "rectanglelabels": ["a"]}}
CHOICE = {"type": "choices", "id": "r", "value": {"choices": ["a"]}}
IMAGE = {"image": "a.png"}


@pytest.mark.parametrize(
    "annotations",
    [
        [{"result": [REGION]}],  # without the size of the image
        [{"result": [{"type": "rectangle", "id": "r", "value": RECTANGLE}, CHOICE]}],
        [
            {
                "result": [{"type": "rectangle", "id": "r", "value": RECTANGLE}]
                + [{**REGION, "id": "r"}, {"type": "relation"}]
            }
        ],
        [{"result": []}, {"result": [REGION], "ground_truth": True}],
    ],
)
def test_regions_of_label_studio(folder, tmp_path, annotations):
    path = tmp_path / "export.json"
    path.write_text(json.dumps([{"data": IMAGE, "annotations": annotations}]))
    content, _ = tool_files.read(str(path), str(folder))
    assert objects(content) == {"a.png": [("a", (6, 8, 36, 20))]}


@pytest.mark.parametrize(
    ("data", "region", "text"),
    [
        ({**IMAGE, "thumb": "b.jpg"}, REGION, r"one image of a task. .*a.png', 'b.jpg"),
        (IMAGE, {**REGION, "image_rotation": 90}, "isn't turned. .*image_rotation=90"),
        (IMAGE, {**REGION, "type": "rectangle"}, r"one label of a region. .*: \[\]"),
        (IMAGE, {"type": "choices"}, "entry 0 of .*'value'"),
        (IMAGE, {"type": "choices", "value": 3}, "a result without value"),
    ],
)
def test_tasks_of_label_studio_that_are_refused(folder, tmp_path, data, region, text):
    path = tmp_path / "export.json"
    task = {"data": data, "annotations": [{"result": [region]}]}
    path.write_text(json.dumps([task]))
    with pytest.raises(ValueError, match=text):
        tool_files.read(str(path), str(folder))


def test_shapes_of_label_studio(folder, tmp_path):
    def result(kind, **value):
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        return {"type": kind, **size, "value": {**value, kind: ["cat"]}}

    results = [
        result("polygonlabels", points=[[10, 10], [50, 10], [30, 60]]),
        result("ellipselabels", x=50, y=50, radiusX=10, radiusY=20),
        # A quarter turn clockwise around the upper left corner.
        result("rectanglelabels", x=50, y=25, width=20, height=10, rotation=90),
        result("brushlabels", rle=[1, 2]),
    ]
    task = {"data": {"image": "a.png"}, "annotations": [{"result": results}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    found = read_objects(path, folder)
    boxes = [np.round(box, 6).tolist() for box, _ in found]
    assert boxes == [
        [6.0, 4.0, 24.0, 20.0],
        [24.0, 12.0, 12.0, 16.0],
        [26.0, 10.0, 4.0, 12.0],
        [0.0, 0.0, 60.0, 40.0],  # no place: the rest of the image is unknown
    ]
    assert [crowd for _, crowd in found] == [0, 0, 0, 1]


def test_shapes_of_label_me(folder, tmp_path):
    shapes = [
        {"label": "cat", "points": [[1, 2], [9, 2], [5, 8]], "shape_type": "polygon"},
        {"label": "cat", "points": [[20, 20], [23, 24]], "shape_type": "circle"},
        {"label": "cat", "points": [[20, 20]], "shape_type": "point"},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    assert read_objects(path, folder) == [
        ([1.0, 2.0, 8.0, 6.0], 0),
        ([15.0, 15.0, 10.0, 10.0], 0),
        ([0, 0, 60, 40], 1),
    ]


def test_shapes_of_cvat(folder, tmp_path):
    shapes = (
        '<polygon label="cat" points="1.0,2.0;9.0,2.0;5.0,8.0"/>'
        '<ellipse label="cat" cx="20" cy="20" rx="5" ry="3"/>'
        '<mask label="cat" left="3" top="4" width="5" height="6" rle="1, 2"/>'
        # A quarter turn around its center, 20, 15.
        '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<polyline label="cat" points="1.0,2.0;9.0,2.0"/>'
    )
    image = f'<image name="a.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    path = tmp_path / "annotations.xml"
    path.write_text(f"<annotations>{image}</annotations>")
    found = read_objects(path, folder)
    assert [np.round(box, 6).tolist() for box, _ in found] == [
        [1.0, 2.0, 8.0, 6.0],
        [15.0, 17.0, 10.0, 6.0],
        [3.0, 4.0, 5.0, 6.0],
        [15.0, 5.0, 10.0, 20.0],
        [0.0, 0.0, 60.0, 40.0],
    ]
    assert [crowd for _, crowd in found] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("rotation", [0, 90])
def test_turned_ellipses(folder, tmp_path, rotation):
    expected = {0: [20.0, 17.0, 20.0, 6.0], 90: [27.0, 10.0, 6.0, 20.0]}[rotation]
    shape = (
        f'<ellipse label="cat" cx="30" cy="20" rx="10" ry="3" rotation="{rotation}"/>'
    )
    image = f'<image name="a.png" width="{WIDTH}" height="{HEIGHT}">{shape}</image>'
    path = tmp_path / "annotations.xml"
    path.write_text(f"<annotations>{image}</annotations>")
    ((box, _),) = read_objects(path, folder)
    assert np.round(box, 6).tolist() == expected
    value = {"x": 50, "y": 50, "radiusX": 100 / 6, "radiusY": 7.5}
    value |= {"rotation": rotation, "ellipselabels": ["cat"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    result = {"type": "ellipselabels", **size, "value": value}
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    ((box, _),) = read_objects(path, folder)
    assert np.round(box, 6).tolist() == expected


def test_names_of_label_studio(folder, tmp_path):
    """A date isn't what Label Studio puts before a name; paths are escaped."""
    image = Image.open(folder / "a.png")
    image.save(folder / "20240131-a.png")
    image.save(folder / "my photo.png")
    names = ["20240131-a.png", "/data/local-files/?d=x/my%20photo.png"]
    tasks = [{"data": {"image": n}, "annotations": [{"result": []}]} for n in names]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    content, _ = tool_files.read(str(path), str(folder))
    found = [image["file_name"] for image in content["images"]]
    assert found == ["20240131-a.png", "my photo.png"]


def test_names_and_points_of_yolo(folder, tmp_path):
    """The names of data.yaml, as they stand there; key points after the box."""
    path = write_yolo(tmp_path)
    (tmp_path / "a_model.yaml").write_text("names: [one, two]\n")
    (tmp_path / "broken.yaml").write_text("names: [one, *x\n")
    (tmp_path / "data.yaml").write_text("names: [no, yes]\nkpt_shape: [1, 3]\n")
    (path / "a.txt").write_text("1 0.5 0.5 0.2 0.4 0.45 0.45 2\n")
    content, _ = tool_files.read(str(path), str(folder))
    assert objects(content)["a.png"] == [("yes", (24, 12, 36, 28))]
    (path / "gone.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    _, findings = own_data.read(str(path), str(folder))
    assert findings["missing"] == [f"{folder}/gone"]
    (tmp_path / "data.yaml").write_text("names: [no, yes]\n")
    with pytest.raises(ValueError, match="without other numbers. .* line 1 of .*a.txt"):
        (path / "a.txt").write_text("1 0.5 0.5 0.2 0.4 0.9 17\n")
        tool_files.read(str(path), str(folder))


def test_names_beside_the_labels_of_yolo_with_points(folder, tmp_path):
    path = write_yolo(tmp_path)
    (path / "classes.txt").write_text("bird\nfish\n", encoding="utf-16")
    (tmp_path / "data.yaml").write_text("names: [no, yes]\nkpt_shape: [2, 3]\n")
    line = "1 0.5 0.5 0.2 0.4 0.45 0.45 2 0.55 0.55 2\n"
    (path / "a.txt").unlink()
    (path / "A.TXT").write_text(line)  # an ending and a name in another case
    content, _ = tool_files.read(str(path), str(folder))
    assert objects(content)["a.png"] == [("fish", (24, 12, 36, 28))]
    (folder / "a.gif").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(ValueError, match=r"one image of .*A.TXT. .*: a.gif and a.png"):
        tool_files.read(str(path), str(folder))
    (path / "a.txt").write_text(line)
    with pytest.raises(ValueError, match=r"more than case. .*A.TXT and .*a.txt"):
        tool_files.read(str(path), str(folder))


@pytest.mark.parametrize("names", ["{0: cat, 2: dog}", "cat, dog", "[cat, *x"])
def test_names_of_yolo_that_are_no_list(folder, tmp_path, names):
    path = write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    with pytest.raises(ValueError, match=r", no list in names of .*data.yaml"):
        tool_files.read(str(path), str(folder))


def test_a_folder_of_two_kinds_is_refused(folder, tmp_path):
    path = write_yolo(tmp_path)
    (path / "c.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match="of one kind in .* with c.xml and b.txt"):
        tool_files.read(str(path), str(folder))


def test_files_in_deeper_folders_are_refused(folder, tmp_path):
    path = write_voc(tmp_path)
    (path / "sub").mkdir()
    (path / "b.xml").rename(path / "sub" / "b.xml")
    with pytest.raises(ValueError, match=r".xml files in one folder. .* sub.b.xml; se"):
        tool_files.read(str(path), str(folder))


def test_lines_of_yolo(folder, tmp_path):
    path = write_yolo(tmp_path)
    (path / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.6\n\n1 0.5 0.5 0.2 0.4 0.87\n")
    (path / "b.txt").unlink()  # an image without objects
    content, _ = tool_files.read(str(path), str(folder))
    assert objects(content) == {
        "a.png": [("cat", (6, 4, 30, 24)), ("dog", (24, 12, 36, 28))],
        "b.jpg": [],
    }
    (path / "classes.txt").write_text("bird\ncat\n")
    content, _ = tool_files.read(str(path), str(folder))
    assert [label for label, _ in objects(content)["a.png"]] == ["bird", "cat"]


def test_folders_of_yolo(folder, tmp_path):
    """Labels in folders like the images', beside a file of another kind."""
    path = write_yolo(tmp_path)
    for place, ending in ((folder, ".png"), (path, ".txt")):
        (place / "train").mkdir()
        (place / f"a{ending}").rename(place / "train" / f"a{ending}")
    (path / "notes.json").write_text("{}")
    (path / "train" / "gone.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    content, _ = tool_files.read(str(path), str(folder))
    found = {**OBJECTS, "train/a.png": OBJECTS["a.png"], "train/gone": []}
    del found["a.png"]
    assert objects(content) == found


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2 0.5 0.5 0.2 0.4", "class of 0 to 1 and a box .* line 2 of .*a.txt: '2 0.5"),
        ("0 0.5 0.5 0.2", "Received: line 2 of .*a.txt: '0 0.5 0.5 0.2'"),
        ("cat 0.5 0.5 0.2 0.4", "Received: line 2 of .*a.txt: 'cat 0.5"),
        ("0.5 0.5 0.5 0.2 0.4", "Received: line 2 of .*a.txt: '0.5 0.5"),
        ("0 .5 .5 .2 .2 .9 1", "or a polygon. .*line 2 of .*, 6 numbers .* .a track"),
        ("0 .5 .5 .2 .2 .9 .8 .7", "or a polygon. .*line 2 of .*, 7 numbers after"),
        ("0 30 20 12 16", "as fractions of the image, .* line 2 of .*a.txt: '0 30 20"),
    ],
)
def test_wrong_lines_of_yolo(folder, tmp_path, line, text):
    path = write_yolo(tmp_path)
    (path / "a.txt").write_text(f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(ValueError, match=text):
        tool_files.read(str(path), str(folder))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.json", "[3]", "Expected a COCO file with images"),
        (
            "a.json",
            '[{"data": 3}]',
            "of Label Studio, .* Received: entry 0 of .*a",
        ),
        (
            "a.json",
            '[{"data": {"text": "x"}}]',
            "of Label Studio, .* entry 0 of ",
        ),
        ("a.json", '{"shapes": [{}]}', "JSON file of LabelMe: .* Received: .*a.json"),
        (
            "a.xml",
            "<html></html>",
            "CVAT's XML .*a.xml: <html> instead of <ann",
        ),
        ("a.xml", "<annotations><image/></annotations>", "CVAT's XML .*a.xml: 'name'"),
        (
            "a.json",
            '[{"data": {"i": "a.png"}, "annotations": [{"result": [{"type": 3, '
            '"original_width": 3, "original_height": 3, "value": null}]}]}]',
            "entry 0 of",
        ),
        (
            "a.json",
            '{"imagePath": "a.png", "shapes": [{"label": null, "points": []}]}',
            "labels, text. Received: .*a.json with label=None",
        ),
        ("a.xml", "<annotations><track/></annotations>", 'the format "for video"'),
        (
            "a.json",
            '[{"image": "a.png", "annotator": 1, "label": []}]',
            "Label Studio's export JSON. Received: its JSON-MIN, .*a.json",
        ),
        ("a.xml", "<annotation/>", "PASCAL VOC; give the folder of such files"),
        ("labels/a.txt", "0 1 1 1 1", "names of YOLO's classes, in data.yaml above"),
        ("labels/a.md", "", "XML files of PASCAL VOC, text files of YOLO or JSON"),
    ],
)
def test_files_in_other_formats(folder, tmp_path, name, content, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    place = path if path.parent == tmp_path else path.parent
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        tool_files.read(str(place), str(folder))
    with pytest.raises(FileNotFoundError, match="a COCO file. Received: .*none.json"):
        tool_files.read(str(tmp_path / "none.json"), str(pathlib.Path(folder)))

"""Folders in the layout of PASCAL VOC."""

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import examples, images, masks, sources
from official_selftrain.data.sources import voc_files


def read(tiny_voc, split="train", **settings):
    return sources.voc(str(tiny_voc.root), split, tiny_voc.class_names, **settings)


def test_masks_are_class_ids(tiny_voc):
    source = read(tiny_voc)
    assert (source.num_images, source.has_labels, source.has_masks) == (3, True, True)
    assert source.class_names == ("background", "square", "bar", "post")
    for index, example in enumerate(source.dataset):
        name = f"2007_{index:06d}"
        assert example["id"] == index
        assert example["path"].numpy().decode().endswith(f"JPEGImages/{name}.jpg")
        np.testing.assert_array_equal(
            masks.decode(example["mask"]), tiny_voc.masks[name]
        )
        size = examples.read_image(example).shape[:2]
        assert size == tiny_voc.masks[name].shape


def test_a_list_without_masks_is_unlabeled(tiny_voc):
    source = read(tiny_voc, "aug", mask_folder=None)
    assert (source.num_images, source.has_labels, source.has_masks) == (2, False, False)


def test_another_folder_of_masks(tiny_voc):
    folder = tiny_voc.root / "SegmentationClassAug"
    (tiny_voc.root / "SegmentationClass").rename(folder)
    source = read(tiny_voc, mask_folder="SegmentationClassAug")
    assert source.num_images == 3
    with pytest.raises(FileNotFoundError, match="mask. Received: .*2007_000000.png"):
        read(tiny_voc)


def test_pascal_has_21_classes():
    assert len(voc_files.CLASS_NAMES) == 21
    assert [voc_files.CLASS_NAMES[i] for i in (0, 1, 15, 20)] == [
        *("background", "aeroplane", "person", "tvmonitor")
    ]


def test_invalid_folders_raise(tiny_voc, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="available lists: aug, train, val. Received: split='tain'",
    ):
        read(tiny_voc, "tain")
    with pytest.raises(
        FileNotFoundError, match="Expected a folder. Received: .*nowher"
    ):
        sources.voc(str(tmp_path / "nowhere"), "train")
    lists = tiny_voc.root / "ImageSets" / "Segmentation"
    (lists / "few.txt").write_text("2007_000001\nmissing\n")
    with pytest.raises(FileNotFoundError, match="1 of 2 missing, first 'missing'"):
        read(tiny_voc, "few")
    (lists / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="at least one name. Received: .*none.txt"):
        read(tiny_voc, "none")


def test_invalid_masks_are_named(tiny_voc):
    path = tiny_voc.root / "SegmentationClass" / "2007_000001.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    with pytest.raises(
        ValueError, match=r"size, \(65, 97\).*Received: .*2007_000001.png of \(9, 9\)"
    ):
        read(tiny_voc)
    (tiny_voc.root / "JPEGImages" / "2007_000002.jpg").write_bytes(b"no image")
    path.unlink()
    Image.fromarray(np.zeros((65, 97), np.uint8)).save(path)
    with pytest.raises(ValueError, match="Expected an image. Received: .*000002.jpg"):
        read(tiny_voc)


def replace_masks(tiny_voc, convert):
    for path in (tiny_voc.root / "SegmentationClass").iterdir():
        mask = tiny_voc.masks[path.stem]
        Image.fromarray(convert(mask).astype(np.uint8)).save(path)


def test_white_objects_are_not_unknown(tiny_voc):
    replace_masks(tiny_voc, lambda mask: 255 * (mask == 1))
    with pytest.raises(
        ValueError, match="pixels of square. .*Class, where .* 255.*mask_values={0: 0,"
    ):
        sources.voc(str(tiny_voc.root), "train", ("background", "square"))
    source = sources.voc(
        *(str(tiny_voc.root), "train", ("background", "square")),
        mask_values={0: 0, 255: 1},
    )
    for index, example in enumerate(source.dataset):
        expected = tiny_voc.masks[f"2007_{index:06d}"] == 1
        np.testing.assert_array_equal(masks.decode(example["mask"]), expected)
    assert source.notes == ()


def test_values_outside_the_classes_are_unknown(tiny_voc):
    """Of one mask, 9 pixels, of another 3: everywhere else nothing but classes."""

    def with_others(mask):
        changed = mask.copy()
        if len(mask) == 65:
            changed[0, :9] = 7
        elif len(mask) == 66:
            changed[0, :3] = 9
        return changed

    replace_masks(tiny_voc, with_others)
    source = read(tiny_voc)
    folder = tiny_voc.root / "SegmentationClass"
    assert source.notes == (
        "pixels of unknown class: 12 in 2 masks (values 7, 9; first: "
        f"{folder}/2007_000001.png)",
    )
    for index, example in enumerate(source.dataset):
        expected = tiny_voc.masks[f"2007_{index:06d}"].copy()
        expected[0, : (0, 9, 3)[index]] = 255
        np.testing.assert_array_equal(masks.decode(example["mask"]), expected)


def test_masks_without_a_usable_pixel_are_refused(tiny_voc):
    names = ("background", "square")
    replace_masks(tiny_voc, lambda mask: np.where(mask == 0, 0, 7))
    text = r"of square. .*Class, where all others are 7, .*mask_values={0: 0, 7: 1}"
    with pytest.raises(ValueError, match=text):
        sources.voc(str(tiny_voc.root), "train", names)


def test_ids_that_count_from_one_are_refused(tiny_voc):
    replace_masks(tiny_voc, lambda mask: np.where(mask == 255, 255, mask + 1))
    text = "ids of 0 to 3. .*values of 1 to 4; mask_values={1: 0, 2: 1, 3: 2, 4: 3} if"
    with pytest.raises(ValueError, match=text):
        read(tiny_voc)
    values = {1: 0, 2: 1, 3: 2, 4: 3, 255: 255}
    assert read(tiny_voc, mask_values=values).notes == ()


def test_classes_without_a_pixel_are_named(tiny_voc):
    replace_masks(tiny_voc, lambda mask: np.where(mask == 2, 0, mask))
    assert read(tiny_voc).notes == ("classes without a pixel: 1 (bar)",)


def test_a_png_is_preferred_to_a_tiff(tiny_voc):
    folder = tiny_voc.root / "JPEGImages"
    with Image.open(folder / "2007_000000.jpg") as image:
        image.save(folder / "2007_000000.tif")
    example = next(read(tiny_voc).dataset.as_numpy_iterator())
    assert example["path"].decode() == str(folder / "2007_000000.jpg")
    lists = tiny_voc.root / "ImageSets" / "Segmentation"
    (lists / "own.txt").write_text("2007_000000.tif")
    example = next(read(tiny_voc, "own").dataset.as_numpy_iterator())
    assert example["path"].decode() == str(folder / "2007_000000.tif")


def test_lists_of_file_names(tiny_voc):
    """With endings, folders, quotes and spaces, or the flags of a class."""
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        path = tiny_voc.root / folder / f"2007_000001.{ending}"
        path.rename(path.with_stem("my photo"))
    lists = tiny_voc.root / "ImageSets" / "Segmentation"
    lines = ["JPEGImages/2007_000000.jpg", '"my photo"', "2007_000002 -1"]
    (lists / "own.txt").write_text("\n".join(lines))
    examples_of_list = read(tiny_voc, "own").dataset.as_numpy_iterator()
    found = [example["path"].decode() for example in examples_of_list]
    names = ["2007_000000.jpg", "my photo.jpg", "2007_000002.jpg"]
    assert [path.rpartition("/")[2] for path in found] == names


def test_masks_belong_to_upright_images(tiny_voc):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    mask = tiny_voc.masks["2007_000001"]
    pixels = np.zeros((*mask.shape[::-1], 3), np.uint8)
    path = tiny_voc.root / "JPEGImages" / "2007_000001.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    source = read(tiny_voc)
    _, example, _ = source.dataset
    assert examples.read_image(example).shape[:2] == mask.shape
    assert source.notes == ()
    # Drawn on the stored pixels, a quarter turn counterclockwise.
    path = tiny_voc.root / "SegmentationClass" / "2007_000001.png"
    Image.fromarray(np.rot90(mask)).save(path)
    source = read(tiny_voc)
    _, example, _ = source.dataset
    np.testing.assert_array_equal(masks.decode(example["mask"]), mask)
    assert source.notes == (
        "masks drawn on the stored pixels of photographs that EXIF data rotate, "
        f"rotated with them: 1 (first: {path})",
    )


LABEL_MAP = """# label:color_rgb:parts:actions
background:0,0,0::
square:250,50,5::
bar:1,2,3::
post:3,2,1::
void:255,255,255::
"""


def test_colors_of_a_label_map(tiny_voc, tmp_path):
    colors = np.array([[0, 0, 0], [250, 50, 5], [1, 2, 3], [3, 2, 1]])
    replace_masks(
        tiny_voc,
        lambda mask: np.where(mask[..., None] == 255, 255, colors[mask % 255]),
    )
    path = tmp_path / "labelmap.txt"
    path.write_text(LABEL_MAP)
    source = read(tiny_voc, mask_values=str(path))
    for index, example in enumerate(source.dataset):
        expected = tiny_voc.masks[f"2007_{index:06d}"]
        np.testing.assert_array_equal(masks.decode(example["mask"]), expected)
    for line, text in (
        ("bar:1,2,3\npost:1,2,3", "one class per color. Received: line 2 of .*'post"),
        ("bar:1,2", "name:red,green,blue. Received: line 1 of .*map.txt: 'bar:1,2'"),
        ("bar:1,2,300", "name:red,green,blue. Received: line 1"),
        ("baar:1,2,3", "background, square, bar, post. Received: line 1 of .*: 'baar'"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=text):
            read(tiny_voc, mask_values=str(path))
    with pytest.raises(FileNotFoundError, match="color per class. .*='/none"):
        read(tiny_voc, mask_values="/none")


def draw(path, mask, colors):
    """Save a mask whose palette has the given colors of indices."""
    file = Image.fromarray(mask.astype(np.uint8)).convert("P")
    file.putdata(mask.ravel().tolist())
    palette = np.zeros((256, 3), np.uint8)
    for index, color in colors.items():
        palette[index] = color
    file.putpalette(palette.ravel().tolist())
    file.save(path)


RED, BLUE = (200, 0, 0), (0, 0, 200)


def test_palettes_that_contradict_each_other_are_refused(tiny_voc):
    """Index 1 is red here and blue there; the colors are the same classes."""
    folder = tiny_voc.root / "SegmentationClass"
    colors = np.array([(0, 0, 0), RED, BLUE])
    expected = {}
    for k in range(3):
        name = f"2007_{k:06d}"
        mask = np.where(tiny_voc.masks[name] < 3, tiny_voc.masks[name], 0)
        expected[k] = mask
        order = [0, 2, 1] if k == 2 else [0, 1, 2]
        index = np.array(order)[mask]
        draw(folder / f"{name}.png", index, dict(enumerate(colors[order].tolist())))
    text = (
        r"index 1, which is \(200, 0, 0\) in .*2007_000000.png, \(0, 0, 200\) in "
        r".*2007_000002.png; mask_values decides: a dict of colors to class ids, or a "
        r"file .* or {0: 0, 1: 1, 2: 2, 3: 3} if the indices are right"
    )
    with pytest.raises(ValueError, match=text) as error:
        read(tiny_voc)
    assert "\n" not in str(error.value)
    source = read(tiny_voc, mask_values={(0, 0, 0): 0, RED: 1, BLUE: 2})
    for k, example in enumerate(source.dataset):
        np.testing.assert_array_equal(masks.decode(example["mask"]), expected[k])
    # Whoever says that indices are classes gets them.
    *_, example = read(tiny_voc, mask_values={0: 0, 1: 1, 2: 2}).dataset
    swapped = np.array([0, 2, 1])[expected[2]]
    np.testing.assert_array_equal(masks.decode(example["mask"]), swapped)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({0: (0, 0, 0), 1: RED}, {1: RED, 2: BLUE}, None),
        ({0: (0, 0, 0), 1: RED}, {0: (9, 9, 9)}, (0, "a", (0, 0, 0), "b", (9, 9, 9))),
        ({1: RED}, {1: (1, 1, 1), 255: (255, 255, 255)}, None),  # gray made a palette
        ({1: RED}, {}, None),
    ],
)
def test_contradictions_by_hand(one, other, expected):
    assert masks.contradiction([("a", one), ("b", other)]) == expected


def test_unused_colors_of_palettes_may_differ(tiny_voc):
    folder = tiny_voc.root / "SegmentationClass"
    for k in range(3):
        name = f"2007_{k:06d}"
        mask = np.minimum(tiny_voc.masks[name], 3)
        colors = {0: (0, 0, 0), 1: RED, 2: BLUE, 3: (5, 6, 7), 4: (k, k, 0)}
        draw(folder / f"{name}.png", mask, colors)
    assert read(tiny_voc).notes == ()


def write_list(tiny_voc, *lines):
    path = tiny_voc.root / "ImageSets" / "Segmentation" / "own.txt"
    path.write_text("\n".join(lines))


def pairs(tiny_voc, **settings):
    """Return the names of images, and which masks they have."""
    every = [example for example in read(tiny_voc, "own", **settings).dataset]
    names = [e["path"].numpy().decode().rpartition("JPEGImages/")[2] for e in every]
    found = [masks.decode(example["mask"]).numpy() for example in every]
    owners = [
        [n for n, mask in tiny_voc.masks.items() if np.array_equal(mask, m)]
        for m in found
    ]
    return list(zip(names, [owner for (owner,) in owners]))


def renamed(tiny_voc, new, number=1):
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        path = tiny_voc.root / folder / f"2007_{number:06d}.{ending}"
        path.rename(path.with_stem(new))


@pytest.mark.parametrize(
    "line",
    [
        *("a b", "a b.jpg", '"a b"', "'a b.jpg'", "a b 1", "a b -1", "a b.jpg 1"),
        "JPEGImages/a b.jpg SegmentationClass/a b.png",
        '"JPEGImages/a b.jpg" "SegmentationClass/a b.png"',
        "a b.jpg\ta b.png",
        "a b.jpg, a b.png",
        r"C:\data\JPEGImages\a b.jpg",
        "a b\t1",
    ],
)
def test_names_with_spaces(tiny_voc, line):
    """Never cut: `a` and `b` are other images."""
    for number, name in ((0, "a"), (1, "a b"), (2, "b")):
        renamed(tiny_voc, name, number)
    write_list(tiny_voc, line)
    assert pairs(tiny_voc) == [("a b.jpg", "2007_000001")]


def test_names_with_endings_inside(tiny_voc):
    renamed(tiny_voc, "a", 0)
    renamed(tiny_voc, "a.jpg b", 1)
    write_list(tiny_voc, "a.jpg b.jpg\ta.jpg b.png", "a.jpg")
    expected = [("a.jpg b.jpg", "2007_000001"), ("a.jpg", "2007_000000")]
    assert pairs(tiny_voc) == expected
    write_list(tiny_voc, "a.jpg b.jpg", "a.jpg")
    assert pairs(tiny_voc) == expected


def test_columns_name_other_masks(tiny_voc):
    for place, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        for number in range(3):
            path = tiny_voc.root / place / f"2007_{number:06d}.{ending}"
            path.rename(path.with_stem(path.stem + "_mask" * (ending == "png")))
    write_list(
        tiny_voc,
        "JPEGImages/2007_000000.jpg SegmentationClass/2007_000000_mask.png",
        "2007_000002.jpg 2007_000002_mask.png",
    )
    assert pairs(tiny_voc) == [
        ("2007_000000.jpg", "2007_000000"),
        ("2007_000002.jpg", "2007_000002"),
    ]
    write_list(tiny_voc, "2007_000000.jpg missing.png")
    with pytest.raises(FileNotFoundError, match="a mask. Received: '.*/missing.png'"):
        read(tiny_voc, "own")
    write_list(tiny_voc, "2007_000000 2007_000001")
    text = "1 of 1 missing, first '2007_000000 2007_000001'"
    with pytest.raises(FileNotFoundError, match=text):
        read(tiny_voc, "own")


def test_images_listed_twice_are_one(tiny_voc):
    write_list(tiny_voc, "2007_000001", "2007_000001.jpg", "2007_000000")
    source = read(tiny_voc, "own")
    assert [int(e["id"]) for e in source.dataset] == [0, 2]
    assert "images that are listed twice, read once: 1 (first: 2007_000001.jpg)" in (
        source.notes
    )
    assert source.ledger.content()["images"] == {
        "held": 3,
        "taught": 2,
        "left out": {"listed twice": 1},
    }
    write_list(tiny_voc, "2007_000001", "2007_000001.jpg 2007_000000.png")
    text = "one mask for 2007_000001.jpg. .* 2007_000001.png and 2007_000000.png"
    with pytest.raises(ValueError, match=text):
        read(tiny_voc, "own")


def test_masks_that_no_list_names_are_counted(tiny_voc):
    folder = tiny_voc.root / "SegmentationClass"
    Image.fromarray(np.zeros((64, 97), np.uint8)).save(folder / "2007_000009.png")
    source = read(tiny_voc)
    path = folder / "2007_000009.png"
    assert source.notes == (f"masks that no list names: 1 (first: {path})",)
    assert source.ledger.content()["masks"] == {
        "held": 4,
        "taught": 3,
        "left out": {"of images that aren't listed": 1},
    }


def test_previews_are_not_photographs(tiny_voc):
    """The JPEG of the mask's size, whatever lies beside it."""
    folder = tiny_voc.root / "JPEGImages"
    mask = tiny_voc.root / "SegmentationClass" / "2007_000001.png"
    (folder / "2007_000001.png").write_bytes(mask.read_bytes())
    with Image.open(folder / "2007_000000.jpg") as image:
        image.resize((20, 15)).save(folder / "2007_000000.jpg")
        image.save(folder / "2007_000000.tif")
    with Image.open(folder / "2007_000002.jpg") as image:
        image.save(folder / "2007_000002.tif")
    (folder / "2007_000002.jpg").unlink()
    mask = tiny_voc.root / "SegmentationClass" / "2007_000002.png"
    (folder / "2007_000002.png").write_bytes(mask.read_bytes())
    source = read(tiny_voc)
    names = [e["path"].numpy().decode().rpartition("/")[2] for e in source.dataset]
    assert names == ["2007_000000.tif", "2007_000001.jpg", "2007_000002.tif"]
    assert source.notes == (
        "several image files of one name: 3, the first of "
        f"{', '.join(images.ENDINGS)} of its mask's size is read (first: "
        "2007_000000.tif, not 2007_000000.jpg)",
    )


def test_other_folders_and_the_path_of_a_list(tiny_voc, tmp_path, monkeypatch):
    expected = [masks.decode(e["mask"]).numpy() for e in read(tiny_voc).dataset]
    (tiny_voc.root / "JPEGImages").rename(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    (tiny_voc.root / "SegmentationClass").rename(tmp_path / "masks" / "x")
    (tmp_path / "own.txt").write_text(
        "".join(f"2007_{k:06d}.jpg\tx/2007_{k:06d}.png\n" for k in range(3))
    )
    monkeypatch.chdir(tmp_path)
    source = sources.voc(
        *(".", "own.txt", tiny_voc.class_names),
        image_folder="photos",
        mask_folder="masks",
    )
    for mask, example in zip(expected, source.dataset, strict=True):
        np.testing.assert_array_equal(masks.decode(example["mask"]), mask)
    with pytest.raises(FileNotFoundError, match="list other.txt; .* own. Received"):
        sources.voc(".", "other.txt", image_folder="photos")

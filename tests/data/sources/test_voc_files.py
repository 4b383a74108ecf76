"""Folders in the layout of PASCAL VOC."""

import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import examples, masks, sources
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

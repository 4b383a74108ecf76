"""Images that are the same, and those that only look like it."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from official_selftrain.data import copies, sources
from official_selftrain.onboarding import own_data


@pytest.fixture(scope="module")
def photographs():
    """Eight different parts of two photographs, 160 x 200 pixels."""
    whole = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return [
        photograph[top : top + 160, left : left + 200]
        for photograph in whole
        for top, left in ((0, 0), (0, 320), (200, 100), (240, 400))
    ]


def saved(pixels, kind, size=None, **options):
    file, image = io.BytesIO(), Image.fromarray(pixels)
    (image.resize(size) if size else image).save(file, kind, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def looks_of(pictures):
    pictures = list(pictures)
    names = [str(k) for k in range(len(pictures))]
    thumbnails = np.stack([copies.thumbnail(picture) for picture in pictures])
    return copies.Looks(names, thumbnails, names)


def test_a_thumbnail_holds_weighted_means():
    """Of 128 columns two make one; it also sees one on either side, half as much."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 4] = 240  # the first of the third pair
    row = copies.thumbnail(pixels)[0, :4, 0].astype(int)
    # Weights of the columns 3, 4, 5 and 6 from the middle of the pair: 1, 3, 3 and 1.
    np.testing.assert_allclose(row, [0, 240 / 8, 240 * 3 / 8, 0], atol=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: saved(pixels, "PNG"),
        lambda pixels: saved(pixels, "JPEG", quality=95),
        lambda pixels: saved(pixels, "JPEG", quality=40),
        lambda pixels: saved(pixels, "WEBP", quality=60),
        lambda pixels: saved(pixels, "JPEG", (100, 80), quality=75),
    ],
    ids=["png", "jpeg95", "jpeg40", "webp", "half"],
)
def test_copies_are_found_among_others(photographs, change):
    order = [3, 1, 7, 5, 0, 2, 4, 6]
    changed = looks_of([change(photographs[k]) for k in order])
    found = copies.matches(changed, looks_of(photographs))
    np.testing.assert_array_equal(found, order)


def test_other_images_are_no_copies(photographs):
    looks = looks_of(photographs)
    np.testing.assert_array_equal(copies.matches(looks, looks, before=True), [-1] * 8)
    shifted = looks_of([np.roll(p, 12, axis=1) for p in photographs])
    np.testing.assert_array_equal(copies.matches(shifted, looks), [-1] * 8)
    mirrored = looks_of([p[:, ::-1] for p in photographs])
    np.testing.assert_array_equal(copies.matches(mirrored, looks), [-1] * 8)


def test_an_object_that_moved_makes_another_frame(photographs):
    frames = [photographs[0].copy() for _ in range(2)]
    for frame, left in zip(frames, (40, 46)):
        frame[50:90, left : left + 40] = 255
    found = copies.matches(looks_of(frames[:1]), looks_of(frames[1:]))
    np.testing.assert_array_equal(found, [-1])


def test_forms_that_are_filled_in_differently_are_no_copies(photographs):
    """A word of 4 x 16 pixels on pages of 200 x 160."""
    pages = [np.full((200, 160, 3), 255, np.uint8) for _ in range(2)]
    for page, left in zip(pages, (40, 90)):
        page[:20] = (0, 0, 128)
        page[100:104, left : left + 16] = 0
    found = copies.matches(looks_of(pages), looks_of(pages), before=True)
    np.testing.assert_array_equal(found, [-1, -1])


@pytest.mark.parametrize("color", [(0, 0, 0), (20, 80, 200)])
def test_plain_images_are_no_copies(color):
    plain = looks_of([np.full((40, 40, 3), color, np.uint8)] * 2)
    np.testing.assert_array_equal(copies.matches(plain, plain, before=True), [-1, -1])
    assert copies.groups(["a_1.png", "a_2.png"], plain) == [0, 1]


def test_thresholds_are_mean_and_largest_difference():
    """By hand: 2 of 255 on average of 16 x 16 parts, and 16 in one of 64 x 64."""
    rng = np.random.default_rng(0)
    one = np.kron(rng.integers(60, 200, (16, 16, 3)), np.ones((4, 4, 1)))
    looks = copies.Looks(["a"], one[None].astype(np.uint8), ["a"])

    def is_same(change):
        other = copies.Looks(["b"], (one + change)[None].astype(np.uint8), ["b"])
        return copies.matches(looks, other)[0] == 0

    half, point = np.zeros((2, 64, 64, 3))
    half[:32] = 1
    point[5, 5] = 1
    assert is_same(2 * np.ones(one.shape)) and not is_same(2 + half)
    assert is_same(1 + 2 * half) and not is_same(1 + 3 * half)
    assert is_same(16 * point) and not is_same(17 * point)


def test_many_images_are_compared_in_parts(photographs, monkeypatch):
    monkeypatch.setattr(copies, "_CHUNK", 3)
    looks = looks_of(photographs)
    np.testing.assert_array_equal(copies.matches(looks, looks), range(8))
    twice = looks + looks.part([0, 1])
    expected = [-1] * 8 + [0, 1]
    np.testing.assert_array_equal(copies.matches(twice, twice, before=True), expected)


# Groups


def clip(photograph, count):
    frames = [photograph.copy() for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[50:90, 40 + 8 * number : 60 + 8 * number] = 255
    return frames


def test_frames_of_a_clip_and_copies_are_groups(photographs):
    named = {
        "a/clip_9.png": clip(photographs[0], 3)[1],  # between 8 and 10
        "a/clip_8.png": clip(photographs[0], 3)[0],
        "a/clip_10.png": clip(photographs[0], 3)[2],
        "c/clip_11.jpg": clip(photographs[0], 4)[3],  # of another kind
        "IMG_1.jpg": photographs[1],  # numbered, but other motifs
        "IMG_2.jpg": photographs[2],
        "renamed.webp": saved(photographs[2], "WEBP"),
    }
    looks = looks_of(named.values())
    assert copies.groups(list(named), looks) == [0, 0, 0, 3, 4, 5, 5]


def content_of(names):
    images = [
        {"id": 10 + k, "file_name": name, "height": 9, "width": 9}
        for k, name in enumerate(names)
    ]
    annotations = [{"image_id": i["id"], "category_id": 1, "bbox": []} for i in images]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def held_out(content, group_of):
    _, validation = own_data.hold_out(content, group_of=group_of)
    return [image["id"] for image in validation["images"]]


def test_groups_are_held_out_whole():
    content = content_of(f"{k}.png" for k in range(20))
    group_of = {10 + k: k // 4 for k in range(20)}
    found = held_out(content, group_of)
    assert len(found) == 4 and len({group_of[number] for number in found}) == 1
    # Groups larger than a fifth: the smallest one.
    group_of = {10 + k: (k >= 7) + (k >= 15) for k in range(20)}
    assert held_out(content, group_of) == [25, 26, 27, 28, 29]


def test_the_end_of_a_single_clip_is_held_out():
    names = [f"frame_{k:02d}.png" for k in (3, 1, 0, 2, 9, 8, 7, 6, 5, 4)]
    content = content_of(names)
    assert held_out(content, {10 + k: 0 for k in range(10)}) == [14, 15]  # 9 and 8


def test_images_without_groups_are_held_out_one_by_one():
    content = content_of(f"{k}.png" for k in range(20))
    alone = {number: number for number in range(10, 30)}
    assert held_out(content, alone) == held_out(content, None)


@pytest.mark.parametrize(
    "split_by, expected",
    [
        ("image", [10, 11, 12, 13]),
        ("folder", ["a", "a", "b", "b"]),
        (r"video(\d)", ["1", "2", "1", "1"]),
        (r"video\d", ["video1", "video2", "video1", "video1"]),
    ],
)
def test_a_split_may_be_stated(split_by, expected):
    names = ["a/video1_1.png", "a/video2_1.png", "b/video1_1.png", "b/video1_2.png"]
    found = own_data.groups(content_of(names), copies.NOTHING, split_by)
    assert list(found.values()) == expected


@pytest.mark.parametrize(
    "split_by, message",
    [
        ("folder", "Received: split_by='folder', with which all 2 are in one"),
        (r"(\d", r"a regular expression. Received: split_by='(\\d': missing )"),
        (r"no(\d)", r"Received: split_by='no(\\d)', 'a/video1_1.png'"),
    ],
)
def test_a_split_that_fits_nothing_is_refused(split_by, message):
    content = content_of(["a/video1_1.png", "a/video2_1.png"])
    with pytest.raises(ValueError, match=re.escape(message)):
        own_data.groups(content, copies.NOTHING, split_by)


# Sources


@pytest.fixture(scope="module")
def folders(photographs, tmp_path_factory):
    """Photographs 0 to 3 as PNG; 2 to 5 as JPEG, 3 also as the same file."""
    place = tmp_path_factory.mktemp("folders")
    for name in ("one", "other"):
        (place / name).mkdir()
    for k in range(4):
        Image.fromarray(photographs[k]).save(place / f"one/{k}.png")
    for k in range(2, 6):
        Image.fromarray(photographs[k]).save(place / f"other/{k}.jpg", quality=90)
    (place / "other/z.png").write_bytes((place / "one/3.png").read_bytes())
    (place / "other/broken.jpg").write_bytes(b"no image")
    return place


def test_images_of_two_sources_are_compared(folders):
    one, other = (sources.folder(str(folders / name)) for name in ("one", "other"))
    looks = [copies.of_source(source, 10) for source in (one, other)]
    assert [len(look.paths) for look in looks] == [4, 5]
    assert copies.shared(*looks) == [
        (str(folders / "one/2.png"), str(folders / "other/2.jpg")),
        (str(folders / "one/3.png"), str(folders / "other/z.png")),
    ]
    assert copies.same_files(one, other) == [
        (str(folders / "one/3.png"), str(folders / "other/z.png"))
    ]
    assert len(copies.of_source(one, 2).paths) == 2


def test_validation_images_in_another_format_are_left_out(folders):
    known = copies.of_source(sources.folder(str(folders / "one")), 10)
    content, findings = own_data.read_unlabeled(str(folders / "other"), known)
    assert [i["file_name"] for i in content["images"]] == ["4.jpg", "5.jpg"]
    assert findings["labeled"] == [
        f"{folders}/other/z.png is {folders}/one/3.png",
        f"{folders}/other/2.jpg looks like {folders}/one/2.png",
        f"{folders}/other/3.jpg looks like {folders}/one/3.png",
    ]
    assert findings.ledger.content()["images"] == {
        "held": 6,
        "without labels": 2,
        "left out": {"unreadable": 1, "among the labeled images": 3},
    }


def test_copies_in_other_formats_may_be_kept(folders):
    known = copies.of_source(sources.folder(str(folders / "one")), 10).without_looks()
    content, findings = own_data.read_unlabeled(str(folders / "other"), known)
    assert [i["file_name"] for i in content["images"]] == [
        f"{k}.jpg" for k in (2, 3, 4, 5)
    ]
    assert len(findings["labeled"]) == 1  # the same file


@pytest.mark.parametrize(
    "names",
    [
        ["cam1_00001_1080p.jpg", "cam1_00002_1080p.jpg"],
        ["0001-cam2.jpg", "0002-cam2.jpg"],
        [
            "f_0001_jpg.rf.0123456789abcdef01.jpg",
            "f_0002_jpg.rf.fedcba98765432100a.jpg",
        ],
    ],
)
def test_any_number_in_a_name_may_count_frames(photographs, names):
    assert copies.groups(names, looks_of(clip(photographs[0], 2))) == [0, 0]


def test_colors_alone_are_no_likeness():
    """Grass: textures of one color that have nothing in common."""
    rng = np.random.default_rng(0)
    color = np.array([60, 140, 50])
    fields = [
        (color + np.kron(rng.normal(0, 12, (16, 16, 1)), np.ones((8, 8, 1)))).clip(
            0, 255
        )
        for _ in range(3)
    ]
    fields = looks_of(field.astype(np.uint8) for field in fields)
    assert copies.groups(["a_1.png", "a_2.png", "a_3.png"], fields) == [0, 1, 2]


def test_a_stated_split_keeps_copies_together(photographs):
    pictures = [photographs[0], photographs[1], saved(photographs[0], "JPEG")]
    names = ["a/1.png", "b/1.png", "b/2.jpg"]
    found = own_data.groups(content_of(names), looks_of(pictures), "folder")
    assert len(set(found.values())) == 1

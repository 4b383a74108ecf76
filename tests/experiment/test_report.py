"""The report: one file that shows what results.json says."""

import re

import numpy as np

from official_selftrain.data.sources import digits
from official_selftrain.experiment import report
from official_selftrain.inference import pictures


def results():
    return {
        "teacher": {
            "AP": 40.0,
            "AP50": 61.25,
            "AP75": None,
            "steps": 3000,
            "seconds": 12.0,
        },
        "student": {
            "AP": 45.5,
            "AP50": 70.0,
            "AP75": 50.0,
            "steps": 1200,
            "seconds": 9.0,
        },
        "control": {
            "AP": 43.25,
            "AP50": 69.0,
            "AP75": 49.0,
            "steps": 1200,
            "seconds": 9.0,
        },
        "pseudo_labels": {
            "images": 2000,
            "boxes": 2500,
            "boxes_per_image": 1.25,
            "empty_images": 321,
            "score_threshold": 0.5,
            "precision": 0.75,
            "recall": None,
            "score_histogram": list(range(20)),
            "one_box_threshold": 0.625,
        },
        "config": {"seed": 3, "alpha": 1.0, "versions": {"keras": "3.15.1"}},
    }


def drawn(count=2):
    samples = pictures.samples(digits.scenes("test", 3, 0, (32, 32)), count)
    for sample in samples:
        sample["labels"]["student"] = {
            "boxes": np.array([[1.0, 2.0, 20.0, 15.0], [0.0, 0.0, 5.0, 5.0]]),
            "classes": [1, -1],
            "scores": [0.9, 0.0],
            "ignore": [False, True],
        }
    return samples


def cells(page):
    return [
        re.sub("<.*?>", "", cell) for cell in re.findall("<t[dh]>(.*?)</t[dh]>", page)
    ]


def test_report_is_self_contained(tmp_path):
    rows = [
        {"step": 100.0, "labeled_loss": 2.0, "pseudo_loss": 1.0, "pseudo_scale": 2.0},
        {"step": 200.0, "labeled_loss": 1.0, "pseudo_loss": 1.0, "pseudo_scale": 1.5},
    ]
    path = tmp_path / "report.html"
    report.write(
        str(path), results(), {"student": rows}, drawn(), drawn(), list("01234")
    )
    page = path.read_text()
    assert "change AP by <b>+2.25</b>: student 45.50" in page
    shown = cells(page)
    row = shown.index("teacher")
    # AP, AP50, AP75 (undefined), steps, seconds.
    assert shown[row : row + 6] == ["teacher", "40.00", "61.25", "–", "3,000", "12.00"]
    row = shown.index("2,500") - 1
    assert shown[row : row + 7] == [
        "2,000",
        "2,500",
        "1.25",
        "321",
        "0.50",
        "0.75",
        "–",
    ]
    assert "keras 3.15.1" in shown
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_report_of_a_teacher_alone(tmp_path):
    path = tmp_path / "report.html"
    partial = {key: results()[key] for key in ("teacher", "config")}
    history = {"teacher": [{"step": 1.0, "labeled_loss": 2.0}]}
    report.write(str(path), partial, history, drawn(), [], list("01234"))
    page = path.read_text()
    assert "Pseudo-labels" not in page and "change AP" not in page


def test_samples_are_in_pixels():
    source = digits.scenes("test", 3, 0, (32, 48))
    (image, boxes, classes, _), *_ = digits.compose("test", 3, 0, (32, 48))
    sample = pictures.samples(source, 1)[0]
    np.testing.assert_array_equal(sample["image"], image)
    np.testing.assert_allclose(sample["labels"]["labels"]["boxes"], boxes, atol=1e-4)
    np.testing.assert_array_equal(sample["labels"]["labels"]["classes"], classes)


def test_report_of_masks_has_class_table_legend_and_image_row(tmp_path):
    figures = {"accuracy": 0.9, "steps": 10, "seconds": 1.0}
    found = {
        "student": {"mIoU": 60.5, "class_IoU": [90.0, 31.0, None], **figures},
        "control": {"mIoU": 58.0, "class_IoU": [88.0, 28.0, None], **figures},
        "pseudo_labels": {
            "images": 7,
            "ignored": 0.25,
            "empty_images": 1,
            "score_threshold": 0.5,
            "mIoU": 55.5,
            "accuracy": None,
            "class_shares": [0.5, 0.5, 0.0],
            "score_histogram": [0.05] * 20,
            "median_score": 0.5,
        },
        "config": {"seed": 3},
    }
    source = digits.scenes("test", 3, 0, (32, 32), num_classes=2, has_masks=True)
    samples = pictures.samples(source, 2)
    for sample in samples:
        mask = np.zeros((32, 32), np.uint8)
        mask[:8], mask[8:16] = 2, 255
        sample["labels"]["student"] = {"mask": mask}
    path = tmp_path / "report.html"
    names = ("background", "<0>", "1")
    report.write(str(path), found, {}, samples, samples, names)
    page = path.read_text()
    assert "change mIoU by <b>+2.50</b>: student 60.50" in page
    assert "excluded from mIoU: 1." in page
    shown = cells(page)
    row = shown.index("&lt;0&gt;")
    assert shown[row - 3 : row + 6] == [
        *("background", "90.00", "88.00"),
        *("&lt;0&gt;", "31.00", "28.00"),
        *("1", "–", "–"),
    ]
    row = shown.index("ignored")
    assert shown[row + 5 : row + 11] == ["7", "0.25", "1", "0.50", "55.50", "–"]
    # Colors of both digits and the hatching are explained.
    assert "■</span> 1; hatched: ignored" in page


def test_ignored_pixels_are_hatched_and_background_is_transparent():
    colors = pictures._mask_colors(np.array([[0, 1], [255, 2]], np.uint8))
    assert colors[0, 0].tolist() == [0, 0, 0, 0]
    assert colors[0, 1, 3] == colors[1, 1, 3] == 0.55
    assert (colors[0, 1, :3] != colors[1, 1, :3]).any()
    stripes = pictures._mask_colors(np.full((40, 40), 255, np.uint8))[..., 3]
    assert set(np.unique(stripes)) == {0.0, 0.6} and 0.1 < (stripes > 0).mean() < 0.4

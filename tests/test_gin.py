"""The gin files: the paper's numbers, and that every row builds and runs."""

import json
import pathlib
import re

import bound
import gin
import numpy as np
import processes
import pytest

from official_selftrain import experiment
from official_selftrain.cli import gin_files
from official_selftrain.labeling import label_quality
from official_selftrain.models import backbones
from official_selftrain.training import fitting

ROOT = pathlib.Path(__file__).parent.parent
GIN = ROOT / "gin"
PAPER = sorted(GIN.glob("paper/*/*.gin"))
FILES = {path.name: path for path in [*GIN.glob("*.gin"), *PAPER]}
ROWS = sorted(FILES)

# Table 2 and appendix H of the paper: teacher's steps, student's steps, alpha;
# section 3: scale jitter and policy.
TABLE_2 = {
    "coco_s1.gin": (45000, 45000, 1.0, (0.8, 1.2), {}),
    "coco_s2.gin": (90000, 90000, 1.0, (0.8, 1.2), {"policy": "v0"}),
    "coco_s3.gin": (90000, 90000, 0.5, (0.5, 2.0), {"policy": "v0"}),
    "coco_s4.gin": (
        *(120000, 90000, 0.5, (0.5, 2.0)),
        {"num_operations": 1, "magnitude": 10.0},
    ),
}


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", ROWS)
def test_every_file_parses_without_unused_settings(name):
    gin_files.load_config([str(FILES[name])], ["SEED = 3"])
    assert gin.query_parameter("SEED/gin.macro.value") == 3


@pytest.mark.parametrize("name", TABLE_2)
def test_rows_of_table_2(name):
    """Section 4: batch 256, SGD 0.9, 0.0032 → 0.32 in 1,000 steps, L2 1e-4."""
    gin_files.load_config([str(FILES[name])], [])

    def value(key):
        return gin.query_parameter(key)

    macros = ("TEACHER_STEPS", "STUDENT_STEPS", "ALPHA")
    steps = tuple(value(f"{macro}/gin.macro.value") for macro in macros)
    augmentation = f"augment.{name[5:7]}"
    assert value("training.fit.augment").selector.endswith(augmentation)
    group = "policies.RandAugment" if augmentation == "augment.s4" else augmentation
    policy = {key: value(f"{group}.{key}") for key in TABLE_2[name][-1]}
    jitter = value(f"{augmentation}.scale_range")
    assert (*steps, jitter, policy) == TABLE_2[name]
    assert value("BATCH_SIZE/gin.macro.value") == 256
    assert value("IMAGE_SIZE/gin.macro.value") == (640, 640)
    assert value("BACKBONE/gin.macro.value") == "B7"
    assert value("SCORE_THRESHOLD/gin.macro.value") == 0.5
    assert value("keras.optimizers.SGD.momentum") == 0.9
    assert value("training.Loss.l2") == 1e-4
    assert value("schedules.cosine.learning_rate") == 0.32
    assert value("schedules.cosine.warmup_learning_rate") == 0.0032
    assert value("WARMUP_STEPS/gin.macro.value") == 1000
    header = FILES[name].read_text()
    assert "Table 2" in header and "Result seen: not run" in header.replace("\n# ", " ")


# Other rows: table, teacher's steps, student's steps, alpha, batch, image side,
# trainable parameters with 91 class channels.
ROWS_OF_OTHER_TABLES = {
    "coco_resnet50.gin": ("Table 4", 200000, 120000, 0.25, 256, 640, 34_091_159),
    "coco_spinenet143.gin": ("Table 5", 472000, 472000, 0.25, 128, 1280, 66_959_511),
    "coco_spinenet190.gin": ("Table 5", 370000, 370000, 0.5, 128, 1280, 163_637_351),
}


def built(name):
    """Return a row's model's number of trainable parameters and sigma of Soft-NMS."""
    gin_files.load_config([str(FILES[name])], [])
    settings = bound.of_experiment()
    model = settings["model"](num_classes=91, image_size=settings["image_size"])
    return trainable(model), model.soft_nms_sigma


@pytest.mark.process
@pytest.mark.parametrize("name", ROWS_OF_OTHER_TABLES)
def test_rows_of_other_tables(name):
    gin_files.load_config([str(FILES[name])], [])
    table, *expected, side, parameters = ROWS_OF_OTHER_TABLES[name]
    macros = ("TEACHER_STEPS", "STUDENT_STEPS", "ALPHA", "BATCH_SIZE")
    values = [gin.query_parameter(f"{macro}/gin.macro.value") for macro in macros]
    assert values == expected
    header = FILES[name].read_text()
    assert table in header and "Result seen: not run" in header.replace("\n# ", " ")
    settings = bound.of_experiment()
    assert settings["image_size"] == (side, side)
    is_spinenet = table == "Table 5"
    expected = parameters, 0.3 if is_spinenet else 0.0
    assert processes.apart(built, name) == expected
    if is_spinenet:
        # Half of the authors' peak rate at 256; drops at 94 and 98 %.
        fit = bound.of_training("student")
        schedule = fit["schedule"](steps=1000000)
        assert float(schedule(0)) == pytest.approx(0.00335)
        peak = 0.14 if "143" in name else 0.15
        rates = [float(schedule(step)) for step in (4000, 939999, 940001, 980001)]
        assert rates == pytest.approx([peak, peak, 0.1 * peak, 0.01 * peak])


# Tables 2 to 4, 7, 10, 12 and 13, Figures 1 and 3: AP of teacher and student (None
# where the paper has none), steps of both, alpha, augmentation, fraction of COCO,
# whether it starts from a checkpoint.
COCO_ROWS = {
    "coco_20_from_imagenet_s1.gin": (29.94, None, 5625, 5625, 1.0, 1, 0.2, True),
    "coco_20_from_imagenet_s2.gin": (31.11, None, 5625, 5625, 1.0, 2, 0.2, True),
    "coco_20_from_imagenet_s3.gin": (32.98, None, 5625, 5625, 1.0, 3, 0.2, True),
    "coco_20_from_imagenet_s4.gin": (33.3, 36.0, 5625, 90000, 3.0, 4, 0.2, True),
    "coco_20_from_noisy_student_s1.gin": (33.45, None, 5625, 5625, 1.0, 1, 0.2, True),
    "coco_20_from_noisy_student_s2.gin": (33.97, None, 5625, 5625, 1.0, 2, 0.2, True),
    "coco_20_from_noisy_student_s3.gin": (35.63, None, 5625, 5625, 1.0, 3, 0.2, True),
    "coco_20_from_noisy_student_s4.gin": (35.9, 37.2, 5625, 90000, 3.0, 4, 0.2, True),
    "coco_20_joint_from_imagenet_s4.gin": (
        34.0,
        36.6,
        90000,
        90000,
        2.0,
        4,
        0.2,
        True,
    ),
    "coco_20_joint_s4.gin": (33.6, 35.1, 45000, 90000, 2.0, 4, 0.2, False),
    "coco_20_s1.gin": (22.73, None, 45000, 45000, 1.0, 1, 0.2, False),
    "coco_20_s2.gin": (26.17, None, 45000, 45000, 1.0, 2, 0.2, False),
    "coco_20_s3.gin": (29.78, None, 45000, 45000, 1.0, 3, 0.2, False),
    "coco_20_s4.gin": (30.7, 34.1, 45000, 90000, 3.0, 4, 0.2, False),
    "coco_50_from_imagenet_s1.gin": (35.58, None, 22500, 22500, 1.0, 1, 0.5, True),
    "coco_50_from_imagenet_s2.gin": (36.35, None, 22500, 22500, 1.0, 2, 0.5, True),
    "coco_50_from_imagenet_s3.gin": (38.46, None, 22500, 22500, 1.0, 3, 0.5, True),
    "coco_50_from_imagenet_s4.gin": (38.8, 40.5, 22500, 45000, 1.0, 4, 0.5, True),
    "coco_50_from_noisy_student_s1.gin": (38.07, None, 11250, 11250, 1.0, 1, 0.5, True),
    "coco_50_from_noisy_student_s2.gin": (38.72, None, 11250, 11250, 1.0, 2, 0.5, True),
    "coco_50_from_noisy_student_s3.gin": (39.97, None, 11250, 11250, 1.0, 3, 0.5, True),
    "coco_50_from_noisy_student_s4.gin": (39.9, 41.5, 11250, 45000, 1.0, 4, 0.5, True),
    "coco_50_s1.gin": (33.5, None, 90000, 90000, 1.0, 1, 0.5, False),
    "coco_50_s2.gin": (35.6, None, 90000, 90000, 1.0, 2, 0.5, False),
    "coco_50_s3.gin": (38.4, None, 90000, 90000, 1.0, 3, 0.5, False),
    "coco_50_s4.gin": (39.6, 41.4, 90000, 90000, 1.0, 4, 0.5, False),
    "coco_from_imagenet_s1.gin": (39.5, None, 22500, 22500, 1.0, 1, 1.0, True),
    "coco_from_imagenet_s2.gin": (40.7, None, 45000, 45000, 1.0, 2, 1.0, True),
    "coco_from_imagenet_s3.gin": (43.2, None, 90000, 90000, 1.0, 3, 1.0, True),
    "coco_from_imagenet_s4.gin": (43.3, 44.6, 90000, 90000, 1.0, 4, 1.0, True),
    "coco_from_noisy_student_s1.gin": (40.85, None, 22500, 22500, 1.0, 1, 1.0, True),
    "coco_from_noisy_student_s2.gin": (41.35, None, 45000, 45000, 1.0, 2, 1.0, True),
    "coco_from_noisy_student_s3.gin": (43.37, None, 90000, 90000, 1.0, 3, 1.0, True),
    "coco_from_noisy_student_s4.gin": (43.8, 44.6, 45000, 45000, 0.25, 4, 1.0, True),
    "coco_openimages_s1.gin": (39.2, 41.2, 45000, 90000, 3.0, 1, 1.0, False),
    "coco_openimages_s2.gin": (41.5, 43.6, 90000, 90000, 2.0, 2, 1.0, False),
    "coco_openimages_s3.gin": (43.9, 45.5, 90000, 90000, 0.5, 3, 1.0, False),
    "coco_openimages_s4.gin": (44.3, 46.0, 120000, 120000, 0.5, 4, 1.0, False),
    "coco_resnet101_openimages_s1.gin": (37.0, 39.5, 45000, 90000, 2.0, 1, 1.0, False),
    "coco_resnet101_openimages_s2.gin": (39.5, 41.9, 90000, 90000, 2.0, 2, 1.0, False),
    "coco_resnet101_openimages_s3.gin": (41.9, 43.4, 90000, 90000, 0.5, 3, 1.0, False),
    "coco_resnet101_openimages_s4.gin": (
        42.6,
        43.9,
        180000,
        180000,
        0.5,
        4,
        1.0,
        False,
    ),
    "coco_resnet101_s1.gin": (37.0, 39.0, 45000, 90000, 1.0, 1, 1.0, False),
    "coco_resnet101_s2.gin": (39.5, 41.3, 90000, 90000, 1.0, 2, 1.0, False),
    "coco_resnet101_s3.gin": (41.9, 42.8, 90000, 90000, 0.5, 3, 1.0, False),
    "coco_resnet101_s4.gin": (42.6, 43.6, 180000, 180000, 0.25, 4, 1.0, False),
    "coco_resnet50_from_imagenet.gin": (40.4, None, 160000, 160000, 1.0, 4, 1.0, True),
    "coco_resnet50_from_simclr.gin": (40.4, None, 160000, 160000, 1.0, 4, 1.0, True),
    "coco_student_from_scratch_s1.gin": (39.2, 41.0, 45000, 180000, 1.0, 1, 1.0, False),
    "coco_student_from_scratch_s2.gin": (41.5, 42.7, 90000, 135000, 1.0, 2, 1.0, False),
    "coco_student_from_scratch_s3.gin": (43.9, 45.0, 90000, 180000, 0.5, 3, 1.0, False),
    "coco_student_from_scratch_s4.gin": (
        44.3,
        45.2,
        120000,
        135000,
        0.5,
        4,
        1.0,
        False,
    ),
}


EXPERIMENTS = sorted(
    str(path.relative_to(GIN))
    for path in [*FILES.values(), *GIN.glob("study/*.gin")]
    if "studies.grid" not in path.read_text()
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_loads_alone(name, monkeypatch):
    """Includes are resolved from the file's folder, whatever was loaded before."""
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
    params = []
    if name == "study/coco_resnet101.gin":
        params = ["TEACHER_STEPS = 1", "STUDENT_STEPS = 1"]
    gin_files.load_config([str(GIN / name)], params)
    assert bound.of_experiment(resolve_references=False)["labeled"]


def test_root_folder_holds_the_starter_files():
    starts = {"quickstart", "quickstart_segmentation", "own_data", "own_masks"}
    starts |= {f"coco_s{number}" for number in range(1, 5)}
    assert {path.stem for path in GIN.glob("*.gin")} == starts
    assert len(FILES) == len(starts) + len(PAPER)  # no name stands for two files


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_rows_are_in_the_folder_of_their_first_table(path):
    kind, number = re.search(r"(Table|Figure)s? (\d+)", path.read_text()).groups()
    assert path.parent.name == f"{kind.lower()}_{number}"


def test_every_row_is_tested():
    known = {*TABLE_2, *ROWS_OF_OTHER_TABLES, *COCO_ROWS}
    assert {name for name in ROWS if name.startswith("coco")} == known


@pytest.mark.parametrize("name", COCO_ROWS)
def test_rows_of_coco(name):
    teacher, student, *steps, alpha, number, share, has_start = COCO_ROWS[name]
    gin_files.load_config([str(FILES[name])], [])

    def value(key):
        return gin.query_parameter(key)

    header = FILES[name].read_text().split("\ninclude")[0]
    header = header.replace("\n#", "").replace("  ", " ")
    assert f"{teacher} AP (teacher)" in header or f"{teacher} (" in header
    assert student is None or f"{student} (" in header or f"{student} AP" in header
    assert ("--stages=teacher,evaluation" in header) == (student is None)
    assert f"={FILES[name].relative_to(ROOT)} " in header
    assert "Result seen: not run" in header
    macros = ("TEACHER_STEPS", "STUDENT_STEPS", "ALPHA")
    assert [value(f"{m}/gin.macro.value") for m in macros] == [*steps, alpha]
    fit = bound.of_training("student")
    assert fit["augment"].__name__ == f"s{number}"
    settings = bound.of_experiment(resolve_references=False)
    start = "random" if "student_from_scratch" in name else "teacher"
    assert settings.get("student_init", "teacher") == start
    labeled = value("LABELED/gin.macro.value").selector
    if share < 1.0:
        assert labeled.endswith("splits.fraction")
        assert value("SHARE/gin.macro.value") == share
        assert value("SPLIT_FILE/gin.macro.value") == (
            f"splits/coco_{round(100 * share)}.json"
        )
    else:
        assert labeled.endswith("sources.tfds")
    source = "open_images_v4" if "openimages" in name else "imagenet2012"
    assert value("unlabeled/sources.tfds.name") == source
    backbone = gin.get_bindings("retinanet.RetinaNet", resolve_references=False)
    is_pretrained = "checkpoints.pretrained" in repr(backbone["backbone"])
    assert is_pretrained == has_start
    if "_joint_" in name:
        assert value("classified/sources.tfds.name") == "imagenet2012"
        assert value("classified/sources.tfds.has_image_classes") is True
        weights = [
            bound.of_training(stage)["classification_weight"]
            for stage in ("teacher", "student")
        ]
        assert weights == [0.5, 0.2] and "Table 7" in header
    if "resnet101" in name:  # what differs from EfficientNet's rows
        assert fit["l2_names"] == ("kernel", "gamma", "beta")
        assert number != 4 or value("policies.RandAugment.magnitude") == 15.0
        assert value("backbones.resnet.depth") == 101


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def parameters_of_included(name, settings):
    """Return the number of trainable parameters of an included file's model."""
    files = [str(GIN / "include" / f"{name}.gin")]
    gin.parse_config_files_and_bindings(files, settings)
    model = gin.get_bindings("experiment.Experiment")["model"]
    return trainable(model(num_classes=91, image_size=(128, 128)))


@pytest.mark.process
@pytest.mark.parametrize(
    "name, settings, parameters",
    [
        ("efficientnet_b7", ["BACKBONE = 'B0'"], 13_381_843),
        ("resnet101", [], 53_083_287),
        ("resnet50_nasfpn", [], 60_078_743),
        ("spinenet49s", [], 11_265_942),
        ("spinenet49", [], 28_543_383),
        ("spinenet96", [], 42_974_871),
        pytest.param("efficientnet_b7_nasfpn", [], 67545307, marks=pytest.mark.slow),
        pytest.param(
            *("efficientnet_l2_nasfpn", [], 472_901_279), marks=pytest.mark.slow
        ),
        ("efficientnet_lite0", [], None),
    ],
)
def test_every_architecture_builds(name, settings, parameters):
    found = processes.apart(parameters_of_included, name, settings)
    assert found > 0 if parameters is None else found == parameters


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("coco_s1.gin", "B0"),
        pytest.param("coco_s4.gin", "B0", marks=pytest.mark.slow),
        pytest.param("coco_s1.gin", "B7", marks=pytest.mark.slow),
        pytest.param("coco_s2.gin", "B7", marks=pytest.mark.slow),
        pytest.param("coco_s3.gin", "B7", marks=pytest.mark.slow),
        pytest.param("coco_s4.gin", "B7", marks=pytest.mark.slow),
    ],
)
def test_rows_run_on_a_tiny_coco_set(name, backbone, tiny_coco, tmp_path, monkeypatch):
    """Two steps of teacher and student; only data, sizes and steps change."""
    small = []
    if backbone == "B0":  # with one block in every stage
        monkeypatch.setitem(backbones._EFFICIENTNETS, "B0", (1.0, 0.1))
        small = ["retinanet.RetinaNet.num_head_convs = 1"]
        small += ["retinanet.RetinaNet.num_filters = 16"]
    text = FILES[name].read_text()
    assert 'include "include/coco_tfds.gin"' in text
    row = tmp_path / name
    text = text.replace("coco_tfds.gin", "coco_files.gin")
    row.write_text(text.replace('include "include', f'include "{ROOT}/gin/include'))
    params = [
        f'TRAIN_ANNOTATIONS = "{tiny_coco.annotations}"',
        f'TRAIN_IMAGES = "{tiny_coco.images}"',
        f'VALIDATION_ANNOTATIONS = "{tiny_coco.annotations}"',
        f'VALIDATION_IMAGES = "{tiny_coco.images}"',
        f'UNLABELED_IMAGES = "{tiny_coco.unlabeled}"',
        "TEACHER_STEPS = 2",
        "STUDENT_STEPS = 2",
        "WARMUP_STEPS = 1",
        "BATCH_SIZE = 2",
        # The row's rate is for a batch of 256; with 2 images B7 diverges.
        "schedules.cosine.learning_rate = 0.0025",
        "IMAGE_SIZE = (128, 128)",
        "SCORE_THRESHOLD = 0.0",
        f'BACKBONE = "{backbone}"',
        # Before training every score is 0.01.
        "retinanet.RetinaNet.score_threshold = 0.0",
        *small,
    ]
    gin_files.load_config([str(row)], params)
    run = bound.run
    run(str(tmp_path / "run"), stages=["teacher", "pseudo_labels", "student"])
    for stage, images in (("teacher", 4), ("student", 8)):
        summary = json.loads((tmp_path / "run" / stage / "fit.json").read_text())
        assert (summary["steps"], summary["images"]) == (2, images)
        (row,) = fitting.read_history(str(tmp_path / "run" / stage))
        assert all(np.isfinite(value) for value in row.values())
        # Class scores of 0.01 on 3,069 anchors: a focal loss well above zero.
        assert row["labeled_loss"] > 0.1


# Tables 6, 8 and 14 (section 4, appendix H): learning rate, steps, batch of teacher
# and student, jitter, trainable parameters of the segmenter with 21 classes.
SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PASCAL = {"pascal_b7": (0.08, 40000, (256, 256)), "pascal_l2": (0.2, 20000, (256, 128))}


@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith("pascal")])
def test_rows_of_pascal(name):
    gin_files.load_config([str(FILES[name])], ["CHECKPOINT = None"])

    def value(key):
        return gin.query_parameter(key)

    rate, steps, batches = PASCAL[name[:9]]
    augmentation = "s1" if "_s1" in name else "s4"
    assert value("training.fit.augment").selector.endswith(f"augment.{augmentation}")
    jitter = {"s1": (0.8, 1.2), "s4": (0.5, 2.0)}[augmentation]
    assert value(f"augment.{augmentation}.scale_range") == jitter
    settings = bound.of_experiment()
    assert settings["image_size"] == (512, 512) and settings["score_threshold"] == 0.5
    assert settings["label_scales"] == SIX_SCALES
    assert value("keras.optimizers.SGD.momentum") == 0.9
    for stage, batch in zip(("teacher", "student"), batches):
        fit = bound.of_training(stage)
        assert (fit["steps"], fit["batch_size"], fit["l2"]) == (steps, batch, 1e-5)
        schedule = fit["schedule"](steps=steps)
        rates = [float(schedule(step)) for step in (0, 500, steps)]
        assert rates == pytest.approx([0.001, rate, 0.0], abs=1e-8)
    assert bound.of_training("student")["alpha"] == 1.0
    header = FILES[name].read_text().replace("\n# ", " ")
    assert "Result seen: not run" in header.replace("\n# ", " ") and "mIoU (" in header
    unlabeled = value("UNLABELED/gin.macro.value").selector
    data = name.removesuffix(".gin").split("_")[2:]
    source = {"imagenet": "sources.tfds", "coco": "sources.folder"}
    assert unlabeled.endswith(source.get(data[0] if data else "", "sources.voc"))
    if "coco" in data:
        assert value("UNLABELED_IMAGES/gin.macro.value") == "data/coco"


def run_on_tiny_voc(
    name, params, tiny_voc, model_dir, monkeypatch, stages=experiment.STAGES
):
    params = [
        f'VOC_DIR = "{tiny_voc.root}"',
        f"sources.voc.class_names = {tiny_voc.class_names}",
        "IMAGE_SIZE = (128, 128)",
        "TEACHER_STEPS = 2",
        "STUDENT_STEPS = 2",
        "WARMUP_STEPS = 1",
        "BATCH_SIZE = 2",
        "student/training.Optimization.batch_size = 2",
        # The row's rate is for a batch of 256.
        "LEARNING_RATE = 0.001",
        # Untrained models have low scores.
        "SCORE_THRESHOLD = 0.0",
        "CHECKPOINT = None",
        *params,
    ]
    gin_files.load_config([str(FILES[name])], params)
    run = bound.run
    # After two steps a teacher predicts only background: accept that.
    monkeypatch.setattr(label_quality, "require_labels", lambda *_: None)
    return run(str(model_dir), stages=stages)


@pytest.mark.parametrize(
    ("name", "params", "scales"),
    [
        (
            "pascal_b7.gin",
            [
                'BACKBONE = "B0"',
                "segmenter.SemanticSegmenter.num_repeats = 1",
                "segmenter.SemanticSegmenter.num_filters = 16",
                "experiment.Labeling.scales = (0.5, 1.5)",
            ],
            (0.5, 1.5),
        ),
        pytest.param("pascal_b7_s1.gin", [], SIX_SCALES, marks=pytest.mark.slow),
        pytest.param(
            *("pascal_l2.gin", ['BACKBONE = "B0"'], SIX_SCALES), marks=pytest.mark.slow
        ),
    ],
)
def test_pascal_rows_run_on_a_tiny_voc_folder(
    name, params, scales, tiny_voc, tmp_path, monkeypatch
):
    """Two steps of teacher and student; images of odd sizes."""
    if name == "pascal_b7.gin":  # with one block in every stage
        monkeypatch.setitem(backbones._EFFICIENTNETS, "B0", (1.0, 0.1))
    results = run_on_tiny_voc(name, params, tiny_voc, tmp_path / "run", monkeypatch)
    for stage in ("teacher", "student"):
        assert results[stage]["steps"] == 2 and 0.0 <= results[stage]["mIoU"] <= 100.0
        (row,) = fitting.read_history(str(tmp_path / "run" / stage))
        # Four classes, nothing learned yet.
        assert row["labeled_loss"] == pytest.approx(np.log(4), rel=0.5)
    assert results["pseudo_labels"]["images"] == 2
    manifest = json.loads((tmp_path / "run/pseudo_labels/manifest.json").read_text())
    assert tuple(manifest["settings"]["teacher"]["scales"]) == scales
    page = (tmp_path / "run" / "report.html").read_text()
    assert "As the student sees them" in page and "hatched: ignored" in page


@pytest.mark.slow
def test_own_masks_run(tiny_voc, tmp_path, monkeypatch):
    """gin/own_masks.gin with custom folders and a plain folder of unlabeled images."""
    params = [
        f'LABELED_DIR = "{tiny_voc.root}"',
        f'UNLABELED_IMAGES = "{tiny_voc.root / "JPEGImages"}"',
        f"CLASS_NAMES = {tiny_voc.class_names}",
        *("TEACHER_STEPS = 2", "STUDENT_STEPS = 2", "WARMUP_STEPS = 1"),
        *("BATCH_SIZE = 2", "IMAGE_SIZE = (128, 128)", "SCORE_THRESHOLD = 0.0"),
        "experiment.Labeling.scales = (1.0,)",
        "segmenter.SemanticSegmenter.num_repeats = 1",
        "segmenter.SemanticSegmenter.num_filters = 16",
    ]
    gin_files.load_config([str(GIN / "own_masks.gin")], params)
    monkeypatch.setattr(label_quality, "require_labels", lambda *_: None)
    results = bound.run(str(tmp_path / "run"))
    assert results["pseudo_labels"]["images"] == 6
    assert results["pseudo_labels"]["mIoU"] is None
    assert results["control"]["images"] == results["student"]["images"] == 8
    assert len(results["student"]["class_IoU"]) == 4


def test_mistakes_are_reported_before_training(tiny_voc, tmp_path, monkeypatch):
    mistakes = {
        'validation/sources.voc.split = "vall"': "available lists: .* split='vall'",
        "validation/sources.voc.mask_folder = None": "kind, masks. Received: no label",
        "experiment.Labeling.scales = 1.0": "scales, numbers above 0. Received",
        "experiment.Labeling.scales = (0.5, 0)": r"Received: scales=\(0.5, 0\)",
    }
    for index, (param, text) in enumerate(mistakes.items()):
        gin.clear_config()
        with pytest.raises((ValueError, FileNotFoundError), match=text):
            run_on_tiny_voc(
                "pascal_b7.gin", [param], tiny_voc, tmp_path / str(index), monkeypatch
            )
        assert not (tmp_path / str(index) / "teacher").exists()


def test_missing_checkpoint(tiny_voc, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint, nowhere.index"):
        run_on_tiny_voc(
            "pascal_b7.gin",
            ['BACKBONE = "B0"', 'CHECKPOINT = "nowhere"'],
            tiny_voc,
            tmp_path / "run",
            monkeypatch,
        )

"""The embedded studies and the verdicts on the paper's claims."""

import importlib.util
import pathlib

import bound
import gin
import pytest

from official_selftrain.cli import gin_files, study_plan
from official_selftrain.experiment import studies

ROOT = pathlib.Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("claims", ROOT / "benchmarks/claims.py")
claims = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(claims)


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize(
    ("values", "text", "verdict"),
    [
        # Student's t with two degrees of freedom is 4.303: half the interval is
        # 4.303 · 1 / √3 = 2.484.
        ([1.0, 2.0, 3.0], "+2.0 ± 1.0 (-0.5 to +4.5), 3", "not decided"),
        ([2.9, 3.0, 3.1], "+3.0 ± 0.1 (+2.8 to +3.2), 3", "reproduced"),
        ([-2.9, -3.0, -3.1], "-3.0 ± 0.1 (-3.2 to -2.8), 3", "not reproduced"),
        ([1.0, float("nan"), 2.0], "+1.5 ± 0.7 (-4.9 to +7.9), 2", "not decided"),
        ([1.0, float("nan")], "1 of 2 seeds", "not decided"),
    ],
)
def test_verdicts_by_hand(values, text, verdict):
    assert claims.judged(values) == (text, verdict)


def cell(value, teacher="40.0", status="done", seconds="10.0"):
    value = "" if value is None else str(value)
    found = {"AP": value, "teacher_AP": teacher, "status": status}
    return {**found, "seconds": seconds}


def test_a_difference_is_averaged_over_columns_within_a_seed():
    """Gains of 2 and 4, 3 and 3.2, 3 and 3: 3, 3.1 and 3 for the three seeds."""
    gains = {"0": (2.0, 4.0), "1": (3.0, 3.2), "2": (3.0, 3.0)}
    cells = {}
    for seed, of_seed in gains.items():
        for column, gain in zip(("A", "B"), of_seed):
            cells["a", column, seed] = cell(40.0 + gain)
            cells["b", column, seed] = cell(40.0)
    terms = ((1, "a", ("A", "B")), (-1, "b", ("A", "B")))
    row = claims.difference(cells, "claim", "+3", terms)
    # Mean 3.033, deviation 0.058, half the interval 4.303 · 0.058 / √3 = 0.143.
    assert row == ("claim", "+3", "+3.0 ± 0.1 (+2.9 to +3.2), 3", "reproduced")


def test_counts_of_divergence_and_ap_loss():
    cells = {}
    for seed in ("0", "1"):
        for column in ("0.25", "1", "2", "3"):
            for rate in ("", ", larger rate"):
                died = column == "3"
                lost = column == "2" and seed == "1"
                value = None if died else 39.0 if lost else 41.0
                status = "diverged" if died else "done"
                cells[f"plain sum{rate}", column, seed] = cell(value, status=status)
                better = 43.0 if rate else 42.0
                cells[f"normalized{rate}", column, seed] = cell(better)
    rows = claims.losses(cells)
    # One-sided: C(16, 4) / C(32, 4) = 0.0506, C(16, 2) / C(32, 2) = 0.242.
    assert rows[0][2:] == ("4 of 16 against 0 of 16", "not decided")
    assert rows[1][2:] == ("2 of 16 against 0 of 16", "not decided")
    # Gains where the plain sum converged: +1, +1, +1 and +1, +1, +3; one more each with
    # the larger rate.
    assert rows[2][2] == "+1.3 ± 0.5 (-2.9 to +5.6), 2"
    assert rows[3][2] == "+2.3 ± 0.5 (-1.9 to +6.6), 2"


@pytest.mark.parametrize(
    ("more", "fewer", "verdict"),
    [
        # C(12, 6) / C(24, 6) = 924 / 134,596 = 0.0069.
        ((6, 12), (0, 12), "reproduced"),
        ((0, 12), (6, 12), "not reproduced"),
        # C(12, 4) / C(24, 4) = 495 / 10,626 = 0.047.
        ((4, 12), (0, 12), "not decided"),
        ((0, 12), (0, 12), "not decided"),
    ],
)
def test_fisher_test_of_counts(more, fewer, verdict):
    assert claims.counted(more, fewer) == verdict


def test_missing_study(tmp_path):
    with pytest.raises(
        SystemExit, match="Expected .*x.csv. Make it with: make studies"
    ):
        claims.read(tmp_path / "x.csv")


def test_the_cost_of_self_training_by_hand():
    """Ratios of seconds 20 / 10 and 60 / 20; of images 150 / 100 and 350 / 100."""
    pretrained = {"teacher_images": "100", "student_images": ""}
    cells = {
        ("pre-trained", "S1", "0"): cell(1.0, seconds="10.0") | pretrained,
        ("pre-trained", "S2", "0"): cell(1.0, seconds="20.0") | pretrained,
        ("pre-trained", "S3", "0"): cell(None, seconds="") | pretrained,
        (claims.SELF, "S1", "0"): cell(1.0, seconds="20.0")
        | {"teacher_images": "100", "student_images": "50"},
        (claims.SELF, "S2", "0"): cell(1.0, seconds="60.0")
        | {"teacher_images": "100", "student_images": "250"},
        (claims.SELF, "S3", "0"): cell(1.0),
    }
    assert claims.cost(cells) == (
        "Self-training (teacher, labels, student) costs 2.5 ± 0.5 times the seconds "
        "and 2.5 ± 1.0 times the images of training that fine-tuning a pre-trained "
        "model does (2 pairs)."
    )


# Cells, distinct teachers and distinct students per seed.
GRIDS = {
    "digits_table_2": (16, 8, 4),
    "digits_table_3": (9, 3, 3),
    "digits_table_7": (4, 2, 2),
    "digits_table_10": (6, 1, 4),
    "digits_figure_2": (24, 1, 24),
}


def cells_of(name, change=None):
    path = ROOT / "gin" / "study" / f"{name}.gin"
    gin.parse_config_files_and_bindings([str(path)], [])
    plan = {**studies.grid(**gin.get_bindings("studies.grid")), **(change or {})}
    first = study_plan.pretraining(plan["pretraining"], str(path.parent), "runs")
    return plan, study_plan.cells(plan, str(path.parent), "runs", first)


def test_every_study_is_tested():
    found = {path.stem for path in (ROOT / "gin" / "study").glob("*_*_*.gin")}
    assert found == {*GRIDS, "coco_figure_2"} and set(GRIDS) == set(claims.STUDIES)


def test_grids_share_their_teachers():
    """Studies in one folder train each distinct teacher once."""
    teachers = {}
    for name, expected in GRIDS.items():
        plan, cells = cells_of(name, {"seeds": (0,)})
        teachers[name] = {cell["teacher_dir"] for cell in cells}
        runs = {cell["run_dir"] for cell in cells if cell["stage"] != "teacher"}
        assert (len(cells), len(teachers[name]), len(runs)) == expected
        text = (ROOT / "gin" / "study" / f"{name}.gin").read_text()
        assert f"--gin_file=gin/study/{name}.gin" in text
        assert "of the paper (page" in text and f"studies/{name}.md" in text
        gin.clear_config()
    # Table 2's teachers: S4 with all labels, S4 with 20 %, S1.
    assert teachers["digits_table_10"] < teachers["digits_table_3"]
    assert teachers["digits_table_10"] < teachers["digits_table_2"]
    assert len(teachers["digits_table_3"] & teachers["digits_table_7"]) == 1
    assert teachers["digits_figure_2"] < teachers["digits_table_2"]


def test_figure_2_of_the_paper():
    plan, cells = cells_of("coco_figure_2", {"columns": {"3": ("ALPHA = 3.0",)}})
    assert len(plan["rows"]) == 14 and len(cells) == 14
    # One per augmentation.
    assert len({cell["teacher_dir"] for cell in cells}) == 4
    gin.clear_config()
    (larger,) = [c for c in cells if c["row"] == "S2, 180k, larger rate, plain sum"]
    flags = [flag.split("=", 1) for flag in larger["command"]]
    files = [value for name, value in flags if name == "--gin_file"]
    params = [value for name, value in flags if name == "--gin_param"]
    gin_files.load_config(files, params)
    fit = bound.of_training("student")
    assert (fit["steps"], fit["alpha"], fit["normalize"]) == (180000, 3.0, False)
    rates = [
        gin.query_parameter(f"{scope}schedules.cosine.learning_rate")
        for scope in ("", "student/")
    ]
    assert rates == [0.32, 0.64]
    assert gin.query_parameter("backbones.resnet.depth") == 101
    assert "Result seen: not run" in (
        (ROOT / "gin/study/coco_figure_2.gin").read_text().replace("\n# ", " ")
    )

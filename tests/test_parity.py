"""Image operations against recorded results of TensorFlow Addons."""

import importlib.util
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "parity.npz"

# Greatest differences in gray levels: rounding instead of truncation.
TOLERANCES = {
    **{name: 2 for name in ("sharpness", "smooth")},
    **{name: 1 for name in ("color", "grey", "brightness")},
    "adjust_contrast": 5,
}
# A different definition; single pixels halfway between two others.
NOT_EQUAL = {"adjust_saturation", "transform_of_tenths"}


@pytest.fixture(scope="module")
def parity():
    path = ROOT / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("parity", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_match_tensorflow_addons(parity):
    rows = parity.compare(dict(np.load(GOLDEN)))
    assert len(rows) == 17
    for operation, greatest, mean in rows:
        if operation in NOT_EQUAL:
            assert operation in parity.REASONS
            continue
        assert greatest <= TOLERANCES.get(operation, 0), operation
        assert mean < 0.5, operation
        assert (greatest == 0) == (operation not in parity.REASONS)


def test_at_most_one_pixel_in_a_thousand_rounds_differently(parity):
    arrays = np.load(GOLDEN)
    for name in ("noise", "waves"):
        ours = parity.OURS["transform_of_tenths"](arrays[f"{name}/in"]).numpy()
        differ = (ours != arrays[f"{name}/transform_of_tenths"]).any(axis=-1)
        assert differ.mean() < 1e-3


def test_recorded_table_matches_the_arrays(parity):
    text = (ROOT / "benchmarks" / "results" / "parity.txt").read_text()
    for operation, greatest, mean in parity.compare(dict(np.load(GOLDEN))):
        assert f"\n{operation:20}{greatest:9.0f}{mean:9.4f}  " in text

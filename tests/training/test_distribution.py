"""The same step on one device, on two, in two processes and part by part."""

import json
import socket

import numpy as np
import processes
import pytest
import tensorflow as tf

from official_selftrain.training import distribution

pytestmark = pytest.mark.process


def start(name, output_dir, *settings, **environment):
    script = "tests/fit_under.py"
    return processes.start(script, name, output_dir, *settings, env=environment)


def finish(process):
    done = process.finish(300)
    assert done.returncode == 0, done.stderr[-3000:]


def variables(output_dir):
    """Return all values of the last checkpoint, by name."""
    path = tf.train.latest_checkpoint(str(output_dir / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith("VARIABLE_VALUE")
    }


def assert_same_step(found, expected):
    """Compare weights, momenta and averages to 1e-5, loss averages to 1e-6."""
    assert set(found) == set(expected)
    kinds = set()
    for name, value in expected.items():
        kinds.add(name.split("/")[0])
        tolerance = 1e-6 if name.startswith("normalizer") else 1e-5
        if not np.issubdtype(value.dtype, np.floating):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
            continue
        # Biases that batch normalization cancels contain only rounding errors.
        scale = max(np.abs(value).max(), 1e-3)
        difference = np.abs(found[name] - value).max() / scale
        assert difference <= tolerance, (name, difference)
    assert kinds >= {"model", "normalizer", "optimizer", "average"}


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The result of the five steps on one device."""
    folder = tmp_path_factory.mktemp("one")
    finish(start("one_device", folder))
    return variables(folder)


def test_two_devices_equal_one(one_device, tmp_path):
    finish(start("mirrored", tmp_path, "devices=2"))
    assert_same_step(variables(tmp_path), one_device)


def test_two_devices_average_the_positives_of_one(tmp_path):
    for folder, devices in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        name = "one_device" if devices == 1 else "mirrored"
        finish(start(name, folder, f"devices={devices}", "normalizer='average'"))
    found = variables(tmp_path / "two")
    assert_same_step(found, variables(tmp_path / "one"))
    assert sum(name.startswith("positives/") for name in found) == 6


def test_two_processes_equal_one(one_device, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    workers = [f"127.0.0.1:{port}" for port in ports]
    running = [
        start(
            "multi_worker",
            tmp_path,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]
    for process in running:
        finish(process)
    assert_same_step(variables(tmp_path), one_device)


def test_accumulation_equals_one_batch(tmp_path):
    """Without batch normalization, on one device and on two."""
    folders = [tmp_path / name for name in ("whole", "parts", "parts_on_two")]
    settings = [[], ["accumulation=2"], ["accumulation=2", "devices=2"]]
    for folder, extra in zip(folders, settings):
        name = "mirrored" if "devices=2" in extra else "one_device"
        finish(start(name, folder, "frozen=1", *extra))
    whole = variables(folders[0])
    assert_same_step(variables(folders[1]), whole)
    assert_same_step(variables(folders[2]), whole)


def test_joint_training_on_two_devices_equals_one(tmp_path):
    """Three streams with accumulation on two devices, with frozen batch statistics."""
    folders = [tmp_path / name for name in ("whole", "parts_on_two")]
    finish(start("one_device", folders[0], "frozen=1", "joint=1"))
    parts = ["frozen=1", "joint=1", "accumulation=2", "devices=2"]
    finish(start("mirrored", folders[1], *parts))
    assert_same_step(variables(folders[1]), variables(folders[0]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["batch_size=5"], "a multiple of 2 (2 replicas, accumulation 1). Received: "),
        (["jit_compile=True"], "Received: 2 replicas, jit_compile=True"),
        (["clipnorm=1.0"], "Received: clipnorm=1.0, clipvalue=None"),
        (["precision='mixed_float16'"], "on several replicas. Received: mixed_float16"),
    ],
)
def test_unsupported_settings_on_two_replicas(settings, text, tmp_path):
    done = start("mirrored", tmp_path, "devices=2", *settings).finish(300)
    assert done.returncode == 1 and text in done.stderr


def test_error_lists_the_images_of_all_replicas(tmp_path):
    """Image 3 makes the loss infinite in either half of a batch."""
    settings = ["devices=2", "bad=3", "alpha=0.0", "steps=40"]
    errors = start("mirrored", tmp_path, *settings).finish(300).stderr
    line = next(x for x in errors.splitlines() if "finite loss and gradient" in x)
    ids = line.rsplit("labeled images ", 1)[1].split(";")[0].split(", ")
    assert len(ids) == 4 and "3" in ids


@pytest.fixture(scope="module")
def keras_fit(tmp_path_factory):
    """What Keras' own `fit` does on two devices, compared with one."""
    output = tmp_path_factory.mktemp("keras") / "found.json"
    finish(processes.start("tests/keras_fit_under.py", output))
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", ["both", "uneven", "generated"])
def test_fit_of_keras_takes_the_step_of_one_device_on_two(keras_fit, name):
    assert keras_fit["images"]  # as they were before
    difference, logs, found = keras_fit[name]
    assert difference <= 1e-4
    assert set(found) == set(logs) and len(logs) >= 2
    for key, values in logs.items():
        assert found[key] == pytest.approx(values, rel=1e-5), key


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "model",
            "within strategy.scope(), on several replicas. Received: resnet_conv",
        ),
        ("optimizer", "Received: sgd"),
        ("execution", "Received: 2 replicas, steps_per_execution=2, jit_compile=False"),
        ("jit", "Received: 2 replicas, steps_per_execution=1, jit_compile=True"),
        (
            "small",
            "each of 2 replicas: batch(…, drop_remainder=True) drops a last batch",
        ),
        ("evaluate", "too small. Received: none for one of them"),
        (
            "generator",
            "on several replicas, see its from_generator. Received: generator",
        ),
        ("on_batch", "divide a batch among them. Received: one batch for 2 replicas"),
    ],
)
def test_what_keras_fit_cannot_do_on_two_devices_is_refused(keras_fit, name, text):
    assert text in keras_fit[name] and "\n" not in keras_fit[name]
    assert keras_fit[name].startswith("Expected ")


def test_invalid_strategies(monkeypatch):
    with pytest.raises(ValueError, match=r"nearest: mirrored.*strategy='miror'"):
        distribution.strategy("miror")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}}')
    with pytest.raises(
        ValueError, match=r"Received: TF_CONFIG='\{\"cluster\": \{\}\}'"
    ):
        distribution.strategy("multi_worker")
    with pytest.raises(RuntimeError, match="Expected a TPU. Received: tpu_address=''"):
        distribution.strategy("tpu")

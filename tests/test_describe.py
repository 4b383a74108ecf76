"""The command that prints a model's size."""

import processes
import pytest

pytestmark = pytest.mark.process


def test_command_prints_a_table():
    file = "gin/paper/table_4/coco_resnet50.gin"
    done = processes.call("describe", f"--gin_file={file}", "--num_classes=91")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-6] == "retinanet, 640 x 640, 91 classes"
    assert lines[-5].split() == ["trainable", "parameters", "multiply-adds"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[-4:]}
    assert rows["backbone"][0] == "23,508,032" and rows["decoder"][0] == "3,871,232"
    assert rows["total"] == ["34,091,159", "34,167,319", "96.88", "B"]


def test_missing_image_size_suggests_a_setting():
    done = processes.call("describe", "--gin_file=gin/include/spinenet49s.gin")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "Expected experiment.Data.image_size to be set, for example by "
        "--gin_param='experiment.Data.image_size = (640, 640)'. Received: files that "
        "set model"
    ) in done.stderr

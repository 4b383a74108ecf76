"""Teachers opened by their path, and a worker that labels with them."""

import dataclasses
import json
import os
import types

import numpy as np
import pytest

from official_selftrain.data import sources
from official_selftrain.data.sources import pools
from official_selftrain.labeling import (
    coco_export,
    label_store,
    opening,
    worker_start,
    workers,
)


@pytest.fixture
def job(tiny_coco, tmp_path):
    """Label with the ground truth, as COCO results with scores of 0.9."""
    content = json.loads(tiny_coco.annotations.read_text())
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.9}
        for entry in content["annotations"]
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return workers.Job(
        opening.TeacherSettings(str(path)),
        (str(tiny_coco.annotations), str(tiny_coco.images), None),
        str(tmp_path / "labels"),
        label_store.Storage(shard_size=2),
    )


def assert_equal_labels(folder, truth, label_of=lambda label: label):
    stored = label_store.read(folder).dataset
    for example, target in zip(stored, truth.dataset, strict=True):
        assert example["id"] == target["id"]
        np.testing.assert_allclose(example["boxes"], target["boxes"], atol=1e-6)
        labels = [label_of(label) for label in target["classes"].numpy()]
        assert example["classes"].numpy().tolist() == labels


def test_a_worker_labels_all_images(job, tiny_coco):
    counts = []
    workers.label(job, counts.append)
    truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
    assert_equal_labels(job.output_dir, truth)
    assert sum(counts) == 6
    assert len(list(os.scandir(job.output_dir))) >= 3  # shards of two images


def test_parts_of_beam_are_those_of_workers(job, tiny_coco):
    job = dataclasses.replace(job, worker=label_store.Worker(0, 2))
    workers._label_part(1, job)
    assert not os.path.exists(os.path.join(job.output_dir, "manifest.json"))
    workers._label_part(0, job)
    truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
    assert_equal_labels(job.output_dir, truth)


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_worker_tells_what_was_changed(job, tiny_coco, capsys, index):
    content = json.loads(tiny_coco.annotations.read_text())
    name = content["images"][0]["file_name"]
    content["images"][0]["file_name"] = f"elsewhere/{name}"
    tiny_coco.annotations.write_text(json.dumps(content))
    job = dataclasses.replace(job, worker=label_store.Worker(index, 2))
    workers.label(job)
    text = f"images: 1 (first: elsewhere/{name} is {name})"
    assert (text in capsys.readouterr().out) == (index == 0)


def test_a_process_ends_when_asked_to_or_without_a_parent(monkeypatch):
    codes = []
    monkeypatch.setattr(workers, "label", lambda job, on_images: on_images(3))
    monkeypatch.setattr(worker_start, "count", lambda count: codes.append(-count))
    monkeypatch.setattr(os, "_exit", codes.append)
    stopped = []
    is_set = types.SimpleNamespace(is_set=lambda: bool(stopped))
    monkeypatch.setattr(worker_start, "_stopped", is_set, raising=False)
    workers._label_and_count(None, os.getppid())
    assert codes == [-3]
    stopped.append(True)
    with pytest.raises(RuntimeError, match="Received: a stop"):
        workers._label_and_count(None, os.getppid())
    codes.pop()
    stopped.clear()
    workers._label_and_count(None, os.getppid() + 1)
    assert codes == [-3, -3, 1]


def test_processes_count_together(monkeypatch):
    class Lock:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    done = types.SimpleNamespace(value=2, get_lock=Lock)
    monkeypatch.setattr(worker_start, "_done", done, raising=False)
    worker_start.count(3)
    worker_start.count(4)
    assert done.value == 9


def opened(job, settings):
    source = pools.open_pool(*job.pool)
    return opening.open_teacher(settings, job.pool[0], source)


def test_classes_of_the_student(job):
    """Ids are those of its own list; a class that it lacks is dropped if so asked."""
    settings = dataclasses.replace(job.teacher, classes="post,square", drop_others=True)
    teacher = opened(job, settings)
    assert teacher.class_names == ("post", "square")
    settings = dataclasses.replace(settings, drop_others=False)
    with pytest.raises(ValueError, match="bar"):
        opened(job, settings)


def test_results_need_images_with_ids(job, tiny_coco):
    text = "ids that the results name, .* Received: images='.*unlabeled'"
    with pytest.raises(ValueError, match=text):
        opening.open_teacher(job.teacher, str(tiny_coco.unlabeled))


def test_class_names_of_results(job, tmp_path):
    names = tmp_path / "names.txt"
    lines = {1: "one", 3: "two", 90: "three"}
    names.write_text("\n".join(lines.get(k, "???") for k in range(1, 91)))
    settings = dataclasses.replace(job.teacher, labels=str(names))
    teacher = opened(job, settings)
    assert teacher.class_names == ("one", "two", "three")
    settings = dataclasses.replace(settings, first_class_id=2)
    with pytest.raises(ValueError, match="among {2: 'one', 4: .*. Received: 1; "):
        opened(job, settings)
    for missing in (None, "none.txt"):
        settings = opening.TeacherSettings("http://host/v1/models/x", labels=missing)
        with pytest.raises(FileNotFoundError, match=f"Received: labels={missing!r}"):
            opening.open_teacher(settings)


def test_no_teacher(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected a model_dir with teach"):
        opening.open_teacher(opening.TeacherSettings(str(tmp_path / "none.json")))


def test_defaults_of_storage():
    assert label_store.Storage() == label_store.Storage(500, 0.05, None, False)


def test_exported_boxes_stay_inside():
    """Start and side are rounded: their sum isn't beyond the image."""
    rng = np.random.default_rng(0)
    for start in rng.uniform(0, 1, 500):
        x, y, w, h = coco_export._coco_box((start, start, 1.0, 1.0), 427, 640)
        assert x + w <= 640.0 and y + h <= 427.0
        assert w == pytest.approx(640 * (1 - start), rel=1e-12)
        assert h == pytest.approx(427 * (1 - start), rel=1e-12)

"""The names of a run folder."""

import os

from official_selftrain.files.run_folder import LabelFolder, RunFolder, StageFolder


def test_names_as_users_know_them(tmp_path):
    run = RunFolder(tmp_path)

    def name(path):
        return os.path.relpath(path, tmp_path)

    assert name(run.results) == "results.json" and name(run.report) == "report.html"
    assert name(run.operative_gin) == "operative.gin"
    assert name(run.class_names) == "labels.txt"
    assert name(run.stage("student").model) == os.path.join("student", "model.keras")
    assert name(run.labels.manifest) == os.path.join("pseudo_labels", "manifest.json")


def test_the_teacher_of_a_round_is_the_student_before(tmp_path):
    run = RunFolder(str(tmp_path))
    assert run.round(1) is run
    assert run.teacher().path == os.path.join(run.path, "teacher")
    assert run.teacher(2).path == os.path.join(run.path, "student")
    assert run.teacher(3).path == os.path.join(run.path, "round_2", "student")
    assert run.round(3).labels.path == os.path.join(
        run.path, "round_3", "pseudo_labels"
    )


def test_what_marks_a_folder_as_finished(tmp_path):
    stage, labels = StageFolder(tmp_path / "teacher"), LabelFolder(tmp_path)
    assert stage.name == "teacher"
    assert not stage.is_finished and not labels.is_finished
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model.keras").touch()
    (tmp_path / "manifest.json").write_text('{"shards": 1}')
    assert stage.is_finished and not labels.is_finished  # its shard is missing
    (tmp_path / "pseudo-00000-of-00001.tfrecord").touch()
    assert labels.is_finished
    assert labels.shards == [str(tmp_path / "pseudo-00000-of-00001.tfrecord")]


def test_what_is_moved_aside_can_be_moved_back(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "replaced_1").mkdir()
    (tmp_path / "teacher").mkdir()
    (tmp_path / "results.json").write_text("{}")
    moved = folder.move_aside(folder.teacher().path, folder.results, folder.report)
    assert moved == (["teacher", "results.json"], str(tmp_path / "replaced_2"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["replaced_1", "replaced_2"]
    folder.move_back(*moved)
    names = ["replaced_1", "results.json", "teacher"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert folder.move_aside(folder.report) == ([], None)

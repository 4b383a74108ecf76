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
    (tmp_path / "manifest.json").touch()
    assert stage.is_finished and labels.is_finished

"""Fingerprints: equal for equal data, and what differs in words."""

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import examples, fingerprints, sources, splits


def source(count=3, names=("a", "b"), **changes):
    records = [
        {
            "encoded": bytes([index]) * (index + 1),
            "id": index,
            "boxes": np.full((index, 4), 0.25),
            "classes": np.zeros(index, int),
        }
        for index in range(count)
    ]
    records[1].update(changes)
    return examples.from_records(records, names)


def change(**changes):
    before = source().fingerprint()
    return fingerprints.change(before, source(**changes).fingerprint())


def test_a_fingerprint_by_hand():
    found = source().fingerprint()
    assert (found["images"], found["objects"], found["classes"]) == (3, 3, ["a", "b"])
    assert list(found["items"]) == ["id 0", "id 1", "id 2"]
    assert found["items"]["id 1"][0].startswith("2 ")  # bytes
    assert change() == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"count": 5}, "2 images more (first: id 3)"),
        ({"count": 2}, "1 image fewer (first: id 2)"),
        ({"encoded": b"xy"}, "1 image replaced (first: id 1)"),
        ({"boxes": np.full((1, 4), 0.5)}, "1 image labeled differently (first: id 1)"),
        ({"classes": np.ones(1, int)}, "1 image labeled differently (first: id 1)"),
        ({"ignore": np.ones(1, bool)}, "1 image labeled differently (first: id 1)"),
        ({"scores": np.full(1, 0.5)}, "1 image labeled differently (first: id 1)"),
        ({"mask": b"x"}, "1 image labeled differently (first: id 1)"),
        ({"names": ("a", "c")}, "classes a/c, were a/b"),
    ],
)
def test_changes_in_words(changes, text):
    assert change(**changes) == text


def test_changes_of_many_images_are_counted(monkeypatch):
    monkeypatch.setattr(fingerprints, "_MOST_ITEMS", 2)
    assert source().fingerprint()["items"] == {}
    assert change(count=5) == "2 images more"
    assert change(encoded=b"xy") == "other images or labels"
    added = {"boxes": np.zeros((2, 4)), "classes": np.zeros(2, int)}
    assert change(**added) == "1 object more"


def test_images_in_another_order():
    records = [{"encoded": b"x", "id": n} for n in (0, 1)]
    first, second = (
        examples.from_records(rows, ("a",)).fingerprint()
        for rows in (records, records[::-1])
    )
    assert fingerprints.change(first, second) == "the images in another order"


def test_folders_by_name_and_size(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "a.jpg").write_bytes(b"12")
        (tmp_path / folder / "deep" / "b.png").write_bytes(b"345")
    one, two = (sources.folder(str(tmp_path / name)) for name in ("one", "two"))
    assert one.fingerprint()["items"] == two.fingerprint()["items"]
    sizes = {name: size for name, (size, _) in one.fingerprint()["items"].items()}
    assert sizes == {"a.jpg": 2, "deep/b.png": 3}
    assert fingerprints.change(one.fingerprint(), two.fingerprint()) == ""
    (tmp_path / "two" / "deep" / "b.png").write_bytes(b"3456")
    text = "1 image replaced (first: deep/b.png)"
    assert fingerprints.change(one.fingerprint(), two.fingerprint()) == text


def test_annotation_files_are_named_and_hashed(tiny_coco):
    found = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
    found = found.fingerprint()
    assert found["title"] == "annotations.json"
    assert len(found["annotations"]["annotations.json"]) == 64
    assert list(found["items"])[:2] == ["000.jpg", "001.png"]


def test_records_by_their_checksums(tmp_path):
    """No record is read: a file is known by the checksums that it stores."""

    def written(name, *records):
        folder = tmp_path / name
        folder.mkdir()
        with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
            for record in records:
                writer.write(record)
        pattern = str(folder / "*.tfrecord")
        return sources.tfrecord(pattern, ()).fingerprint()

    one, same = written("one", b"abc", b"defg"), written("same", b"abc", b"defg")
    assert one["images"] == 2 and fingerprints.change(one, same) == ""
    other = written("other", b"abc", b"defh")
    assert fingerprints.change(one, other) == "other images or labels"
    more = written("more", b"abc", b"defg", b"")
    assert fingerprints.change(one, more) == "1 image more"


def test_parts_of_a_source_differ():
    whole = source()
    parts = [
        examples.part(whole, 0, 2),
        examples.part(whole, 1, 2),
        splits.fraction(lambda: whole, 0.34),
        splits.fraction(lambda: whole, 0.67, seed=3),
    ]
    found = [part.fingerprint() for part in [whole, *parts]]
    assert [f["images"] for f in found] == [3, 2, 2, 1, 2]
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            assert fingerprints.change(one, other)


def test_a_source_of_one_s_own_has_counts():
    dataset = tf.data.Dataset.range(3)
    found = examples.Source(dataset, ("a",), 3).fingerprint()
    assert found == {"images": 3, "classes": ["a"]}

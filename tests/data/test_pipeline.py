"""The pipeline: batches as a pure function of source, seed and step."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.data import examples, pipeline, problems, sources
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits

FRAME = (32, 48)


def source_of(num_images, boxes_per_image=lambda index: index % 3, num_classes=2):
    """Return images of 20 x 30 pixels, each of one gray, with scored boxes."""
    records = []
    for index in range(num_images):
        file = io.BytesIO()
        Image.new("RGB", (30, 20), (10 * index,) * 3).save(file, "PNG")
        count = boxes_per_image(index)
        boxes = [[0.1, 0.1 + 0.01 * (row % 70), 0.8, 0.9] for row in range(count)]
        records.append(
            {
                "encoded": file.getvalue(),
                "id": 100 + index,
                "boxes": np.float32(boxes).reshape(-1, 4),
                "classes": np.arange(count),
                "scores": np.linspace(0.5, 1.0, count),
                "ignore": np.arange(count) == 1,
                "areas": 7.0 + np.arange(count),
            }
        )
    return examples.from_records(records, [str(k) for k in range(num_classes)])


def taken(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def training(source, **arguments):
    arguments = {"batch_size": 2, "image_size": FRAME, **arguments}
    return pipeline.training_batches(source, **arguments)


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        assert set(batch) == set(other)
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


# Training


def test_training_batch_shapes_and_dtypes():
    assert training(source_of(3), batch_size=5).element_spec == {
        "images": tf.TensorSpec((5, 32, 48, 3), tf.float32),
        "sizes": tf.TensorSpec((5, 2), tf.int32),
        "ids": tf.TensorSpec((5,), tf.int64),
        "boxes": tf.TensorSpec((5, 2, 4), tf.float32),
        "classes": tf.TensorSpec((5, 2), tf.int32),
        "scores": tf.TensorSpec((5, 2), tf.float32),
        "ignore": tf.TensorSpec((5, 2), tf.bool),
    }


def test_workers_divide_every_batch_evenly():
    whole = taken(training(source_of(6), batch_size=4, seed=3), 3)
    pieces = []
    for worker in range(2):
        share = pipeline.Share(num_replicas=2, num_workers=2, worker=worker)
        dataset = training(source_of(6), batch_size=4, seed=3, share=share)
        pieces.append(taken(dataset, 3))
    joined = [
        {key: np.concatenate([piece[key] for piece in step]) for key in step[0]}
        for step in zip(*pieces)
    ]
    assert_equal(joined, whole)


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        ((3, 2, 0), "num_replicas=3, num_workers=2"),
        ((0, 1, 0), "num_replicas=0, num_workers=1"),
        ((2, 2, 2), r"worker in 0\.\.\.1. Received: worker=2"),
    ],
)
def test_invalid_shares(share, reason):
    with pytest.raises(ValueError, match=reason):
        pipeline.Share(*share)


def test_training_batches_by_hand():
    # Without randomness, 20 x 30 fits 32 x 48 with a scale of 1.6.
    dataset = training(source_of(3), augment=augment.fit, batch_size=3)
    batch = taken(dataset, 1)[0]
    for row, number in enumerate(batch["ids"]):
        index = count = int(number) - 100
        np.testing.assert_array_equal(batch["sizes"][row], [32, 48])
        np.testing.assert_allclose(batch["images"][row], 10.0 * index, atol=1e-4)
        boxes = [[3.2, 4.8 + 0.48 * k, 25.6, 43.2] for k in range(count)]
        boxes += [[0.0] * 4] * (2 - count)
        np.testing.assert_allclose(batch["boxes"][row], boxes, rtol=1e-5)
        expected = {
            "classes": [0, 1][:count] + [-1] * (2 - count),
            "scores": [[], [0.5], [0.5, 1.0]][count] + [0.0] * (2 - count),
            "ignore": [False, True][:count] + [False] * (2 - count),
        }
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key][row], value)


def test_sizes_are_the_covered_part_of_the_frame():
    dataset = training(source_of(1), augment=augment.fit, image_size=(40, 48))
    batch = taken(dataset, 1)[0]
    np.testing.assert_array_equal(batch["sizes"], [[32, 48]] * 2)
    np.testing.assert_allclose(batch["images"][:, 32:, :, 0], 123.675, rtol=1e-5)


def test_there_are_as_many_slots_as_boxes_of_any_image():
    source = source_of(3, lambda index: 150 * (index == 1), num_classes=150)
    assert source.most_boxes == 150
    np.testing.assert_array_equal(source.box_counts, [[0, 0], [150, 149], [0, 0]])
    batch = taken(training(source, batch_size=3, augment=augment.fit), 1)[0]
    assert batch["boxes"].shape == (3, 150, 4)
    row = list(batch["ids"]).index(101)
    np.testing.assert_array_equal(batch["classes"][row], np.arange(150))
    assert (batch["classes"][[k for k in range(3) if k != row]] == -1).all()


def boxes_of_areas(areas, ignore):
    """An image of 100 x 100 pixels with boxes of height 10 and the given areas."""
    corners = [[0.0, 0.0, 0.1, area / 1000] for area in areas]
    record = {"boxes": np.float32(corners), "classes": np.arange(len(areas))}
    png = tf.io.encode_png(np.zeros((100, 100, 3), np.uint8)).numpy()
    record |= {"encoded": png, "id": 1, "ignore": np.array(ignore)}
    return examples.from_records([record], [str(k) for k in range(len(areas))])


def test_the_smallest_boxes_beyond_the_limit_are_ignored():
    source = boxes_of_areas([300, 100, 500, 100, 200], [False] * 5)
    for limit, kept in ((5, {0, 1, 2, 3, 4}), (3, {0, 2, 4}), (4, {0, 1, 2, 4})):
        batches = training(
            source, batch_size=1, image_size=(100, 100), augment=augment.fit,
            max_boxes=limit,
        )  # fmt: skip
        batch = taken(batches, 1)[0]
        np.testing.assert_array_equal(batch["classes"], [np.arange(5)])
        expected = [k not in kept for k in range(5)]
        np.testing.assert_array_equal(batch["ignore"], [expected])
        np.testing.assert_array_equal(
            batch["scores"], [np.float32(~np.array(expected))]
        )


@pytest.mark.parametrize("value", [0, "3", 2.5])
def test_a_limit_is_a_count(value):
    with pytest.raises(ValueError, match=f"at least 1. Received: max_boxes={value!r}"):
        training(source_of(2), max_boxes=value)


def test_no_box_beyond_the_slots_is_dropped_silently():
    def doubled(image, labels, image_size, seed):
        image, labels, size = augment.fit(image, labels, image_size, seed)
        return image, {k: tf.concat([v, v], 0) for k, v in labels.items()}, size

    source = source_of(3)
    message = "an augmentation may drop boxes, not add any"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        taken(training(source, augment=doubled), 3)


def test_boxes_of_other_sources_are_counted():
    """By reading, unless the reader knows; then they are counted no more."""
    known = source_of(7)
    for source in (
        examples.Source(known.dataset, known.class_names, 7),
        examples.apply_threshold(known, 0.0),
    ):
        assert not source.is_counted
        np.testing.assert_array_equal(source.box_counts, known.box_counts)
    part = examples.part(known, 1, 2)
    np.testing.assert_array_equal(part.box_counts, [[1, 1], [2, 1]])


def test_crowds_do_not_count_towards_the_limit():
    source = boxes_of_areas([900, 100, 500, 200], [True, False, False, False])
    batches = training(
        source, batch_size=1, image_size=(100, 100), augment=augment.fit, max_boxes=2
    )
    batch = taken(batches, 1)[0]
    np.testing.assert_array_equal(batch["ignore"], [[True, True, False, False]])
    np.testing.assert_array_equal(batch["scores"], [[1.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize("seed", [0, 1])
def test_every_epoch_contains_every_image_once(seed):
    # 7 images in batches of 3: epochs end within batches.
    batches = taken(training(source_of(7), batch_size=3, seed=seed), 14)
    epochs = np.concatenate([batch["ids"] for batch in batches]).reshape(6, 7)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), 100 + np.arange(7))
    assert len({tuple(epoch) for epoch in epochs}) >= 5


def test_a_batch_may_be_larger_than_the_source():
    ids = taken(training(source_of(2), batch_size=5), 2)
    ids = np.concatenate([batch["ids"] for batch in ids]).reshape(5, 2)
    np.testing.assert_array_equal(np.sort(ids), [[100, 101]] * 5)


@pytest.mark.parametrize("start", [1, 2, 3, 7, 9])
def test_a_run_resumes_where_it_stopped(start):
    # 5 images in batches of 3: epochs end in steps 2, 4, 5, 7, 9 …
    source = source_of(5)
    whole = taken(training(source, batch_size=3, seed=8), start + 4)
    rest = taken(training(source, batch_size=3, seed=8, start_step=start), 4)
    assert_equal(rest, whole[start:])


def test_a_run_on_image_files_resumes(tiny_coco):
    source = sources.coco(tiny_coco.annotations, tiny_coco.images)
    whole = taken(training(source, batch_size=4), 5)
    assert_equal(taken(training(source, batch_size=4, start_step=2), 3), whole[2:])


def test_global_seeds_have_no_effect():
    source = digits.scenes("labeled", 6)
    tf.random.set_seed(1)
    expected = taken(training(source, seed=3), 5)
    tf.random.set_seed(2)
    assert_equal(taken(training(source, seed=3), 5), expected)
    keras.utils.set_random_seed(5)
    np.random.seed(6)
    assert_equal(taken(training(source, seed=3), 5), expected)


def test_the_seed_changes_order_and_augmentation():
    source = source_of(12)
    first, second = (
        np.concatenate([batch["ids"] for batch in taken(training(source, seed=s), 6)])
        for s in (0, 1)
    )
    assert (first != second).any()
    scene = digits.scenes("labeled", 1)
    images = [taken(training(scene, seed=s), 2) for s in (0, 1)]
    assert (images[0][0]["images"] != images[1][0]["images"]).any()
    # An image looks different in every epoch.
    assert (images[0][0]["images"] != images[0][1]["images"]).any()


def test_batches_do_not_depend_on_parallelism():
    source = digits.scenes("labeled", 8)
    dataset = training(source, seed=2, batch_size=4)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    single = taken(dataset.with_options(options), 6)
    assert_equal(taken(dataset, 6), single)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 8
    assert_equal(taken(dataset.with_options(options), 6), single)


def test_images_without_boxes_make_batches():
    source = source_of(4, lambda _: 0)
    for batch in taken(training(source), 4):
        assert (batch["classes"] == -1).all() and not batch["ignore"].any()
        assert np.isfinite(batch["images"]).all() and not batch["boxes"].any()


# Evaluation


def test_evaluation_is_one_pass_in_order():
    source = source_of(5)
    dataset = pipeline.evaluation_batches(source, 2, (40, 48))
    batches = list(dataset.as_numpy_iterator())
    assert [list(batch["ids"]) for batch in batches] == [[100, 101], [102, 103], [104]]
    assert_equal(list(dataset.as_numpy_iterator()), batches)
    # Two boxes, and none in the next image.
    third = {key: value[0] for key, value in batches[1].items()}
    assert third["images"].shape == (40, 48, 3)
    np.testing.assert_allclose(third["images"][:32], 20.0, atol=1e-4)
    np.testing.assert_array_equal(third["sizes"], [20, 30])
    # Boxes are in pixels of the image of 20 x 30, not of the frame.
    slots = batches[1]["boxes"].shape[1]
    padding = [[0] * 4] * (slots - 2)
    boxes = [[2, 3, 16, 27], [2, 3.3, 16, 27], *padding]
    np.testing.assert_allclose(third["boxes"], boxes, rtol=1e-5)
    np.testing.assert_array_equal(third["classes"], [0, 1] + [-1] * (slots - 2))
    np.testing.assert_array_equal(third["scores"], [0.5, 1.0] + [0.0] * (slots - 2))
    np.testing.assert_array_equal(
        third["ignore"], [False, True] + [False] * (slots - 2)
    )
    np.testing.assert_array_equal(third["areas"], [7.0, 8.0] + [0.0] * (slots - 2))


def test_evaluation_batch_shapes_and_dtypes():
    dataset = pipeline.evaluation_batches(source_of(1), 2, FRAME)
    assert dataset.element_spec == {
        "images": tf.TensorSpec((None, 32, 48, 3), tf.float32),
        "sizes": tf.TensorSpec((None, 2), tf.int32),
        "ids": tf.TensorSpec((None,), tf.int64),
        "boxes": tf.TensorSpec((None, None, 4), tf.float32),
        "classes": tf.TensorSpec((None, None), tf.int32),
        "scores": tf.TensorSpec((None, None), tf.float32),
        "ignore": tf.TensorSpec((None, None), tf.bool),
        "areas": tf.TensorSpec((None, None), tf.float32),
    }


def test_evaluation_keeps_all_boxes_and_empty_images():
    source = source_of(3, lambda index: [0, 150, 0][index], num_classes=150)
    first, second = pipeline.evaluation_batches(source, 2, FRAME).as_numpy_iterator()
    np.testing.assert_array_equal(first["classes"], [[-1] * 150, np.arange(150)])
    np.testing.assert_array_equal(second["classes"], [[-1]])


# Broken images


def test_unreadable_images_are_named(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    good = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(good[: len(good) // 2])
    source = examples.from_records(
        [
            {"path": str(tmp_path / "a.png"), "id": 1},
            {"path": str(tmp_path / "b.png"), "id": 2},
            {"path": str(tmp_path / "none.png"), "id": 3},
            {"encoded": good, "id": 4},
            {"encoded": b"not an image", "id": 5},
        ]
    )
    lines = problems.unreadable_images(source)
    names = [str(tmp_path / "b.png"), str(tmp_path / "none.png"), "id 5"]
    assert [line.split(": ")[0] for line in lines] == names
    assert all(len(line.split(": ", 1)[1]) > 5 for line in lines)
    assert "[Op:" not in " ".join(lines)


def test_readable_images_are_not_named(tiny_coco):
    source = sources.coco(tiny_coco.annotations, tiny_coco.images)
    assert problems.unreadable_images(source) == []

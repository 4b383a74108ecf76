"""The joint loss: its formula, its averages, its place in Keras."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy_training
from keras import ops

from official_selftrain.training import batch_checks
from official_selftrain.training.loss_normalizer import (
    LossNormalizer,
    PositivesAverage,
)
from official_selftrain.training.self_trainer import SelfTrainer


@keras.saving.register_keras_serializable(package="test_selftraining")
class Line(keras.Model):
    """y = w · x with a squared error: small enough to compute by hand."""

    image_size = (1, 1)

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.w = self.add_weight(
            name="kernel", shape=(), initializer=keras.initializers.Constant(start)
        )
        self.bias = self.add_weight(name="bias", shape=(), initializer="ones")
        self.built = True

    def call(self, images, training=None):
        return {"y": self.w * images[:, 0, 0, 0] + 0.0 * self.bias}

    def compute_losses(self, outputs, labels):
        return {"loss": ops.mean(ops.square(outputs["y"] - labels["target"]))}

    def get_config(self):
        return {"start": self.start}


def batch(x, target):
    images = np.array(x, np.float32).reshape(-1, 1, 1, 1)
    return {"images": images, "target": np.array(target, np.float32)}


def both(labeled, pseudo):
    return {"labeled": batch(*labeled), "pseudo": batch(*pseudo)}


def loss_of(trainer, data, training=True):
    return float(trainer.compute_loss(data, y_pred=trainer(data), training=training))


def test_loss_scale_and_averages_over_five_steps():
    """Five steps of fixed losses, with expected values from the formula."""
    labeled = [2.0, 4.0, 1.0, 3.0, 5.0]
    pseudo = [8.0, 2.0, 4.0, 1.0, 10.0]
    decay, alpha = 0.9, 3.0
    trainer = SelfTrainer(Line(), alpha=alpha, decay=decay)
    # By hand, decay 0.9, uncorrected averages 0.1·Σ 0.9^(t-i)·L_i:
    #   labeled 0.2, 0.58, 0.622, 0.8598, 1.27382
    #   pseudo   0.8, 0.92, 1.228, 1.2052, 2.08468
    labeled_sums = [0.2, 0.58, 0.622, 0.8598, 1.27382]
    pseudo_sums = [0.8, 0.92, 1.228, 1.2052, 2.08468]
    expected = [
        (2.0 + 3.0 * (0.2 / 0.8) * 8.0) / 4.0,  # 2.0: first ratio is L_h / L_p
        (4.0 + 3.0 * (0.58 / 0.92) * 2.0) / 4.0,
        (1.0 + 3.0 * (0.622 / 1.228) * 4.0) / 4.0,
        (3.0 + 3.0 * (0.8598 / 1.2052) * 1.0) / 4.0,
        (5.0 + 3.0 * (1.27382 / 2.08468) * 10.0) / 4.0,
    ]
    assert expected[0] == pytest.approx(2.0)
    for step in range(5):
        data = both(([0.0], [labeled[step] ** 0.5]), ([0.0], [pseudo[step] ** 0.5]))
        assert loss_of(trainer, data) == pytest.approx(expected[step], rel=1e-5)
        averages = [float(value) for value in trainer.loss_averages.averages()]
        correction = 1.0 - decay ** (step + 1)
        assert averages == pytest.approx(
            [labeled_sums[step] / correction, pseudo_sums[step] / correction], rel=1e-5
        )
        assert float(trainer.loss_averages.scale()) == pytest.approx(
            labeled_sums[step] / pseudo_sums[step], rel=1e-5
        )


def test_average_of_a_constant_loss_is_that_loss():
    normalizer = LossNormalizer(0.9997)
    for _ in range(3):
        normalizer.update(5.0, 0.5)
    assert [float(a) for a in normalizer.averages()] == pytest.approx(
        [5.0, 0.5], rel=1e-4
    )


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_loss_is_invariant_to_the_scale_of_the_pseudo_loss(factor):
    """After adaptation L stays close to L_h for any factor of L_p."""
    trainer = SelfTrainer(Line(), alpha=2.0, decay=0.5)
    data = both(([0.0], [2.0]), ([0.0], [(3.0 * factor) ** 0.5]))
    losses = [loss_of(trainer, data) for _ in range(5)]
    assert losses == pytest.approx([4.0] * 5, rel=1e-5)


def test_plain_sum_without_normalization():
    trainer = SelfTrainer(Line(), alpha=3.0, normalize=False)
    data = both(([0.0], [2.0]), ([0.0], [5.0]))
    assert loss_of(trainer, data) == pytest.approx(4.0 + 3.0 * 25.0)


def test_no_gradient_through_the_averages():
    """dL/dw is that of L_h + alpha · constant · L_p, divided by 1 + alpha."""
    trainer = SelfTrainer(Line(start=2.0), alpha=3.0, decay=0.9)
    data = both(([1.0], [0.0]), ([3.0], [1.0]))
    with tf.GradientTape() as tape:
        loss = trainer.compute_loss(data, y_pred=trainer(data))
    gradient = tape.gradient(loss, trainer.model.w.value)
    # L_h = (2·1 - 0)² = 4, gradient 4; L_p = (2·3 - 1)² = 25, gradient 30.
    assert float(gradient) == pytest.approx((4.0 + 3.0 * (4.0 / 25.0) * 30.0) / 4.0)


def test_averages_are_updated_only_in_training():
    trainer = SelfTrainer(Line(), decay=0.9)
    data = both(([0.0], [2.0]), ([0.0], [4.0]))
    loss_of(trainer, data)
    before = [float(a) for a in trainer.loss_averages.averages()]
    loss_of(trainer, both(([0.0], [9.0]), ([0.0], [9.0])), training=False)
    assert [float(a) for a in trainer.loss_averages.averages()] == before


def test_scale_is_one_until_a_pseudo_loss_is_seen():
    trainer = SelfTrainer(Line(), alpha=1.0)
    data = both(([0.0], [2.0]), ([0.0], [0.0]))
    assert loss_of(trainer, data) == pytest.approx(2.0)  # (4 + 1·1·0) / 2
    assert float(trainer.loss_averages.scale()) == 1.0


def fitted(alpha, streams, **kwargs):
    """Weights and history after three SGD steps with batch normalization."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(inputs))
    network = keras.Model(inputs, {"y": keras.layers.GlobalAveragePooling2D()(x)})

    class Net(keras.Model):
        image_size = (4, 4)

        def call(self, images, training=None):
            return network(images, training=training)

        def compute_losses(self, outputs, labels):
            return {"loss": ops.mean(ops.square(outputs["y"] - labels["target"]))}

    model = Net()
    model.network = network
    model.built = True
    trainer = SelfTrainer(model, alpha=alpha, **kwargs)
    trainer.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    rng = np.random.default_rng(0)
    data = {
        s: {
            "images": rng.normal(size=(12, 4, 4, 3)).astype("float32"),
            "target": rng.normal(size=(12, 2)).astype("float32"),
        }
        for s in ("labeled", "pseudo")
    }
    dataset = tf.data.Dataset.from_tensor_slices({s: data[s] for s in streams}).batch(4)
    history = trainer.fit(dataset, epochs=1, verbose=0, shuffle=False)
    return [w.numpy() for w in network.weights], history.history


def test_alpha_zero_equals_the_supervised_step_exactly():
    """Bit for bit, batch normalization's statistics included."""
    supervised, _ = fitted(1.0, ["labeled"])
    zero, logs = fitted(0.0, ["labeled", "pseudo"])
    assert all(np.array_equal(a, b) for a, b in zip(supervised, zero, strict=True))
    assert set(logs) == {"loss", "labeled_loss"}
    joint, _ = fitted(1.0, ["labeled", "pseudo"])
    assert not all(np.array_equal(a, b) for a, b in zip(supervised, joint, strict=True))


def test_history_averages_the_steps():
    """The logs of fit equal the averaged terms of the same steps."""
    _, logs = fitted(2.0, ["labeled", "pseudo"], decay=0.5)
    assert set(logs) == {"loss", "labeled_loss", "pseudo_loss", "pseudo_scale"}

    rows = []

    class Spy(SelfTrainer):
        def step(self, batch):
            terms = super().step(batch)
            rows.append(terms["loss"])
            return terms

    trainer = Spy(Line(), alpha=2.0, decay=0.5)
    trainer.compile(optimizer=keras.optimizers.SGD(0.0), run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices(
        both(([0.0, 0.0], [1.0, 2.0]), ([0.0, 0.0], [3.0, 1.0]))
    ).batch(1)
    logs = trainer.fit(dataset, verbose=0, shuffle=False).history
    assert logs["labeled_loss"] == [pytest.approx((1.0 + 4.0) / 2)]
    assert logs["pseudo_loss"] == [pytest.approx((9.0 + 1.0) / 2)]
    # Averages after step 1: 0.5·1, 0.5·9; after step 2: 2.25, 2.75.
    scales = [1.0 / 9.0, 2.25 / 2.75]
    assert logs["pseudo_scale"] == [pytest.approx(sum(scales) / 2)]
    losses = [(1.0 + 2 * scales[0] * 9.0) / 3, (4.0 + 2 * scales[1] * 1.0) / 3]
    assert logs["loss"] == [pytest.approx(sum(losses) / 2)]
    assert float(rows[-1]) == pytest.approx(losses[1])


@keras.saving.register_keras_serializable(package="test_selftraining")
class Counted(Line):
    """Line, whose loss is a sum of squares divided by a count of positives plus 1."""

    def loss_sum(self, outputs, labels):
        return ops.sum(ops.square(outputs["y"] - labels["target"])), labels["count"][0]

    def divisor(self, count):
        return count + 1.0

    def compute_losses(self, outputs, labels):
        total, count = self.loss_sum(outputs, labels)
        return {"loss": total / self.divisor(count)}


def counted(target, count):
    images = np.zeros((1, 1, 1, 1), np.float32)
    labels = {"target": np.float32([target]), "count": np.float32([count])}
    return {"images": images, **labels}


def test_losses_are_divided_by_the_average_of_the_positives():
    """Averages of 4, 0, 2 and of 0, 8, 0, decay 0.5, corrected for their start."""
    trainer = SelfTrainer(Counted(), normalize=False, normalizer="average")
    trainer.positives = PositivesAverage(0.5)
    labeled = [4.0, (0.25 * 4 + 0.5 * 0) / 0.75, (0.125 * 4 + 0.5 * 2) / 0.875]
    pseudo = [0.0, (0.5 * 8) / 0.75, (0.25 * 8) / 0.875]
    for step, counts in enumerate(((4.0, 0.0), (0.0, 8.0), (2.0, 0.0))):
        batch = {"labeled": counted(3.0, counts[0]), "pseudo": counted(5.0, counts[1])}
        losses = trainer.stream_losses(batch, trainer(batch))
        assert float(losses["labeled"]) == pytest.approx(9.0 / (labeled[step] + 1.0))
        assert float(losses["pseudo"]) == pytest.approx(25.0 / (pseudo[step] + 1.0))
    before = [float(v) for v in trainer.positives.variables]
    losses = trainer.stream_losses(batch, trainer(batch), training=False)
    assert float(losses["labeled"]) == 9.0 / 3.0  # its own positives
    assert [float(v) for v in trainer.positives.variables] == before


def test_a_trainer_without_average_divides_by_the_positives_of_the_batch():
    trainer = SelfTrainer(Counted(), normalize=False)
    for count in (4.0, 0.0):
        batch = {"labeled": counted(3.0, count)}
        losses = trainer.stream_losses(batch, trainer(batch))
        assert float(losses["labeled"]) == pytest.approx(9.0 / (count + 1.0))
    with pytest.raises(ValueError, match="one of batch, average.*normalizer='mean'"):
        SelfTrainer(Counted(), normalizer="mean")


def test_the_normalizer_is_saved(tmp_path):
    trainer = SelfTrainer(Counted(), normalizer="average")
    trainer.positives.update("pseudo", 7.0)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert again.normalizer == "average"
    values = [[float(v) for v in t.positives.variables] for t in (trainer, again)]
    assert values[0] == values[1] and values[0][1] == pytest.approx(0.07)


def test_an_overflow_does_not_change_the_averages():
    """One finite step makes the scale 1/4; three overflows leave everything."""
    trainer = SelfTrainer(Counted(), decay=0.5, normalizer="average")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    trainer.compile(optimizer=optimizer)
    trainer.step({"labeled": counted(1.0, 0.0), "pseudo": counted(2.0, 0.0)})
    kept = [float(v) for v in (*trainer.variables, optimizer.iterations)]
    assert float(trainer.loss_averages.scale()) == 0.25 and kept[-1] == 1.0
    for target in (np.inf, 1e30, np.nan):
        trainer.step({"labeled": counted(1.0, 3.0), "pseudo": counted(target, 3.0)})
    assert [float(v) for v in (*trainer.variables, optimizer.iterations)] == kept
    trainer.step({"labeled": counted(1.0, 0.0), "pseudo": counted(2.0, 0.0)})
    assert float(optimizer.iterations) == 2.0
    assert float(trainer.loss_averages.scale()) == 0.25


def test_an_overflow_does_not_enter_the_logs_of_fit():
    trainer = SelfTrainer(Counted())
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))
    trainer.compile(optimizer=optimizer)
    batches = [
        {"labeled": counted(1.0, 0.0), "pseudo": counted(target, 0.0)}
        for target in (2.0, np.inf, 2.0)
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tf.nest.map_structure(
            lambda v: tf.TensorSpec(v.shape, v.dtype), batches[0]
        ),
    )
    logs = trainer.fit(dataset, verbose=0).history
    assert logs["pseudo_loss"] == [4.0] and logs["labeled_loss"] == [1.0]


def test_pixels_are_normalized_before_they_are_rounded_to_bfloat16():
    """bfloat16 holds whole numbers only from 128 to 255; 200.4 isn't 200 for it."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = toy_training.tiny_model()
    finally:
        keras.config.set_dtype_policy(policy)
    trainer = SelfTrainer(model, dtype=model.dtype_policy)
    assert trainer.compute_dtype == "bfloat16"
    seen = []
    pixels = model.get_layer("normalize_pixels")
    apply = pixels.call
    pixels.call = lambda images: seen.append(apply(images)) or seen[-1]
    trainer({"labeled": {"images": np.full((1, 32, 32, 3), 200.4, np.float32)}})
    assert float(seen[0][0, 0, 0, 0]) == pytest.approx((200.4 - 123.675) / 58.395)


def test_evaluate_returns_the_losses_without_side_effects():
    trainer = SelfTrainer(Line(), alpha=3.0, normalize=False)
    trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    dataset = tf.data.Dataset.from_tensors(both(([0.0], [2.0]), ([0.0], [1.0])))
    logs = trainer.evaluate(dataset, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(4.0 + 3.0 * 1.0)
    assert logs["labeled_loss"] == pytest.approx(4.0)
    assert logs["pseudo_loss"] == pytest.approx(1.0)
    assert [float(v) for v in trainer.loss_averages.variables] == [0.0, 0.0, 1.0]
    assert [float(v) for v in trainer.model.variables] == [1.0, 1.0]


def test_tensorboard_logs_match_the_history(tmp_path):
    trainer = SelfTrainer(Line(), alpha=1.0)
    trainer.compile(optimizer=keras.optimizers.SGD(0.0))
    dataset = tf.data.Dataset.from_tensors(both(([0.0], [2.0]), ([0.0], [4.0])))
    trainer.fit(
        dataset,
        verbose=0,
        callbacks=[keras.callbacks.TensorBoard(tmp_path)],
        shuffle=False,
    )
    (path,) = tmp_path.glob("train/events*")
    scalars = {
        value.tag: tf.make_ndarray(value.tensor).item()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag.startswith("epoch_") and value.tensor.dtype == 1
    }
    assert scalars["epoch_labeled_loss"] == pytest.approx(4.0)
    assert scalars["epoch_pseudo_loss"] == pytest.approx(16.0)
    assert scalars["epoch_pseudo_scale"] == pytest.approx(0.25)
    assert scalars["epoch_loss"] == pytest.approx(4.0)


def test_l2_covers_the_named_weights():
    data = {"labeled": batch([0.0], [2.0])}
    kernel = SelfTrainer(Line(start=3.0), l2=0.1)
    assert loss_of(kernel, data) == pytest.approx(4.0 + 0.1 * 9.0 / 2)
    everything = SelfTrainer(Line(start=3.0), l2=0.1, l2_names=("kernel", "bias"))
    assert loss_of(everything, data) == pytest.approx(4.0 + 0.1 * (9.0 + 1.0) / 2)


def test_clipping_uses_the_global_norm():
    trainer = SelfTrainer(Line(start=1.0))
    trainer.compile(optimizer=keras.optimizers.SGD(1.0, global_clipnorm=0.5))
    # The gradient is 2·(1·10 - 0)·10 = 200, clipped to 0.5.
    dataset = tf.data.Dataset.from_tensors({"labeled": batch([10.0], [0.0])})
    trainer.fit(dataset, verbose=0, shuffle=False)
    assert float(trainer.model.w) == pytest.approx(0.5)


def test_streams_share_batch_normalization():
    """The model sees both streams as one batch."""
    seen = []

    class Watch(Line):
        def call(self, images, training=None):
            seen.append(tuple(images.shape))
            return super().call(images)

    trainer = SelfTrainer(Watch())
    outputs = trainer(both(([1.0, 2.0], [0, 0]), ([3.0], [0])), training=True)
    assert seen == [(3, 1, 1, 1)]
    assert outputs["labeled"]["y"].numpy().tolist() == [1.0, 2.0]
    assert outputs["pseudo"]["y"].numpy().tolist() == [3.0]


def test_images_alone_return_the_model_outputs():
    trainer = SelfTrainer(Line(start=2.0))
    images = np.ones((1, 1, 1, 1), np.float32)
    assert float(trainer(images)["y"][0]) == 2.0


def test_save_and_load_restore_averages_and_optimizer(tmp_path):
    trainer = SelfTrainer(Line(), alpha=2.0, decay=0.9)
    trainer.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
    dataset = tf.data.Dataset.from_tensors(both(([1.0], [2.0]), ([1.0], [5.0])))
    trainer.fit(dataset, verbose=0, shuffle=False)
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.alpha == 2.0
    for a, b in ((trainer, loaded), (trainer.optimizer, loaded.optimizer)):
        assert [float(v) for v in a.variables] == [float(v) for v in b.variables]
    again = [
        t.fit(dataset, verbose=0, shuffle=False).history["loss"]
        for t in (trainer, loaded)
    ]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "Received: alpha=-1.0", lambda: SelfTrainer(Line(), alpha=-1.0)),
        (ValueError, "Received: alpha='big'", lambda: SelfTrainer(Line(), alpha="big")),
        (ValueError, "Received: l2=-0.1", lambda: SelfTrainer(Line(), l2=-0.1)),
        (ValueError, "Received: decay=1.0", lambda: LossNormalizer(1.0)),
        (
            TypeError,
            "Received: model=Dense",
            lambda: SelfTrainer(keras.layers.Dense(1)),
        ),
        (
            ValueError,
            r"Received: keys=\['images', 'target'\]",
            lambda: SelfTrainer(Line())(batch([1.0], [1.0])),
        ),
    ],
)
def test_invalid_arguments(error, text, make):
    with pytest.raises(error, match=text):
        make()


def detector_batch(classes):
    """A batch of one image with two label slots."""
    return {
        "images": np.zeros((1, 32, 32, 3), np.float32),
        "sizes": np.array([[32, 32]], np.int32),
        "ids": np.array([1]),
        "boxes": np.float32([[[2, 2, 9, 9], [0, 0, 0, 0]]]),
        "classes": np.array([classes], np.int32),
        "scores": np.ones((1, 2), np.float32),
        "ignore": np.zeros((1, 2), bool),
    }


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"labeled": np.zeros((1, 32, 32, 3))}, "in the stream labeled. .*Tensor"),
        ({"images": np.zeros((1, 32, 32, 3))}, r"{\"labeled\": …}.*: keys=..images"),
        ((np.zeros((1, 32, 32, 3)), np.zeros(1)), r"a batch {\"labeled\": …}.*: tuple"),
        (np.zeros((1, 32, 32, 3)), r"Expected a batch {\"labeled\": …}.*: Tensor$"),
    ],
)
def test_batches_of_another_form_are_refused_before_the_first_step(data, text):
    trainer = SelfTrainer(toy_training.tiny_model())
    trainer.compile(optimizer="sgd")
    with pytest.raises(ValueError, match=text):
        trainer.fit(tf.data.Dataset.from_tensors(data), verbose=0)


def test_arrays_instead_of_batches_are_refused():
    trainer = SelfTrainer(Line())
    trainer.compile(optimizer="sgd")
    with pytest.raises(ValueError, match='Expected a batch {"labeled": …}'):
        trainer.fit(np.zeros((2, 1, 1, 3), np.float32), verbose=0)


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def batches_of(kind, *batches):
    if kind == "generator":
        return (batch for batch in batches)
    if kind == "sequence":
        return Batches(batches)
    first, *others = map(tf.data.Dataset.from_tensors, batches)
    return functools.reduce(tf.data.Dataset.concatenate, others, first)


@pytest.mark.parametrize("kind", ["dataset", "generator", "sequence"])
@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (
            [2, -1],
            "Expected labels of classes 0 to 1, -1 as padding, in classes of the "
            "stream labeled. Received: 2$",
        ),
        ([1, -2], "stream labeled. Received: -2$"),
        (np.float32([1, 0.5]), "stream labeled. Received: 0.5$"),
        (np.float32([np.nan, 1]), "stream labeled. Received: nan$"),
    ],
)
def test_classes_of_boxes_are_checked(kind, classes, text):
    trainer = SelfTrainer(toy_training.tiny_model())
    batches = [{"labeled": detector_batch([1, -1])} for _ in range(2)]
    right = np.asarray([[1, -1]], np.asarray(classes).dtype)
    batches[0]["labeled"]["classes"] = right
    batches[1]["labeled"]["classes"] = np.asarray([classes])
    data = batch_checks.checked(batches_of(kind, *batches), trainer)
    data = map(data.__getitem__, range(2)) if kind == "sequence" else iter(data)
    next(data)
    with pytest.raises(ValueError, match=text), batch_checks.one_line_errors():
        next(data)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (
            [["a", "b"]],
            r"classes of the stream labeled, numbers \[B, M\]. .*str",
        ),
        ([[True, False]], "Received: bool, .* of shape .1, 2.$"),
        ([[[1, 0], [0, 1]]], "Received: int64, .* of shape .1, 2, 2.$"),
    ],
)
@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_classes_of_another_form_are_refused(kind, classes, text):
    trainer = SelfTrainer(toy_training.tiny_model())
    batch = {"labeled": {**detector_batch([1, -1]), "classes": np.array(classes)}}
    with pytest.raises(ValueError, match=text):
        list(batch_checks.checked(batches_of(kind, batch), trainer))


def test_labels_of_unknown_rank_are_accepted():
    """Their classes are checked in every batch."""
    trainer = SelfTrainer(toy_training.tiny_model())
    known = batches_of("dataset", {"labeled": detector_batch([1, 7])})
    spec = {**known.element_spec["labeled"], "classes": tf.TensorSpec(None, tf.int32)}
    data = tf.data.Dataset.from_generator(
        lambda: iter(known), output_signature={"labeled": spec}
    )
    text = "stream labeled. Received: 7$"
    with pytest.raises(ValueError, match=text), batch_checks.one_line_errors():
        list(batch_checks.checked(data, trainer))


def test_validation_data_is_checked():
    trainer = SelfTrainer(toy_training.tiny_model())
    trainer.compile(optimizer="sgd")
    data = [batches_of("dataset", {"labeled": detector_batch([0, k])}) for k in (1, 9)]
    with pytest.raises(ValueError, match="stream labeled. Received: 9$"):
        trainer.fit(data[0], validation_data=data[1], verbose=0)


@pytest.mark.parametrize("kind", ["dataset", "generator", "sequence"])
def test_a_class_that_the_model_lacks_is_refused_in_any_batch(kind):
    right = {"labeled": detector_batch([0, 1]), "pseudo": detector_batch([1, -1])}
    wrong = {**right, "pseudo": detector_batch([0, 90])}
    trainers = [SelfTrainer(toy_training.tiny_model()) for _ in range(2)]
    for trainer in trainers:
        trainer.compile(optimizer="sgd")
    trainers[0].fit(batches_of(kind, *3 * [right]), shuffle=False, verbose=0)
    text = "stream pseudo. Received: 90$"
    with pytest.raises(ValueError, match=text) as error:
        data = batches_of(kind, *3 * [right], wrong)
        trainers[1].fit(data, shuffle=False, verbose=0)
    assert "\n" not in str(error.value)
    # The batches before it were trained on, and it was not.
    for one, other in zip(*(t.trainable_variables for t in trainers)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_classes_of_masks_are_checked(kind):
    model = types.SimpleNamespace(num_classes=3)
    trainer = types.SimpleNamespace(streams=list, model_of=lambda stream: model)
    mask = np.array([[[0, 2, 255]]])
    right = {"labeled": {"images": np.zeros(1), "mask": mask}}
    (found,) = batch_checks.checked(batches_of(kind, right), trainer)
    found = found[0] if kind == "generator" else found
    np.testing.assert_array_equal(found["labeled"]["mask"], mask)
    wrong = {"labeled": {"images": np.zeros(1), "mask": mask + (mask == 2)}}
    data = batch_checks.checked(batches_of(kind, right, wrong), trainer)
    text = "classes 0 to 2, 255 where it is unknown, in mask of .* Received: 3$"
    with pytest.raises(ValueError, match=text), batch_checks.one_line_errors():
        list(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "mse"),
        ("metrics", ["mae"]),
        ("weighted_metrics", ["mae"]),
        ("loss_weights", [1]),
    ],
)
def test_losses_and_metrics_that_would_not_be_used_are_refused(name, value):
    with pytest.raises(ValueError, match=f"its terms are logged. Received: {name}="):
        SelfTrainer(Line()).compile(optimizer="sgd", **{name: value})


@pytest.mark.parametrize("name", ["y", "class_weight", "sample_weight"])
def test_labels_and_weights_beside_the_batch_are_refused(name):
    trainer = SelfTrainer(Line())
    trainer.compile(optimizer="sgd")
    data = tf.data.Dataset.from_tensors({"labeled": batch([1.0], [2.0])})
    text = f"sample_weights are part of them; .* Received: {name}, dict$"
    calls = [trainer.fit, trainer.train_on_batch]
    calls += [] if name == "class_weight" else [trainer.evaluate, trainer.test_on_batch]
    for call in calls:
        with pytest.raises(ValueError, match=text):
            call(data, **{name: {0: 1.0}})


@pytest.mark.parametrize("name", ["batch_size", "validation_batch_size"])
def test_settings_of_arrays_are_refused_beside_batches(name):
    trainer = SelfTrainer(Line())
    trainer.compile(optimizer="sgd")
    data = tf.data.Dataset.from_tensors({"labeled": batch([1.0], [2.0])})
    text = f"arrays only: .* Received: {name}=3 with _TensorDataset$"
    with pytest.raises(ValueError, match=text):
        trainer.fit(data, validation_data=data, **{name: 3})
    with pytest.raises(ValueError, match="arrays only: .*: validation_split=0.5 with"):
        trainer.fit(data, validation_split=0.5)
    with pytest.raises(ValueError, match="arrays only: .* Received: batch_size=3 with"):
        trainer.evaluate(data, batch_size=3)
    with pytest.raises(ValueError, match="wanted, sample_weights. Received: tuple$"):
        trainer.fit(data, validation_data=({"labeled": 0}, 0))


def test_an_unknown_stream_is_refused():
    data = {"labeled": batch([1.0], [2.0]), "pseudo_labeled": batch([1.0], [2.0])}
    text = r"sample_weights. Received: keys=\['labeled', 'pseudo_labeled'\]$"
    trainer = SelfTrainer(Line())
    trainer.compile(optimizer="sgd")
    for given in (data, tf.data.Dataset.from_tensors(data)):
        with pytest.raises(ValueError, match=text):
            trainer.fit(given, verbose=0)


def test_streams_of_arrays_are_batched_by_keras():
    """Four images, in two batches: the gradient is the mean of 2 (w - target)."""
    trainer = SelfTrainer(Line(start=0.0))
    trainer.compile(optimizer=keras.optimizers.SGD(0.5))
    data = {"labeled": batch([1.0] * 4, [1.0, 3.0, 5.0, 7.0])}
    logs = trainer.fit(data, batch_size=2, shuffle=False, verbose=0).history
    # w = 0 to the mean of 1 and 3, then to that of 5 and 7.
    assert float(trainer.model.w) == pytest.approx(6.0)
    assert logs["loss"] == [pytest.approx(((1 + 9) / 2 + (9 + 25) / 2) / 2)]


class Noting(Line):
    """Line that notes the labels it is asked to check, and refuses a target of 9."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noted = []

    def check_labels(self, labels, where=""):
        self.noted.append((where.split()[-1], labels["target"].tolist()))
        if (labels["target"] == 9.0).any():
            raise ValueError(f"Expected another target{where}. Received: 9")


def noting_data(kind, first=0.0):
    batches = [
        both(([1.0, 1.0], [first + k, k]), ([1.0, 1.0], [k, 5.0])) for k in range(3)
    ]
    return batches_of(kind, *batches)


@pytest.mark.parametrize("kind", ["dataset", "generator", "sequence"])
def test_the_first_batch_alone_is_checked_and_trained_on(kind):
    results = []
    for validate in (True, False):
        trainer = SelfTrainer(Noting())
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        data = noting_data(kind)
        logs = trainer.fit(data, shuffle=False, verbose=0, validate=validate).history
        results.append((float(trainer.model.w), logs))
        noted = trainer.model.noted
        first = [("labeled", [0.0, 0.0]), ("pseudo", [0.0, 5.0])]
        assert noted == (first if validate else [])
    assert results[0] == results[1] and results[0][0] != 1.0


@pytest.mark.parametrize("kind", ["dataset", "generator", "sequence"])
def test_a_fault_of_the_first_batch_is_told_in_a_line(kind):
    trainer = SelfTrainer(Noting())
    trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    text = "^Expected another target of the stream labeled. Received: 9$"
    for call in (trainer.fit, trainer.evaluate):
        with pytest.raises(ValueError, match=text):
            call(noting_data(kind, first=9.0), verbose=0)
    with pytest.raises(ValueError, match=text):
        trainer.train_on_batch({"labeled": batch([1.0], [9.0])})
    with pytest.raises(ValueError, match=text):
        trainer.test_on_batch({"labeled": batch([1.0], [9.0])})
    with pytest.raises(ValueError, match=text):
        trainer.fit({"labeled": batch([1.0], [9.0])}, verbose=0)
    assert float(trainer.model.w) == 1.0
    with pytest.raises(ValueError, match=text):
        data = noting_data(kind)
        trainer.fit(data, validation_data=noting_data(kind, first=9.0), verbose=0)


def test_a_check_does_not_change_the_order_of_shuffled_data():
    weights = []
    for validate in (True, False):
        trainer = SelfTrainer(Noting())
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        data = tf.data.Dataset.from_tensor_slices(
            {"labeled": batch([1.0] * 9, np.arange(9.0) ** 2 % 7)}
        )
        data = data.shuffle(9, seed=3).batch(2)
        trainer.fit(data, epochs=3, verbose=0, validate=validate)
        weights.append(float(trainer.model.w))
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"images": np.full((1, 32, 32, 3), 0.5, np.float32)},
            "of 0 to 255, .*: values",
        ),
        (
            {"boxes": np.float32([[[0.1, 0.1, 0.5, 0.5]] * 2])},
            "labeled, .* multiply by",
        ),
        (
            {"boxes": np.float32([[[9, 2, 2, 9]] * 2])},
            r"of 32 x 32. .*: \[9, 2, 2, 9\]",
        ),
        ({"classes": np.int32([[1, 2]])}, "Received: 1 to 2, which are counted from 1"),
        ({"classes": np.int32([[1, 0]])}, "Expected -1 as the class of a slot without"),
    ],
)
def test_values_that_train_wrongly_are_refused_by_fit(changes, text):
    trainer = SelfTrainer(toy_training.tiny_model())
    right = {"labeled": detector_batch([0, -1])}
    wrong = {"labeled": {**right["labeled"], **changes}}
    data = iter(batch_checks.checked(batches_of("dataset", wrong, right), trainer))
    with pytest.raises(ValueError, match=text), batch_checks.one_line_errors():
        next(data)
    batches = batch_checks.checked(batches_of("generator", wrong), trainer)
    with pytest.raises(ValueError, match=text):
        next(batches)
    if "classes" not in changes:  # those of every batch are checked
        list(batch_checks.checked(batches_of("dataset", wrong), trainer, False))


def test_ragged_labels_are_refused():
    labels = detector_batch([0, -1])
    labels["scores"] = tf.ragged.constant([[1.0]])
    data = tf.data.Dataset.from_tensors({"labeled": labels})
    text = (
        "Expected scores of the stream labeled, padded .* Received: RaggedTensorSpec$"
    )
    with pytest.raises(ValueError, match=text):
        batch_checks.checked(data, SelfTrainer(toy_training.tiny_model()))


def test_predict_and_export_give_the_outputs_of_the_model(tmp_path):
    trainer = SelfTrainer(toy_training.tiny_model())
    trainer.compile(optimizer="sgd")
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    expected = trainer.model.predict(images, verbose=0)
    trainer.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    served = loaded.serve(images)
    predicted = trainer.predict(images, batch_size=2, verbose=0)
    assert set(predicted) == set(served) == {"class_logits", "box_deltas"}
    for name, value in expected.items():
        np.testing.assert_allclose(predicted[name], value, atol=1e-5)
        np.testing.assert_allclose(served[name], value, atol=1e-5)

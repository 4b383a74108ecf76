"""Gradients of a whole batch, of which parts and replicas see pieces."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_training import scenes, tiny_model

from official_selftrain.data import pipeline
from official_selftrain.models import retinanet
from official_selftrain.training import SelfTrainer, gradients


def batch_of(pool, seed=0):
    batches = pipeline.training_batches(scenes(pool), 4, (32, 32), seed=seed)
    return next(iter(batches))


def trainer_of(accumulation, **settings):
    trainer = SelfTrainer(
        tiny_model(), alpha=2.0, l2=1e-2, accumulation=accumulation, **settings
    )
    for layer in trainer.model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # else each part has its own statistics
    trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def test_losses_of_parts_add_up_to_that_of_the_batch():
    """Sums and counts of two halves, divided at the end."""
    model, batch = tiny_model(), batch_of("labeled")
    outputs = model(batch["images"], training=False)
    whole = float(model.compute_losses(outputs, batch)["loss"])
    halves = [slice(0, 2), slice(2, 4)]
    parts = [
        gradients.part_loss(
            model,
            {key: value[half] for key, value in outputs.items()},
            {key: value[half] for key, value in batch.items()},
        )
        for half in halves
    ]
    total = sum(float(loss) for loss, _ in parts)
    count = sum(float(count) for _, count in parts)
    assert total / float(gradients.divisor(model, count)) == pytest.approx(
        whole, rel=1e-5
    )


def test_parts_of_a_model_without_sums_count_alike():
    class Plain:
        def compute_losses(self, outputs, labels):
            return {"loss": tf.constant(3.0)}

    loss, count = gradients.part_loss(Plain(), None, None)
    assert (float(loss), float(count)) == (3.0, 1.0)
    assert float(gradients.divisor(Plain(), count + count)) == 2.0


def test_accumulated_gradients_are_those_of_the_batch():
    batch = {"labeled": batch_of("labeled"), "pseudo": batch_of("unlabeled", 1)}
    found = []
    for accumulation in (1, 2):
        trainer = trainer_of(accumulation)
        variables = [v.value for v in trainer.trainable_variables]
        found.append(gradients.of_batch(trainer, batch, variables))
    (whole, terms), (accumulated, parts_terms) = found
    for name, value in terms.items():
        assert float(parts_terms[name]) == pytest.approx(float(value), rel=1e-4), name
    for one, other in zip(whole, accumulated):
        np.testing.assert_allclose(other.numpy(), one.numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("accumulation", "normalizer"), [(1, "batch"), (1, "average"), (2, "average")]
)
def test_a_weight_of_two_is_the_image_twice(accumulation, normalizer):
    """Weights 1, 2, 0, 1 of images a, b, c, d, and the batch a, b, b, d."""
    batch, weights = batch_of("labeled"), tf.constant([1.0, 2.0, 0.0, 1.0])
    doubled = {key: tf.gather(value, [0, 1, 1, 3]) for key, value in batch.items()}
    weighted, found = {**batch, "sample_weights": weights}, []
    for labeled, pseudo in ((weighted, batch), (doubled, batch)):
        trainer = trainer_of(accumulation, normalizer=normalizer)
        variables = [v.value for v in trainer.trainable_variables]
        streams = {"labeled": labeled, "pseudo": pseudo}
        found.append(gradients.of_batch(trainer, streams, variables))
        if normalizer == "average":
            found[-1][1].update({v.name: v for v in trainer.positives.variables})
    (one, terms), (other, expected) = found
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-5), name
    for gradient, wanted in zip(one, other):
        np.testing.assert_allclose(gradient.numpy(), wanted.numpy(), atol=2e-5)
    plain, _ = gradients.of_batch(
        trainer, {"labeled": batch, "pseudo": batch}, variables
    )
    assert max(np.abs(a - b).max() for a, b in zip(plain, one)) > 1e-3


class Unused(keras.Model):
    """A weight times the pixels, and a weight that nothing uses."""

    image_size = (1, 1)

    def __init__(self):
        super().__init__()
        self.used = self.add_weight(name="used", shape=(), initializer="ones")
        self.unused = self.add_weight(name="unused", shape=(), initializer="ones")
        self.built = True

    def call(self, images, training=None):
        return {"y": self.used * images[:, 0, 0, 0]}

    def compute_losses(self, outputs, labels):
        return {"loss": tf.reduce_mean(outputs["y"])}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_unused_weight_stays_as_it_is(accumulation):
    """It isn't even decayed, as it would be with a gradient of zero."""
    trainer = SelfTrainer(Unused(), accumulation=accumulation)
    trainer.compile(optimizer=keras.optimizers.AdamW(0.1, weight_decay=0.5))
    images = np.ones((2, 1, 1, 1), np.float32)
    trainer.step({"labeled": {"images": images}})
    # Weight decay of 0.1 · 0.5, then Adam's first step of 0.1.
    assert float(trainer.model.used) == pytest.approx(0.95 - 0.1, abs=1e-6)
    assert float(trainer.model.unused) == 1.0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_targets_are_matched_once(monkeypatch, accumulation):
    """Once for each stream and part: none is matched a second time to be counted."""
    trainer, matched = trainer_of(accumulation), []
    assign = retinanet.anchors.assign_targets

    def counting(anchors, labels, *settings):
        matched.append(labels["boxes"].shape[0])
        return assign(anchors, labels, *settings)

    monkeypatch.setattr(retinanet.anchors, "assign_targets", counting)
    trainer.step({"labeled": batch_of("labeled"), "pseudo": batch_of("unlabeled")})
    assert matched == [4 // accumulation] * (2 * accumulation)


def test_the_norm_is_that_of_all_gradients():
    """√(3² + 4²); on one replica the optimizer clips by itself."""
    found = [tf.constant([3.0]), None, tf.constant([4.0])]
    optimizer = keras.optimizers.SGD(global_clipnorm=1.0)
    clipped, norm = gradients.clipped(found, optimizer)
    assert float(norm) == 5.0
    assert clipped == found


def test_the_norm_is_told_without_the_loss_scale():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(), initial_scale=8.0
    )
    optimizer.build([keras.Variable(0.0)])
    _, norm = gradients.clipped([tf.constant([24.0]), tf.constant([32.0])], optimizer)
    assert float(norm) == 5.0


def test_a_step_that_only_adds_to_a_gradient_is_not_skipped():
    weight, other = keras.Variable(1.0), keras.Variable(1.0)
    sgd = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=4.0)
    optimizer.build([weight])
    for step in range(2):
        with gradients.unless_skipping(optimizer, [other]):
            other.assign_add(1.0)
            optimizer.apply([tf.constant(2.0)], [weight])
        assert float(other) == step + 2.0
    assert float(weight) == 0.5


@pytest.mark.parametrize("gradient", [2.0, float("inf")])
def test_a_skipped_step_leaves_everything_as_it_was(gradient):
    """Also what is finite: a group whose parts went on separately has no meaning."""
    weight, finite, spoiled = (keras.Variable(v) for v in (1.0, 1.0, 2.0))
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0), initial_scale=4.0
    )
    optimizer.build([weight])
    with gradients.unless_skipping(optimizer, [finite, spoiled]):
        finite.assign(3.0)
        spoiled.assign(gradient)
        optimizer.apply([tf.constant(gradient)], [weight])
    values = [float(v) for v in (weight, finite, spoiled, optimizer.iterations)]
    is_taken = gradient == 2.0  # 1 - 2 / 4
    assert values == ([0.5, 3.0, 2.0, 1.0] if is_taken else [1.0, 1.0, 2.0, 0.0])
    assert float(optimizer.dynamic_scale) == (4.0 if is_taken else 2.0)


def test_an_optimizer_that_does_not_scale_losses_skips_nothing():
    spoiled = keras.Variable(2.0)
    with gradients.unless_skipping(keras.optimizers.SGD(), [spoiled]):
        spoiled.assign(float("inf"))
    assert np.isinf(float(spoiled))


def test_a_skipped_step_on_jax_leaves_everything_as_it_was():
    """The state is passed on as lists of arrays there."""
    weight = keras.Variable(1.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    optimizer.build([weight])
    place = [v is optimizer.iterations for v in optimizer.variables].index(True)
    own = [tf.constant(0)] * len(optimizer.variables)
    before = ([tf.constant(1.0)], [tf.constant(2.0)], own, [tf.constant(3.0)])
    for count, expected in ((0, [5.0, 2.0, 3.0]), (1, [5.0, 6.0, 7.0])):
        after = list(own)
        after[place] = tf.constant(count)
        after = ([tf.constant(5.0)], [tf.constant(6.0)], after, [tf.constant(7.0)])
        state = gradients.unless_skipped(optimizer, before, after)
        assert [float(state[k][0]) for k in (0, 1, 3)] == expected
        assert int(state[2][place]) == count


def test_parts_scale_means_as_the_whole_batch_does(monkeypatch):
    """What float16 sees of a part's loss is as large as of the whole batch's."""
    batch, scaled = {"labeled": batch_of("labeled")}, {}
    for accumulation in (1, 2):
        trainer = trainer_of(accumulation)
        losses = scaled.setdefault(accumulation, [])
        monkeypatch.setattr(
            trainer.optimizer, "scale_loss", lambda v, s=losses: s.append(v) or v
        )
        variables = [v.value for v in trainer.trainable_variables]
        gradients.of_batch(trainer, batch, variables)
    (whole,), (*parts, _) = scaled[1], scaled[2]
    assert len(parts) == 2
    for part in parts:
        assert 0.3 * float(whole) < float(part) < 3.0 * float(whole)

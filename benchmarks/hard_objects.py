"""Measure what small, many and doubtful objects, and empty images, do to training.

python benchmarks/hard_objects.py --output_dir=runs/hard_objects

Each figure is taken twice: as the package computes it, and by the rule that it had
before, which is written out here:

- `doubtful`: anchors that a doubtful box of a size ignores (before: those of which more
  than half lies inside it), and whether the one that it would be assigned to is taught
  as background.
- `crowded`: AP of an image with 150 objects of which the first or the last 100 are
  found (before: the first 100 objects were the truth).
- `weights`: the weight of a batch without objects, relative to one with objects.
- `empty`: students that train on correct labels of scenes, some of which are empty,
  by batch size and normalizer: AP, and loss curves in `empty_images.png`.
- `first_steps`: the scale of the pseudo loss, and the scaled pseudo loss relative to
  the labeled one, where the first pseudo batch has hardly any loss.
- `leftovers`: doubtful boxes that Soft-NMS leaves beside a certain box of the same
  class, and the anchors that they alone ignore.
- `skipped`: the scale of the pseudo loss after float16 steps that overflowed (before:
  only what wasn't finite was restored).
- `scaled`: AP after a training with a batch of 32, and with one of 8 whose learning
  rate is scaled with the batch size or with its square root, for SGD and AdamW.

The last line of the output is JSON; `--record` appends it to benchmarks/results/ and
stores the picture there. `--quick` measures all but the trainings.
"""

import collections
import functools
import importlib.metadata
import os
import pathlib
import shutil
import statistics

import keras
import matplotlib.figure
import numpy as np
import record
import tensorflow as tf
from sklearn.datasets import load_sample_images

from official_selftrain.data import examples, pipeline
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.geometry import array_boxes, letterbox
from official_selftrain.inference import prediction
from official_selftrain.inference.evaluation import evaluate_model
from official_selftrain.metrics.coco import CocoMetric
from official_selftrain.models import RetinaNet, anchors, backbones
from official_selftrain.training import (
    Loss,
    Monitoring,
    Optimization,
    SelfTrainer,
    Streams,
    fit,
    fitting,
    schedules,
)

FRAME = (48, 48)
BOXES = ((6, 6), (22, 22), (24, 24), (90, 5), (6, 200), (120, 9), (64, 64), (300, 300))
BATCH_SIZES = (4, 8, 16)
EMPTY = (0.0, 0.5, 0.8, 0.95)
NORMALIZERS = ("batch", "average")
PLAIN = Loss()


def main():
    """Run the measurements and print a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument("--output_dir", default="runs/hard_objects")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="", help="comma-separated figures")
    arguments = parser.parse_args()
    measurements = {
        "doubtful": doubtful,
        "crowded": crowded,
        "skipped": skipped,
        "first_steps": first_steps,
        "weights": weights_of_empty_batches,
    }
    folder = pathlib.Path(arguments.output_dir)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.quick:
        settings = folder, arguments.steps, seeds
        measurements["empty"] = functools.partial(empty, *settings)
        measurements["leftovers"] = functools.partial(leftovers, folder, settings[1])
        measurements["scaled"] = functools.partial(scaled, *settings)
    only = arguments.only.split(",") if arguments.only else measurements
    figures = {name: measurements[name]() for name in only}
    ratios = {}
    if "weights" in figures:
        weights = figures["weights"].values()
        ratios["largest_weight_of_an_empty_batch"] = max(w["ratio"] for w in weights)
    if arguments.record and "empty" in figures:
        shutil.copy(folder / "empty_images.png", record.RESULTS)
    names = ("keras", "tensorflow-cpu", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    record.finish("hard_objects", ratios, figures, versions, arguments.record)


def doubtful():
    """Return the anchors that a doubtful box ignores, by size, at 640 pixels."""
    grid = anchors.anchor_boxes((640, 640))
    rows = {}
    for size in BOXES:
        half = np.array(size) / 2
        box = np.float32([*(324 - half), *(324 + half)])
        labels = {
            "boxes": box[None, None],
            "classes": np.zeros((1, 1), np.int32),
            "ignore": np.ones((1, 1), bool),
            "scores": np.full((1, 1), 0.3, np.float32),
        }
        certain = {**labels, "ignore": np.zeros((1, 1), bool)}
        positive = np.array(anchors.assign_targets(grid, certain)[0])[0] == 0
        ignored = np.array(anchors.assign_targets(grid, labels)[0])[0] == -2
        shared = np.minimum(grid[:, 2:], box[2:]) - np.maximum(grid[:, :2], box[:2])
        area = np.prod(grid[:, 2:] - grid[:, :2], axis=1)
        covered = np.prod(np.maximum(shared, 0.0), axis=1) / area > 0.5
        rows["x".join(map(str, size))] = {
            "would_be_positive": int(positive.sum()),
            "ignored": int(ignored.sum()),
            "ignored_before": int(covered.sum()),
            "taught_as_background": int((positive & ~ignored).sum()),
            "taught_as_background_before": int((positive & ~covered).sum()),
        }
        print(f"doubtful box {size}: {rows['x'.join(map(str, size))]}")
    return rows


def crowded():
    """Return the AP of 100 found of 150 objects, with whole and truncated truth."""
    corners = [[8 * (k // 15), 8 * (k % 15), 8 * (k // 15) + 6, 8 * (k % 15) + 6]
               for k in range(150)]  # fmt: skip
    boxes = np.float32(corners)[None]
    truth = {
        "ids": np.array([1]),
        "boxes": boxes,
        "classes": np.zeros((1, 150), np.int32),
        "ignore": np.zeros((1, 150), bool),
        "areas": np.zeros((1, 150), np.float32),
    }
    truncated = {"ids": truth["ids"]}
    truncated |= {key: truth[key][:, :100] for key in truth if key != "ids"}
    rows = {}
    for name, part in (("first", slice(0, 100)), ("last", slice(50, 150))):
        found = {
            "boxes": boxes[:, part],
            "scores": np.linspace(0.9, 0.5, 100, dtype=np.float32)[None],
            "classes": np.zeros((1, 100), np.int32),
        }
        for title, labels in (("", truth), ("_before", truncated)):
            metric = CocoMetric(1)
            metric.update(found, labels)
            rows[f"{name}{title}"] = metric.result()["AP"]
    print(f"AP of 100 found of 150 objects: {rows}")
    return rows


class Constant(keras.Model):
    """Return a weight as the loss of a stream, times the stream's target."""

    image_size = (1, 1)

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(name="kernel", shape=(), initializer="ones")
        self.built = True

    def call(self, images, training=None):
        """Return the weight."""
        return {"y": self.w * images[:, 0, 0, 0]}

    def compute_losses(self, outputs, labels):
        """Return the mean of the outputs times the targets."""
        return {"loss": tf.reduce_mean(outputs["y"] * labels["target"])}


def steps_of(trainer, pseudo_losses):
    """Take steps with a labeled loss of 1; yield the scale after each."""
    for value in pseudo_losses:
        batch = {
            stream: {
                "images": np.ones((1, 1, 1, 1), np.float32),
                "target": np.float32([target]),
            }
            for stream, target in (("labeled", 1.0), ("pseudo", value))
        }
        trainer.step(batch)
        yield float(trainer.loss_averages.scale())


def first_steps():
    """Return scales and scaled pseudo losses after a first pseudo loss of 0.02."""
    trainer = SelfTrainer(Constant())
    trainer.compile(optimizer=keras.optimizers.SGD(0.0))
    values = (0.02, 0.5, 0.5, 0.5, 0.5, 0.5)
    scales = list(steps_of(trainer, values))
    weights = [scale * value for scale, value in zip(scales, values)]
    print(f"first steps: scales {scales}, scaled pseudo losses {weights}")
    return {"pseudo_loss": values, "scale": scales, "scaled": weights}


def skipped():
    """Return the scale after each of four steps, three of which overflow.

    The pseudo loss is 4 times the labeled one: the scale is 0.25.
    """
    trainer = SelfTrainer(Constant(), decay=0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))
    trainer.compile(optimizer=optimizer)
    labeled, pseudo, rows, before = 0.0, 0.0, [], []
    values = (4.0, np.inf, np.inf, np.inf)
    for value, scale in zip(values, steps_of(trainer, values)):
        rows.append(scale)
        labeled = 0.5 * labeled + 0.5
        if np.isfinite(value):
            pseudo = 0.5 * pseudo + 0.5 * value
        before.append(labeled / pseudo)
    print(f"scale after overflows: {rows}, before {before}")
    return {"scale": rows, "scale_before": before}


def weights_of_empty_batches():
    """Return the weight of a batch without objects, relative to one with objects.

    It is the loss of the same background, divided by what each normalizer gives for a
    batch of 8, 80 % of whose images are empty.
    """
    model = detector()
    labels = batch_of(scenes("unlabeled", 64, 0, 0.8), 8)
    rows = {}
    for normalizer in NORMALIZERS:
        trainer = SelfTrainer(model, normalizer=normalizer)
        divisors = {True: [], False: []}
        for batch in labels:
            outputs = model(batch["images"])
            _, count = model.loss_sum(outputs, batch)
            is_empty = not (batch["classes"].numpy() >= 0).any()
            divisor = trainer.divisor("pseudo", count)
            divisors[is_empty].append(float(divisor))
        with_objects = statistics.mean(1 / value for value in divisors[False])
        empty_ones = statistics.mean(1 / value for value in divisors[True])
        rows[normalizer] = {
            "empty_batches": len(divisors[True]),
            "batches": sum(map(len, divisors.values())),
            "ratio": empty_ones / with_objects,
        }
    print(f"weight of an empty batch, relative to one with objects: {rows}")
    return rows


def batch_of(source, size):
    """Return the batches of a source, augmented, as a list."""
    streams = Streams(source, seed=1)
    dataset = streams.batches(size, FRAME, augment.fit, 0, pipeline.Share())
    return [batch["labeled"] for batch in dataset.take(40)]


def scenes(pool, count, seed, share=0.0):
    """Return scenes of digits; a fraction of them is replaced by photographs."""
    composed = digits.compose(pool, count, seed, FRAME)
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    records = []
    for index, (image, boxes, classes, _) in enumerate(composed):
        if index < round(share * count):
            photo = photographs[index % 2]
            y = int(rng.integers(photo.shape[0] - FRAME[0]))
            x = int(rng.integers(photo.shape[1] - FRAME[1]))
            image = photo[y : y + FRAME[0], x : x + FRAME[1]]
            boxes, classes = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        png = tf.io.encode_png(image).numpy()
        records.append(
            {
                "encoded": png,
                "id": index,
                "boxes": boxes / np.float32([*FRAME, *FRAME]),
                "classes": classes,
            }
        )
    return examples.from_records(records, [str(k) for k in range(5)])


def detector(seed=0, momentum=0.95):
    """Return the quickstart's detector."""
    keras.utils.set_random_seed(seed)
    return RetinaNet(
        5,
        FRAME,
        backbones.resnet(
            50, blocks=(1, 1, 1), filters=(16, 24, 32), bn_momentum=momentum
        ),
        max_level=4,
        num_filters=64,
        num_head_convs=2,
        separable_head=True,
        bn_momentum=momentum,
        bn_epsilon=1e-3,
        anchor_size=1.75,
        aspect_ratios=(1.0, 0.6),
        unmatched_threshold=0.4,
        focal_alpha=0.5,
        max_detections=20,
    )


def trained(  # noqa: PLR0913 -- what is varied
    folder, streams, optimization, loss=PLAIN, seed=0, start=None, momentum=0.95
):
    """Train a detector, or read a finished one; return it, its AP and its history."""
    model = detector(seed, momentum)
    if start is not None:
        model.set_weights(start.get_weights())
    every = max(optimization.steps // 40, 1)
    path = str(folder)
    if not os.path.exists(os.path.join(path, "model.keras")):
        fit(
            model,
            streams,
            path,
            optimization,
            loss,
            functools.partial(
                augment.flip_and_jitter,
                scale_range=(0.8, 1.25),
                flip_probability=0.0,
                color_strength=0.3,
            ),
            Monitoring(log_every=every, num_pictures=0),
        )
    model = keras.saving.load_model(os.path.join(path, "model.keras"))
    truth = scenes("test", 300, 0)
    return model, evaluate_model(model, truth, 50)["AP"], fitting.read_history(path)


def optimization_of(steps, batch_size, rate=None, optimizer=None, **settings):
    """Return the quickstart's optimization, its rate scaled to the batch size."""
    rate = 3e-3 * (batch_size / 16) ** 0.5 if rate is None else rate
    adam = functools.partial(
        keras.optimizers.AdamW, weight_decay=4e-3, global_clipnorm=10.0
    )
    schedule = functools.partial(
        schedules.cosine, learning_rate=rate, warmup_steps=max(steps // 20, 1)
    )
    return Optimization(steps, batch_size, optimizer or adam, schedule, **settings)


def empty(folder, steps, seeds):
    """Return students' AP by batch size, empty share and normalizer."""
    labeled = scenes("labeled", 60, 0)
    teacher, value, _ = trained(
        folder / "teacher", Streams(labeled), optimization_of(2 * steps, 16, 6e-3)
    )
    print(f"teacher: AP {value:.2f}")
    rows, curves = {"teacher": value}, {}
    for size in BATCH_SIZES:
        for share in EMPTY:
            pool = scenes("unlabeled", 1000, 0, share)
            for normalizer in NORMALIZERS:
                name = f"batch_{size}_empty_{100 * share:.0f}_{normalizer}"
                values = []
                for seed in seeds:
                    streams = Streams(labeled, pseudo=pool, seed=seed)
                    _, value, history = trained(
                        folder / f"{name}_{seed}",
                        streams,
                        optimization_of(steps, size),
                        Loss(alpha=3.0, normalizer=normalizer),
                        seed,
                        teacher,
                    )
                    values.append(value)
                    curves.setdefault((size, share), {}).setdefault(normalizer, history)
                rows[name] = {"AP": values, "mean": statistics.mean(values)}
                rows[name] |= spread(history)
                print(f"{name}: {rows[name]}", flush=True)
    draw(curves, folder / "empty_images.png")
    return rows


def spread(history):
    """Return how much the pseudo loss and its scale vary over a training."""
    rows = history[len(history) // 4 :]
    losses = [row["pseudo_loss"] for row in rows]
    return {
        "deviation_of_pseudo_loss": statistics.stdev(losses) / statistics.mean(losses),
        "largest_scale": max(row["pseudo_scale"] for row in history),
        "first_scale": history[0]["pseudo_scale"],
    }


def draw(curves, path):
    """Draw the pseudo losses of all students."""
    figure = matplotlib.figure.Figure((10, 6), layout="constrained")
    grid = figure.subplots(len(BATCH_SIZES), len(EMPTY), sharex=True)
    for (size, share), by_normalizer in curves.items():
        axes = grid[BATCH_SIZES.index(size)][EMPTY.index(share)]
        for normalizer, history in by_normalizer.items():
            axes.plot(
                [row["step"] for row in history],
                [row["pseudo_loss"] for row in history],
                label=normalizer,
                linewidth=1,
            )
        axes.set_title(f"batch {size}, {100 * share:.0f} % empty", fontsize=8)
        axes.set_yscale("log")
        axes.tick_params(which="both", labelsize=7)
    grid[0][0].legend(fontsize=7, title="pseudo loss, normalizer", title_fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def leftovers(folder, steps):
    """Return what Soft-NMS leaves beside certain boxes, and what it makes ignored."""
    hard, _, _ = trained(
        folder / "teacher",
        Streams(scenes("labeled", 60, 0)),
        optimization_of(2 * steps, 16, 6e-3),
    )
    soft = RetinaNet.from_config({**hard.get_config(), "soft_nms_sigma": 0.3})
    soft.set_weights(hard.get_weights())
    rows = {}
    for name, model in (("nms", hard), ("soft_nms", soft)):
        label = prediction.labeler(model)
        images = np.float32([image for image, *_ in digits.compose("unlabeled", 300)])
        images = letterbox.fit(images, FRAME)
        counts = collections.Counter()
        for start in range(0, len(images), 50):
            part = images[start : start + 50]
            for labels in label(part, np.tile([FRAME], (len(part), 1))):
                counts.update(_leftovers_of(model, labels))
        rows[name] = dict(counts)
    print(f"left beside certain boxes: {rows}")
    return rows


def _leftovers_of(model, labels):
    kept = labels["scores"] >= 0.2
    boxes, scores, classes = (labels[k][kept] for k in ("boxes", "scores", "classes"))
    is_doubtful = scores < 0.5
    overlap = np.array([array_boxes.iou(box[None], boxes) for box in boxes])
    overlap = overlap.reshape(len(boxes), len(boxes))
    beside = (classes[:, None] == classes) & ~is_doubtful & (overlap > 0.5)
    is_left = is_doubtful & beside.any(axis=1)
    counts = {"doubtful": int(is_doubtful.sum()), "left_over": int(is_left.sum())}
    for title, rows in (("ignored", is_left | True), ("ignored_without", ~is_left)):
        if rows.any():
            given = {
                "boxes": boxes[rows][None],
                "scores": np.float32(scores[rows][None]),
                "classes": classes[rows][None],
                "ignore": is_doubtful[rows][None],
            }
            found = anchors.assign_targets(model.anchors, given, 0.5, 0.4)[0]
            counts[title] = int((np.array(found) == anchors.IGNORED).sum())
    return counts


def scaled(folder, steps, seeds):
    """Return AP with a batch of 32, and with one of 8 by two rules.

    `_slow_bn`: with the square root, and batch normalization whose statistics reach
    back over as many images.
    """
    labeled = scenes("labeled", 300, 0)
    optimizers = {
        "adamw": (
            functools.partial(
                keras.optimizers.AdamW, weight_decay=4e-3, global_clipnorm=10.0
            ),
            6e-3,
        ),
        "sgd": (
            functools.partial(keras.optimizers.SGD, momentum=0.9, global_clipnorm=10.0),
            0.04,
        ),
    }
    rows = {}
    for name, (optimizer, rate) in optimizers.items():
        runs = {"batch_32": (steps, 32, rate)}
        for rule, factor in (("linear", 0.25), ("square_root", 0.5)):
            runs[f"batch_8_{rule}"] = (4 * steps, 8, rate * factor)
        runs["batch_8_square_root_slow_bn"] = runs["batch_8_square_root"]
        for title, (count, size, own_rate) in runs.items():
            values = [
                trained(
                    folder / f"{name}_{title}_{seed}",
                    Streams(labeled, seed=seed),
                    optimization_of(count, size, own_rate, optimizer),
                    seed=seed,
                    momentum=0.95**0.25 if title.endswith("slow_bn") else 0.95,
                )[1]
                for seed in seeds
            ]
            rows[f"{name}_{title}"] = values
            print(f"{name}, {title}: {values}", flush=True)
    return rows


if __name__ == "__main__":
    main()

"""Evaluate a model on labeled images."""

from official_selftrain.checks import progress
from official_selftrain.data import pipeline
from official_selftrain.inference import prediction


def evaluate_model(model, source, batch_size=16, *, name="model"):
    """Evaluate a model on labeled images.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        source: `examples.Source` with labels.
        batch_size: int.
        name: str, shown in the progress bar.

    Returns:
        dict of the model's metrics, in percent: COCO's twelve for detection, mean IoU
        for segmentation.
    """
    predict = prediction.predictor(model)
    metric = model.metric()
    with progress.bar(source.num_images, f"evaluation of {name}", "image") as bar:
        for batch in pipeline.evaluation_batches(source, batch_size, model.image_size):
            metric.update(predict(batch["images"], batch["sizes"]), batch)
            bar.update(len(batch["ids"]))
    tell(metric, f"evaluation of {name}")
    return metric.result()


def tell(metric, title):
    """Print what limits a metric's figures: unknown pixels, crowded images.

    Args:
        metric: a model's metric, such as `metrics.MeanIoU`.
        title: str, what was evaluated.
    """
    count = getattr(metric, "unknown", 0)
    if count:
        print(
            f"{title}: {count:,} pixels have a value outside the "
            f"{metric.num_classes} classes and count as unknown",
            flush=True,
        )
    count = getattr(metric, "crowded", 0)
    if count:
        print(
            f"{title}: {count:,} images have more than 100 objects of a class; COCO's "
            "AP counts the 100 best detections of each class and image",
            flush=True,
        )

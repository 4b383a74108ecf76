"""Evaluate a model on labeled images."""

from official_selftrain.checks import progress
from official_selftrain.data import pipeline
from official_selftrain.inference import prediction, tiles


def evaluate_model(model, source, batch_size=16, *, name="model"):
    """Evaluate a model on labeled images.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        source: `examples.Source` with labels.
        batch_size: int; images that are cut into tiles are read one by one.
        name: str, shown in the progress bar.

    Returns:
        dict of the model's metrics, in percent: COCO's twelve for detection, mean IoU
        for segmentation.
    """
    metric, tile = model.metric(), getattr(model, "tile", None)
    predict = (tiles.detector if tile else prediction.predictor)(model)
    with progress.bar(source.num_images, f"evaluation of {name}", "image") as bar:
        frame = None if tile else model.image_size
        for batch in pipeline.evaluation_batches(
            source, 1 if tile else batch_size, frame
        ):
            if tile:
                found = tiles.as_batch(predict(batch["images"][0]))
            else:
                found = predict(batch["images"], batch["sizes"])
            metric.update(found, batch)
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

"""Model sizes: the parameters and multiply-adds of each part."""

import math

import keras

from official_selftrain.models.checkpoints import PARTS, part_of


def sizes(model):
    """Count the parameters and multiply-adds of a model's parts.

    Multiply-adds are those of convolutions and dense layers for one image of the
    model's size, often reported as "FLOPs"; normalization, activations, additions and
    resizing are excluded (well below 1 %).

    Args:
        model: `RetinaNet` or `SemanticSegmenter`.

    Returns:
        dict of part (those present of `"backbone"`, `"decoder"` and `"head"`, and
        `"total"`) to a dict of ints: `trainable`, `parameters` and `multiply_adds`.

    Raises:
        ValueError: for a model without an `image_size`.

    Source: own; agrees with the authors' profiler.
    """
    if not hasattr(model, "image_size"):
        raise ValueError(
            "Expected a model with an image_size, such as RetinaNet. "
            f"Received: {model.name}"
        )
    counts = {}
    _count(model, model.input, counts)
    totals = {part: counts[part] for part in PARTS if part in counts}
    totals["total"] = {
        key: sum(part[key] for part in totals.values())
        for key in ("trainable", "parameters", "multiply_adds")
    }
    return totals


def table(model):
    """Return the `sizes` of a model's parts as a text table."""
    lines = [f"{'':10}{'trainable':>14}{'parameters':>14}{'multiply-adds':>18}"]
    for part, row in sizes(model).items():
        trainable, parameters = row["trainable"], row["parameters"]
        billions = f"{row['multiply_adds'] / 1e9:,.2f} B"
        lines.append(f"{part:10}{trainable:14,}{parameters:14,}{billions:>18}")
    return "\n".join(lines)


def _count(model, inputs, counts):
    """Add up a functional model's layers for inputs of known shape."""

    def visit(layer, *arguments, **keywords):
        if isinstance(layer, keras.Model):
            (tensor,) = arguments
            return _count(layer, tensor, counts)
        outputs = layer(*arguments, **keywords)
        if layer.weights:
            entry = counts.setdefault(
                part_of(layer), {"trainable": 0, "parameters": 0, "multiply_adds": 0}
            )
            # Weights shared across levels count once.
            if layer not in seen:
                entry["trainable"] += _numbers(layer.trainable_weights)
                entry["parameters"] += _numbers(layer.weights)
                seen.add(layer)
            entry["multiply_adds"] += _multiply_adds(layer, outputs)
        return outputs

    seen = set()
    return model._run_through_graph(inputs, operation_fn=lambda op: op, call_fn=visit)


def _multiply_adds(layer, outputs):
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape)
    if not hasattr(layer, "kernel_size"):
        return 0
    positions = outputs.shape[1] * outputs.shape[2]
    kernels = [w for w in layer.weights if w.name.endswith("kernel")]
    return positions * sum(math.prod(kernel.shape) for kernel in kernels)


def _numbers(weights):
    return sum(math.prod(weight.shape) for weight in weights)

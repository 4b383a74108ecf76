"""Convert a SavedModel to another format, and compare the two.

python export/convert_saved_model.py exported/quickstart/1 \\
    --format=openvino --output=quickstart.xml --images=photos

Converts the signature `image_tensor` to ONNX (tf2onnx; run by ONNX Runtime), OpenVINO
(.xml and .bin) or TFLite (run by LiteRT). Runs both models on the images and prints the
largest differences. Exit codes: 0 done and equal within 1e-3 pixels
and 1e-4 of a score, 1 otherwise. Needs `pip install official_selftrain[formats]`.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from run_saved_model import image_paths, largest_difference

# All other outputs are counts or ids and must be equal.
LIMITS = {"detection_boxes": 1e-3, "detection_scores": 1e-4, "confidence": 1e-4}


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model")
    parser.add_argument("--format", required=True, choices=sorted(CONVERSIONS))
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("--images", required=True, help="a folder or glob of images")
    arguments = parser.parse_args()
    paths = image_paths(arguments.images)
    if not paths:
        sys.exit(f"Expected images. Received: images={arguments.images!r}, empty")
    loaded = tf.saved_model.load(arguments.saved_model)
    function = loaded.signatures["image_tensor"]
    run = CONVERSIONS[arguments.format](loaded, function, arguments.output)
    worst = {}
    for path in paths:
        pixels = tf.io.decode_image(
            tf.io.read_file(path), channels=3, expand_animations=False
        )[None]
        converted = run(pixels.numpy())
        for name, expected in function(images=pixels).items():
            difference = largest_difference(converted[name], expected)
            worst[name] = max(worst.get(name, 0.0), difference)
    for name, difference in sorted(worst.items()):
        print(f"largest difference of {name}: {difference:.2g}")
    is_equal = all(value <= LIMITS.get(name, 0.0) for name, value in worst.items())
    print(f"{len(paths)} images: {'equal' if is_equal else 'NOT equal'}")
    return 0 if is_equal else 1


def to_onnx(loaded, function, output):
    """Write an ONNX file; return a function that runs it."""
    import onnxruntime
    import tf2onnx

    spec = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
    whole = tf.function(lambda images: function(images=images), input_signature=spec)
    tf2onnx.convert.from_function(whole, spec, opset=18, output_path=output)
    session = onnxruntime.InferenceSession(output)
    names = [out.name for out in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(None, {"images": pixels})))


def to_openvino(loaded, function, output):
    """Write OpenVINO's files; return a function that runs them."""
    import openvino
    from openvino.frontend.tensorflow import utils

    # OpenVINO's environment check fails on Python 3.13.
    utils.get_environment_setup = lambda framework: {"tensorflow": tf.__version__}
    # Keep weights in float32, and arithmetic too, which defaults to bfloat16 if the
    # processor supports it.
    openvino.save_model(
        openvino.convert_model(function), output, compress_to_fp16=False
    )
    core = openvino.Core()
    model = core.compile_model(output, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(pixels):
        results = model([pixels])
        return {out.get_any_name(): results[out] for out in model.outputs}

    return run


def to_tflite(loaded, function, output):
    """Write a TFLite file; return a function that runs it."""
    # TensorFlow's interpreter corrupts memory when the image size changes.
    from ai_edge_litert.interpreter import Interpreter

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], loaded)
    with open(output, "wb") as file:
        file.write(converter.convert())
    runner = Interpreter(output).get_signature_runner()
    return lambda pixels: runner(images=pixels)


CONVERSIONS = {"onnx": to_onnx, "openvino": to_openvino, "tflite": to_tflite}

if __name__ == "__main__":
    sys.exit(main())

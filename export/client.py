"""Send a photograph to a model server and draw its predictions.

python export/client.py --url=http://localhost:8501/v1/models/quickstart \\
    --labels=exported/quickstart/1/assets/labels.txt \\
    --image=photo.jpg --output=drawn.png
python export/client.py --url=grpc://localhost:8500/quickstart \\
    --image=photo.jpg --output=drawn.png

Prints the detections with a score of at least `--score_threshold`, or the fraction of
the pixels of each class. Needs numpy, pillow and, for gRPC, `tensorflow-serving-api`;
nothing of this project. Exit codes: 0 done, 1 if the server rejects the request or
doesn't respond.
"""

import argparse
import base64
import http.client
import json
import pathlib
import sys
import urllib.error
import urllib.request

import numpy as np
from PIL import Image, ImageDraw, ImageOps

COLORS = ("red", "lime", "deepskyblue", "orange", "magenta", "yellow", "cyan")


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--url", required=True, help="http://… or grpc://host:port/NAME"
    )
    parser.add_argument("--image", required=True, help="a JPEG, PNG, BMP or GIF file")
    parser.add_argument("--output", required=True, help="the image file to write")
    parser.add_argument("--labels", help="labels.txt, one class name per line")
    parser.add_argument("--score_threshold", type=float, default=0.5)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args()
    try:
        show(arguments)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"client: {type(error).__name__}: {error}")


def show(arguments):
    """Send the request; print and draw the predictions."""
    contents = pathlib.Path(arguments.image).read_bytes()
    ask = ask_grpc if arguments.url.startswith("grpc://") else ask_rest
    answer = ask(arguments.url, contents, arguments.timeout)
    names = []
    if arguments.labels:
        names = pathlib.Path(arguments.labels).read_text().splitlines()
    # Boxes refer to the upright image.
    image = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    draw = draw_mask if "mask" in answer else draw_boxes
    draw(image, answer, names, arguments.score_threshold).save(arguments.output)


def ask_rest(url, contents, timeout):
    """Return the outputs for an image file, using TF Serving's REST API."""
    inputs = {"image_bytes": [{"b64": base64.b64encode(contents).decode()}]}
    request = urllib.request.Request(
        f"{url}:predict",
        json.dumps({"inputs": inputs}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        sys.exit(f"client: the server rejected the request: {error.read().decode()}")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"client: no response from {url}: {error}")
    return {name: np.array(values)[0] for name, values in outputs.items()}


def ask_grpc(url, contents, timeout):
    """Return the outputs for an image file, using TF Serving's gRPC API."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    address, _, name = url.removeprefix("grpc://").partition("/")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([contents]))
    # Masks of photographs exceed gRPC's default limit of 4 MB.
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            outputs = stub.Predict(request, timeout=timeout).outputs
        except grpc.RpcError as error:
            sys.exit(f"client: {error.code().name}: {error.details()}")
    return {key: tf.make_ndarray(value)[0] for key, value in outputs.items()}


def draw_boxes(image, answer, names, score_threshold):
    """Print and draw the boxes above a score; class ids start at 1."""
    boxes = np.asarray(answer["detection_boxes"], float)
    # Convert from the boxes' units, such as fractions, to pixels of the image.
    _, _, scale, offset = np.asarray(answer["image_info"], float)
    boxes = (boxes + np.tile(offset, 2)) / np.tile(scale, 2)
    drawing = ImageDraw.Draw(image)
    rows = zip(boxes, answer["detection_classes"], answer["detection_scores"])
    for (top, left, bottom, right), class_id, score in rows:
        if score < score_threshold:
            continue
        number = int(class_id)
        name = names[number - 1] if number <= len(names) else str(number)
        print(f"{name} {score:.3f} {top:.1f} {left:.1f} {bottom:.1f} {right:.1f}")
        color = COLORS[number % len(COLORS)]
        drawing.rectangle((left, top, right, bottom), outline=color)
        drawing.text((left, top), f"{name} {score:.2f}", fill=color)
    return image


def draw_mask(image, answer, names, score_threshold):
    """Print the fraction of each class; tint confident foreground pixels."""
    mask = np.asarray(answer["mask"])[: image.height, : image.width]
    confidence = np.asarray(answer["confidence"])[: image.height, : image.width]
    pixels = np.asarray(image, float)
    for number in np.unique(mask):
        name = names[number] if number < len(names) else str(number)
        print(f"{name} {np.mean(mask == number):.3f}")
        drawn = (mask == number) & (confidence >= score_threshold) & (number > 0)
        color = Image.new("RGB", (1, 1), COLORS[number % len(COLORS)]).getpixel((0, 0))
        pixels[drawn] = 0.5 * pixels[drawn] + 0.5 * np.array(color)
    return Image.fromarray(pixels.astype(np.uint8))


if __name__ == "__main__":
    main()

"""Call models by a signature: SavedModels, also on a TF Serving server, and Keras."""

import base64
import dataclasses
import functools
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import grpc
import keras
import numpy as np
import tensorflow as tf
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

_TRIES = 6
_TIMEOUT = 300  # seconds
OTHER_MODELS = (
    "call it in a function, --teacher=python:my_module:my_teacher, or label with its "
    "export as SavedModel"
)
# Of the image that shows the outputs of a Keras model without a fixed size.
_GRAY_SIZE = (96, 128)


class Refused(ValueError):
    """Raised if a model can't process an image; the message holds the reason."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function from one array of images to named arrays.

    Attributes:
        input_name: str.
        dtype: `tf.DType`; strings are image files, other types hold pixels.
        shape: tuple of int or None, batch first.
        outputs: collection of str.
        call: function (array or list of bytes) → dict of arrays. Raises
            `Refused` for images that it can't process.
    """

    input_name: str
    dtype: tf.DType
    shape: tuple
    outputs: tuple
    call: Callable


def saved_model(path, name="serving_default"):
    """Return the signature of a SavedModel in a folder.

    Args:
        path: str.
        name: str, name of the signature.

    Returns:
        `Signature`.

    Raises:
        ValueError: for an unknown signature or one with several inputs.
    """
    loaded = tf.saved_model.load(path)
    if name not in loaded.signatures:
        raise ValueError(
            f"Expected a signature from {list(loaded.signatures)}. Received: {name!r}"
        )
    function = loaded.signatures[name]
    inputs = function.structured_input_signature[1]
    (key,) = _only_input(list(inputs))
    spec = inputs[key]

    def call(batch, _keep=loaded):
        try:
            outputs = function(**{key: tf.constant(batch, spec.dtype)})
        except tf.errors.InvalidArgumentError as error:
            raise Refused(_line(error.message)) from None
        return {name: value.numpy() for name, value in outputs.items()}

    outputs = tuple(function.structured_outputs)
    return Signature(key, spec.dtype, tuple(spec.shape), outputs, call)


def keras_model(model, path):
    """Return a signature of a Keras model of any package.

    Args:
        model: `keras.Model`.
        path: str, its file, for messages.

    Returns:
        `Signature`. Its outputs are those of `predict` for a gray image: what the model
        names, or the names of its output layers.

    Raises:
        ValueError: for a model with other inputs, or that doesn't predict.
    """
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[3] != 3:
        shapes = [list(tensor.shape) for tensor in inputs]
        raise ValueError(
            "Expected a model of this package, or one with an input of images "
            f"[B, H, W, 3]. Received: {path}: {type(model).__name__} with inputs of "
            f"{shapes}; {OTHER_MODELS}"
        )
    (spec,) = inputs

    def call(batch):
        found = model.predict(np.asarray(batch), batch_size=len(batch), verbose=0)
        if not isinstance(found, dict):
            arrays = keras.tree.flatten(found)
            names = [f"output_{index}" for index in range(len(arrays))]
            names = getattr(model, "output_names", None) or names
            found = dict(zip(names, arrays))
        return {name: np.asarray(value) for name, value in found.items()}

    size = tuple(spec.shape[1:3])
    size = _GRAY_SIZE if None in size else size
    gray = np.full((spec.shape[0] or 1, *size, 3), 114, spec.dtype)
    try:
        outputs = tuple(call(gray))
    except Exception as error:  # of any package
        raise ValueError(
            "Expected a model that predicts from a batch of images. Received: "
            f"{path}: {type(error).__name__}: {_line(str(error))}; {OTHER_MODELS}"
        ) from error
    dtype, shape = tf.as_dtype(spec.dtype), tuple(spec.shape)
    return Signature(spec.name, dtype, shape, outputs, call)


def server(url, name="serving_default"):
    """Return the signature of a model on a TF Serving server.

    Requests without a response are retried five times within half a minute.

    Args:
        url: str, `http://host:port/v1/models/NAME` or `grpc://host:port/NAME`,
            followed by `/versions/N` for a specific version.
        name: str, name of the signature.

    Returns:
        `Signature`, and the version reported by the server, a str.

    Raises:
        ValueError: for an invalid address, or an unknown signature.
        ConnectionError: if no server responds.
    """
    parts = urllib.parse.urlsplit(url)
    clients = {"http": _rest, "https": _rest, "grpc": _grpc}
    if parts.scheme not in clients or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(
            "Expected http://host:port/v1/models/NAME or grpc://host:port/NAME. "
            f"Received: {url!r}"
        )
    signatures, version, call = clients[parts.scheme](url.rstrip("/"), name)
    if name not in signatures:
        raise ValueError(
            f"Expected a signature from {sorted(signatures)}. Received: {name!r}"
        )
    inputs, outputs = signatures[name]
    (key,) = _only_input(list(inputs))
    dtype, shape = inputs[key]

    def call_one(batch):
        return call(key, dtype, batch, outputs)

    return Signature(key, dtype, shape, tuple(outputs), call_one), version


def _only_input(names):
    if len(names) != 1:
        raise ValueError(f"Expected a signature with one input. Received: {names}")
    return names


def _rest(url, name):
    answer = _ask(url, lambda: _http(f"{url}/metadata"))
    entries = answer["metadata"]["signature_def"]["signature_def"]

    def spec(entry):
        dims = entry["tensor_shape"].get("dim", [])
        return _spec(
            types_pb2.DataType.Value(entry["dtype"]), [int(d["size"]) for d in dims]
        )

    signatures = {
        key: (
            {k: spec(v) for k, v in entry.get("inputs", {}).items()},
            tuple(entry.get("outputs", {})),
        )
        for key, entry in entries.items()
    }

    def call(key, dtype, batch, outputs):
        if dtype == tf.string:
            values = [{"b64": base64.b64encode(value).decode()} for value in batch]
        else:
            values = batch.tolist()
        request = {"signature_name": name, "inputs": {key: values}}
        body = json.dumps(request).encode()
        answer = _ask(url, lambda: _http(f"{url}:predict", body))["outputs"]
        if not isinstance(answer, dict):
            answer = {outputs[0]: answer}
        return {key: np.array(value) for key, value in answer.items()}

    return signatures, answer.get("model_spec", {}).get("version", ""), call


def _spec(dtype, sizes):
    return tf.as_dtype(dtype), tuple(None if size < 0 else size for size in sizes)


def _grpc(url, name):
    parts = urllib.parse.urlsplit(url)
    model, _, version = parts.path.strip("/").partition("/versions/")
    messages = _messages()
    channel = grpc.insecure_channel(
        parts.netloc, [("grpc.max_receive_message_length", -1)]
    )

    def ask(method, answer, request):
        request.model_spec.name = model
        request.model_spec.signature_name = name
        if version:
            request.model_spec.version.value = int(version)
        stub = channel.unary_unary(
            f"/tensorflow.serving.PredictionService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=messages[answer].FromString,
        )

        def once():
            try:
                return stub(request, timeout=_TIMEOUT)
            except grpc.RpcError as error:
                text = _line(error.details())
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise Refused(text) from None
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    raise ValueError(
                        f"Expected a model. Received: {url}: {text}"
                    ) from None
                raise ConnectionError(f"{error.code().name} {text}") from None

        return _ask(url, once)

    request = messages["GetModelMetadataRequest"](metadata_field=["signature_def"])
    answer = ask("GetModelMetadata", "GetModelMetadataResponse", request)
    entries = messages["SignatureDefMap"].FromString(
        answer.metadata["signature_def"].value
    )

    def spec(entry):
        return _spec(entry.dtype, [dim.size for dim in entry.tensor_shape.dim])

    signatures = {
        key: ({k: spec(v) for k, v in entry.inputs.items()}, tuple(entry.outputs))
        for key, entry in entries.signature_def.items()
    }

    def call(key, dtype, batch, outputs):
        request = messages["PredictRequest"]()
        _set(request.inputs[key], tf.make_tensor_proto(batch, dtype))
        answer = ask("Predict", "PredictResponse", request)
        return {key: tf.make_ndarray(value) for key, value in answer.outputs.items()}

    return signatures, str(answer.model_spec.version.value), call


def prediction_log(name, signature, key, value):
    """Return a request in the format of TF Serving's logs and warm-up files.

    Args:
        name: str, name of the model.
        signature: str.
        key: str, name of the input.
        value: array or list of bytes.

    Returns:
        bytes, a `tensorflow.serving.PredictionLog`.

    Source: TF Serving's SavedModel warm-up.
    """
    log = _messages()["PredictionLog"]()
    request = log.predict_log.request
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    _set(request.inputs[key], tf.make_tensor_proto(value))
    return log.SerializeToString()


def _set(message, value):
    """Copy a tensor into a message of another descriptor pool."""
    message.ParseFromString(value.SerializeToString())


def _http(url, body=None):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        if error.code in (400, 413, 422):
            raise Refused(_line(text)) from None
        if error.code < 500 and error.code != 429:
            raise ValueError(
                f"Expected a model. Received: {url}: {error.code} {_line(text)}"
            ) from None
        raise ConnectionError(f"{error.code} {_line(text)}") from None
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason)) from None
    except (http.client.HTTPException, TimeoutError, json.JSONDecodeError) as error:
        raise ConnectionError(_line(str(error)) or type(error).__name__) from None


def _ask(url, request):
    for turn in range(_TRIES):
        try:
            return request()
        except ConnectionError as error:
            if turn == _TRIES - 1:
                raise ConnectionError(
                    f"Expected an answer from {url}. Received: {error}; finished "
                    "shards are kept, run the same command again"
                ) from None
            time.sleep(2.0**turn)
    return None


def _line(text):
    # TensorFlow appends the nodes and the operation that failed.
    text = re.sub(r"\[\[?\{\{.*?\}\}\]?\]|\{\{.*?\}\}|\[Op:.*", "", text)
    return " ".join(text.split())[:300]


@functools.cache
def _messages():
    """Return the messages of TF Serving's PredictionService used here.

    Source: field names and numbers of tensorflow/serving's API.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="official_selftrain/serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[
            "tensorflow/core/framework/tensor.proto",
            meta_graph_pb2.DESCRIPTOR.name,
            any_pb2.DESCRIPTOR.name,
            wrappers_pb2.DESCRIPTOR.name,
        ],
    )
    field = descriptor_pb2.FieldDescriptorProto
    tensor, signature = ".tensorflow.TensorProto", ".tensorflow.SignatureDef"
    spec, version = ".tensorflow.serving.ModelSpec", ".google.protobuf.Int64Value"
    anything = ".google.protobuf.Any"
    # Message, then its fields: name, number, type (in brackets: a map of it).
    layout = {
        "ModelSpec": [
            ("name", 1, str),
            ("version", 2, version),
            ("signature_name", 3, str),
        ],
        "PredictRequest": [("model_spec", 1, spec), ("inputs", 2, [tensor])],
        "PredictResponse": [("outputs", 1, [tensor]), ("model_spec", 2, spec)],
        "GetModelMetadataRequest": [
            ("model_spec", 1, spec),
            ("metadata_field", 2, [str]),
        ],
        "GetModelMetadataResponse": [
            ("model_spec", 1, spec),
            ("metadata", 2, [anything]),
        ],
        "PredictLog": [("request", 1, ".tensorflow.serving.PredictRequest")],
        "PredictionLog": [("predict_log", 6, ".tensorflow.serving.PredictLog")],
        "SignatureDefMap": [("signature_def", 1, [signature])],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            added = message.field.add(name=field_name, number=number, label=1)
            if isinstance(kind, list):
                added.label = field.LABEL_REPEATED
                (kind,) = kind
                if kind is not str:
                    _add_map(message, added, kind)
                    continue
            added.type = field.TYPE_STRING if kind is str else field.TYPE_MESSAGE
            if kind is not str:
                added.type_name = kind
    # A separate pool: the default one may hold tensorflow-serving-api's messages.
    pool = descriptor_pool.DescriptorPool()
    for descriptor in (meta_graph_pb2, any_pb2, wrappers_pb2):
        _add_file(pool, descriptor.DESCRIPTOR)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
        )
        for name in layout
    }


def _add_file(pool, descriptor):
    """Add a file descriptor to a pool, after its dependencies."""
    for needed in descriptor.dependencies:
        _add_file(pool, needed)
    pool.AddSerializedFile(descriptor.serialized_pb)


def _add_map(message, field, kind):
    """Turn a field into a map from str to a message type."""
    nested = descriptor_pb2.FieldDescriptorProto
    entry = message.nested_type.add(
        name="".join(part.title() for part in field.name.split("_")) + "Entry"
    )
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=nested.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=1, type=nested.TYPE_MESSAGE, type_name=kind
    )
    field.type = nested.TYPE_MESSAGE
    field.type_name = f".tensorflow.serving.{message.name}.{entry.name}"

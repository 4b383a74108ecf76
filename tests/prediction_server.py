"""TF Serving's REST and gRPC interfaces around a SavedModel, for tests.

python tests/prediction_server.py FOLDER NAME REST_PORT GRPC_PORT

Serves the greatest version in a model's folder, after its warm-up, with the messages of
tensorflow-serving-api. Knows TensorFlow only, and loads graph and variables into a
session, as a real server does.
"""

import base64
import concurrent.futures
import http.server
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As a server, it has neither Keras nor this project.
sys.modules["keras"] = None
sys.modules["official_selftrain"] = None
# ruff: noqa: E402

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)


class Served(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A version of a model and its gRPC interface."""

    def __init__(self, folder, name):
        self.name = name
        self.version = max(int(v) for v in os.listdir(folder) if v.isdecimal())
        path = os.path.join(folder, str(self.version))
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        content = tf.compat.v1.saved_model.load(self.session, ["serve"], path)
        self.definitions = content.signature_def
        warmup = os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
        for record in tf.data.TFRecordDataset(warmup):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            assert log.predict_log.request.model_spec.name == name
            self.answer(log.predict_log.request)

    def answer(self, request):
        """Return the outputs of a PredictRequest, as NumPy arrays."""
        name = request.model_spec.signature_name or "serving_default"
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        return self.run(name, inputs)

    def run(self, name, inputs):
        """Return the outputs of a signature, as NumPy arrays."""
        definition = self.definitions[name]
        feed = {definition.inputs[k].name: v for k, v in inputs.items()}
        outputs = {k: v.name for k, v in definition.outputs.items()}
        return self.session.run(outputs, feed)

    def Predict(self, request, context):  # noqa: N802
        """Answer a PredictRequest."""
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        try:
            outputs = self.answer(request)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        answer = predict_pb2.PredictResponse()
        answer.model_spec.version.value = self.version
        for key, value in outputs.items():
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelMetadata(self, request, context):  # noqa: N802
        """Answer a GetModelMetadataRequest."""
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        found = get_model_metadata_pb2.SignatureDefMap()
        for key, definition in self.definitions.items():
            found.signature_def[key].CopyFrom(definition)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name = self.name
        answer.model_spec.version.value = self.version
        answer.metadata["signature_def"].Pack(found)
        return answer


def rest_handler(served):
    """Return a handler of HTTP requests."""
    definitions = {
        key: json_format.MessageToDict(value, preserving_proto_field_name=True)
        for key, value in served.definitions.items()
    }
    metadata = {
        "model_spec": {"name": served.name, "version": str(served.version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }
    place = f"/v1/models/{served.name}"

    def value_of(item):
        return base64.b64decode(item["b64"]) if isinstance(item, dict) else item

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, code, content):
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path == f"{place}/metadata":
                self.answer(200, metadata)
            else:
                self.answer(404, {"error": f"Servable not found for {self.path}"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != f"{place}:predict":
                self.answer(404, {"error": f"Servable not found for {self.path}"})
                return
            inputs = {k: [value_of(i) for i in v] for k, v in body["inputs"].items()}
            name = body.get("signature_name", "serving_default")
            try:
                outputs = served.run(name, inputs)
            except tf.errors.InvalidArgumentError as error:
                self.answer(400, {"error": error.message})
                return
            self.answer(200, {"outputs": {k: v.tolist() for k, v in outputs.items()}})

        def log_message(self, *_):
            pass

    return Handler


def main(folder, name, rest_port, grpc_port):
    """Serve until killed."""
    served = Served(folder, name)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(served, server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    handler = rest_handler(served)
    http.server.ThreadingHTTPServer(
        ("127.0.0.1", int(rest_port)), handler
    ).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])

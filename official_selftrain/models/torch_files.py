"""Safe reading of PyTorch weight files without PyTorch."""

import collections
import math
import os
import pickle

import numpy as np

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickle only arrays and reject any other global."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (
                storage,
                offset,
                size,
                stride,
            )
        if module == "torch" and name in _TORCH_STORAGES:
            return name
        raise ValueError(
            "Expected a file with only weights. Received: a reference to "
            f"{module}.{name}"
        )

    def persistent_load(self, identifier):
        _, storage, key, _, size = identifier[:5]
        return storage, key, size


def read_torch(path):
    """Read the weights of a PyTorch file (the format up to version 1.5).

    Args:
        path: str.

    Returns:
        dict of name to NumPy array.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a file in another format or with more than weights.

    Source: PyTorch's legacy format: four pickles, then the storages.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a file of weights. Received: {path!r}")
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError(
                "Expected PyTorch's older format, torch.save(..., "
                f"_use_new_zipfile_serialization=False). Received: {path!r}, a zip file"
            )
    try:
        return _read(path)
    except (
        *(pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError),
        UnicodeDecodeError,
    ) as error:
        raise ValueError(
            f"Expected a file of PyTorch weights. Received: {path!r}, {error}"
        ) from error


def _read(path):
    with open(path, "rb") as file:
        magic = _StateDictUnpickler(file).load()
        if magic != _TORCH_MAGIC:
            raise ValueError(
                f"Expected a file of PyTorch weights. Received: {path!r} with magic "
                f"{magic!r}"
            )
        _version, _machine, entries, keys = (
            _StateDictUnpickler(file).load() for _ in range(4)
        )
        storages = {storage[1]: storage for storage, *_ in entries.values()}
        data = {}
        for key in keys:
            name, _, size = storages[key]
            count = int(np.fromfile(file, "<i8", 1)[0])
            data[key] = np.fromfile(file, _TORCH_STORAGES[name], min(count, size))
            if not count == size == len(data[key]):
                raise ValueError(
                    f"Expected {size} numbers in storage {key}. Received: {path!r} "
                    f"with {len(data[key])}"
                )
    arrays = {}
    for name, ((_, key, _), offset, size, stride) in entries.items():
        # A tensor is a view: its strides count numbers, not bytes.
        numbers = data[key]
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        shape_ok = len(size) == len(stride) and min(size, default=0) >= 0
        within = min((offset, *stride)) >= 0 and last < max(len(numbers), 1)
        # A stride of 0 could expand a small storage into a huge array.
        if not (shape_ok and within and math.prod(size) <= len(numbers)):
            raise ValueError(
                f"Expected {name} within its {len(numbers)} numbers. Received: {path!r}"
            )
        steps = [step * numbers.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps)
        arrays[name] = view.copy()
    return arrays

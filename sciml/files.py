"""Files: JSON and HDF5, written atomically, holding arrays and descriptions only.

Opening a file from a stranger runs none of their code: there is none in it, and links to other files are not followed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["atomic", "jsonable", "new_h5", "read_h5", "read_json", "write_h5", "write_json"]

_VERSION = 1


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and disappears when it does not.

    Raises:
        OSError: with the path and the reason, if the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; see `jsonable` for what is accepted."""
    text = json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def jsonable(value: Any, name: str = "value") -> Any:
    """Turn numbers, arrays, tensors, dataclasses and containers of them into strict JSON.

    Numbers that JSON does not have become the strings "nan", "inf" and "-inf"; functions become their names.

    Raises:
        TypeError: naming the entry that has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): jsonable(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v, f"{name}[{i}]") for i, v in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name), f"{name}.{f.name}") for f in fields(value)}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return jsonable(value.tolist(), name)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    raise TypeError(f"{name} is a {type(value).__name__}, but JSON holds numbers, strings, lists and mappings")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def write_h5(path: str | Path, description: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write arrays and a JSON description to one HDF5 file, atomically.

    Args:
        path: the file, replaced if it exists.
        description: what `jsonable` takes; unlike in `write_json`, nan and inf stay numbers.
        arrays: numbers or booleans of any shape by name; a slash in a name makes a group.

    Raises:
        TypeError: for an array of strings or objects.
        OSError: if the folder cannot be written.
    """
    text = json.dumps(description, default=jsonable).encode()
    with new_h5(path) as file:
        file.attrs["format"] = "sciml"
        file.attrs["version"] = _VERSION
        # a dataset, not an attribute: attributes end at 64 kB
        file.create_dataset("description", data=np.frombuffer(text, dtype=np.uint8), compression="gzip")
        group = file.create_group("arrays")
        for name, values in arrays.items():
            array = np.asarray(values)
            if array.dtype.kind not in "biufc":
                raise TypeError(f"array {name!r} has dtype {array.dtype}, but files hold numbers and booleans only")
            group.create_dataset(name, data=array)


@contextmanager
def new_h5(path: str | Path, block: int = 1 << 22) -> Iterator[h5py.File]:
    """An HDF5 file that replaces `path` when the block ends well.

    It is made in memory: a disk that fills up while the library writes leaves it in a state that ends the process.

    Args:
        path: the file.
        block: bytes by which the memory grows.

    Raises:
        OSError: with the path and the reason, if it cannot be written.
    """
    with h5py.File("image", "w", driver="core", backing_store=False, block_size=block) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with atomic(path) as temporary:
        temporary.write_bytes(image)


def read_h5(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_h5` wrote: the description and the arrays by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an HDF5 file, or not one of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an HDF5 file")
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: Any) -> None:  # visititems leaves out links, so no other file is ever opened
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            ours, version = file.attrs.get("format") == "sciml", file.attrs.get("version", 0)
            if ours and version == _VERSION:
                description = json.loads(file["description"][()].tobytes())
                file["arrays"].visititems(collect)
    except (AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not ours:
        raise ValueError(f"{path} is an HDF5 file, but was not written by sciml")
    if version != _VERSION:
        raise ValueError(f"{path} has format version {version}, but this sciml reads version {_VERSION}")
    return description, arrays

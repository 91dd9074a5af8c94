"""What a search has simulated: in memory in order (`Archive`), and on disk by design (`Store`)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from sciml.files import new_h5

Outcome = tuple[float, np.ndarray]

__all__ = ["Archive", "Outcome", "Store"]

_CHUNK = 64  # rows


@dataclass
class Archive:
    """Everything that was simulated, in the order of simulation.

    Attributes:
        designs: (n, d).
        objectives: (n,); infinite where the simulation failed as a whole.
        errors: (n, k), in units of the tolerance.
    """

    designs: np.ndarray
    objectives: np.ndarray
    errors: np.ndarray
    _seen: set[bytes] = field(default_factory=set, repr=False)

    @classmethod
    def empty(cls, dim: int, k: int) -> Archive:
        """An archive of d-dimensional designs with k errors each."""
        return cls(np.empty((0, dim)), np.empty(0), np.empty((0, k)))

    def add(self, design: np.ndarray, objective: float, errors: np.ndarray) -> None:
        """Append one simulated design."""
        self.designs = np.concatenate([self.designs, np.asarray(design, dtype=float)[None]])
        self.objectives = np.append(self.objectives, objective)
        self.errors = np.concatenate([self.errors, np.asarray(errors, dtype=float)[None]])
        self._seen.add(np.asarray(design, dtype=float).tobytes())

    def __len__(self) -> int:
        return len(self.designs)

    def __contains__(self, design: np.ndarray) -> bool:
        return np.asarray(design, dtype=float).tobytes() in self._seen

    def index(self, design: np.ndarray) -> int:
        """The row of a design."""
        return int(np.flatnonzero((self.designs == design).all(1))[0])

    @property
    def worst(self) -> np.ndarray:
        """(n,): the largest known |error| of each design; infinite if none is known."""
        known = np.where(np.isnan(self.errors), -1.0, np.abs(self.errors)).max(1, initial=-1.0)
        return np.where(known < 0, np.inf, known)

    @property
    def feasible(self) -> np.ndarray:
        """(n,): meets every tolerance, each of them simulated."""
        return (self.worst <= 1) & ~np.isnan(self.errors).any(1)

    @property
    def best(self) -> int | None:
        """The feasible design with the smallest objective, of these the one with the smallest worst error."""
        rows, worst = np.flatnonzero(self.feasible), self.worst
        return int(min(rows, key=lambda i: (self.objectives[i], worst[i]))) if len(rows) else None

    def front(self) -> np.ndarray:
        """Rows that no other row beats in both objective and worst error, by growing objective."""
        rows, least, worst = [], np.inf, self.worst
        for i in sorted(range(len(self)), key=lambda i: (self.objectives[i], worst[i])):
            if worst[i] < least and not np.isnan(self.errors[i]).any():
                rows.append(i)
                least = worst[i]
        return np.array(rows, dtype=int)


class Store:
    """Outcomes by design in an HDF5 file, appended and flushed one at a time.

    Args:
        path: of the file, made if it does not exist.
        dim: d.
        errors: k.
        fingerprint: says what was simulated; a file of another fingerprint is refused.

    Raises:
        ValueError: if the file holds outcomes of something else, or is not such a file.
        OSError: if it cannot be written.
    """

    def __init__(self, path: str | Path, dim: int, errors: int, fingerprint: str) -> None:
        self.path = Path(path)
        self._outcomes: dict[bytes, Outcome] = {}
        self._room = 8 * _CHUNK * (dim + errors + 1) + (1 << 16)  # a new chunk of each array, and the tree of chunks
        if self.path.exists():
            if not self.path.is_file():
                raise ValueError(f"the cache {self.path} is not a file")
            self._read(fingerprint)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with new_h5(self.path, block=1 << 16) as file:
                file.attrs["kind"], file.attrs["fingerprint"] = "outcomes", fingerprint
                for name, width in (("designs", dim), ("objectives", 0), ("errors", errors)):
                    shape = (0, width) if width else (0,)
                    file.create_dataset(name, shape, "f8", maxshape=(None, *shape[1:]), chunks=(_CHUNK, *shape[1:]))
        except OSError as error:
            raise OSError(f"the cache {self.path} cannot be written: {error}") from error

    def _read(self, fingerprint: str) -> None:
        try:
            with h5py.File(self.path, "r") as file:
                ours, found = file.attrs.get("kind") == "outcomes", file.attrs.get("fingerprint")
                arrays = [file[name][()] for name in ("designs", "objectives", "errors")] if ours else []
        except (OSError, KeyError) as error:
            raise ValueError(f"the cache {self.path} is damaged or not an HDF5 file: {error}") from error
        if not ours:
            raise ValueError(f"the cache {self.path} was not written by a search")
        if found != fingerprint:
            raise ValueError(
                f"the cache {self.path} belongs to another mechanism, other conditions or other tolerances;"
                " name another file, or remove it"
            )
        count = min(map(len, arrays))  # a process killed between two appends leaves one array longer
        for design, objective, errors in zip(*(a[:count] for a in arrays), strict=True):
            self._outcomes[design.tobytes()] = (float(objective), errors)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __contains__(self, design: np.ndarray) -> bool:
        return np.asarray(design, dtype=float).tobytes() in self._outcomes

    def __getitem__(self, design: np.ndarray) -> Outcome:
        return self._outcomes[np.asarray(design, dtype=float).tobytes()]

    def __setitem__(self, design: np.ndarray, outcome: Outcome) -> None:
        design, (objective, errors) = np.asarray(design, dtype=float), outcome
        if design in self:
            return
        self._reserve()
        with self._opened() as file:
            # what another search appended meanwhile stays; an array that a killed process left longer is cut
            row = min(len(file[name]) for name in ("designs", "objectives", "errors"))
            for name, value in (("designs", design), ("objectives", objective), ("errors", errors)):
                file[name].resize(row + 1, axis=0)
                file[name][row] = value
        self._outcomes[design.tobytes()] = (float(objective), np.asarray(errors, dtype=float))

    def _reserve(self) -> None:
        """Lengthen the file by what an append may take, zeros that closing it cuts off again.

        A full disk then ends here, in a sentence, and not inside the HDF5 library, which ends the process.
        """
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(bytes(self._room))
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(f"the cache {self.path} cannot be written: {error.strerror or error}") from error

    def _opened(self, patience: float = 60.0) -> h5py.File:
        """The file, to be written; whoever happens to read it locks it for a moment."""
        until = time.monotonic() + patience
        while True:
            try:
                return h5py.File(self.path, "r+")
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise OSError(f"the cache {self.path} is locked by another program: {error}") from error
                time.sleep(0.05)

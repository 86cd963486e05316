"""Observations in columns: how they travel between processes, and what plots and conditions read.

`Metrics` is what a run writes, one row after another.  Here the same rows stand as columns, with
the texts numbered: a tenth of the memory, and a million of them are selected in milliseconds.  As
an Arrow table it is what metrics.csv and metrics.parquet hold.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from simulations.metrics import Observation

Numbers = NDArray[np.float64]

SAME_MAX: Final = 1e-9
"""How far apart equal numbers may be, as a share. Source: sums of floating point; 2^-30."""
COLUMNS: Final = pa.schema(
    [
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("at_s", pa.float64()),
        ("value", pa.float64()),
        ("node", pa.dictionary(pa.int32(), pa.string())),
        ("label", pa.dictionary(pa.int32(), pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class _Texts:
    """A column of texts: the number of each row's, and the texts in order of first appearance."""

    numbers: NDArray[np.int32]
    texts: tuple[str, ...]

    def is_(self, text: str) -> NDArray[np.bool_]:
        if text not in self.texts:
            return np.zeros(len(self.numbers), dtype=bool)
        return np.asarray(self.numbers == self.texts.index(text))


class Observations:
    """The observations of one run, in order of time. Never changed."""

    def __init__(self, table: pa.Table) -> None:
        """Take an Arrow table of `COLUMNS`."""
        self.table = table.combine_chunks()
        self._metric = _texts(self.table, "metric")
        self._label = _texts(self.table, "label")
        self._at_s = np.asarray(self.table["at_s"].to_numpy(), dtype=np.float64)
        self._value = np.asarray(self.table["value"].to_numpy(), dtype=np.float64)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Observation]:
        for row in self.table.to_pylist():
            yield Observation(**row)

    def names(self) -> list[str]:
        """Return the metrics there are, in the order of their first observation."""
        return list(self._metric.texts)

    def labels(self, metric: str) -> list[str]:
        """Return the labels that a metric has, in the order of their numbers."""
        there = np.unique(self._label.numbers[self._metric.is_(metric)])
        return [self._label.texts[number] for number in there]

    def values(self, metric: str, *, label: str | None = None, since_s: float = 0.0) -> Numbers:
        """Return the values of a metric, of one label if given, observed at or after a time."""
        return self._value[self._chosen(metric, label, since_s)]

    def series(
        self, metric: str, *, label: str | None = None, since_s: float = 0.0
    ) -> tuple[Numbers, Numbers]:
        """Return the times and the values of a metric, of one label if given."""
        chosen = self._chosen(metric, label, since_s)
        return self._at_s[chosen], self._value[chosen]

    def digest(self) -> str:
        """Return a hash of all that was measured: two equal runs have measured the same, too."""
        found = hashlib.sha256()
        for texts in (self._metric, _texts(self.table, "node"), self._label):
            found.update(repr(texts.texts).encode() + texts.numbers.tobytes())
        found.update(self._at_s.tobytes() + self._value.tobytes())
        return found.hexdigest()

    def _chosen(self, metric: str, label: str | None, since_s: float) -> NDArray[np.bool_]:
        chosen = self._metric.is_(metric)
        if label is not None:
            chosen &= self._label.is_(label)
        return chosen & (self._at_s >= since_s)


def from_rows(rows: Iterable[Observation]) -> Observations:
    """Return rows, of a `Metrics` say, as columns."""
    columns: list[Sequence[str | float]] = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pa.array(column, field.type.value_type).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(column, field.type)
        for column, field in zip(columns, COLUMNS, strict=True)
    ]
    return Observations(pa.Table.from_arrays(arrays, schema=COLUMNS))


def is_same(values: Numbers | Sequence[float]) -> bool:
    """Return whether all values are one, but for what sums of floating point leave."""
    return not len(values) or bool(np.ptp(values) <= SAME_MAX * np.abs(values).max())


def write(observations: Observations, path: Path) -> None:
    """Write observations for another process to read. Raises `OSError`."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, COLUMNS) as writer:
        writer.write_table(observations.table)


def read(path: Path) -> Observations:
    """Return what `write` wrote. Raises `OSError`."""
    with pa.OSFile(str(path), "rb") as file:
        return Observations(pa.ipc.open_file(file).read_all())


def write_files(
    runs: Sequence[tuple[dict[str, int], Observations]], stem: Path, *, as_text: bool = True
) -> None:
    """Write several runs into `stem`.parquet and, `as_text`, `stem`.csv, one after another.

    Each comes with columns of its own numbers, the same for all its rows; the names are the same
    for all runs.  Raises `OSError`.
    """
    tables = [_plain(run.table, numbers) for numbers, run in runs]
    with ExitStack() as files:
        schema = tables[0].schema
        open_parquet: Any = parquet.ParquetWriter  # without types
        writers = [open_parquet(stem.with_suffix(".parquet"), schema)]
        if as_text:
            open_csv: Any = vars(csv)["CSVWriter"]  # its stubs forget it
            writers.append(open_csv(stem.with_suffix(".csv"), schema))
        for writer in writers:
            files.enter_context(writer)
            for table in tables:
                writer.write_table(table)


def _plain(table: pa.Table, numbers: dict[str, int]) -> pa.Table:
    """Return a table with its texts written out, and with a column for each of the numbers."""
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    table = table.cast(pa.schema(fields))
    for name, number in numbers.items():
        table = table.append_column(name, pa.array(np.full(len(table), number, dtype=np.int32)))
    return table


def _texts(table: pa.Table, name: str) -> _Texts:
    column = table[name]
    if column.num_chunks == 0:
        return _Texts(np.zeros(0, dtype=np.int32), ())
    chunk = column.chunk(0)
    return _Texts(np.asarray(chunk.indices.to_numpy()), tuple(chunk.dictionary.to_pylist()))

"""Pictures in a parquet file: one row per picture, read row group by row group."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millijoule.data.decode import PictureError
from millijoule.data.given_split import GivenSplits, split_name
from millijoule.data.sources import EncodedSource
from millijoule.errors import DataError, OptionError, ToolchainError

__all__ = ["ParquetSource"]

CACHED_GROUPS = 3  # the decoding threads run a little ahead of the reader, at most into the next group or two


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise ToolchainError(
            "pyarrow", "it is needed for parquet files and is not installed", "Run pip install 'millijoule[train]'"
        ) from error
    if not path.exists():
        raise DataError(str(path), "there is no such file", "Check the path given as root")
    if path.is_dir():
        raise DataError(str(path), "it is a folder, not a parquet file", "Give the file, or use the kind folder")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        reason = "it is truncated or not a parquet file" if path.stat().st_size else "it is empty (zero bytes)"
        raise DataError(str(path), reason, "Get the file again") from error


class ParquetSource(EncodedSource):
    """A parquet file with a column of picture files and a column of labels.

    The picture column holds bytes, or structs with a field `bytes`. Labels are text (classes in alphabetical order) or
    integers (indexes into `classes` when given, else every value is its own class). A column `file` gives the names.

    Args:
        path: the file.
        image: name of the picture column.
        label: name of the label column.
        classes: class names in the order of integer labels.
        subset: "column=value" takes only the rows in which the column, as text, has that value.
        split: name of a column with the split, train, validation or test.

    Raises:
        DataError: missing, truncated or foreign file, missing column, or labels that do not fit the classes.
        ToolchainError: pyarrow is not installed.
    """

    kind = "parquet"

    def __init__(
        self,
        path: Path,
        *,
        image: str = "image",
        label: str = "label",
        classes: Sequence[str] | None = None,
        subset: str | None = None,
        split: str | None = None,
    ) -> None:
        self._path, self._image = path, image
        self._file = _open(path)
        columns = list(self._file.schema_arrow.names)
        wanted = [label] if split is None else [label, split]
        column, value = "", ""
        if subset is not None:
            column, sign, value = subset.partition("=")
            if not sign or not column:
                raise OptionError(
                    f"subset {subset!r}", "for parquet it must read column=value", "Use for example split=train"
                )
            wanted.append(column)
        for name in (image, *wanted):
            if name not in columns:
                raise DataError(
                    str(path), f"it has no column {name!r}, only {', '.join(columns)}", "Name the column to use"
                )
        self._nested = self._check_image_column()
        named = "file" in columns
        table = self._read_columns([*dict.fromkeys([*wanted, *(["file"] if named else [])])])
        rows = list(range(table.num_rows))
        if subset is not None:
            held = table.column(column).to_pylist()
            rows = [row for row in rows if str(held[row]) == value]
            if not rows:
                found = ", ".join(sorted({str(item) for item in held})[:10])
                raise DataError(str(path), f"no row has {subset}; {column} holds {found}", "Choose one of those")
        values = table.column(label).to_pylist()
        unlabelled = [row for row in rows if values[row] is None]
        self._rows = [row for row in rows if values[row] is not None]
        if not self._rows:
            raise DataError(str(path), "it holds no labelled row", "Check the file")
        self.classes, self.labels = self._classes([values[row] for row in self._rows], classes)
        names = [str(item) for item in table.column("file").to_pylist()] if named else []
        if len(set(names)) != table.num_rows:
            names = [f"row {row}" for row in range(table.num_rows)]
        self.names = [names[row] for row in self._rows]
        self.report = {"file": path.name, "rows_without_label": len(unlabelled)}
        if split is not None:
            held = table.column(split).to_pylist()
            origin = f"{path.name}, column {split}"
            given = {names[row]: split_name(held[row], origin) for row in self._rows if held[row] is not None}
            self.given = GivenSplits(given, origin)
        if subset is not None:
            self.report["subset"] = subset
        metadata = self._file.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._digest = ""

    def _check_image_column(self) -> bool:
        from pyarrow import types

        kind = self._file.schema_arrow.field(self._image).type
        nested = bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        if not (nested or types.is_binary(kind) or types.is_large_binary(kind)):
            raise DataError(
                str(self._path), f"column {self._image!r} holds {kind}, not picture files", "Name the column that does"
            )
        return nested

    def _read_columns(self, names: list[str]) -> Any:
        from pyarrow import ArrowException

        try:
            return self._file.read(columns=names)
        except (OSError, ArrowException) as error:
            raise DataError(str(self._path), f"it is damaged ({error})", "Get the file again") from error

    def _classes(self, values: list[Any], given: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
        name = str(self._path)
        if all(isinstance(value, str) for value in values):
            present = sorted(set(values))
            classes = tuple(given) if given else tuple(present)
            strangers = sorted(set(present) - set(classes))
            if strangers:
                raise DataError(name, f"label {strangers[0]!r} is not among the given classes", "Give all class names")
            index = {text: number for number, text in enumerate(classes)}
            return classes, [index[value] for value in values]
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            if given:
                if min(values) < 0 or max(values) >= len(given):
                    wrong = min(values) if min(values) < 0 else max(values)
                    raise DataError(name, f"label {wrong} has no name, {len(given)} are given", "Give all class names")
                return tuple(given), list(values)
            numbers = {value: index for index, value in enumerate(sorted(set(values)))}
            return tuple(str(value) for value in numbers), [numbers[value] for value in values]
        raise DataError(name, "its labels are neither text nor whole numbers", "Name another label column")

    def fingerprint(self) -> str:
        """The hash of the file's bytes, columns, classes and chosen rows."""
        if not self._digest:
            digest = hashlib.sha256(repr((self._image, self.classes, self.labels, self._rows)).encode())
            try:
                with self._path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except OSError as error:
                raise DataError(str(self._path), f"it cannot be read ({error})", "Get the file again") from error
            self._digest = digest.hexdigest()
        return self._digest

    def read(self, index: int) -> bytes:
        """The bytes of one picture file; its row group is read when first needed and kept for a while."""
        row = self._rows[index]
        with self._lock:
            low, high = 0, len(self._starts) - 1
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self._starts[middle] <= row else (low, middle)
            column = self._group(low)
            value = column[row - self._starts[low]].as_py()
        if self._nested and value is not None:
            value = value["bytes"]
        if value is None:
            raise PictureError(self.names[index], "the row holds no picture")
        return bytes(value)

    def _group(self, group: int) -> Any:
        from pyarrow import ArrowException

        if group not in self._cache:
            try:
                self._cache[group] = self._file.read_row_group(group, columns=[self._image]).column(0)
            except (OSError, ArrowException) as error:
                raise DataError(
                    str(self._path), f"row group {group} is damaged ({error})", "Get the file again"
                ) from error
            while len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
        return self._cache[group]

"""Every refusal of this project, as one tree.

MillijouleError             anything the user can mend; the command line prints it and exits with code 2
|- DataError                pictures, folders, manifests, data sets
|- WeightsError             weight files that do not belong to the network
|- CheckpointError          training state that cannot be written or read
|- GraphError               a network that breaks a rule of the graph
|  +- UnsupportedError      an operator, attribute or layer no executor here knows
|- FormatError              a file that is truncated, foreign or of another version
|- QuantizationError        a scale, range or calibration set that cannot work
|- PlacementError           a model that does not fit the board's memory
|- ToolchainError           compiler missing or failing
|- DeviceError              a board or debug probe that is not there, or does not answer as it should
|- EmulationError           a firmware that faults, hangs or breaks out of its memory
|- BoardError               unknown board, broken board description
|- OptionError              an option or configuration value out of range
+- OutputError              a place that cannot be written
"""

from __future__ import annotations

__all__ = [
    "BoardError",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "EmulationError",
    "FormatError",
    "GraphError",
    "MillijouleError",
    "OptionError",
    "OutputError",
    "PlacementError",
    "QuantizationError",
    "ToolchainError",
    "UnsupportedError",
    "WeightsError",
]


class MillijouleError(Exception):
    """A refusal: the thing it is about, the reason, and what to do next.

    Args:
        what: the file, layer, option or board concerned.
        reason: why it is refused, without a full stop.
        fix: what the user can do, an imperative sentence without a full stop.
    """

    def __init__(self, what: str, reason: str, fix: str) -> None:
        self.what = what
        self.reason = reason
        self.fix = fix
        super().__init__(f"{what}: {reason}. {fix}.")

    def __reduce__(self) -> tuple[type[MillijouleError], tuple[str, str, str]]:
        """Pickle by parts, so that the error survives worker processes."""
        return type(self), (self.what, self.reason, self.fix)


class DataError(MillijouleError):
    """Pictures, folders, manifests or data sets that cannot be used."""


class WeightsError(MillijouleError):
    """A weight file that does not belong to the network."""


class CheckpointError(MillijouleError):
    """Training state that cannot be written or read."""


class GraphError(MillijouleError):
    """A network that breaks a rule of the graph."""


class UnsupportedError(GraphError):
    """An operator, attribute or layer that no executor here knows."""


class FormatError(MillijouleError):
    """A file that is truncated, foreign or of another version."""


class QuantizationError(MillijouleError):
    """A scale, range or calibration set that cannot work."""


class PlacementError(MillijouleError):
    """A model that does not fit the board's memory."""


class ToolchainError(MillijouleError):
    """A compiler that is missing or that failed."""


class DeviceError(MillijouleError):
    """A board or debug probe that is not there, or does not answer as it should."""


class EmulationError(MillijouleError):
    """A firmware that faults, hangs or breaks out of its memory."""


class BoardError(MillijouleError):
    """An unknown board or a broken board description."""


class OptionError(MillijouleError):
    """An option or configuration value that is out of range."""


class OutputError(MillijouleError):
    """A place that cannot be written."""

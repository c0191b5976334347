"""The one error of the export room."""

from edgers_engines.errors import EdgersError


class ExportError(EdgersError):
    """A checkpoint that cannot be exported; says what it lacks or has too much."""

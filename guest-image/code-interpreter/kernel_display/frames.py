"""A pandas DataFrame as the data of a table: a list of values for each column."""

from typing import Any

from kernel_display.values import plain


def frame_to_dict(frame: Any) -> dict[str, list[Any]]:
    """Return the columns by name. Times are ISO 8601, missing values null."""
    absent = frame.isna()
    return {
        str(name): [
            None if gone else plain(value)
            for value, gone in zip(frame.iloc[:, position], absent.iloc[:, position], strict=True)
        ]
        for position, name in enumerate(frame.columns)
    }

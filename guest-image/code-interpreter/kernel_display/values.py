"""Values of any library as JSON has them."""

from typing import Any


def plain(value: Any) -> Any:
    """Return the value as JSON has it, or the text of one that it has not. Times are ISO 8601."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON knows neither NaN nor infinity.
        return float(value) if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    return _foreign(value)


def as_number(value: Any) -> Any:
    """Return the value as JSON has it, numbers always with a fraction: charts do not count."""
    converted = plain(value)
    return float(converted) if isinstance(converted, int) else converted


def _foreign(value: Any) -> Any:
    """Return a value of a class that Python itself has not, known by what it can do."""
    if type(value).__name__ == "NaTType":
        return None
    if type(value).__name__ == "datetime64":
        # To microseconds, since of nanoseconds numpy makes a bare number.
        return plain(value.astype("datetime64[us]").item())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy: a scalar gives a scalar, an array a list
        return plain(value.tolist())
    return str(value)

"""Numbers as a person reads them: with a unit, an interval where there is one, and words where there is no number."""

import math
from typing import Any, TypeGuard

MISSING = "not measured"
MINUS = "\u2212"
TIMES = "\u00d7"
_KEPT = "\n\t\u200c\u200d"  # the last two join letters and emoji


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number (booleans are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def decimals_for(*scales: float | None) -> int:
    """Decimals that show the smallest nonzero of the scales (a margin, a half width) with two digits, 0 to 6."""
    sizes = [abs(scale) for scale in scales if scale is not None and is_number(scale) and scale != 0]
    return max(0, min(6, 1 - math.floor(math.log10(min(sizes))))) if sizes else 3


def fixed(value: Any, decimals: int, *, signed: bool = False) -> str:
    """A number with these decimals and a real minus sign; `signed` shows a plus too."""
    if not is_number(value):
        return MISSING
    text = f"{abs(value):,.{decimals}f}"
    is_zero = not any(digit in text for digit in "123456789")
    sign = MINUS if value < 0 and not is_zero else "+" if signed and not is_zero else ""
    return sign + text


def significant(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, no exponent: 0.0521, 14.8, 1,480."""
    if not is_number(value):
        return MISSING
    if value == 0:
        return "0"
    return fixed(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def count(value: Any) -> str:
    """A whole number: `1,204`, or `not measured`."""
    return fixed(value, 0)


def with_unit(value: Any, unit: str, digits: int = 3) -> str:
    """`14.8 GB/s`, or `not measured`."""
    return f"{significant(value, digits)} {unit}" if is_number(value) else MISSING


def milliseconds(value: Any) -> str:
    """`352 ms`, `9.4 ms`, from ten seconds on `12.3 s`."""
    if not is_number(value):
        return MISSING
    return with_unit(value / 1000, "s") if value >= 10_000 else with_unit(value, "ms", 3 if value < 1000 else 4)


def milliseconds_interval(low: Any, high: Any) -> str:
    """`[3,023, 5,224] ms`, from ten seconds on `[12.1, 12.6] s`; says so where an end is not known."""
    if not is_number(low) or not is_number(high):
        return "interval not known"
    if high >= 10_000:
        return f"[{significant(low / 1000)}, {significant(high / 1000)}] s"
    return f"[{significant(low, 4 if low >= 1000 else 3)}, {significant(high, 4 if high >= 1000 else 3)}] ms"


def seconds(value: Any) -> str:
    """`5 min 19 s` from two minutes on, else `41.2 s`."""
    if not is_number(value) or value < 120:
        return with_unit(value, "s")
    return f"{int(value // 60)} min {int(value % 60)} s"


def megabytes(value: Any) -> str:
    """Bytes as `412 MB` or `25.3 GB` (powers of ten)."""
    if not is_number(value):
        return MISSING
    return with_unit(value / 1e9, "GB") if value >= 1e9 else with_unit(value / 1e6, "MB")


def percent(value: Any, decimals: int = 0) -> str:
    """A share 0..1 as `86 %`."""
    return f"{fixed(100 * value, decimals)} %" if is_number(value) else MISSING


def times(value: Any) -> str:
    """A ratio as `2.06×`."""
    return f"{fixed(value, 2)}{TIMES}" if is_number(value) else MISSING


def interval(low: Any, high: Any, decimals: int) -> str:
    """`[−0.009, 0.001]`; says so where an end is not known."""
    if not is_number(low) and not is_number(high):
        return "interval not known"
    return f"[{_end(low, decimals)}, {_end(high, decimals)}]"


def times_interval(low: Any, high: Any) -> str:
    """`[1.97×, 2.15×]`, rounded outward; says so where an end is not known."""
    if not is_number(low) or not is_number(high):
        return "interval not known"
    return f"[{times(rounded_down(low))}, {times(-rounded_down(-high))}]"


def rounded_down(value: float) -> float:
    """To two decimals, never up: a bound that is claimed must hold."""
    return math.floor(value * 100 + 1e-9) / 100


def line(value: Any, longest: int = 0) -> str:
    """A text on one line without control characters, cut at `longest` characters (0 = whole)."""
    text = visible(" ".join(str(value).split()))
    return text if not longest or len(text) <= longest else text[: longest - 1].rstrip() + "…"


def visible(value: Any) -> str:
    """A text whose control characters, bidirectional overrides among them, are shown as a replacement character; newlines and tabs stay."""
    return "".join(char if char.isprintable() or char in _KEPT else "\ufffd" for char in str(value))


def _end(value: Any, decimals: int) -> str:
    return fixed(value, decimals) if is_number(value) else "unknown"


def ended(sentence: Any) -> str:
    """One line that ends as a sentence does, so that another may follow it."""
    text = line(sentence)
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."

"""How numbers are written for people. Knows nothing of runs."""


def signed(value: float) -> str:
    """Return the value with its sign and two decimals."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\u2212")


def signed_in_short(value: float) -> str:
    """Return the value with its sign and three significant digits, two decimals at most."""
    magnitude = abs(value)
    if magnitude >= 1e6:
        return f"{value / 1e6:+.1f} M"
    decimals = 2 if magnitude < 10 else 1 if magnitude < 1000 else 0
    return f"{round(value, decimals) + 0.0:+,.{decimals}f}"


def amount(value: float) -> str:
    """Return three significant digits with k, M, G or T."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g}{unit}"
    if abs(value) >= 1e4:
        return f"{float(f'{value / 1e3:.3g}'):g} k"
    return f"{float(f'{value:.3g}'):g}"


def short(value: float) -> float:
    """Return five significant digits: more cannot be seen in a chart. Whole numbers stay whole."""
    return value if isinstance(value, int) else float(f"{value:.5g}")


def duration(seconds: float) -> str:
    """Return the time in the largest unit that it has one of, with two digits."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{seconds:.0f} s"


def p_value(value: float) -> str:
    """Return p for a table."""
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def p_equals(value: float) -> str:
    """Return p for a sentence."""
    return f"p = {value:.3f}" if value >= 0.001 else "p below 0.001"

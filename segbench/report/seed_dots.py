"""A picture of the seeds of both sides of a claim, a dot each, on one scale. SVG without a script."""

from markupsafe import Markup, escape

from segbench.claims.verdict import Part

_WIDTH, _ROW, _LEFT = 220, 14, 6


def seed_dots(part: Part) -> Markup:
    """Return an SVG with a row of dots for each of two cells, empty where there are no two.

    A dot is a seed's figure, in the unit of the metric; the ends of the scale stand below.
    """
    sides = [(name, values) for name, values in part.seeds_values if len(values) > 1]
    if len(sides) != 2:
        return Markup("")
    every = [value for _, values in sides for value in values]
    low, high = min(every), max(every)
    scale = (_WIDTH - 2 * _LEFT) / ((high - low) or 1)
    dots = Markup("").join(
        Markup('<circle cx="{:.1f}" cy="{}" r="3"><title>{} {:.4g}</title></circle>').format(
            _LEFT + scale * (value - low), _ROW * (row + 0.5), name, value
        )
        for row, (name, values) in enumerate(sides)
        for value in values
    )
    names = " above, ".join(name for name, _ in sides)
    label = f"Each seed as a dot: {names} below; from {low:.4g} to {high:.4g}"
    return Markup(
        '<svg class="dots" role="img" aria-label="{0}" width="{1}" height="{2}" '
        'viewBox="0 0 {1} {2}" fill="currentColor" fill-opacity=".6">{3}</svg>'
        '<br><span class="faint">{0}</span>'
    ).format(escape(label), _WIDTH, 2 * _ROW, dots)

"""Charts: tidy data from ``seigh.core.lab.queries`` in, Altair chart out.

Every chart keeps chance level and error in sight, names its values in tooltips, and is drawn as SVG so that
screen readers and tests find its marks. Colours: no two groups that are compared have the same one
(``group_colors``), the neutral grey is chance, and nothing is told apart by colour alone.
"""

from seigh.app.charts.accuracy import error_by_products, error_by_sizes
from seigh.app.charts.base import (
    AS_SVG,
    CHANCE_LABEL,
    COLOR_SHAPES,
    ERROR_LABEL,
    MODEL_COLORS,
    MOST_COLORS,
    MOST_DASHES,
    MOST_POINTS,
    NEUTRAL,
    group_colors,
    model_color,
    on_axes_of,
    shortened,
)
from seigh.app.charts.curves import curve, curve_by_step
from seigh.app.charts.overlap import (
    IN_UNITS_OF_OVERLAP,
    LINE_COLUMNS,
    Measure,
    distinct_lines,
    name_groups,
    name_series,
    over_chance,
    overlap_by_k,
    overlap_by_step,
    overlap_curve,
)
from seigh.app.charts.profiles import (
    densities_of_tensors,
    has_common_reference,
    profile,
    profile_by_step,
    tensors,
    tensors_by_step,
)
from seigh.app.charts.scatter import said_fills, scatter
from seigh.app.charts.spectra import RESIDUAL_LABEL, SCREE_FLOOR, scree, spectrum
from seigh.app.charts.structure import (
    METRIC_FORMULAS,
    METRIC_NAMES,
    MOST_LAYERS,
    heatmap,
    layer_shares,
    magnitude_bins,
    metric_by_step,
    metric_heights,
    pair_metrics,
    random_study,
    stages,
)
from seigh.app.charts.trends import (
    Recording,
    lambda_by_step,
    recorded_by_step,
    relative_by_step,
    spectra_by_step,
)

__all__ = [
    "AS_SVG",
    "CHANCE_LABEL",
    "COLOR_SHAPES",
    "ERROR_LABEL",
    "IN_UNITS_OF_OVERLAP",
    "LINE_COLUMNS",
    "METRIC_FORMULAS",
    "METRIC_NAMES",
    "MODEL_COLORS",
    "MOST_COLORS",
    "MOST_DASHES",
    "MOST_LAYERS",
    "MOST_POINTS",
    "NEUTRAL",
    "RESIDUAL_LABEL",
    "SCREE_FLOOR",
    "Measure",
    "Recording",
    "curve",
    "curve_by_step",
    "densities_of_tensors",
    "distinct_lines",
    "error_by_products",
    "error_by_sizes",
    "group_colors",
    "has_common_reference",
    "heatmap",
    "lambda_by_step",
    "layer_shares",
    "magnitude_bins",
    "metric_by_step",
    "metric_heights",
    "model_color",
    "name_groups",
    "name_series",
    "on_axes_of",
    "over_chance",
    "overlap_by_k",
    "overlap_by_step",
    "overlap_curve",
    "pair_metrics",
    "profile",
    "profile_by_step",
    "random_study",
    "recorded_by_step",
    "relative_by_step",
    "said_fills",
    "scatter",
    "scree",
    "shortened",
    "spectra_by_step",
    "spectrum",
    "stages",
    "tensors",
    "tensors_by_step",
]

"""Figures: what accuracy costs, how busy the engines were, how long questions took.

matplotlib is imported only when a figure is drawn, and without pyplot, so nothing global changes.
"""

from ttcsim.analysis.plots.makespan import makespan_figure
from ttcsim.analysis.plots.page import save_figure
from ttcsim.analysis.plots.timeline import timeline_figure
from ttcsim.analysis.plots.tradeoff import pareto_front, tradeoff_figure

__all__ = ["makespan_figure", "pareto_front", "save_figure", "timeline_figure", "tradeoff_figure"]

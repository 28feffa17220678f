"""A comparison as one HTML file that needs no network: tables, interactive charts, how to read it.

Charts are plain data for Plotly.js, whose source comes from the `plotly` package and is put into
the file. `plotly` is imported only when a report is written.
"""

from ttcsim.analysis.report.document import html_report

__all__ = ["html_report"]

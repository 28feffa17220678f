"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
// A finger that moves over a chart wants to scroll the page, not to zoom.
const touch = matchMedia("(pointer: coarse)").matches;
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  displayModeBar: touch ? false : "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
};
for (const { id, data, layout } of charts) {
  if (touch) layout.dragmode = false;
  Plotly.newPlot(id, data, layout, config);
}

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const views = {};

  // Draws a chart, again whenever colours or the width class change.
  async function draw(id, spec) {
    const theme = dark.matches ? data.themes.night : data.themes.day;
    const legend = { ...theme.legend, columns: narrow.matches ? 1 : 2 };
    const axis = { ...theme.axis, labelLimit: narrow.matches ? 130 : 220 };
    const config = { ...theme, axis, legend };
    const sized = { height: narrow.matches ? 240 : 300, width: "container", ...spec };
    views[id]?.finalize();
    const tooltip = { theme: dark.matches ? "dark" : "light" };
    const options = { actions: false, renderer: "svg", logLevel: 1, config, tooltip };
    const place = document.getElementById(id);
    views[id] = await vegaEmbed(place, sized, options);
    place.querySelector("svg").setAttribute("aria-hidden", "true"); // its place has the label
  }

  const group = document.getElementById("group");
  const budget = document.getElementById("budget");
  const number = (value) => value.toLocaleString("en");

  // Tells what the budget of the slider holds, and shows it in the picture.
  async function hold() {
    const step = data.blocks.groups[group.value].steps[budget.value];
    const share = (100 * step.budget) / data.blocks.full_bytes;
    const text = `${number(step.budget)} bytes, ${share.toPrecision(2)}% of the full table`;
    document.getElementById("budget-text").textContent = text;
    budget.setAttribute("aria-valuetext", text);
    for (const cell of document.querySelectorAll("[data-held]")) {
      cell.textContent = number(step[cell.dataset.held]);
    }
    await views.blocks.view.signal("held", step.blocks).runAsync();
  }

  async function drawBlocks() {
    await draw("blocks", data.blocks.groups[group.value].chart);
    await hold();
  }

  async function drawAll() {
    await Promise.all(Object.entries(data.charts).map(([id, spec]) => draw(id, spec)));
    if (data.blocks) await drawBlocks();
    document.documentElement.dataset.drawn = "yes";
  }

  if (data.blocks) {
    budget.addEventListener("input", hold);
    group.addEventListener("change", drawBlocks);
  }
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  drawAll();
})();

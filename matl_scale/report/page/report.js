// Turns the page's tables into DataTables and draws its figures with Plotly. Tables come first, right after the first paint;
// a figure is drawn when it comes near the screen.

const DRAW_AHEAD = "700px"; // how far below the screen figures are already drawn
const PLOTLY_DELAY_MS = 1500; // before Plotly is started, unless the reader scrolls: starting it blocks the page for a second
const SHORT_TABLE = 10; // a table with no more rows needs neither a search box nor pages
const COLORS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"], // Okabe and Ito's palette, made for colour-blind readers too
  dark: ["#56a8e0", "#f0935a", "#4cc79b", "#dba3c8", "#e6b84d", "#9fd8f5"],
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const libraries = new Map();

async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).arrayBuffer();
  return URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
}

function load(id, start) {
  if (!libraries.has(id)) libraries.set(id, unpack(id).then(start));
  return libraries.get(id);
}

const loadTables = () =>
  load("table-library", async (url) => {
    const { default: DataTable } = await import(url);
    DataTable.type("number", { order: { asc: (a, b) => compare(a, b, 1), desc: (a, b) => compare(a, b, -1) } });
    DataTable.ext.errMode = "throw";
    return DataTable;
  });

const loadPlotly = () =>
  load("plot-library", async (url) => {
    const script = document.createElement("script");
    script.src = url;
    await new Promise((done, failed) => Object.assign(script, { onload: done, onerror: failed }) && document.head.append(script));
    performance.mark("plots ready");
    return window.Plotly;
  });

// empty cells come last, whether ascending or descending
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}

function columnOptions(DataTable, { digits, signed, least }, marks) {
  const createdCell = (cell, _value, _row, row) => marks && marks[row] && cell.classList.add(marks[row]);
  if (digits === null) return { render: DataTable.render.text(), createdCell };
  const format = new Intl.NumberFormat("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    signDisplay: signed ? "exceptZero" : "auto",
  });
  const show = (value) => (value > 0 && value < least ? `<${format.format(least)}` : format.format(value));
  const render = (value, kind) => (kind === "display" ? (value === null ? "" : document.createTextNode(show(value))) : value);
  return { type: "number", className: "number", searchable: false, render, createdCell };
}

function choiceBox(label, changed) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  box.addEventListener("change", () => changed(box.checked));
  const outer = Object.assign(document.createElement("label"), { className: "only" });
  outer.append(box, ` ${label}`);
  return outer;
}

async function startTable(grid) {
  grid.classList.add("started");
  const DataTable = await loadTables();
  const content = JSON.parse(grid.querySelector("script").textContent);
  const short = content.rows.length <= SHORT_TABLE && !content.choice;
  const chosen = new Set(content.chosen);
  const choose = (only) => table.search.fixed("only", only ? (_text, _row, number) => chosen.has(number) : null).draw();
  const table = new DataTable(grid.querySelector("table"), {
    data: content.rows,
    columns: content.columns.map((column, i) => columnOptions(DataTable, column, content.marks[i])),
    order: [],
    autoWidth: false,
    pageLength: content.pageLength,
    lengthMenu: [10, 25, 100, { label: "all", value: -1 }],
    language: {
      search: "",
      searchPlaceholder: "filter by text",
      lengthMenu: "_MENU_ rows",
      info: "_START_ to _END_ of _TOTAL_",
      infoFiltered: "(all: _MAX_)",
    },
    layout: {
      topStart: short ? null : "search",
      topEnd: content.choice ? () => choiceBox(content.choice, choose) : null,
      bottomStart: short ? null : ["info", "pageLength"],
      bottomEnd: short ? null : "paging",
    },
  });
  grid.classList.add("ready");
}

// tables of hidden runs are started when their run is shown
const startTables = () =>
  Promise.all([...document.querySelectorAll(".grid:not(.started)")].filter((grid) => grid.offsetParent).map(startTable));

function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--soft"), linecolor: color("--line"), automargin: true };
  return {
    layout: {
      font: { family: "system-ui, sans-serif", size: 12, color: color("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: COLORS[dark.matches ? "dark" : "light"],
      shapedefaults: { line: { color: color("--ink") } },
      hoverlabel: { bgcolor: color("--paper"), font: { color: color("--ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      margin: { l: 50, r: 15, t: 25, b: 40 },
      xaxis: axis,
      yaxis: axis,
    },
  };
}

async function drawFigure(figure) {
  figure.classList.add("started");
  const Plotly = await loadPlotly();
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  await Plotly.newPlot(figure.querySelector(".plot"), data, { ...layout, template: theme() }, config);
  figure.classList.add("ready");
}

const watcher = new IntersectionObserver(
  (entries) =>
    entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      watcher.unobserve(target);
      if (!target.matches(".started")) drawFigure(target);
    }),
  { rootMargin: DRAW_AHEAD },
);

function showRun(number) {
  document.querySelectorAll(".run").forEach((run) => (run.hidden = Number(run.dataset.number) !== number));
  const linksOfRun = "nav a:not([href^='#comparison'])";
  document.querySelectorAll(linksOfRun).forEach((link) => (link.href = link.hash.replace(/-\d+$/, `-${number}`)));
  return startTables();
}

function recolor() {
  document.documentElement.classList.toggle("dark", dark.matches);
  document.querySelectorAll("figure.ready .plot").forEach((plot) => window.Plotly.relayout(plot, { template: theme() }));
}

function startFigures() {
  loadPlotly();
  document.querySelectorAll("figure.drawn").forEach((figure) => watcher.observe(figure));
}

async function start() {
  await startTables();
  performance.mark("tables ready");
  setTimeout(startFigures, PLOTLY_DELAY_MS);
  addEventListener("scroll", startFigures, { once: true, passive: true });
}

recolor();
dark.addEventListener("change", recolor);
document.getElementById("run-choice")?.addEventListener("change", (event) => showRun(event.target.selectedIndex));
requestAnimationFrame(() => setTimeout(start)); // after the first paint

"use strict";
// Colors are CSS variables, so that figures follow the light, dark and print themes of the page.
const THEME = {
  background: null,
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12.5,
    titleFontWeight: "normal", gridColor: "var(--line)", domainColor: "var(--line)",
    tickColor: "var(--line)", labelPadding: 5, titlePadding: 9, labelLimit: 140, titleLimit: 0,
  },
  legend: {
    labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12.5,
    titleFontWeight: "normal", orient: "top", direction: "horizontal", gradientLength: 160,
    gradientThickness: 10, titleLimit: 0,
  },
  text: { color: "var(--ink)", fontSize: 12.5 },
};

function parseJson(node) { return JSON.parse(node.textContent); }

async function draw(box) {
  const script = box.querySelector("script");
  const spec = parseJson(script);
  const images = box.closest("figure").querySelector(".images");
  if (images) {
    const uris = parseJson(images);
    for (const value of spec.data.values) value.image = uris[value.picture];
  }
  box.spec = spec;
  try {
    const options = { renderer: "svg", actions: false };
    box.view = (await vegaEmbed(box, { ...spec, config: THEME }, options)).view;
  } catch (error) {
    box.textContent = `This figure cannot be drawn: ${error.message}`;
    console.error(error);
  }
}

async function drawAll() {
  for (const box of document.querySelectorAll(".chart")) {
    await draw(box);
    // The page stays responsive between two charts.
    await new Promise((resolve) => setTimeout(resolve));
  }
  document.documentElement.dataset.drawn = "all";
}

// Rows of a chart's data; lists, such as the epochs of a run, become one row per entry.
function rows(values) {
  return values.flatMap((value) => {
    const { image, picture, ...rest } = value;
    const lists = Object.keys(rest).filter((name) => Array.isArray(rest[name]));
    if (!lists.length) return [rest];
    return rest[lists[0]].map((_, i) =>
      Object.fromEntries(Object.entries(rest).map(([k, v]) => [k, Array.isArray(v) ? v[i] : v])));
  });
}

function csvText(table) {
  const quote = (x) => {
    const text = x === null || x === undefined ? "" : String(x);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return table.map((row) => row.map(quote).join(",") + "\r\n").join("");
}

function chartTable(figure) {
  const panels = [...figure.querySelectorAll(".panel")];
  const records = panels.flatMap((panel) => {
    const title = panel.querySelector(".panel-title");
    return rows(panel.querySelector(".chart").spec.data.values)
      .map((row) => ({ ...(title && { panel: title.textContent }), ...row }));
  });
  const names = [...new Set(records.flatMap(Object.keys))];
  return [names, ...records.map((row) => names.map((name) => row[name]))];
}

function htmlTable(figure) {
  return [...figure.querySelectorAll("tr")].map((row) =>
    [...row.children].map((cell) => cell.textContent.trim().replace(/−/g, "-")));
}

function save(figure) {
  const table = figure.querySelector(".chart") ? chartTable(figure) : htmlTable(figure);
  const blob = new Blob([csvText(table)], { type: "text/csv" });
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob), download: `${figure.id}.csv`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function sort(head) {
  const index = [...head.parentNode.children].indexOf(head);
  const body = head.closest("table").tBodies[0];
  const before = head.getAttribute("aria-sort");
  const key = (row) => {
    const cell = row.children[index];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const isNumber = [...body.rows].some((row) => typeof key(row) === "number");
  // Numbers are sorted from the largest; cells without a number are always last.
  const up = before === "none" ? !isNumber : before === "descending";
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    const order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
    return up ? order : -order;
  };
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort(compare));
}

// Highlights a level of a figure; a second click removes the highlight.
function pick(button) {
  const before = button.getAttribute("aria-pressed") === "true";
  for (const other of button.parentNode.children) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(!before));
  for (const box of button.closest("figure").querySelectorAll(".chart")) {
    if (box.view) box.view.signal("pick", before ? "" : button.dataset.level).runAsync();
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "theme") {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  } else if (button.classList.contains("csv")) {
    save(document.getElementById(button.dataset.figure));
  } else if (button.parentNode.matches(".legend")) {
    pick(button);
  } else if (button.parentNode.matches("th")) {
    sort(button.parentNode);
  }
});

drawAll();

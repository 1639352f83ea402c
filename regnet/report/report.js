// Values at the pointer, and smoothing of curves. Without this script the report is complete, but static.
"use strict";
{
  const tooltip = document.getElementById("tooltip");
  const number = (value) => (Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : String(value));

  function show(lines, x, y) {
    const marks = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    marks.setAttribute("class", "mark");
    tooltip.replaceChildren(
      ...lines.map(([text, colour]) => {
        const line = document.createElement("div");
        if (colour !== undefined) {
          const mark = document.getElementById(`mark-${colour}`).cloneNode();
          mark.removeAttribute("id");
          line.append(Object.assign(marks.cloneNode(), { style: `fill: var(--group-${colour})` }));
          line.firstChild.setAttribute("viewBox", "0 0 10 10");
          line.firstChild.append(mark);
        }
        line.append(text);
        return line;
      }),
    );
    tooltip.hidden = false;
    const { width, height } = tooltip.getBoundingClientRect();
    tooltip.style.left = `${scrollX + Math.max(4, x + 16 + width > innerWidth ? x - width - 16 : x + 16)}px`;
    tooltip.style.top = `${scrollY + Math.max(4, Math.min(y + 16, innerHeight - height - 4))}px`;
  }

  // The rectangle of the axes on the screen, and the limits of the x axis.
  function axesOf(svg) {
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const [left, top, right, bottom] = svg.dataset.axes.split(" ").map((value) => value * scale);
    const [low, high] = svg.dataset.limits.split(" ").map(Number);
    return { left: box.left + left, top: box.top + top, width: right - left, height: bottom - top, low, high };
  }

  // Curves: an index is a position in values.x, and the box a line at it.
  const curve = (values) => ({
    last: values.x.length - 1,
    steps: { ArrowLeft: -1, ArrowRight: 1 },
    at({ left, width, low, high }, x) {
      const distance = (value) => Math.abs(value - low - ((x - left) / width) * (high - low));
      return values.x.reduce((best, value, i) => (distance(value) < distance(values.x[best]) ? i : best), 0);
    },
    box: ({ left, top, width, height, low, high }, index) =>
      [left + ((values.x[index] - low) / (high - low)) * width, top, 0, height],
    lines: (index) => [
      [`${values.axis} ${number(values.x[index])}`],
      ...values.series
        .filter((series) => series.values[index] !== null)
        .map(({ name, values, std, colour }) => {
          const spread = std && std[index] ? ` ± ${number(std[index])}` : "";
          return [`${name}: ${number(values[index])}${spread}`, colour];
        }),
    ],
  });

  // Confusion matrices: an index is a cell, row by row, and the box its border.
  function matrix(values) {
    const size = values.names.length;
    const counts = new Map(values.cells.map(([row, column, count]) => [row * size + column, count]));
    const cell = (fraction) => Math.max(0, Math.min(size - 1, Math.floor(fraction * size)));
    return {
      last: size * size - 1,
      steps: { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -size, ArrowDown: size },
      at: (axes, x, y) => cell((y - axes.top) / axes.height) * size + cell((x - axes.left) / axes.width),
      box({ left, top, width }, index) {
        const side = width / size;
        return [left + (index % size) * side, top + Math.floor(index / size) * side, side, side];
      },
      lines(index) {
        const [row, count] = [Math.floor(index / size), counts.get(index) ?? 0];
        const samples = values.samples[row];
        const percent = samples ? ` (${((100 * count) / samples).toFixed(1)} %)` : "";
        return [
          [`true: ${values.names[row]}`],
          [`predicted: ${values.names[index % size]}`],
          [`${count} of ${samples} samples${percent}`],
        ];
      },
    };
  }

  const cursor = Object.assign(document.createElement("div"), { hidden: true });
  const hide = () => (cursor.hidden = tooltip.hidden = true);
  // After a touch the values stay until the next one elsewhere.
  addEventListener("pointerdown", ({ target }) => target.closest(".chart") || hide());

  for (const chart of document.querySelectorAll(".chart")) {
    const values = JSON.parse(chart.querySelector("script").textContent);
    const view = values.names ? matrix(values) : curve(values);
    Object.assign(chart, { tabIndex: 0, role: "group", ariaLabel: "Arrow keys show the values" });
    const visibleAxes = () => axesOf([...chart.querySelectorAll("svg[data-axes]")].find((svg) => svg.clientWidth));
    let index = -1;
    const point = (chosen, x, y) => {
      index = chosen;
      const [left, top, width, height] = view.box(visibleAxes(), index);
      const origin = chart.getBoundingClientRect();
      cursor.className = values.names ? "cursor cell" : "cursor";
      chart.append(cursor);
      cursor.style.transform = `translate(${left - origin.left + chart.scrollLeft}px, ${top - origin.top}px)`;
      Object.assign(cursor.style, { width: `${width}px`, height: `${height}px` });
      cursor.hidden = false;
      show(view.lines(index), x ?? left, y ?? top);
    };
    const follow = ({ clientX: x, clientY: y }) => {
      const axes = visibleAxes();
      const inside = (value, start, length) => value > start - 12 && value < start + length + 12;
      if (inside(x, axes.left, axes.width) && inside(y, axes.top, axes.height)) point(view.at(axes, x, y), x, y);
      else hide();
    };
    for (const type of ["pointermove", "pointerdown"]) chart.addEventListener(type, follow);
    chart.addEventListener("pointerleave", ({ pointerType }) => pointerType === "touch" || hide());
    chart.addEventListener("blur", () => chart.contains(cursor) && hide());
    chart.addEventListener("keydown", (event) => {
      if (!(event.key in view.steps)) return;
      point(Math.max(0, Math.min(view.last, index + view.steps[event.key])));
      event.preventDefault();
    });
  }

  // Tables: the first click on a heading sorts numbers in descending and text in ascending order.
  for (const table of document.querySelectorAll("table.sortable")) {
    const [head, ...rows] = table.rows;
    const value = (row, column) => {
      const { dataset, textContent } = row.cells[column];
      return dataset.value ?? textContent.trim().replace("–", "");
    };
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    [...head.cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const numeric = rows.some((row) => value(row, column) && !isNaN(value(row, column)));
        const descending = cell.ariaSort ? cell.ariaSort === "ascending" : numeric;
        for (const other of head.cells) other.ariaSort = null;
        cell.ariaSort = descending ? "descending" : "ascending";
        const [empty, filled] = [true, false].map((wanted) => rows.filter((row) => !value(row, column) === wanted));
        filled.sort((a, b) => (descending ? -1 : 1) * compare(value(a, column), value(b, column)));
        table.tBodies[0].append(...filled, ...empty);
      });
    });
  }

  // Exponential moving average of the line as drawn, corrected for its start, as in TensorBoard.
  function smooth(line, weight) {
    let [average, total] = [0, 0];
    return line.replace(/([ML]) (\S+) (\S+)/g, (_, command, x, y) => {
      average = weight * average + (1 - weight) * y;
      total = weight * total + 1 - weight;
      return `${command} ${x} ${average / total}`;
    });
  }

  const slider = document.getElementById("smoothing");
  slider.addEventListener("input", () => {
    const weight = Number(slider.value);
    document.getElementById("weight").textContent = weight ? weight.toFixed(2) : "off";
    for (const path of document.querySelectorAll(".can-smooth .series > path:not(.raw)")) {
      path.closest(".chart").classList.toggle("smoothed", weight > 0);
      if (!path.previousElementSibling) path.before(path.cloneNode());
      const raw = path.previousElementSibling;
      raw.setAttribute("class", "raw");
      path.setAttribute("d", smooth(raw.getAttribute("d"), weight));
    }
  });
  for (const element of document.querySelectorAll(".script-only")) element.hidden = false;
}

// Curves that can be zoomed, panned and compared: SVG drawn from the numbers in #curves-data. No library, no address.
(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg", W = 1100, H = 420, L = 70, R = 15, T = 15, B = 40;
  const root = document.getElementById("curves");
  const controls = root.querySelector(".controls"), svg = root.querySelector("svg"), legend = root.querySelector(".legend");
  let data = JSON.parse(document.getElementById("curves-data").textContent);
  const state = { measure: data.measures[0], x: "step", logX: false, logY: false, hidden: new Set(), view: null };

  const add = (parent, tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text; // text, never markup: names of runs are a user's
    parent.appendChild(node);
    return node;
  };
  const color = (index) => `var(--series-${(index % 6) + 1})`;
  const bend = (value, isLog) => (isLog ? (value > 0 ? Math.log10(value) : NaN) : value);
  const straight = (value, isLog) => (isLog ? 10 ** value : value);
  const short = (v) => {
    for (const [limit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(v) >= limit) return `${+(v / limit).toPrecision(4)}${letter}`;
    return `${+v.toPrecision(4)}`;
  };

  const lines = () => data.runs.map((run, index) => {
    const curve = run.curves[state.measure];
    const points = curve.value.map((y, i) => [bend(curve[state.x][i], state.logX), y === null ? NaN : bend(y, state.logY)]);
    return { run, index, points };
  }).filter((line) => !state.hidden.has(line.run.path));

  const whole = (drawn) => {
    const points = drawn.flatMap((line) => line.points).filter((p) => isFinite(p[0]) && isFinite(p[1]));
    if (!points.length) return { x0: 0, x1: 1, y0: 0, y1: 1 };
    const range = (axis) => points.reduce(([low, high], p) => [Math.min(low, p[axis]), Math.max(high, p[axis])], [Infinity, -Infinity]);
    const wide = ([low, high]) => { const edge = (high - low || Math.abs(high) || 1) * 0.03; return [low - edge, high + edge]; };
    const [x0, x1] = wide(range(0)), [y0, y1] = wide(range(1));
    return { x0, x1, y0, y1 };
  };

  const ticks = (low, high, isLog) => {
    if (isLog && high - low >= 1) {
      const found = [];
      for (let d = Math.floor(low); d <= high; d++) for (const m of high - low > 3 ? [1] : [1, 2, 5]) found.push(d + Math.log10(m));
      return found.filter((v) => v >= low && v <= high);
    }
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough), found = [];
    for (let v = Math.ceil(low / size) * size; v <= high; v += size) found.push(v);
    return found;
  };

  const draw = () => {
    const drawn = lines(), view = state.view || whole(drawn);
    const px = (x) => L + ((x - view.x0) / (view.x1 - view.x0)) * (W - L - R);
    const py = (y) => H - B - ((y - view.y0) / (view.y1 - view.y0)) * (H - T - B);
    svg.replaceChildren();
    const clip = add(add(add(svg, "defs", {}), "clipPath", { id: "curves-frame" }), "rect", { x: L, y: T, width: W - L - R, height: H - T - B });
    clip.dataset.frame = "";
    for (const y of ticks(view.y0, view.y1, state.logY)) {
      add(svg, "line", { x1: L, x2: W - R, y1: py(y), y2: py(y), stroke: "var(--grid)" });
      add(svg, "text", { x: L - 8, y: py(y) + 4, "text-anchor": "end", fill: "var(--muted)", "font-size": 12 }, short(straight(y, state.logY)));
    }
    for (const x of ticks(view.x0, view.x1, state.logX)) {
      add(svg, "line", { x1: px(x), x2: px(x), y1: T, y2: H - B, stroke: "var(--grid)" });
      add(svg, "text", { x: px(x), y: H - B + 18, "text-anchor": "middle", fill: "var(--muted)", "font-size": 12 }, short(straight(x, state.logX)));
    }
    const frame = add(svg, "g", { "clip-path": "url(#curves-frame)" });
    for (const { points, index } of drawn) {
      let path = "", isDown = false;
      for (const [x, y] of points) {
        if (!isFinite(x) || !isFinite(y)) { isDown = false; continue; }
        path += `${isDown ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
        isDown = true;
      }
      if (path) add(frame, "path", { d: path, fill: "none", stroke: color(index), "stroke-width": 1.4, "stroke-linecap": "round" });
    }
    svg.dataset.view = [view.x0, view.x1, view.y0, view.y1].join(" ");
    legend.replaceChildren(...data.runs.map((run, index) => {
      const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("i");
      box.type = "checkbox";
      box.checked = !state.hidden.has(run.path);
      box.onchange = () => { state.hidden[box.checked ? "delete" : "add"](run.path); draw(); };
      swatch.style.background = color(index);
      label.append(box, swatch, document.createTextNode(run.name));
      label.title = run.path;
      return label;
    }));
  };

  const place = (event) => {
    const box = svg.getBoundingClientRect(), view = state.view || whole(lines());
    const x = (((event.clientX - box.left) / box.width) * W - L) / (W - L - R), y = (H - B - ((event.clientY - box.top) / box.height) * H) / (H - T - B);
    return { view, x, y };
  };
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { view, x, y } = place(event), by = Math.exp(Math.sign(event.deltaY) * 0.2), next = { ...view };
    const zoom = (low, high, at) => { const p = low + at * (high - low); return [p - (p - low) * by, p + (high - p) * by]; };
    if (!event.shiftKey) [next.x0, next.x1] = zoom(view.x0, view.x1, x);
    if (event.shiftKey || event.ctrlKey) [next.y0, next.y1] = zoom(view.y0, view.y1, y);
    state.view = next;
    draw();
  }, { passive: false });
  let drag = null;
  svg.addEventListener("pointerdown", (event) => { drag = place(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointerup", () => { drag = null; });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const { x, y } = place(event), v = drag.view, dx = (x - drag.x) * (v.x1 - v.x0), dy = (y - drag.y) * (v.y1 - v.y0);
    state.view = { x0: v.x0 - dx, x1: v.x1 - dx, y0: v.y0 - dy, y1: v.y1 - dy };
    draw();
  });
  svg.addEventListener("dblclick", () => { state.view = null; draw(); });

  const select = (options, key) => {
    const node = document.createElement("select");
    for (const name of options) node.add(new Option(name, name, false, name === state[key]));
    node.onchange = () => { state[key] = node.value; state.view = null; draw(); };
    return node;
  };
  const check = (text, key) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.onchange = () => { state[key] = box.checked; state.view = null; draw(); };
    label.append(box, text);
    return label;
  };
  controls.append(select(data.measures, "measure"), " over ", select(["step", "tokens"], "x"), check("log y", "logY"), check("log x", "logX"));
  draw();

  const seconds = Number(root.dataset.refreshSeconds);
  if (!seconds) return;
  setInterval(async () => { // a view that was zoomed stays where it is
    try {
      const answer = await fetch("curves.json");
      if (answer.ok) { data = await answer.json(); draw(); }
    } catch { /* the server has ended: the page stays as it is */ }
  }, 1000 * seconds);
  setInterval(async () => {
    try {
      const answer = await fetch("");
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const fresh of page.querySelectorAll("section.run, section.comparison")) {
        const old = fresh.id ? document.getElementById(fresh.id) : document.querySelector("section.comparison");
        const open = [...(old?.querySelectorAll("details") ?? [])].map((d) => d.open);
        fresh.querySelectorAll("details").forEach((d, i) => { d.open = open[i] ?? false; });
        old?.replaceWith(document.adoptNode(fresh));
      }
    } catch { /* as above */ }
  }, 12000 * seconds);
})();

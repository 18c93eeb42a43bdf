/* Chapter 3: one query among four keys, in the plane of two features. */
"use strict";

const scores = {
  // words of the chapter's sentence, without the feature "grammar"; the keys are the values as well
  keys: { dog: [3, 0], chased: [0, 3], small: [1, 0], cat: [2, 1] },
  reach: 4, // the plane goes from -4 to 4

  /**
   * Equation 1 for one query. A dot product of d_k entries is typically √(d_k/2) times as large as one of two,
   * so the plane's is multiplied by that; divided by √d_k, it is the same for every width.
   */
  attend(query, width, scaled) {
    const keys = Object.values(scores.keys);
    const scale = scaled ? Math.sqrt(width) : 1;
    const found = keys.map((key) => (Math.sqrt(width / 2) * parts.dot(query, key)) / scale);
    const weights = parts.softmax(found);
    return { scores: found, weights, output: [0, 1].map((axis) => parts.dot(weights, keys.map((key) => key[axis]))) };
  },

  /** Onto the grid of tenths, inside the plane. */
  place(x) {
    return Math.max(-scores.reach, Math.min(scores.reach, Math.round(10 * x) / 10));
  },

  remark(weights) {
    const top = Math.max(...weights);
    const winner = Object.keys(scores.keys)[weights.indexOf(top)];
    if (top > 0.995) return `“${winner}” takes all: the softmax is saturated, and hardly any gradient passes.`;
    return "The output is an average of all four keys: it stays among them.";
  },
};

parts.demo("scores", "Demo: scores, scale and softmax", () => {
  const { element, svg, number } = parts;
  let query = [1, 2], width = 64, scaled = true;

  // the plane, in tenths of a unit; up is negative there
  const line = (kind, x, y) => svg("line", { class: kind, x2: 10 * x, y2: -10 * y });
  const label = (text, x, y, anchor = "start") => svg("text", { x: 10 * x, y: -10 * y, "text-anchor": anchor }, text);
  const arrow = svg("line", { class: "query" });
  const output = svg("rect", { class: "output", x: -1.3, y: -1.3, width: 2.6, height: 2.6 });
  const outputName = svg("text", {}, "output");
  const handle = element("div", {
    class: "handle", tabindex: 0, role: "slider", "aria-label": "Query, moved by the arrow keys",
    "aria-valuemin": -scores.reach, "aria-valuemax": scores.reach,
  });
  const plane = element("div", { class: "plane" },
    svg("svg", { viewBox: "-41 -41 82 82", "aria-hidden": "true" },
      svg("path", { class: "axes", d: "M-40 0H40M0 -40V40" }),
      label("animal", 4, 0.2, "end"), label("action", 0.2, 3.7),
      ...Object.entries(scores.keys).flatMap(([name, [x, y]]) => [
        line("key", x, y),
        svg("circle", { class: "key", cx: 10 * x, cy: -10 * y, r: 1 }),
        x ? label(name, x + 0.2, y - 0.5) : label(name, -0.25, y - 0.1, "end"),
      ]),
      arrow, output, outputName),
    handle);

  const table = parts.table("", ["key", "score", "weight"],
    [...Object.entries(scores.keys).map(([name, key]) => [`${name} (${key.join(", ")})`, "", ""]), ["", "", ""]]);
  const said = element("p", { class: "answer", "aria-live": "polite" });

  const draw = () => {
    const { scores: found, weights, output: [x, y] } = scores.attend(query, width, scaled);
    const rows = table.tBodies[0].rows;
    table.caption.textContent = `Dot products as large as those of ${width} entries`;
    table.tHead.rows[0].cells[1].textContent = scaled ? "q·k / √dₖ" : "q·k";
    weights.forEach((weight, i) => {
      rows[i].cells[1].textContent = number(found[i], 1);
      parts.weigh(rows[i].cells[2], weight);
    });
    const last = rows[weights.length].cells;
    last[0].textContent = `output (${number(x)}, ${number(y)})`;
    last[2].textContent = number(1);
    said.textContent = scores.remark(weights);
    parts.fill(arrow, { x2: 10 * query[0], y2: -10 * query[1] }, []);
    parts.fill(output, { transform: `translate(${10 * x} ${-10 * y}) rotate(45)` }, []);
    const [dx, dy, anchor] = x > 2 ? [-3, -2, "end"] : [3, 1, "start"]; // near the edge there is no room to the right
    parts.fill(outputName, { x: 10 * x + dx, y: -10 * y + dy, "text-anchor": anchor }, []);
    handle.style.left = `${50 + (1000 * query[0]) / 82}%`;
    handle.style.top = `${50 - (1000 * query[1]) / 82}%`;
    handle.setAttribute("aria-valuenow", query[0]);
    handle.setAttribute("aria-valuetext", `animal ${number(query[0], 1)}, action ${number(query[1], 1)}`);
  };
  const put = (x, y) => {
    query = [scores.place(x), scores.place(y)];
    draw();
  };
  const follow = ({ clientX, clientY }) => {
    const { left, top, width: side } = plane.getBoundingClientRect();
    put((8.2 * (clientX - left)) / side - 4.1, 4.1 - (8.2 * (clientY - top)) / side);
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) follow(event);
  });
  plane.addEventListener("click", follow);
  handle.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [x, y] = steps[event.key].map((one) => one * (event.shiftKey ? 1 : 0.1));
    put(query[0] + x, query[1] + y);
  });
  draw();
  return [
    element("div", { class: "controls" },
      parts.slider({
        label: "Width dₖ", min: 1, max: 10, value: Math.log2(width), say: (value) => String(2 ** value),
        act: (value) => { width = 2 ** value; draw(); },
      }),
      parts.checkbox({ label: "divide by √dₖ", checked: scaled, act: (value) => { scaled = value; draw(); } })),
    element("div", { class: "beside" }, plane, element("div", {}, table, said)),
  ];
});

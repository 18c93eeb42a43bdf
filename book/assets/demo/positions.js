/* Chapter 6: positions as binary digits, as hands of clocks, and how alike two of them are. */
"use strict";

const positions = {
  rows: 64, // positions on the slider and in the map
  places: 128, // positions to which one is compared

  /** The binary digits of a position, the fastest first. */
  binary(position, digits) {
    return Array.from({ length: digits }, (_, digit) => (position >> digit) & 1);
  },

  /** By how many radians hand `pair` turns from one position to the next. */
  rate(pair, width) {
    return 10000 ** ((-2 * pair) / width);
  },

  /** The code of a position, sine and cosine of each hand, as `sinusoidal_encoding` computes it. */
  encoding(position, width) {
    return Array.from({ length: width }, (_, column) => {
      const angle = position * positions.rate(column >> 1, width);
      return column % 2 ? Math.cos(angle) : Math.sin(angle);
    });
  },

  /** The dot product of the codes of two positions. */
  likeness(one, other, width) {
    return parts.dot(positions.encoding(one, width), positions.encoding(other, width));
  },

  /** The first distance at which two positions are more alike than at the distance before. */
  firstRise(width) {
    let distance = 1;
    while (positions.likeness(0, distance, width) <= positions.likeness(0, distance - 1, width)) distance++;
    return distance;
  },
};

/** Six binary digits, and up to six of the hands, spread from the fastest to the slowest. */
positions.drawCounting = (position, width) => {
  const { element, number, svg } = parts;
  const bits = positions.binary(position, 6), flips = positions.binary(position ^ (position + 1), 7);
  const all = width / 2, apart = Math.max(1, Math.floor((all - 1) / 5));
  const hands = Array.from({ length: Math.min(6, all) }, (_, i) => i * apart);
  const code = positions.encoding(position, width);
  const hand = (pair) => element("span", {},
    svg("svg", { class: "clock", viewBox: "-12 -12 24 24", "aria-hidden": "true" },
      svg("circle", { r: 11 }), svg("line", { x2: 10 * code[2 * pair], y2: -10 * code[2 * pair + 1] })),
    String(pair));
  const digits = parts.table(`${position} in binary, the fastest digit first`, ["digit", ...bits.keys()], [["bit", ...bits]]);
  for (const cell of digits.tBodies[0].rows[0].cells) cell.classList.toggle("one", cell.textContent === "1");
  const clocks = parts.table(
    `The code of ${position}: ${hands.length < all ? "six of its" : "its"} ${all} hands, the fastest first`,
    ["hand", ...hands.map(hand)],
    [
      ["sine", ...hands.map((pair) => number(code[2 * pair]))],
      ["cosine", ...hands.map((pair) => number(code[2 * pair + 1]))],
    ]);
  const count = flips.reduce((a, b) => a + b);
  return {
    drawn: [digits, clocks],
    words: `One step on, to ${position + 1}, ${count} ${count === 1 ? "digit flips" : "digits flip"}. ` +
      "The hands turn as they do at every step, each by its own angle.",
  };
};

/** The table of codes as a picture: a row for each position, blue below 0 and orange above. */
positions.drawMap = (position, width) => {
  const { element, number } = parts;
  const canvas = element("canvas", {
    width, height: positions.rows, role: "img",
    "aria-label": `The codes of positions 0 to ${positions.rows - 1} as a map of ${width} columns. On the left the entries ` +
      "alternate within a few rows; towards the right the waves get longer, until the columns hardly change.",
  });
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, positions.rows);
  for (let row = 0, at = 0; row < positions.rows; row++) {
    for (const entry of positions.encoding(row, width)) { // see-through at 0, so that it suits either theme
      pixels.data.set([...(entry < 0 ? [0, 114, 178] : [213, 94, 0]), 255 * Math.abs(entry)], at);
      at += 4;
    }
  }
  context.putImageData(pixels, 0, 0);
  const marker = element("span", { class: "marker", "aria-hidden": "true" });
  marker.style.insetBlockStart = `${(100 * position) / positions.rows}%`;
  const code = positions.encoding(position, width).map((entry) => number(entry));
  return {
    drawn: [
      element("p", { class: "note" }, `Positions 0 to ${positions.rows - 1} from top to bottom, ${width} columns; blue is −1, orange 1`),
      element("div", { class: "map" }, canvas, marker),
    ],
    words: `The framed row is position ${position}: it begins ${code.slice(0, 4).join(", ")} and ends ${code.slice(-2).join(", ")}.`,
  };
};

/** The dot product of one code with those of its neighbours, as a curve and at a few distances. */
positions.drawLikeness = (position, width) => {
  const { element, svg, number } = parts;
  const height = (other) => 90 - 80 * (positions.likeness(position, other, width) / (width / 2)); // 10 for 1, 90 for 0
  const across = (place) => (100 * place) / (positions.places - 1);
  const points = Array.from({ length: positions.places }, (_, place) => `${across(place)},${height(place)}`);
  const chart = svg("svg", {
    viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
    "aria-label": `The likeness of position ${position} to positions 0 to ${positions.places - 1}: a sharp peak at ${position}, ` +
      "the same slope with the same ripples on both sides.",
  }, svg("path", { class: "axes", d: `M0 90H100M0 50H100M0 10H100M${across(position)} 0V100` }), svg("polyline", { points: points.join(" ") }));
  const rise = positions.firstRise(width);
  const distances = [0, 1, rise - 1, rise];
  const at = (other) => (other < 0 ? "none" : number(positions.likeness(position, other, width)));
  return {
    drawn: [
      element("p", { class: "note" }, `Dot product with the code of position 0, 1, … ${positions.places - 1}, divided by ${width / 2}`),
      element("div", { class: "chart" },
        element("div", { class: "up", "aria-hidden": "true" }, ...["1", "0.5", "0"].map((text) => element("span", {}, text))),
        chart,
        element("div", { class: "along", "aria-hidden": "true" }, ...["0", "position", String(positions.places - 1)].map((text) => element("span", {}, text)))),
      parts.table(`Dot products with the code of ${position}`, ["distance", ...distances], [
        ["before", ...distances.map((distance) => at(position - distance))],
        ["after", ...distances.map((distance) => at(position + distance))],
      ]),
    ],
    words: `Before and after, the same. It falls up to distance ${rise - 1} and rises at ${rise}: not steadily.`,
  };
};

parts.demo("positions", "Demo: positions", () => {
  const { element } = parts;
  const views = { counting: positions.drawCounting, "map of codes": positions.drawMap, likeness: positions.drawLikeness };
  let position = 39, width = 64, view = "counting";
  const stage = element("div", { class: "stage" });
  const said = element("p", { class: "answer", "aria-live": "polite" });
  const draw = () => {
    const { drawn, words } = views[view](position, width);
    stage.replaceChildren(...drawn);
    said.textContent = words;
  };
  draw();
  return [
    element("div", { class: "controls" },
      parts.choice({ label: "View", options: Object.keys(views), value: view, act: (value) => { view = value; draw(); } }),
      parts.choice({
        label: "d_model", options: [8, 64, 512], value: width, act: (value) => { width = value; draw(); },
      }),
      parts.slider({
        label: "Position", min: 0, max: positions.rows - 1, value: position, act: (value) => { position = value; draw(); },
      })),
    stage,
    said,
  ];
});

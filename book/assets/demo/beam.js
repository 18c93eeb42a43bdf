/* Chapter 13: beam search, step by step, through the chapter's tree with one more storey. */
"use strict";

const beam = {
  end: "<eos>",
  // which tokens may follow a token, and how probable they are; "" is the beginning
  next: {
    "": { der: 0.6, die: 0.4 },
    der: { Hund: 0.4, Hahn: 0.3, Hase: 0.3 },
    die: { Katze: 0.9, Kuh: 0.1 },
    Hund: { "<eos>": 0.6, bellt: 0.4 },
    Hahn: { "<eos>": 0.6, kräht: 0.4 },
    Hase: { "<eos>": 0.6, rennt: 0.4 },
    Katze: { "<eos>": 0.52, schläft: 0.48 },
    Kuh: { "<eos>": 0.6, muht: 0.4 },
    bellt: { "<eos>": 1 },
    kräht: { "<eos>": 1 },
    rennt: { "<eos>": 1 },
    schläft: { "<eos>": 1 },
    muht: { "<eos>": 1 },
  },

  /** What the log-probability of `length` tokens, end included, is divided by. */
  penalty(length, alpha) {
    return ((5 + length) / 6) ** alpha;
  },

  /** A beginning with each token that may follow it; those that end get their score. */
  continuations({ tokens, total }, alpha) {
    return Object.entries(beam.next[tokens.at(-1) ?? ""]).map(([token, probability]) => {
      const longer = { tokens: [...tokens, token], total: total + Math.log(probability) };
      if (token === beam.end) longer.score = longer.total / beam.penalty(longer.tokens.length, alpha);
      return longer;
    });
  },

  /**
   * The steps of the search, each a list of candidates, the best first, and the winner. A candidate's `fate` is
   * "goes on", "ended" or "dropped"; one that has ended keeps its place in the beam.
   */
  search(width, alpha) {
    const steps = [], done = [];
    for (let alive = [{ tokens: [], total: 0 }]; alive.length && done.length < width;) {
      const candidates = alive.flatMap((one) => beam.continuations(one, alpha)).sort((a, b) => b.total - a.total);
      const places = width - done.length;
      candidates.forEach((one, rank) => {
        one.fate = rank >= places ? "dropped" : one.score === undefined ? "goes on" : "ended";
      });
      steps.push({ candidates, before: [...done] });
      done.push(...candidates.filter((one) => one.fate === "ended"));
      alive = candidates.filter((one) => one.fate === "goes on");
    }
    return { steps, winner: beam.best(done) };
  },

  /** All sentences of the tree. */
  sentences(alpha, from = { tokens: [], total: 0 }) {
    return beam.continuations(from, alpha).flatMap((one) => one.score === undefined ? beam.sentences(alpha, one) : [one]);
  },

  best(sentences) {
    return sentences.reduce((best, one) => (one.score > best.score ? one : best));
  },
};

/** The tree of all sentences: a column for each token, a row for each sentence. `show` marks what a search has done. */
beam.tree = () => {
  const { svg } = parts;
  const starts = [12, 80, 166, 276], ends = [4, 66, 152, 258], rowHeight = 26; // where texts begin, and lines
  const sentences = beam.sentences(0), nodes = new Map();
  sentences.forEach(({ tokens }, row) => tokens.forEach((token, depth) => {
    const path = tokens.slice(0, depth + 1).join(" ");
    const node = nodes.get(path) ?? { depth, token, before: tokens.slice(0, depth), first: row };
    nodes.set(path, { ...node, last: row });
  }));
  const height = (node) => rowHeight * ((node.first + node.last + 1) / 2);
  const root = { first: 0, last: sentences.length - 1 };
  const drawing = svg("svg", {
    class: "tree", viewBox: `0 0 358 ${rowHeight * sentences.length}`, role: "img",
    "aria-label": `A tree of ${sentences.length} sentences; der and die begin them. The table says what becomes of each beginning.`,
  }, svg("circle", { cx: 4, cy: height(root), r: 3 }));
  for (const node of nodes.values()) {
    const above = nodes.get(node.before.join(" ")) ?? root;
    node.text = svg("text", { x: starts[node.depth], y: height(node) + 4 });
    node.group = svg("g", {},
      svg("line", { x1: ends[node.depth], y1: height(above), x2: starts[node.depth] - 4, y2: height(node) }), node.text);
    drawing.append(node.group);
  }
  const show = (fates, winner) => {
    for (const [path, node] of nodes) {
      const won = winner && `${winner} `.startsWith(`${path} `);
      const fate = won ? "winner" : fates.get(path) ?? "unseen";
      node.group.setAttribute("class", fate.replace(" ", "-"));
      const mark = { winner: path === winner ? " ★" : "", ended: " ✓" }[fate] ?? "";
      node.text.textContent = `${node.token} ${beam.next[node.before.at(-1) ?? ""][node.token]}${mark}`;
    }
  };
  return { drawing, show };
};

/** What the reader is told about a step of a search. */
beam.remark = ({ steps, winner }, step, alpha) => {
  const name = ({ tokens }) => `“${tokens.slice(0, -1).join(" ")}”`;
  const { candidates } = steps[step - 1];
  if (step < steps.length) {
    const kept = candidates.filter((one) => one.fate !== "dropped").length;
    return `Step ${step}: ${candidates.length} candidates, ${kept} kept.`;
  }
  const best = beam.best(beam.sentences(alpha)), wins = `${name(winner)} wins with ${parts.number(winner.score)}`;
  if (best.score <= winner.score) return `${wins}, and no sentence of the tree has a better score.`;
  const lost = (one) => one.fate === "dropped" && `${best.tokens.join(" ")} `.startsWith(`${one.tokens.join(" ")} `);
  const when = steps.findIndex((one) => one.candidates.some(lost));
  return `${wins}, but ${name(best)} has ${parts.number(best.score)}: ` +
    `step ${when + 1} dropped “${steps[when].candidates.find(lost).tokens.join(" ")}”.`;
};

parts.demo("beam", "Demo: beam search", () => {
  const { element, number } = parts;
  let width = 2, alpha = 0.6, step = 2;
  const { drawing, show } = beam.tree();
  const place = element("div", { class: "steps" });
  const said = element("p", { class: "answer", "aria-live": "polite" });

  const draw = () => {
    const found = beam.search(width, alpha), { steps, winner } = found;
    step = Math.min(step, steps.length);
    const over = step === steps.length;
    const { candidates, before } = steps[step - 1];
    const fates = new Map(steps.slice(0, step).flatMap((done) => done.candidates.map((one) => [one.tokens.join(" "), one.fate])));
    show(fates, over && winner.tokens.join(" "));
    const fate = (one) => {
      if (one.score === undefined || one.fate === "dropped") return one.fate;
      return `${over && one === winner ? "★ wins" : "ended"} ${number(one.score)}`;
    };
    const shown = [...before, ...candidates];
    const table = parts.table(`Step ${step} of ${steps.length}, the best first`, ["beginning", "P", "log P", "fate"],
      shown.map((one) => [one.tokens.join(" "), number(Math.exp(one.total), 3), number(one.total), fate(one)]));
    shown.forEach((one, i) => {
      table.tBodies[0].rows[i].className = over && one === winner ? "winner" : one.fate.replace(" ", "-");
    });
    place.replaceChildren(table);
    said.textContent = beam.remark(found, step, alpha);
    back.setAttribute("aria-disabled", step === 1);
    next.setAttribute("aria-disabled", over);
  };
  // not disabled by the attribute of that name, which would take the focus away
  const go = (by) => (event) => {
    if (event.currentTarget.getAttribute("aria-disabled") === "true") return;
    step += by;
    draw();
  };
  const back = element("button", { type: "button", onclick: go(-1) }, "Step back");
  const next = element("button", { type: "button", onclick: go(1) }, "Next step");
  draw();
  return [
    element("div", { class: "controls" },
      parts.choice({ label: "Beam", options: [[1, "1 (greedy)"], 2, 3], value: width, act: (value) => { width = value; draw(); } }),
      parts.choice({ label: "α", options: [0, 0.6, 1], value: alpha, act: (value) => { alpha = value; draw(); } }),
      element("div", { class: "buttons" }, back, next)),
    element("div", { class: "beside" }, drawing, element("div", {}, place, said)),
  ];
});

/* Chapter 5: forbid a look, and see what becomes of the weights. */
"use strict";

const masks = {
  words: ["<bos>", "die", "Katze", "jagt", "<pad>", "<pad>"],
  // how well each query (row) and key (column) go together
  scores: [
    [2, 1, 0, 0, 1, 1],
    [1, 1, 3, 0, 1, 0],
    [0, 2, 1, 2, 1, 1],
    [0, 1, 3, 1, 0, 1],
    [1, 0, 1, 0, 2, 2],
    [1, 0, 1, 0, 2, 2],
  ],
  // the order of the words with the padding behind and in front
  behind: [0, 1, 2, 3, 4, 5],
  front: [4, 5, 0, 1, 2, 3],

  /** True = may attend, for each query and key. `kind` is none, padding, causal or both. */
  mask(kind, words) {
    return words.map((_, query) => words.map((word, key) =>
      (kind === "none" || kind === "causal" || word !== "<pad>") &&
      (kind === "none" || kind === "padding" || key <= query)));
  },

  /** The weights of each query: a softmax over what it may see, 0 for the rest, and zeros if it may see nothing. */
  attend(scores, mask) {
    return scores.map((row, query) => parts.softmax(row.map((score, key) => mask[query][key] ? score : -Infinity)));
  },
};

parts.demo("masks", "Demo: masks", () => {
  const { element, number } = parts;
  let kind = "both", order = masks.behind, words, scores, mask;
  const said = element("p", { class: "answer", "aria-live": "polite" });
  const buttons = masks.words.map((_, query) => masks.words.map((_, key) => element("button", {
    type: "button",
    tabindex: query + key ? -1 : 0, // one stop for the tab key; the arrows lead to the others
    onclick: () => toggle(query, key),
    onfocus: ({ currentTarget }) => {
      for (const button of buttons.flat()) button.tabIndex = button === currentTarget ? 0 : -1;
    },
    onkeydown: (event) => move(event, query, key),
  })));
  const table = parts.table("Rows are queries, columns are keys", ["query", ...masks.words, "sum"],
    buttons.map((row, query) => [masks.words[query], ...row, ""]));
  table.classList.add("grid");

  const draw = () => {
    const weights = masks.attend(scores, mask);
    const heads = table.tHead.rows[0].cells;
    words.forEach((word, query) => {
      heads[query + 1].textContent = word;
      const cells = table.tBodies[0].rows[query].cells;
      cells[0].textContent = word;
      cells[words.length + 1].textContent = mask[query].some(Boolean) ? number(1) : "0";
      weights[query].forEach((weight, key) => {
        const button = buttons[query][key], may = mask[query][key];
        button.textContent = may ? number(weight).replace("0.", ".") : "0";
        button.setAttribute("aria-pressed", may);
        button.setAttribute("aria-label", `${word} may attend to ${words[key]}: ${may ? number(weight) : "0"}`);
        button.style.background = may ? parts.heat(weight) : "";
      });
    });
  };
  const check = (name) => {
    for (const radio of presets.querySelectorAll("input")) radio.checked = radio.value === name;
  };
  const start = () => {
    check(kind);
    words = order.map((i) => masks.words[i]);
    scores = order.map((query) => order.map((key) => masks.scores[query][key]));
    mask = masks.mask(kind, words);
    draw();
    const empty = mask.filter((row) => !row.some(Boolean)).length;
    said.textContent = empty
      ? `${empty} rows have nothing left to see: zeros, not NaN.`
      : "Click a cell to forbid or allow one look. By keyboard: the arrows and space.";
  };
  const toggle = (query, key) => {
    mask[query][key] = !mask[query][key];
    check("");
    draw();
    const seen = mask[query].filter(Boolean).length;
    const rest = seen ? `its weights share 1 among ${seen} of ${words.length} keys` : "nothing is left to see, so all its weights are 0";
    said.textContent = `“${words[query]}” ${mask[query][key] ? "may" : "may not"} attend to “${words[key]}”: ${rest}.`;
  };
  const move = (event, query, key) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    buttons[query + down]?.[key + right]?.focus();
  };
  const presets = parts.choice({
    label: "Mask", options: ["none", "padding", "causal", "both"], value: kind,
    act: (value) => { kind = value; start(); },
  });
  start();
  return [
    element("div", { class: "controls" }, presets, parts.choice({
      label: "Padding", options: ["behind", "in front"], value: "behind",
      act: (value) => { order = value === "behind" ? masks.behind : masks.front; start(); },
    })),
    element("div", { class: "beside" }, table, said),
  ];
});

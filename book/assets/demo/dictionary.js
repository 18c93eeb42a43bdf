/* Chapter 1: look a word up in a table, softly. */
"use strict";

const dictionary = {
  table: { apple: 10, banana: 5, chair: 2 },
  vectors: { apple: [4, 3], banana: [5, 0], chair: [-4, 3], fruit: [2, 1], furniture: [-2, 1] },

  /** Scores, weights and answer, as `soft_lookup` computes them. */
  lookUp(query, temperature) {
    const keys = Object.keys(dictionary.table);
    const scores = keys.map((key) => parts.dot(dictionary.vectors[query], dictionary.vectors[key]));
    const weights = parts.softmax(scores.map((score) => score / temperature));
    return { scores, weights, answer: parts.dot(weights, Object.values(dictionary.table)) };
  },

  /** Round temperatures, ten to a decade: 1 for the notch 0, 2.5 for 4, 10 for 10, 0.01 for -20. */
  temperature(notch) {
    const tenth = ((notch % 10) + 10) % 10;
    const round = [1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8][tenth];
    return Number((round * 10 ** ((notch - tenth) / 10)).toPrecision(3));
  },

  remark(temperature) {
    if (temperature <= 0.1) return "It is cold enough: the best key takes all, as in the look-up that you know.";
    if (temperature >= 200) return "It is so hot that the question hardly counts: this is nearly the plain average, 5.67.";
    return "An average of the three values, each counted by its weight.";
  },
};

parts.demo("dictionary", "Demo: a soft dictionary", () => {
  const { element, number } = parts;
  let query = "fruit", notch = 4;
  const rows = Object.entries(dictionary.table).map(([key, value]) => [key, String(value), "", "", ""]);
  const table = parts.table("The table, asked for one word", ["key", "value", "score", "weight", "product"],
    [...rows, ["sum", "", "", "", ""]]);
  const answer = element("p", { class: "answer", "aria-live": "polite" });

  const draw = () => {
    const temperature = dictionary.temperature(notch);
    const { scores, weights, answer: sum } = dictionary.lookUp(query, temperature);
    const values = Object.values(dictionary.table);
    weights.forEach((weight, i) => {
      const cells = table.tBodies[0].rows[i].cells;
      cells[2].textContent = number(scores[i], 0);
      parts.weigh(cells[3], weight);
      cells[4].textContent = number(weight * values[i]);
    });
    const cells = table.tBodies[0].rows[values.length].cells;
    cells[3].textContent = number(1);
    cells[4].textContent = number(sum);
    answer.replaceChildren(element("strong", {}, `“${query}” → ${number(sum)}`), ` ${dictionary.remark(temperature)}`);
  };
  draw();
  return [
    element("div", { class: "controls" },
      parts.choice({
        label: "Query", options: Object.keys(dictionary.vectors), value: query,
        act: (value) => { query = value; draw(); },
      }),
      parts.slider({
        label: "Temperature", min: -20, max: 30, value: notch,
        say: (value) => String(dictionary.temperature(value)),
        act: (value) => { notch = value; draw(); },
      })),
    table,
    answer,
  ];
});

/* What the demos share. A plain script, loaded before theirs: no module, no request, so that file:// will do. */
"use strict";

const parts = {
  /** An element with attributes, listeners (onclick: …) and children. Text goes in as text, never as HTML. */
  element(tag, attributes = {}, ...children) {
    return parts.fill(document.createElement(tag), attributes, children);
  },

  /** The same inside an SVG drawing. */
  svg(tag, attributes = {}, ...children) {
    return parts.fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  },

  fill(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  },

  /** A number for readers: so many decimals, a true minus sign, no negative zero. */
  number(value, decimals = 2) {
    const text = value.toFixed(decimals);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  },

  dot(a, b) {
    return a.reduce((sum, x, i) => sum + x * b[i], 0);
  },

  /** Weights from scores. -Infinity is a key that may not be seen; if none may, all weights are 0, never NaN. */
  softmax(scores) {
    const top = Math.max(...scores);
    if (top === -Infinity) return scores.map(() => 0);
    const powers = scores.map((score) => Math.exp(score - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  },

  /** The background of a cell with this weight, pale enough for a number on it in either theme. */
  heat(weight) {
    return `color-mix(in srgb, var(--book-forward) ${(55 * weight).toFixed(1)}%, transparent)`;
  },

  ids: 0,

  /** A labelled slider. `say(value)` is what one reads beside it, and hears; `act(value)` is called on each move. */
  slider({ label, min, max, step = 1, value, say = String, act }) {
    const id = `demo-${++parts.ids}`;
    const input = parts.element("input", { id, type: "range", min, max, step, value });
    const shown = parts.element("span", { class: "value", "aria-hidden": "true" });
    const update = () => {
      shown.textContent = say(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => { update(); act(Number(input.value)); });
    update();
    return parts.element("div", { class: "slider" }, parts.element("label", { for: id }, label), input, shown);
  },

  /** A labelled row of radio buttons. `options` are [value, text] or plain values; `act(value)` is called on a choice. */
  choice({ label, options, value, act }) {
    const id = `demo-${++parts.ids}`;
    const group = parts.element("div", { class: "choice", role: "radiogroup", "aria-labelledby": id });
    group.append(parts.element("span", { id, class: "label" }, label));
    for (const option of options) {
      const [one, text] = Array.isArray(option) ? option : [option, String(option)];
      const radio = parts.element("input", { type: "radio", name: id, value: one, onchange: () => act(one) });
      radio.checked = one === value;
      group.append(parts.element("label", {}, radio, parts.element("span", {}, text)));
    }
    return group;
  },

  checkbox({ label, checked, act }) {
    const input = parts.element("input", { type: "checkbox", onchange: () => act(input.checked) });
    input.checked = checked;
    return parts.element("label", { class: "check" }, input, label);
  },

  /** A table: the heads of its columns, and rows that begin with a head. A cell is text, an element, or a <td> or <th>. */
  table(caption, heads, rows) {
    const cell = (tag, attributes) => (content) =>
      content instanceof HTMLTableCellElement ? content : parts.element(tag, attributes, content);
    const [top, side, inside] = [cell("th", { scope: "col" }), cell("th", { scope: "row" }), cell("td", {})];
    return parts.element("table", {},
      parts.element("caption", {}, caption),
      parts.element("thead", {}, parts.element("tr", {}, ...heads.map(top))),
      parts.element("tbody", {}, ...rows.map(([head, ...cells]) =>
        parts.element("tr", {}, side(head), ...cells.map(inside)))));
  },

  /** Show a weight in a cell of a table: as a number, and as a bar beside it. */
  weigh(cell, weight) {
    cell.className = "weight";
    cell.style.setProperty("--weight", weight);
    cell.textContent = parts.number(weight);
  },

  /** Give every <demo-name> what `build` returns in place of its fallback, which stays if anything goes wrong. */
  demo(name, label, build) {
    if (typeof customElements === "undefined") return; // in node, where the arithmetic is tested
    customElements.define(`demo-${name}`, class extends HTMLElement {
      connectedCallback() {
        if (this.hasAttribute("role")) return; // moved within the page: already awake
        const children = build(this);
        this.setAttribute("role", "group");
        this.setAttribute("aria-label", label);
        this.replaceChildren(...children);
      }
    });
  },
};

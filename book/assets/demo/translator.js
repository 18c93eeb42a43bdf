// <demo-translator>: type an English sentence, watch it become German, and look at every head.
//
// Its fallback is a page's own: the first column of its first table holds the examples. The arithmetic (transformer.js)
// and the model, a megabyte that tools/export_web.py writes, are loaded when the reader first asks for something.
"use strict";

(() => {
  const MODEL = "fragment-model.js";
  const HERE = document.currentScript.src;
  const LONGEST = { characters: 300, tokens: 60 };
  const KINDS = { encoder: "Encoder self-attention", decoder: "Decoder self-attention", cross: "Cross-attention" };
  const LOOKS = {
    encoder: "Each row is a token of the English sentence, each column a token that it looks at.",
    decoder: "Each row is a German token while it is chosen, each column one that was written before it.",
    cross: "Each row is a German token while it is chosen, each column an English token that it looks at.",
  };
  const { element } = parts;

  const script = (name) => new Promise((done, fail) => {
    document.head.append(element("script", { src: new URL(name, HERE).href, onload: done, onerror: fail }));
  });

  let loading = null; // one model serves every translator of a page
  async function load() {
    await script("transformer.js");
    const data = await new Promise((done, fail) => {
      globalThis.bookModel = done;
      script(MODEL).then(fail, fail); // also where something else came, which did not call bookModel
    });
    return Object.assign(globalThis.bookTransformer(data), { words: data.words });
  }

  // Where a model has a list of words it has one spelling: small letters, signs apart, a full stop at the end
  function spelled(text, words) {
    if (!Object.keys(words).length) return text.trim();
    const apart = text.toLowerCase().replace(/[!?]/g, ".").replace(/[.,]/g, " $& ").trim().split(/\s+/u).filter(Boolean);
    return apart.length && apart.at(-1) !== "." ? [...apart, "."].join(" ") : apart.join(" ");
  }

  function unknown(text, words) {
    const known = new Set(Object.values(words).flat().flatMap((entry) => entry.split(" ")).concat(".", ","));
    return known.size === 2 ? [] : [...new Set(text.split(" ").filter(
      (word) => !word.split("-").every((part) => known.has(part))))];
  }

  // One pixel for each weight; faint where a token may look and does not, clear where it may not
  function paint(canvas, rows, size) {
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d"), image = context.createImageData(size, size);
    rows.forEach((row, i) => row.forEach((weight, j) => {
      image.data.set([46, 134, 193, 255 * Math.max(0.07, weight)], 4 * (i * size + j));
    }));
    context.putImageData(image, 0, 0);
  }

  const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

  // What stands between the common beginning and the common end of two lists
  function changed(now, before) {
    let start = 0, end = 0;
    while (start < now.length && now[start] === before[start]) start++;
    while (end < Math.min(now.length, before.length) - start && now.at(-1 - end) === before.at(-1 - end)) end++;
    return (place) => place >= start && place < now.length - end;
  }

  class Translator {
    constructor(host) {
      this.examples = [...(host.querySelector("table")?.tBodies[0]?.rows ?? [])].map((row) => row.cells[0].innerText.trim());
      this.off = new Set(); // heads, as "cross 1 3": kind, layer and head from 0
      this.chosen = "cross 1 0";
      const id = `translator-${++parts.ids}`;
      this.field = element("input", {
        id, type: "text", value: this.examples[0] ?? "", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
        enterkeyhint: "go", "aria-describedby": `${id}-note`,
        oninput: () => { this.choice.selectedIndex = -1; }, // so that any example can be chosen again
      });
      this.choice = element("select", { id: `${id}-examples`, onchange: () => this.take(this.choice.value) },
        ...this.examples.map((text) => element("option", {}, text)));
      this.form = element("form", { class: "ask", onsubmit: (event) => { event.preventDefault(); this.act(true); } },
        element("div", { class: "field" }, element("label", { for: id }, "English sentence"), this.field),
        element("div", { class: "field" }, element("label", { for: `${id}-examples` }, "or an example"), this.choice),
        element("div", { class: "buttons" },
          element("button", { type: "submit" }, "Translate"),
          element("button", { type: "button", onclick: () => this.act(false) }, "Next token")));
      this.says = element("p", { class: "says", id: `${id}-note`, role: "status" },
        "Translate, or go token by token.");
      this.shown = element("div", { class: "shown" }, ...host.childNodes);
    }

    take(example) {
      this.field.value = example;
      this.act(true);
    }

    say(...content) {
      this.says.replaceChildren(...content);
    }

    // A button was pressed: translate to the end, or go one token further
    async act(whole) {
      if (this.busy) return;
      this.busy = true;
      if (!this.model) this.say("Loading the model, about 1 MB …");
      try {
        loading ??= load();
        this.model = await loading;
      } catch {
        loading = null;
        this.say("The model could not be loaded. The example below stays.");
        return;
      } finally {
        this.busy = false;
      }
      const text = spelled(this.field.value, this.model.words);
      if (!this.accepts(text)) return;
      const goesOn = !whole && this.text === text && !this.ended;
      if (!goesOn) this.begin(text);
      do this.step(); while (whole && !this.ended);
      this.whole = whole;
      this.draw();
    }

    // Whether this can be translated; if not, say why
    accepts(text) {
      const typed = this.field.value.trim().length, { words } = this.model;
      const strange = unknown(text.slice(0, LONGEST.characters), words);
      if (/^[.,\s]*$/.test(text)) this.say("Type an English sentence, or choose an example.");
      else if (typed > LONGEST.characters) {
        const count = typed.toLocaleString("en");
        this.say(`That is ${count} characters. This page translates sentences of up to ${LONGEST.characters}.`);
      } else if (strange.length) {
        const names = strange.slice(0, 4).flatMap(
          (word, i) => [i ? ", “" : " “", element("bdi", {}, [...word].slice(0, 24).join("")), "”"]);
        const more = strange.length > 4 ? ` and ${strange.length - 4} more` : "";
        this.say("This small model has never met", ...names, `${more}. The words that it knows stand below.`);
        this.shown.replaceChildren(element("dl", { class: "words" }, ...Object.entries(words).flatMap(
          ([kind, entries]) => [element("dt", {}, kind), element("dd", {}, entries.join(", "))])));
      } else if (this.model.encode(text).length > LONGEST.tokens) {
        this.say(`That is ${this.model.encode(text).length} tokens. This page translates up to ${LONGEST.tokens}.`);
      } else return true;
      return false;
    }

    begin(text) {
      const { eos_id } = this.model.config;
      this.text = text;
      this.source = [...this.model.encode(text), eos_id];
      this.state = this.model.begin(this.source, this.off);
      this.written = [];
      this.shares = [];
      this.ended = false;
      this.complete = this.off.size ? this.model.greedy(this.model.begin(this.source)) : null; // with every head
    }

    step() {
      const { bos_id, eos_id, pad_id } = this.model.config;
      const logits = this.model.step(this.state, this.written.at(-1) ?? bos_id);
      logits[pad_id] = -Infinity;
      this.candidates = globalThis.bookTransformer.softmax([...logits]);
      const token = this.model.choose(logits);
      this.written.push(token);
      this.shares.push(this.candidates[token]);
      this.ended = token === eos_id || this.written.length >= this.source.length + 50;
    }

    // Switch a head on or off, and write as much as there was once more
    toggle(head, on) {
      if (on) this.off.delete(head);
      else this.off.add(head);
      const { ended, written } = this;
      this.begin(this.text);
      do this.step(); while (!this.ended && (ended || this.written.length < written.length));
      this.draw();
    }

    // A token for the eye: a piece that goes on a word begins with a dot
    piece(id, before) {
      const { bos_id, eos_id } = this.model.config;
      if (id === bos_id) return "(begin)";
      if (id === eos_id) return "(end)";
      const text = this.model.decode([id]);
      return text.startsWith(" ") ? text.slice(1) : before === bos_id ? text : `·${text}`;
    }

    pieces(ids) {
      return ids.map((id, place) => this.piece(id, ids[place - 1] ?? this.model.config.bos_id));
    }

    draw() {
      if (!this.heads) this.build();
      this.announce();
      const size = Math.max(this.source.length, this.written.length);
      for (const [head, { canvas }] of this.heads) paint(canvas, this.weights(head), size);
      this.reads.replaceChildren(...this.pieces(this.source).map((text, i) =>
        element("li", { "data-token": this.source[i] }, text)));
      this.writes.replaceChildren(...this.pieces(this.written).map((text, i) =>
        element("li", { "data-token": this.written[i] }, text, element("small", {}, percent(this.shares[i])))));
      this.rank();
      this.tabulate();
      if (!this.shown.contains(this.board)) this.shown.replaceChildren(this.board);
    }

    // The sentence so far, and what the heads that are off have changed
    announce() {
      const words = this.model.decode(this.written).split(" ");
      const before = this.complete ? this.model.decode(this.complete).split(" ") : words;
      const differs = changed(words, this.ended ? before : before.slice(0, words.length));
      const sentence = element("span", { class: "translation", lang: "de" });
      words.forEach((word, i) => sentence.append(i ? " " : "", differs(i) ? element("mark", {}, word) : word));
      if (!this.ended) sentence.append(" …");
      const cut = this.ended && this.written.at(-1) !== this.model.config.eos_id;
      const notes = [
        this.complete ? element("span", { class: "before" }, "With every head: ",
          element("span", { lang: "de" }, before.join(" "))) : "",
        cut ? element("span", { class: "before" }, "It did not end, and was stopped.") : "",
      ];
      this.say(sentence, ...notes);
    }

    weights(head) {
      const [kind, layer, number] = head.split(" ");
      return this.state.maps[kind][layer][number];
    }

    // While stepping: what else might have come
    rank() {
      const best = [...this.candidates.keys()].sort((a, b) => this.candidates[b] - this.candidates[a]).slice(0, 5);
      this.next.hidden = this.whole;
      this.next.lastChild.replaceChildren(...best.map((id) => {
        const share = this.candidates[id];
        const bar = element("span", { class: "bar", "aria-hidden": "true" });
        bar.style.setProperty("--share", `${100 * share}%`);
        return element("li", {}, element("span", { lang: "de" }, this.piece(id, this.written.at(-2) ?? this.model.config.bos_id)), bar, percent(share));
      }));
    }

    // The chosen head in numbers
    tabulate() {
      const [kind, layer, number] = this.chosen.split(" "), rows = this.weights(this.chosen);
      const { bos_id } = this.model.config;
      const keys = this.pieces(kind === "decoder" ? [bos_id, ...this.written].slice(0, rows.length) : this.source);
      const queries = this.pieces(kind === "encoder" ? this.source : this.written);
      const title = `${KINDS[kind]}, layer ${+layer + 1}, head ${+number + 1}. ${LOOKS[kind]}`;
      const table = parts.table(element("span", {}, title),
        [element("td"), ...keys.map((key) => element("th", { scope: "col" }, element("span", {}, key))), "sum"],
        rows.map((row, i) => [queries[i], ...keys.map((_, j) => {
          const masked = j >= row.length, weight = masked ? 0 : row[j];
          const cell = element("td", { "data-weight": weight, class: masked && "masked" }, masked ? "0" : parts.number(weight));
          if (!masked) cell.style.background = parts.heat(weight);
          return cell;
        }), parts.number(row.reduce((sum, weight) => sum + weight, 0))]));
      this.numbers.replaceChildren(table);
    }

    // The board with tokens, heads and numbers, made once
    build() {
      const { num_layers: layers, num_heads: heads } = this.model.config, name = `head-${++parts.ids}`;
      this.reads = element("ol", { class: "tokens", lang: "en" });
      this.writes = element("ol", { class: "tokens", lang: "de" });
      this.next = element("div", { class: "next" }, element("p", {}, "Candidates for the last token"), element("ol"));
      this.numbers = element("div", { class: "numbers", role: "region", tabindex: "0", "aria-label": "The chosen head in numbers" });
      this.heads = new Map();
      const one = (kind, layer, number) => {
        const head = `${kind} ${layer} ${number}`, label = `${layer + 1}.${number + 1}`, long = `layer ${layer + 1}, head ${number + 1}`;
        const canvas = element("canvas", { "aria-hidden": "true" });
        const radio = element("input", { type: "radio", name, onchange: () => { this.chosen = head; this.tabulate(); } });
        radio.checked = head === this.chosen;
        const box = element("input", { type: "checkbox", onchange: () => this.toggle(head, box.checked) });
        box.checked = true;
        this.heads.set(head, { canvas, box });
        return element("div", { class: "head" },
          element("label", { class: "look" }, radio, canvas, element("span", { class: "unseen" }, `show ${kind}, ${long}`)),
          element("label", { class: "switch" }, box, label, element("span", { class: "unseen" }, ` on: ${kind}, ${long}`)));
      };
      const groups = Object.entries(KINDS).map(([kind, title]) => {
        const grid = element("div", { class: "maps" });
        grid.style.setProperty("--heads", heads);
        for (let layer = 0; layer < layers; layer++) {
          for (let number = 0; number < heads; number++) grid.append(one(kind, layer, number));
        }
        return element("fieldset", {}, element("legend", {}, title), grid);
      });
      const all = element("button", { type: "button", onclick: () => this.switchOn() }, "Switch all heads on");
      this.board = element("div", { class: "board" },
        element("p", { class: "label" }, "It reads"), this.reads,
        element("p", { class: "label" }, "It writes"), this.writes, this.next,
        element("div", { class: "heads" }, ...groups),
        element("p", { class: "hint" }, "A map for each head: choose one to read its numbers, clear its box to switch it off. ", all),
        this.numbers);
    }

    switchOn() {
      this.off.clear();
      for (const { box } of this.heads.values()) box.checked = true;
      this.toggle("", true);
    }
  }

  parts.demo("translator", "The translator", (host) => {
    const translator = new Translator(host);
    return [translator.form, translator.says, translator.shown];
  });
})();

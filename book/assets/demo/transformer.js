// The book's Transformer in plain JavaScript: the arithmetic of the translator, without a page.
//
// `bookTransformer(data)` takes what tools/export_web.py writes. As in the package, a sentence is encoded once and then
// written token by token; keys and values are kept. Names of weights are PyTorch's. A vector is a Float32Array, and
// every sum is added up in double precision. Nothing here knows of a page, so that node can run it as well.
"use strict";

globalThis.bookTransformer = (() => {
  // How the tokeniser cuts a text before it joins bytes: words, numbers and signs, each with the space before it
  const SPACE = "\\t-\\r\\x85\\p{Z}"; // JavaScript's own \s differs in U+0085 and U+FEFF
  const CHUNK = new RegExp(
    `'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");

  const ATTENTIONS = {
    encoder: (layer) => `encoder.layers.${layer}.self_attention`,
    decoder: (layer) => `decoder.layers.${layer}.self_attention`,
    cross: (layer) => `decoder.layers.${layer}.cross_attention`,
  };

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  // A matrix travels as integers from -127 to 127 with a scale for each row, a vector as it is
  function unpack({ shapes, floats, integers }) {
    const exact = new Float32Array(bytesOf(floats).buffer);
    const small = new Int8Array(bytesOf(integers).buffer);
    const weights = {};
    let float = 0, integer = 0;
    for (const [name, rows, columns] of shapes) {
      if (!columns) {
        weights[name] = exact.slice(float, (float += rows));
        continue;
      }
      const matrix = new Float32Array(rows * columns);
      for (let row = 0, i = 0; row < rows; row++) {
        const scale = exact[float++];
        for (let column = 0; column < columns; column++) matrix[i++] = small[integer++] * scale;
      }
      weights[name] = matrix;
    }
    return weights;
  }

  // matrix · vector (+ bias): the matrix lies row after row
  function product(matrix, vector, bias) {
    const columns = vector.length, result = new Float32Array(matrix.length / columns);
    for (let row = 0, i = 0; row < result.length; row++) {
      let sum = bias ? bias[row] : 0;
      for (let column = 0; column < columns; column++) sum += matrix[i++] * vector[column];
      result[row] = sum;
    }
    return result;
  }

  function softmax(scores) {
    const largest = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - largest));
    const total = powers.reduce((sum, power) => sum + power);
    return powers.map((power) => power / total);
  }

  class Transformer {
    constructor({ config, tokenizer, weights }) {
      this.config = config;
      this.weights = unpack(weights);
      // A piece is a byte, or two pieces joined; the earlier a join was learned, the earlier it is done
      this.byteIds = tokenizer.bytes;
      this.joins = tokenizer.joins;
      this.ranks = new Map(this.joins.map(([left, right], rank) => [left * config.vocab_size + right, rank]));
      this.pieceBytes = [];
      this.byteIds.forEach((id, byte) => { this.pieceBytes[id] = [byte]; });
      for (const [left, right, id] of this.joins) {
        this.pieceBytes[id] = [...this.pieceBytes[left], ...this.pieceBytes[right]];
      }
    }

    // The ids of the text's pieces, without begin or end
    encode(text) {
      const ids = [];
      for (const [chunk] of text.matchAll(CHUNK)) {
        const bytes = Array.from(new TextEncoder().encode(chunk), (byte) => this.byteIds[byte]);
        for (const id of this.join(bytes)) ids.push(id);
      }
      return ids;
    }

    join(ids) {
      for (;;) {
        let first = Infinity;
        for (let i = 0; i + 1 < ids.length; i++) {
          first = Math.min(first, this.ranks.get(ids[i] * this.config.vocab_size + ids[i + 1]) ?? Infinity);
        }
        if (first === Infinity) return ids;
        const [left, right, joined] = this.joins[first], shorter = [];
        for (let i = 0; i < ids.length; i++) {
          const here = ids[i] === left && ids[i + 1] === right;
          shorter.push(here ? joined : ids[i]);
          if (here) i++;
        }
        ids = shorter;
      }
    }

    // The text up to the end of the sentence; half a character becomes �
    decode(ids) {
      const end = ids.indexOf(this.config.eos_id);
      const bytes = (end < 0 ? ids : ids.slice(0, end)).flatMap((id) => this.pieceBytes[id] ?? []);
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
    }

    embed(token, position) {
      const size = this.config.d_model, start = token * size, vector = new Float32Array(size);
      for (let i = 0; i < size; i++) {
        const angle = position / 10000 ** ((i - (i % 2)) / size);
        const place = i % 2 ? Math.cos(angle) : Math.sin(angle);
        vector[i] = this.weights["embedding.weight"][start + i] * Math.sqrt(size) + place;
      }
      return vector;
    }

    linear(name, vector) {
      return product(this.weights[`${name}.weight`], vector, this.weights[`${name}.bias`]);
    }

    addAndNorm(name, x, y) {
      const sum = x.map((value, i) => value + y[i]), size = sum.length;
      const mean = sum.reduce((total, value) => total + value, 0) / size;
      const variance = sum.reduce((total, value) => total + (value - mean) ** 2, 0) / size;
      const gain = this.weights[`${name}.norm.weight`], bias = this.weights[`${name}.norm.bias`];
      return sum.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[i] + bias[i]);
    }

    feedForward(name, x) {
      return this.linear(`${name}.2`, this.linear(`${name}.0`, x).map((value) => Math.max(0, value)));
    }

    // One query against every key: what the heads that are not `off` bring back, and the weights of each head
    attend(kind, layer, x, { keys, values }, off) {
      const name = ATTENTIONS[kind](layer), heads = this.config.num_heads;
      const query = this.linear(`${name}.query`, x), mixed = new Float32Array(values[0].length);
      const [wide, deep] = [query.length / heads, mixed.length / heads];
      const weights = Array.from({ length: heads }, (_, head) => softmax(keys.map((key) => {
        let score = 0;
        for (let i = head * wide; i < (head + 1) * wide; i++) score += query[i] * key[i];
        return score / Math.sqrt(wide);
      })));
      weights.forEach((row, head) => {
        if (off.has(`${kind} ${layer} ${head}`)) return; // it brings back zeros
        for (let i = head * deep; i < (head + 1) * deep; i++) {
          mixed[i] = row.reduce((sum, weight, key) => sum + weight * values[key][i], 0);
        }
      });
      return [this.linear(`${name}.output`, mixed), weights];
    }

    // Keys and values of these vectors, for one attention
    remember(kind, layer, vectors) {
      const name = ATTENTIONS[kind](layer);
      const through = (part) => vectors.map((x) => this.linear(`${name}.${part}`, x));
      return { keys: through("key"), values: through("value") };
    }

    // Encode a source, which ends with eos_id; heads named in `off`, as in "cross 1 3" (layer and head from 0), are off.
    // The state's `maps` hold the weights of the three attentions: [layer][head][query][key].
    begin(source, off = new Set()) {
      const { num_layers: layers, num_heads: heads } = this.config;
      const empty = () => Array.from({ length: layers }, () => Array.from({ length: heads }, () => []));
      const state = { off, source, tokens: [], maps: { encoder: empty(), decoder: empty(), cross: empty() } };
      let xs = source.map((token, position) => this.embed(token, position));
      for (let layer = 0; layer < layers; layer++) {
        const name = `encoder.layers.${layer}`, memory = this.remember("encoder", layer, xs);
        xs = xs.map((x) => {
          const [seen, weights] = this.attend("encoder", layer, x, memory, off);
          weights.forEach((row, head) => state.maps.encoder[layer][head].push(row));
          const y = this.addAndNorm(`${name}.add_norm1`, x, seen);
          return this.addAndNorm(`${name}.add_norm2`, y, this.feedForward(`${name}.feed_forward`, y));
        });
      }
      state.own = Array.from({ length: layers }, () => ({ keys: [], values: [] }));
      state.other = Array.from({ length: layers }, (_, layer) => this.remember("cross", layer, xs));
      return state;
    }

    // Read one more token of the target, the first being bos_id; the logits of the next
    step(state, token) {
      let x = this.embed(token, state.tokens.length);
      state.tokens.push(token);
      const look = (kind, layer, memory) => {
        const [seen, weights] = this.attend(kind, layer, x, memory, state.off);
        weights.forEach((row, head) => state.maps[kind][layer][head].push(row));
        return seen;
      };
      for (let layer = 0; layer < this.config.num_layers; layer++) {
        const name = `decoder.layers.${layer}`, own = state.own[layer];
        const { keys, values } = this.remember("decoder", layer, [x]);
        own.keys.push(...keys);
        own.values.push(...values);
        x = this.addAndNorm(`${name}.add_norm1`, x, look("decoder", layer, own));
        x = this.addAndNorm(`${name}.add_norm2`, x, look("cross", layer, state.other[layer]));
        x = this.addAndNorm(`${name}.add_norm3`, x, this.feedForward(`${name}.feed_forward`, x));
      }
      return product(this.weights["embedding.weight"], x);
    }

    // The most probable next token, which is never padding
    choose(logits) {
      let best = -1;
      logits.forEach((logit, id) => {
        if (id !== this.config.pad_id && (best < 0 || logit > logits[best])) best = id;
      });
      return best;
    }

    // Write on until the sentence ends, at most 50 tokens more than the source has (Sec. 6.1); the new tokens
    greedy(state) {
      const { bos_id, eos_id } = this.config, written = [];
      while (written.at(-1) !== eos_id && written.length < state.source.length + 50) {
        written.push(this.choose(this.step(state, written.at(-1) ?? bos_id)));
      }
      return written;
    }
  }

  return Object.assign((data) => new Transformer(data), { softmax });
})();

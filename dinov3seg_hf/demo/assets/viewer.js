// Draws the object that dinov3seg_hf/demo/view.py creates. Opacity, threshold, solo, heat maps and comparison need no
// request to the server.

const find = (selector) => element.querySelector(selector);
const root = find(".viewer"), stage = find(".stage"), frame = find(".frame"), top_ = find(".top"), canvas = find("canvas");
const split = find(".split"), divider = find(".divider"), tip = find(".tip"), message = find(".message");
const opacityInput = find(".opacity input"), thresholdInput = find(".threshold input");
const context = canvas.getContext("2d");

let view = null; // the decoded segmentation
let turn = 0; // number of the latest value; an older value never replaces a newer value
let drawn = null; // labels and borders at the current threshold, and where their names fit
let opened = false; // whether the page has shown its first value
const shown = { mode: "overlay", opacity: 55, threshold: 0, names: true, solo: null, hover: null, heat: null };

const OLD_BROWSER = "This browser is too old to show the result. Update it, or open the page in another one.";
const NONE_COLOR = "#9e9ea2";
const RAMP = ["#03051a", "#3b1c58", "#851e5b", "#cb1b4f", "#f06043", "#f6ab83", "#faebdd"];

// --- arrays ---

async function unpack(packed) {
  const raw = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const values = packed.bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer);
  for (let i = 1; i < values.length; i++) values[i] += values[i - 1]; // wraps around
  return values;
}

const channels = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1 %" : (100 * share).toFixed(1) + " %");
const total = (values, first) => { let sum = 0; for (let i = first; i < values.length; i++) sum += values[i]; return sum; };

// --- incoming values ---

async function receive(value) {
  const mine = ++turn;
  if (value && value.legend && !window.DecompressionStream) value = { error: OLD_BROWSER };
  if (!value || value.error || value.hint || !value.legend) {
    view = drawn = null;
    root.dataset.state = value && value.error ? "error" : value && value.image ? "photo" : "empty";
    message.replaceChildren(...paragraphs(value && (value.error || value.hint)));
    find(".photo").src = (value && value.image) || "data:,";
    find(".facts").textContent = "";
    answered(value);
    return;
  }
  const [labels, levels, heat] = await Promise.all(
    [value.labels, value.levels, value.heat.values].map(unpack));
  const images = [find(".photo"), find(".gray")];
  if (mine !== turn) return;
  for (const image of images) image.src = value.image;
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  if (mine !== turn) return;

  const remembered = (place) => (view && place !== null && view.legend[place] ? view.legend[place].label : null);
  const solo = remembered(shown.solo), heatOf = remembered(shown.heat);
  view = { ...value, labels, levels, heat: { ...value.heat, values: heat } };
  const placeOf = (label) => { const i = view.legend.findIndex((entry) => entry.label === label); return i < 0 ? null : i; };
  shown.solo = solo === null ? null : placeOf(solo);
  shown.heat = heatOf === null ? null : placeOf(heatOf);
  if (shown.heat === null || !view.heat.maps.includes(shown.heat)) shown.heat = view.heat.maps[0] ?? null;
  shown.hover = null;
  [canvas.height, canvas.width] = view.size;
  frame.style.aspectRatio = view.size[1] + " / " + view.size[0];
  frame.style.setProperty("--ratio", view.size[1] / view.size[0]);
  find(".photo").alt = "The photo with an overlay of its segmentation";
  root.dataset.state = "result";
  message.replaceChildren();
  measure();
  paint();
  list();
  tell();
  answered(value);
  document.dispatchEvent(new CustomEvent("dinov3seg:colors", {
    detail: Object.fromEntries(view.legend.map((entry) => [entry.label.toLowerCase(), entry.found ? entry.color : ""])),
  }));
}

// Tells the words whether asking again makes sense. Where the page is one column, what a visitor asked for comes in sight.
function answered(value) {
  document.dispatchEvent(new CustomEvent("dinov3seg:answer", { detail: { failed: Boolean(value && value.failed) } }));
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (opened && value && !value.hint && matchMedia("(max-width: 700px)").matches) {
    stage.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }
  opened ||= Boolean(value && value.legend);
}

function paragraphs(text) {
  return (text || "").split("\n").filter(Boolean).map((line, index) => {
    const node = document.createElement(index ? "small" : "p");
    node.textContent = line;
    return node;
  });
}

// --- drawing ---

// Computes the legend index of each pixel at the threshold (below: the length of the legend) and the borders of labels.
function measure() {
  const [height, width] = view.size, none = view.legend.length, { labels, levels } = view;
  const places = new Uint16Array(labels.length), edges = new Uint8Array(labels.length);
  for (let i = 0; i < labels.length; i++) places[i] = levels[i] < shown.threshold ? none : labels[i];
  const reach = Math.max(1, Math.round(Math.min(height, width) / 480));
  for (let step = 1; step <= reach; step++) {
    for (let y = 0; y < height; y++) {
      const start = y * width;
      for (let i = start; i < start + width - step; i++) {
        if (places[i] !== places[i + step]) edges[i] = edges[i + step] = 1;
      }
      if (y < height - step) {
        const below = step * width;
        for (let i = start; i < start + width; i++) {
          if (places[i] !== places[i + below]) edges[i] = edges[i + below] = 1;
        }
      }
    }
  }
  drawn = { places, edges, names: spots(places, height, width) };
}

// Finds, for each label and quarter of the image, the pixel that is farthest from other labels, by a chamfer distance on a
// grid of at most 400 x 400: the places for its name.
function spots(places, height, width) {
  const step = Math.max(1, Math.ceil(Math.max(height, width) / 400));
  const rows = Math.floor(height / step), columns = Math.floor(width / step), middle = step >> 1;
  const cells = new Uint16Array(rows * columns), far = new Float32Array(rows * columns).fill(1e6);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) cells[y * columns + x] = places[(y * step + middle) * width + x * step + middle];
  }
  const reach = (y, x, dy, dx) => {
    const own = y * columns + x, ny = y + dy, nx = x + dx, length = dy && dx ? 1.4 : 1;
    const inside = ny >= 0 && nx >= 0 && ny < rows && nx < columns, other = ny * columns + nx;
    far[own] = Math.min(far[own], inside && cells[other] === cells[own] ? far[other] + length : length);
  };
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) for (const [dy, dx] of [[-1, -1], [-1, 0], [-1, 1], [0, -1]]) reach(y, x, dy, dx);
  }
  const best = new Map();
  for (let y = rows - 1; y >= 0; y--) {
    for (let x = columns - 1; x >= 0; x--) {
      for (const [dy, dx] of [[1, 1], [1, 0], [1, -1], [0, 1]]) reach(y, x, dy, dx);
      const own = y * columns + x, quarter = 4 * cells[own] + 2 * (2 * y < rows) + (2 * x < columns);
      const known = best.get(quarter);
      if (!known || far[own] > known.far) best.set(quarter, { far: far[own], x, y });
    }
  }
  const found = new Map();
  for (const [quarter, { far: radius, x, y }] of best) {
    const place = quarter >> 2;
    if (place === view.legend.length) continue; // none of these
    if (!found.has(place)) found.set(place, []);
    found.get(place).push({ radius: radius * step / width, x: (x + 0.5) * step / width, y: (y + 0.5) * step / height });
  }
  for (const candidates of found.values()) candidates.sort((a, b) => b.radius - a.radius);
  return [...found].sort(([, a], [, b]) => a[0].radius - b[0].radius);
}

// Writes the names where they fit, those of small regions first: a large one has room elsewhere.
function paintNames(only) {
  const box = frame.getBoundingClientRect(), layer = find(".names"), taken = [];
  layer.replaceChildren();
  if (!view || !shown.names || shown.mode === "heat" || !box.width) return;
  const [rows, columns] = view.size;
  for (const [place, candidates] of drawn.names) {
    if ((only !== null && place !== only) || candidates[0].radius * box.width < 9) continue;
    const tag = document.createElement("span");
    tag.textContent = view.legend[place].label;
    tag.style.setProperty("--color", view.legend[place].color);
    layer.append(tag);
    const width = tag.offsetWidth, height = tag.offsetHeight;
    const fits = ({ radius, left, top }) => {
      const middle = Math.floor((top + height / 2) / box.height * rows) * columns + Math.floor((left + width / 2) / box.width * columns);
      return width <= Math.min(5 * radius * box.width, box.width - 4) && drawn.places[middle] === place && taken.every((other) =>
        left + width + 2 < other.left || other.left + other.width + 2 < left ||
        top + height + 2 < other.top || other.top + other.height + 2 < top);
    };
    // where it would cover another name, some lines above or below
    const spot = [0, -1, 1, -2, 2].flatMap((lines) => candidates.map(({ radius, x, y }) => ({
      radius,
      left: Math.max(2, Math.min(x * box.width - width / 2, box.width - width - 2)),
      top: Math.max(2, Math.min(y * box.height - height / 2 + lines * (height + 3), box.height - height - 2)),
    }))).find(fits);
    if (!spot) { tag.remove(); continue; }
    tag.style.left = spot.left + "px";
    tag.style.top = spot.top + "px";
    taken.push({ ...spot, width, height });
  }
}

const packedColor = ([red, green, blue], alpha) =>
  ((Math.round(255 * Math.min(1, Math.max(0, alpha))) << 24) | (blue << 16) | (green << 8) | red) >>> 0;

function paint() {
  if (!view) return;
  const alpha = shown.opacity / 100;
  root.dataset.mode = shown.mode;
  root.dataset.threshold = (shown.threshold / 100).toFixed(2);
  root.dataset.opacity = alpha.toFixed(2);
  root.dataset.solo = shown.solo === null ? "" : view.legend[shown.solo].label;
  const heat = shown.mode === "heat" && shown.heat !== null;
  // Reduce the colors of the photo, because blue on orange would look gray, not blue.
  const only = shown.hover ?? shown.solo;
  find(".gray").style.filter = heat || only === null ? `grayscale(${Math.min(1, 1.6 * alpha)})` : "none";
  top_.style.clipPath = shown.mode === "compare" ? `inset(0 0 0 ${split.value}%)` : "none";
  divider.style.left = split.value + "%";
  if (heat) paintHeat(alpha); else paintLabels(alpha, only);
  paintNames(only);
  const scale = find(".scale");
  scale.hidden = !heat;
  if (heat) {
    find(".scale .what").textContent = view.legend[shown.heat].label;
    find(".scale .high").textContent = view.legend[shown.heat].peak.toFixed(2);
  }
}

function paintLabels(alpha, only) {
  const { places, edges } = drawn, none = view.legend.length;
  const fill = new Uint32Array(none + 1), line = new Uint32Array(none + 1);
  for (let place = 0; place <= none; place++) {
    const color = channels(place === none ? NONE_COLOR : view.legend[place].color);
    if (only === null) {
      fill[place] = packedColor(color, alpha);
      line[place] = packedColor([255, 255, 255], Math.min(1, 2 * alpha));
    } else if (place === only) {
      fill[place] = packedColor(color, Math.min(alpha, 0.35));
      line[place] = packedColor([255, 255, 255], 1);
    } else {
      fill[place] = line[place] = packedColor([12, 12, 16], 0.72);
    }
  }
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = (edges[i] ? line : fill)[places[i]];
  context.putImageData(image, 0, 0);
}

function paintHeat(alpha) {
  const [height, width] = view.heat.size, start = view.heat.maps.indexOf(shown.heat) * height * width;
  const colors = RAMP.map(channels), peak = Math.max(1, 255 * view.legend[shown.heat].peak);
  const small = new OffscreenCanvas(width, height), image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const position = Math.min(1, view.heat.values[start + i] / peak) * (RAMP.length - 1);
    const below = Math.min(RAMP.length - 2, Math.floor(position)), rest = position - below;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = colors[below][c] * (1 - rest) + colors[below + 1][c] * rest;
    image.data[4 * i + 3] = 255;
  }
  small.getContext("2d").putImageData(image, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.globalAlpha = Math.min(1, 1.4 * alpha);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
}

// --- the legend ---

function list() {
  const rows = [], absent = [];
  let covered = 0, pixels = 0;
  for (const entry of view.legend) if (entry.counts) pixels += total(entry.counts, 0);
  view.legend.forEach((entry, place) => {
    const count = entry.counts ? total(entry.counts, shown.threshold) : 0;
    covered += count;
    if (count) rows.push({ place, entry, area: count / pixels, score: total(entry.sums, shown.threshold) / count });
    else absent.push({ place, entry });
  });
  rows.sort((a, b) => b.area - a.area);
  const found = find(".found");
  found.replaceChildren(...rows.map(rowOf));
  const rest = 1 - covered / pixels;
  if (covered < pixels) found.append(rowOf({ place: null, entry: { label: "none of these", color: NONE_COLOR }, area: rest }));
  find(".absent").hidden = !absent.length;
  find(".absent ul").replaceChildren(...absent.map(({ place, entry }) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = entry.label;
    button.title = `Best score in the image: ${entry.peak.toFixed(2)}. Click to see the heat map.`;
    button.disabled = !view.heat.maps.includes(place);
    button.addEventListener("click", () => { shown.heat = place; setMode("heat"); });
    item.append(button);
    return item;
  }));
  const others = view.num_labels - view.legend.length;
  if (others > 0) {
    const item = document.createElement("li");
    item.textContent = `and ${others} more`;
    find(".absent ul").append(item);
  }
  press();
}

function rowOf({ place, entry, area, score }) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.className = "row";
  button.dataset.place = place ?? "";
  button.disabled = place === null;
  for (const [name, text] of [["swatch", ""], ["name", entry.label], ["area", percent(area)],
    ["score", score === undefined ? "" : score.toFixed(2)]]) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    button.append(part);
  }
  button.style.setProperty("--color", entry.color);
  button.style.setProperty("--share", (100 * area).toFixed(2) + "%");
  const synonyms = (entry.words || []).filter((word) => word !== entry.label);
  button.title = `${entry.label}${synonyms.length ? " (also " + synonyms.join(", ") + ")" : ""}: ${percent(area)} of the image` +
    (score === undefined ? "" : `, mean score ${score.toFixed(2)}`);
  button.addEventListener("click", () => choose(place));
  for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => hover(place));
  for (const type of ["pointerleave", "blur"]) button.addEventListener(type, () => hover(null));
  item.append(button);
  return item;
}

function press() {
  const chosen = shown.mode === "heat" ? shown.heat : shown.solo;
  for (const row of element.querySelectorAll(".row")) {
    row.setAttribute("aria-pressed", String(chosen !== null && row.dataset.place === String(chosen)));
  }
}

function choose(place) {
  if (place === null) return;
  if (shown.mode === "heat") { if (view.heat.maps.includes(place)) shown.heat = place; }
  else shown.solo = shown.solo === place ? null : place;
  shown.hover = null;
  press();
  paint();
}

function hover(place) {
  if (shown.mode === "heat" || shown.hover === place || !view) return;
  shown.hover = place;
  paint();
}

function setMode(mode) {
  shown.mode = mode;
  find(`input[value="${mode}"]`).checked = true;
  press();
  paint();
}

function tell() {
  const { facts, legend } = view, { seconds } = facts, parts = [];
  const time = (s) => (s < 1 ? Math.round(1000 * s) + " ms" : s.toFixed(1) + " s");
  parts.push(seconds.image !== undefined ? `image encoded in ${time(seconds.image)}`
    : facts.inference === "slide" ? "sliding windows store no features" : "image already encoded");
  if (facts.num_new_words) parts.push(`${facts.num_new_words} new ${facts.num_new_words > 1 ? "labels" : "label"} encoded in ${time(seconds.text)}`);
  else parts.push("all words already encoded");
  if (seconds.segment !== undefined) parts.push(`segmented in ${time(seconds.segment)}`);
  const whole = Object.values(seconds).reduce((sum, s) => sum + s, 0);
  const [height, width] = facts.source_size, [own_height, own_width] = facts.own_size;
  const shrunk = height !== own_height || width !== own_width ? `, processed at ${own_width} × ${own_height}` : "";
  const size = facts.parameters >= 1e6 ? (facts.parameters / 1e6).toFixed(1) + " M" : Math.round(facts.parameters / 1e3) + " k";
  const lead = document.createElement("b");
  lead.textContent = time(whole);
  find(".facts").replaceChildren(lead, ` (${parts.join(", ")}) · ${facts.model}, ${size} parameters, ` +
    `${facts.head === "full" ? "full head" : "zero-shot head"}, ${facts.inference}` +
    `${facts.refine === "pixels" ? ", refined edges" : ""}, ${facts.dtype} on ${facts.device} · ` +
    `${width} × ${height} px${shrunk}`);
  const seen = legend.filter((entry) => entry.found);
  find(".status").textContent = `${seen.length} of ${view.num_labels} labels found: ` +
    seen.slice(0, 8).map((entry) => entry.label).join(", ") + ".";
}

// --- user input ---

for (const input of element.querySelectorAll(".modes input")) input.addEventListener("change", () => setMode(input.value));
opacityInput.addEventListener("input", () => {
  shown.opacity = Number(opacityInput.value);
  find(".opacity output").textContent = shown.opacity + " %";
  paint();
});
function setThreshold(hundredths) {
  shown.threshold = hundredths;
  find(".threshold output").textContent = (hundredths / 100).toFixed(2);
  root.dataset.threshold = (hundredths / 100).toFixed(2);
  if (view) { measure(); paint(); list(); }
}
thresholdInput.addEventListener("input", () => setThreshold(Number(thresholdInput.value)));
thresholdInput.addEventListener("change", () => trigger("threshold"));
find(".names-on").addEventListener("change", (event) => { shown.names = event.target.checked; paint(); });
new ResizeObserver(() => paintNames(shown.hover ?? shown.solo)).observe(frame);
split.addEventListener("input", paint);
element.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && shown.solo !== null) { shown.solo = null; press(); paint(); }
});

function placeAt(event) {
  const box = canvas.getBoundingClientRect(), [height, width] = view.size;
  const x = Math.floor(((event.clientX - box.left) / box.width) * width), y = Math.floor(((event.clientY - box.top) / box.height) * height);
  return x < 0 || y < 0 || x >= width || y >= height ? null : { box, index: y * width + x, place: drawn.places[y * width + x] };
}

frame.addEventListener("pointermove", (event) => {
  const at = view && placeAt(event);
  if (!at) { tip.hidden = true; return; }
  const entry = view.legend[at.place];
  const swatch = document.createElement("i"), score = document.createElement("small");
  swatch.style.background = entry ? entry.color : NONE_COLOR;
  score.textContent = (view.levels[at.index] / 100).toFixed(2);
  tip.replaceChildren(swatch, entry ? entry.label : "none of these", score);
  tip.hidden = false;
  const x = event.clientX - at.box.left, y = event.clientY - at.box.top;
  tip.style.left = Math.max(4, Math.min(x + 14, at.box.width - tip.offsetWidth - 4)) + "px";
  tip.style.top = (y > 44 ? y - 38 : y + 18) + "px";
  for (const row of element.querySelectorAll(".row")) row.classList.toggle("under", row.dataset.place === String(at.place));
});
frame.addEventListener("pointerleave", () => {
  tip.hidden = true;
  for (const row of element.querySelectorAll(".row.under")) row.classList.remove("under");
});
canvas.addEventListener("click", (event) => {
  const at = view && placeAt(event);
  if (at && at.place < view.legend.length) choose(at.place);
});

tip.hidden = true;
find(".scale").hidden = true;
const linked = Number(new URLSearchParams(location.hash.slice(1)).get("threshold"));
if (linked > 0 && linked <= 1) {
  thresholdInput.value = String(Math.round(100 * linked));
  setThreshold(Number(thresholdInput.value));
}
window.addEventListener("hashchange", () => location.reload()); // another shared address in the same tab
watch("value", () => receive(props.value));
receive(props.value);

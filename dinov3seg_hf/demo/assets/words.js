// Shows the words as chips. The value is a text such as "cat, sofa|couch"; every change by the user triggers "edit".

const find = (selector) => element.querySelector(selector);
const input = find("input"), chips = find(".chips"), area = find("textarea"), say = find(".say");
const SHOWN = 60;
const keyOf = (label) => label.split("|")[0].toLowerCase();
const parse = (text) => {
  const seen = new Set(), list = [];
  for (const piece of String(text || "").split(/[,\n]/)) {
    const label = piece.split("|").map((word) => word.trim().replace(/\s+/g, " ")).filter(Boolean).join("|");
    if (label && !seen.has(keyOf(label))) { seen.add(keyOf(label)); list.push(label); }
  }
  return list;
};

let words = parse(props.value), colors = {}, earlier = [], open = false;
let editing = null; // the label whose chip the user clicked: it stands in the input, and is a word until it is changed
let failed = false; // whether the last segmentation failed, so that asking again makes sense

// Takes a list of labels over, unless there are too many. Returns whether it did.
function commit(list, spoken) {
  if (list.length > props.max_labels) {
    notice(`${list.length.toLocaleString("en")} labels are too many: at most ${props.max_labels.toLocaleString("en")} fit. ` +
      "Nothing was changed.");
    return false;
  }
  earlier.push(words);
  earlier = earlier.slice(-50);
  take(list, spoken);
  return true;
}

function take(list, spoken) {
  words = list;
  props.value = words.join(", ");
  notice("");
  render();
  if (spoken) say.textContent = spoken;
  setTimeout(() => trigger("edit"), 0);
}

function add(text) {
  const known = new Set(words.map(keyOf)), fresh = parse(text);
  const added = fresh.filter((label) => !known.has(keyOf(label)));
  if (added.length && !commit([...words, ...added], `Added ${added.slice(0, 8).join(", ")}`)) return false;
  chips.scrollTop = chips.scrollHeight; // the new words are the last ones
  for (const label of fresh) if (known.has(keyOf(label))) flash(keyOf(label));
  return true;
}

// The list with the edited label replaced by what the text says: nothing, one label or several.
function replaced(text) {
  const index = words.indexOf(editing);
  const rest = words.filter((label) => label !== editing), known = new Set(rest.map(keyOf));
  return [...rest.slice(0, index), ...parse(text).filter((label) => !known.has(keyOf(label))), ...rest.slice(index)];
}

// Makes words of the text that stands in the input, or that is pasted there.
function settle(text = input.value) {
  if (editing !== null) {
    const list = replaced(text), before = editing;
    if (list.join() === words.join()) { editing = null; input.value = ""; render(); return; }
    editing = null;
    if (commit(list, parse(text).length ? `Changed ${before} to ${parse(text).join(", ")}` : `Removed ${before}`)) input.value = "";
    else editing = before;
    render();
  } else if (!text.trim() || add(text)) {
    input.value = "";
    wait();
  }
}

function remove(index) {
  const gone = words[index];
  commit(words.filter((_, i) => i !== index), `Removed ${gone}`);
}

function notice(text) {
  find(".notice").textContent = text;
}

function flash(key) {
  const chip = [...chips.children].find((item) => item.dataset.key === key);
  if (chip) { chip.scrollIntoView({ block: "nearest" }); chip.classList.remove("flash"); void chip.offsetWidth; chip.classList.add("flash"); }
  notice("This word is already in the list.");
}

// "Segment" is there only while something waits: text that is no word yet, or a segmentation that failed.
function wait() {
  const typed = editing !== null ? replaced(input.value).join() !== words.join() : Boolean(input.value.trim());
  const written = !area.hidden && parse(area.value).join() !== words.join();
  find(".segment").hidden = !(typed || written || failed);
}

function render() {
  const visible = open ? words : words.slice(0, SHOWN), place = chips.scrollTop;
  chips.replaceChildren(...visible.filter((label) => label !== editing).map((label) => {
    const [name, ...synonyms] = label.split("|");
    const item = document.createElement("li"), text = document.createElement("button"), cross = document.createElement("button");
    item.dataset.key = name.toLowerCase();
    text.type = cross.type = "button";
    text.className = "name";
    text.title = synonyms.length ? `${label.replaceAll("|", ", ")}. Click to edit.` : "Click to edit";
    const dot = document.createElement("i");
    dot.style.background = colors[item.dataset.key] || "";
    text.append(dot, name);
    if (synonyms.length) {
      const more = document.createElement("small");
      more.textContent = "+" + synonyms.length;
      text.append(more);
    }
    text.addEventListener("click", () => {
      settle();
      if (!words.includes(label)) return; // the text that was settled replaced it
      editing = label;
      input.value = label;
      render();
      input.focus();
    });
    cross.className = "remove";
    cross.textContent = "×";
    cross.setAttribute("aria-label", `Remove ${name}`);
    cross.addEventListener("click", () => {
      const index = words.indexOf(label);
      remove(index);
      const next = chips.querySelectorAll(".remove")[Math.min(index, words.length - 1)];
      (next || input).focus();
    });
    item.append(text, cross);
    return item;
  }));
  if (words.length > SHOWN) {
    const item = document.createElement("li"), button = document.createElement("button");
    item.className = "more";
    button.type = "button";
    button.textContent = open ? "show fewer" : `and ${words.length - SHOWN} more`;
    button.addEventListener("click", () => { open = !open; render(); });
    item.append(button);
    chips.append(item);
  }
  chips.scrollTop = place;
  input.placeholder = words.length ? "Add a word" : "Type what to look for";
  find(".count").textContent = words.length ? String(words.length) : "";
  find(".undo").disabled = !earlier.length;
  find(".clear").disabled = !words.length;
  wait();
}

input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter") {
    event.preventDefault();
    if (input.value.trim() || editing !== null) settle();
    else trigger("edit");
  } else if (event.key === "Escape" && editing !== null) {
    editing = null;
    input.value = "";
    render();
  } else if (event.key === "Backspace" && !input.value && editing === null && words.length) {
    event.preventDefault();
    remove(words.length - 1);
  }
});
input.addEventListener("input", () => {
  if (/[,\n]/.test(input.value)) settle();
  else wait();
});
input.addEventListener("paste", (event) => {
  const text = event.clipboardData.getData("text");
  if (/[,\n]/.test(text)) { event.preventDefault(); settle(text); }
});
input.addEventListener("blur", () => { if (editing !== null || input.value.trim()) settle(); });
// A click beside the input keeps its focus. Otherwise the input would settle, and the button move away from under the click.
for (const part of [find(".box"), find(".segment")]) {
  part.addEventListener("mousedown", (event) => { if (event.target !== input) event.preventDefault(); });
}
find(".box").addEventListener("click", (event) => { if (event.target.closest("button") === null) input.focus(); });
find(".clear").addEventListener("click", () => { commit([], "All words removed"); input.focus(); });
find(".undo").addEventListener("click", () => take(earlier.pop(), "Change undone"));
area.addEventListener("input", wait);

// Shows the words as text, or takes the text over. Returns whether nothing is left to take over.
function write(writing) {
  if (writing) area.value = words.join("\n");
  else if (parse(area.value).join() !== words.join() && !commit(parse(area.value), "Words changed")) return false;
  notice("");
  area.hidden = !writing;
  find(".box").hidden = writing;
  find(".as-text").textContent = writing ? "Done" : "Edit as text";
  find(".as-text").setAttribute("aria-pressed", String(writing));
  wait();
  return true;
}

find(".as-text").addEventListener("click", () => {
  const writing = area.hidden;
  if (write(writing)) (writing ? area : input).focus();
});
find(".segment").addEventListener("click", () => {
  if (!area.hidden) write(false);
  else if (failed && !input.value.trim()) trigger("edit");
  else settle();
});
document.addEventListener("dinov3seg:answer", (event) => { failed = event.detail.failed; wait(); });
document.addEventListener("dinov3seg:colors", (event) => {
  colors = event.detail;
  for (const item of chips.children) {
    const dot = item.querySelector("i");
    if (dot) dot.style.background = colors[item.dataset.key] || "";
  }
});
watch("value", () => {
  const list = parse(props.value);
  if (list.join() === words.join()) return;
  earlier.push(words);
  words = list;
  editing = null;
  area.value = words.join("\n");
  notice("");
  render();
});
render();

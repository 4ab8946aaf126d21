// Shows the words as chips. The value is a text such as "cat, sofa|couch"; every change by the user triggers "edit".

const find = (selector) => element.querySelector(selector);
const input = find("input"), chips = find(".chips"), area = find("textarea"), say = find(".say");
const SHOWN = 60;
const parse = (text) => {
  const seen = new Set(), list = [];
  for (const piece of String(text || "").split(/[,\n]/)) {
    const label = piece.split("|").map((word) => word.trim().replace(/\s+/g, " ")).filter(Boolean).join("|");
    const key = label.split("|")[0].toLowerCase();
    if (label && !seen.has(key)) { seen.add(key); list.push(label); }
  }
  return list;
};

let words = parse(props.value), colors = {}, earlier = [], open = false;

function commit(list, spoken) {
  earlier.push(words);
  earlier = earlier.slice(-50);
  words = list;
  props.value = words.join(", ");
  render();
  if (spoken) say.textContent = spoken;
  setTimeout(() => trigger("edit"), 0);
}

function add(text) {
  const fresh = parse(text), known = new Set(words.map((label) => label.split("|")[0].toLowerCase()));
  const added = fresh.filter((label) => !known.has(label.split("|")[0].toLowerCase()));
  for (const label of fresh) if (!added.includes(label)) flash(label.split("|")[0].toLowerCase());
  if (words.length + added.length > props.max_labels) {
    say.textContent = note(`You can add at most ${props.max_labels} labels.`);
    return;
  }
  if (added.length) commit([...words, ...added], `Added ${added.join(", ")}`);
}

function remove(index) {
  const gone = words[index];
  commit(words.filter((_, i) => i !== index), `Removed ${gone}`);
}

function note(text) {
  find(".hint").textContent = text;
  return text;
}

function flash(key) {
  const chip = [...chips.children].find((item) => item.dataset.key === key);
  if (chip) { chip.classList.remove("flash"); void chip.offsetWidth; chip.classList.add("flash"); }
  note("This word is already in the list.");
}

function render() {
  const visible = open ? words : words.slice(0, SHOWN);
  chips.replaceChildren(...visible.map((label, index) => {
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
      input.value = label;
      words = words.filter((_, i) => i !== index); // Enter adds the label again; the result stays until then
      render();
      input.focus();
    });
    cross.className = "remove";
    cross.textContent = "×";
    cross.setAttribute("aria-label", `Remove ${name}`);
    cross.addEventListener("click", () => {
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
  input.placeholder = words.length ? "Add a word" : "Type what to look for";
  find(".count").textContent = words.length ? String(words.length) : "";
  find(".undo").disabled = !earlier.length;
  find(".clear").disabled = !words.length;
}

input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter") {
    event.preventDefault();
    if (input.value.trim()) { const text = input.value; input.value = ""; add(text); }
    else trigger("edit");
  } else if (event.key === "Backspace" && !input.value && words.length) {
    event.preventDefault();
    remove(words.length - 1);
  }
});
input.addEventListener("input", () => {
  if (/[,\n]/.test(input.value)) {
    const text = input.value;
    input.value = "";
    add(text);
  }
});
input.addEventListener("paste", (event) => {
  const text = event.clipboardData.getData("text");
  if (/[,\n]/.test(text)) { event.preventDefault(); add(text); }
});
input.addEventListener("blur", () => { if (input.value.trim()) { const text = input.value; input.value = ""; add(text); } });
find(".box").addEventListener("click", (event) => { if (event.target.closest("button") === null) input.focus(); });
find(".clear").addEventListener("click", () => { commit([], "All words removed"); input.focus(); });
find(".undo").addEventListener("click", () => {
  const last = earlier.pop();
  commit(last, "Change undone");
  earlier.pop();
  render();
});
find(".as-text").addEventListener("click", () => {
  const writing = area.hidden;
  if (writing) area.value = words.join("\n");
  else if (parse(area.value).join() !== words.join()) commit(parse(area.value).slice(0, props.max_labels), "Words changed");
  area.hidden = !writing;
  find(".box").hidden = writing;
  find(".as-text").textContent = writing ? "Done" : "Edit as text";
  find(".as-text").setAttribute("aria-pressed", String(writing));
  (writing ? area : input).focus();
});
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
  area.value = words.join("\n");
  render();
});
render();

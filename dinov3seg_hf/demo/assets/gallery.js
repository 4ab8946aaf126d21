// Shows the examples, topic by topic. The value is the index of the chosen example; null: the image is no example.

const find = (selector) => element.querySelector(selector);
const topics = props.topics;
let topic = 0;

const pressable = (text, pressed, onClick) => {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", String(pressed));
  button.append(text);
  button.addEventListener("click", onClick);
  return button;
};

function render() {
  const chosen = topics.findIndex(({ scenes }) => scenes.some(({ index }) => index === props.value));
  find(".topics").hidden = topics.length < 2;
  find(".topics").replaceChildren(...topics.map(({ name }, i) =>
    pressable(name, i === topic, () => { topic = i; render(); find(".topics").children[i].focus(); })));
  find(".scenes").replaceChildren(...topics[topic].scenes.map(({ index, picture, name }) => {
    const item = document.createElement("li"), image = document.createElement("img");
    image.src = picture;
    image.alt = name;
    item.append(pressable(image, chosen === topic && index === props.value, () => {
      props.value = index;
      render();
      trigger("choose");
      find(".scenes [aria-pressed=true]")?.focus();
    }));
    item.title = name;
    return item;
  }));
}

watch("value", () => {
  const chosen = topics.findIndex(({ scenes }) => scenes.some(({ index }) => index === props.value));
  if (chosen >= 0) topic = chosen;
  render();
});
render();

// What stands under a bar of the explorer: the class's name, its slider, its logit as a number, its gradient.

import { h } from "../dom.js";
import { fixed, plain } from "../format.js";

const MAX_LABEL = 24;
const [LOW, HIGH] = [-6, 6]; // of the slider; the number field takes any logit

/** Says in the margin what the rows of the columns are. */
export function gutter() {
  const ticks = [HIGH, 0, LOW].map((tick) => h("span", {}, plain(tick)));
  return h(
    "div",
    { class: "column gutter", "aria-hidden": "true" },
    h("span"),
    h("span", { class: "scale" }, ticks),
    h("span", {}, "logit"),
    h("span", {}, "grad."),
  );
}

/** Writes to `item` as its controls move, then calls `changed`; `show(gradient, isTop)` draws what came of it. */
export function column({ item, index, removable, changed, renamed, remove }) {
  const range = h("input", {
    type: "range",
    class: "vertical",
    "aria-orientation": "vertical",
    min: LOW,
    max: HIGH,
    step: 0.05,
    value: item.logit,
    name: `logit-${index}`,
    input: (event) => {
      item.logit = Number(range.value);
      field.value = item.logit.toFixed(2);
      say();
      changed(event);
    },
  });
  const field = h("input", {
    type: "number",
    min: -1000,
    max: 1000,
    step: "any",
    value: item.logit.toFixed(2),
    name: `logit-field-${index}`,
    input: (event) => {
      if (field.value === "" || !field.checkValidity()) return;
      item.logit = Number(field.value);
      range.value = item.logit;
      say();
      changed(event);
    },
    change: () => {
      field.value = String(item.logit);
    },
  });
  const label = h("input", {
    type: "text",
    value: item.label,
    maxlength: MAX_LABEL,
    name: `label-${index}`,
    "aria-label": `Name of class ${index + 1}`,
    spellcheck: "false",
    autocomplete: "off",
    input: (event) => {
      item.label = label.value;
      say();
      renamed();
      changed(event);
    },
  });
  const gradient = h("output", { name: `gradient-${index}` });
  const removal = h("button", { type: "button", class: "quiet remove", disabled: !removable, click: remove }, "×");

  const say = () => {
    const name = item.label || `class ${index + 1}`;
    range.setAttribute("aria-label", `Logit of ${name}`);
    range.setAttribute("aria-valuetext", plain(item.logit));
    range.style.setProperty("--share", (Math.min(HIGH, Math.max(LOW, item.logit)) - LOW) / (HIGH - LOW));
    field.setAttribute("aria-label", `Logit of ${name}, as a number`);
    removal.setAttribute("aria-label", `Remove ${name}`);
    removal.title = `Remove ${name}`;
  };
  say();

  const element = h("div", { class: "column" }, label, range, field, gradient, removal);
  const show = (value, isTop) => {
    gradient.textContent = (Number(value) > 0 ? "+" : "") + fixed(value, 3);
    element.classList.toggle("is-top", isTop);
  };
  return { element, show };
}

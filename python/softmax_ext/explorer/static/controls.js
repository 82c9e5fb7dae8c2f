// Labelled inputs. Each calls `changed(value, event)` as it moves; none is ever written to while the reader holds it.

import { h } from "./dom.js";
import { plain } from "./format.js";

let count = 0;
const nextId = () => `control-${++count}`;

const within = (value, low, high) => Math.min(high, Math.max(low, value));

/** A slider with a number field that says the same, on a linear scale or, with `logarithmic`, on one of decades. */
export function slider({
  label,
  name,
  value,
  low,
  high,
  step,
  logarithmic = false,
  whole = false,
  hint = null,
  changed,
}) {
  const id = nextId();
  const toScale = logarithmic ? Math.log10 : (number) => number;
  const rounded = whole ? Math.round : (number) => Number(number.toPrecision(3));
  const fromScale = logarithmic ? (position) => rounded(10 ** position) : Number;
  const range = h("input", {
    type: "range",
    id,
    name,
    min: toScale(low),
    max: toScale(high),
    step,
    input: (event) => {
      const number = within(fromScale(Number(range.value)), low, high);
      field.value = number;
      say(number);
      changed(number, event);
    },
  });
  const field = h("input", {
    type: "number",
    name: `${name}-field`,
    "aria-label": `${label}, as a number`,
    min: low,
    max: high,
    step: whole ? 1 : "any",
    input: (event) => {
      if (field.value === "" || !field.checkValidity()) return;
      range.value = toScale(Number(field.value));
      say(Number(field.value));
      changed(Number(field.value), event);
    },
    change: () => {
      if (field.value === "" || !field.checkValidity()) field.value = fromScale(Number(range.value));
    },
  });
  const say = (number) => {
    range.setAttribute("aria-valuetext", plain(number));
    range.style.setProperty("--share", (toScale(number) - toScale(low)) / (toScale(high) - toScale(low)));
  };
  const set = (number) => {
    range.value = toScale(number);
    field.value = number;
    say(number);
  };
  set(value);
  const element = h(
    "div",
    { class: "slider" },
    h("label", { for: id }, label),
    field,
    range,
    hint && h("small", {}, hint),
  );
  return { element, set };
}

/** One of a few names, all in sight. */
export function choice({ label, name, value, names, changed }) {
  const id = nextId();
  const option = (item) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: id,
        value: item,
        checked: item === value,
        change: (event) => changed(item, event),
      }),
      h("span", {}, item),
    );
  return h("fieldset", { class: "choice", "data-name": name }, h("legend", {}, label), h("div", {}, names.map(option)));
}

export const DTYPES = ["float64", "float32", "bfloat16", "float16"];

export function dtypeChoice(value, changed) {
  return choice({ label: "dtype", name: "dtype", value, names: DTYPES, changed });
}

/** The logits of a list of classes as number fields, for views in which they stand still. */
export function logitFields(classes, changed) {
  const field = (item) =>
    h(
      "label",
      {},
      item.label,
      h("input", {
        type: "number",
        value: item.logit,
        step: "any",
        min: -1000,
        max: 1000,
        input: (event) => {
          if (event.target.value === "" || !event.target.checkValidity()) return;
          item.logit = Number(event.target.value);
          changed(classes, event);
        },
      }),
    );
  return h("fieldset", { class: "logit-fields" }, h("legend", {}, "Logits"), h("div", {}, classes.map(field)));
}

export function statistic(label, name) {
  const output = h("output", { name });
  return { element: h("div", { class: "statistic" }, h("span", {}, label), output), output };
}

export function code(name) {
  const pre = h("pre", { "data-name": name, tabindex: 0, "aria-label": "The same in Python" });
  return { element: h("section", { class: "card code" }, h("h3", {}, "The same in Python"), pre), pre };
}

export const pythonTensor = (logits, dtype) => `torch.tensor([${logits.join(", ")}], dtype=torch.${dtype})`;

// Classes with a slider each, and what softmax makes of them.

import { h } from "../dom.js";
import { AXIS, plot, probabilityBars } from "../charts.js";
import { code, dtypeChoice, pythonTensor, slider, statistic } from "../controls.js";
import { fixed } from "../format.js";
import { classesOf } from "../settings.js";
import { column, gutter } from "./explorer_column.js";

const MAX_CLASSES = 12;
const NAMES = ["cat", "dog", "bird", "fish", "fox", "owl", "bee", "ant", "hen", "cow", "pig", "elk"];

export const explorer = {
  title: "Explorer",
  lead: "Drag a logit. Every probability moves, because they share one sum.",
  build,
};

function build({ numbers: first, settings, changed, follow }) {
  let numbers = first;
  const classes = classesOf(first);
  let drawn = []; // the columns, as many as there are classes

  const changedClasses = (event) => {
    settings.setClasses(classes);
    changed(event);
  };

  const bars = plot({
    height: 280,
    label: "Probability of each class",
    draw: (width, height) => probabilityBars({ width, height, ...numbers, names: false }),
  });
  const columns = h("div", { class: "columns" });
  const board = h("div", { class: "board" }, bars.element, columns);

  const add = h(
    "button",
    {
      type: "button",
      click: (event) => {
        const label =
          NAMES.find((name) => classes.every((item) => item.label !== name)) ?? `class ${classes.length + 1}`;
        classes.push({ label, logit: 0 });
        rebuild();
        changedClasses(event);
      },
    },
    "Add a class",
  );

  const target = h("select", {
    name: "target",
    change: (event) => {
      settings.set("target", target.value === "-1" ? null : target.value);
      changed(event);
    },
  });
  const nameTargets = () => {
    const names = ["most probable", ...classes.map((item, index) => item.label || `class ${index + 1}`)];
    target.replaceChildren(...names.map((name, index) => h("option", { value: index - 1 }, name)));
    target.value = String(settings.values.get("target") ?? -1);
  };

  const rebuild = () => {
    drawn = classes.map((item, index) =>
      column({
        item,
        index,
        removable: classes.length > 1,
        changed: changedClasses,
        renamed: nameTargets,
        remove: (event) => {
          classes.splice(index, 1);
          settings.set("target", null);
          rebuild();
          changedClasses(event);
        },
      }),
    );
    columns.replaceChildren(gutter(), ...drawn.map(({ element }) => element));
    board.style.setProperty("--classes", classes.length);
    board.style.setProperty("--axis", `${AXIS}px`);
    add.disabled = classes.length >= MAX_CLASSES;
    nameTargets();
  };
  rebuild();

  const temperature = slider({
    label: "Temperature T",
    name: "temperature",
    value: first.temperature,
    low: 0.01,
    high: 100,
    step: 0.005,
    logarithmic: true,
    hint: "below 1 sharpens, above 1 flattens",
    changed: follow("temperature"),
  });
  const dtype = dtypeChoice(first.dtype, follow("dtype"));

  const argmax = statistic("arg-max", "argmax");
  const entropy = statistic("entropy", "entropy");
  const total = statistic("Σp", "total");
  const logsumexp = statistic("log Σ exp(z/T)", "logsumexp");
  const loss = h("output", { name: "loss" });
  const special = h("p", { class: "note", hidden: true });
  const python = code("python");
  const sweep = h("a", { class: "button" }, "Sweep the temperature of these");
  const shift = h("a", { class: "button" }, "Add an offset to these");

  const show = (latest) => {
    if (latest.labels.length !== classes.length) return; // a class came or went while this was under way
    numbers = latest;
    bars.redraw();
    argmax.output.textContent = latest.labels[latest.argmax] || `class ${latest.argmax + 1}`;
    entropy.output.replaceChildren(
      fixed(latest.entropy, 3),
      h("small", {}, ` of ${fixed(latest.max_entropy, 3)} bits`),
    );
    total.output.textContent = fixed(latest.total, 3);
    logsumexp.output.textContent = fixed(latest.logsumexp, 4);
    loss.textContent = `loss ${fixed(latest.loss, 4)}`;
    latest.gradient.forEach((value, index) => {
      drawn[index].show(value, index === latest.argmax);
    });
    special.hidden = classes.length > 2;
    special.textContent =
      classes.length === 1
        ? "Softmax over one class is constant: the probability is 1 for every logit, and the gradient 0. Such an output learns nothing."
        : "Two classes: softmax is the sigmoid of the difference of the logits.";
    sweep.href = `/temperature${queryOf(classes, latest.dtype)}`;
    shift.href = `/stability${queryOf(classes, latest.dtype)}`;
    python.pre.textContent = [
      `logits = ${pythonTensor(latest.logits, latest.dtype)}`,
      `softmax_ext.softmax(logits, 0, temperature=${latest.temperature})`,
      `softmax_ext.cross_entropy(logits, torch.tensor(${latest.target < 0 ? latest.argmax : latest.target}), temperature=${latest.temperature})`,
    ].join("\n");
  };

  return {
    show,
    elements: [
      h(
        "div",
        { class: "layout" },
        h(
          "section",
          { class: "card", "aria-label": "Probabilities and logits" },
          h("div", { class: "scroll" }, board),
          h("div", { class: "row under" }, add, h("a", { class: "button", href: "/explorer" }, "Reset")),
          special,
        ),
        h(
          "div",
          { class: "side" },
          h(
            "section",
            { class: "card statistics", "aria-label": "Results" },
            argmax.element,
            entropy.element,
            total.element,
            logsumexp.element,
          ),
          h("section", { class: "card", "aria-label": "Settings" }, temperature.element, dtype),
          h(
            "section",
            { class: "card" },
            h("h3", {}, "Graded by cross-entropy"),
            h("div", { class: "row between" }, h("label", { class: "row" }, "True class", target), loss),
            h(
              "p",
              { class: "note" },
              "In nats. The last number of each column is the gradient, (p − y)/T: learning pushes the logit the other way. The loss takes these raw logits, never the probabilities: softmax is inside it.",
            ),
          ),
        ),
      ),
      h("div", { class: "row" }, sweep, shift),
      python.element,
    ],
  };
}

function queryOf(classes, dtype) {
  const pairs = classes.map(({ label, logit }) => `class=${encodeURIComponent(label)}:${logit}`);
  return `?${pairs.join("&")}${dtype === "float64" ? "" : `&dtype=${dtype}`}`;
}

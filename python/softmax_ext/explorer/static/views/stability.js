// The formula as it is written beside the one that subtracts the maximum, on the same logits plus an offset.

import { h } from "../dom.js";
import { code, dtypeChoice, logitFields, pythonTensor, slider } from "../controls.js";
import { fixed, percent, plain, significant } from "../format.js";
import { Live } from "../live.js";
import { classesOf } from "../settings.js";
import { stabilityMap } from "./stability_map.js";

const OFFSETS = [0, 10, 88, 300, 708, 842.3, -110, -750];

export const stability = {
  title: "Stability",
  lead: "Add the same number to every logit. Softmax does not change; exp(z)/Σ breaks, earlier the fewer bits a type has.",
  build,
};

function build({ numbers: first, settings, changed, follow, fail }) {
  const classes = classesOf(first);

  const slide = slider({
    label: "Offset added to every logit",
    name: "offset",
    value: first.offset,
    low: -1000,
    high: 1000,
    step: 0.1,
    changed: follow("offset"),
  });
  const places = h(
    "div",
    { class: "row places", role: "group", "aria-label": "Offsets to try" },
    OFFSETS.map((offset) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          click: (event) => {
            slide.set(offset);
            follow("offset")(offset, event);
          },
        },
        plain(offset),
      ),
    ),
  );
  const dtype = dtypeChoice(first.dtype, follow("dtype"));
  const logits = logitFields(classes, (_, event) => {
    settings.setClasses(classes);
    mapLive.request();
    changed(event);
  });

  const naive = column("naive", "As written", ["exp(z)", " / ", "Σ exp(z)"], ["class", "z", "exp(z)", "p"]);
  const stable = column(
    "stable",
    "As softmax_ext computes it",
    ["exp(z − max)", " / ", "Σ exp(z − max)"],
    ["class", "z − max", "exp(z − max)", "p"],
  );

  const breaking = stabilityMap();
  // The map depends on the logits alone.
  const mapLive = new Live(() => `/api/stability/map${settings.query("offset", "dtype")}`, breaking.setMap, fail);
  mapLive.request();

  const python = code("python");

  const show = (latest) => {
    const { naive: written, stable: shifted } = latest;
    naive.show(
      latest,
      [latest.shifted_logits, written.exponentials, written.probabilities],
      written.total,
      written.status,
      explain(latest, written),
    );
    stable.show(
      latest,
      [shifted.distances, shifted.exponentials, shifted.probabilities],
      shifted.total,
      shifted.status,
      explain(latest, shifted),
    );
    breaking.setPlace(latest.offset, latest.dtype);
    python.pre.textContent = [
      `logits = (${pythonTensor(latest.logits, "float64")} + ${latest.offset}).to(torch.${latest.dtype})`,
      "logits.exp() / logits.exp().sum()  # as written",
      "softmax_ext.softmax(logits, 0)",
    ].join("\n");
  };

  const legend = [
    ["right", "right to half a percentage point"],
    ["off", "further off"],
    ["nan", "NaN"],
  ].map(([status, meaning]) => h("span", { class: "key" }, h("i", { class: `swatch ${status}` }), meaning));
  return {
    show,
    elements: [
      h("section", { class: "card sticky", "aria-label": "Offset" }, slide.element),
      h("div", { class: "row" }, places, dtype),
      h("div", { class: "halves" }, naive.element, stable.element),
      h(
        "section",
        { class: "card" },
        h("h2", {}, "Where each type breaks"),
        breaking.element,
        h("p", { class: "row legend" }, legend),
        h(
          "p",
          { class: "note" },
          "Where softmax_ext is off, the logits were rounded before it saw them: a 16-bit number near 1000 has no room for the tenths. Shifting cannot bring back what rounding took; keeping logits small, or in float32, does.",
        ),
      ),
      h("section", { class: "card", "aria-label": "Logits" }, logits),
      python.element,
    ],
  };
}

function column(name, title, formula, headings) {
  const badge = h("output", { name: `${name}-status`, class: "badge" });
  const reason = h("p", { class: "reason", "data-name": `${name}-reason` });
  const body = h("tbody");
  const foot = h("tr");
  const element = h(
    "section",
    { class: "card formula-card", "data-name": name },
    h("div", { class: "row between" }, h("h2", {}, title), badge),
    h("p", { class: "formula" }, "p = ", formula.join("")),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          headings.map((heading) => h("th", { scope: "col" }, heading)),
        ),
      ),
      body,
      h("tfoot", {}, foot),
    ),
    reason,
  );
  const show = (latest, [first, exponentials, probabilities], total, status, why) => {
    badge.textContent = { right: "right", off: "off", nan: "NaN" }[status];
    badge.className = `badge ${status}`;
    reason.textContent = why;
    body.replaceChildren(
      ...latest.labels.map((label, index) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, label || `class ${index + 1}`),
          cell(first[index], fixed(first[index], 3)),
          cell(exponentials[index], significant(exponentials[index])),
          h("td", { "data-probability": index, class: kind(probabilities[index]) }, percent(probabilities[index], 2)),
        ),
      ),
    );
    foot.replaceChildren(h("th", { scope: "row" }, "Σ"), h("td"), cell(total, significant(total)), h("td"));
  };
  return { element, show };
}

const kind = (value) => (Number.isFinite(Number(value)) ? null : "broken");
const cell = (value, content) => h("td", { class: kind(value) }, content);

function explain(latest, { status, cause }) {
  const { dtype } = latest;
  if (cause === "overflow") {
    return `The largest ${dtype} is ${significant(latest.largest_number, 3)}, about exp(${fixed(latest.largest_exponent, 2)}): beyond it there is only ∞, and ∞/∞ is ${status === "nan" ? "NaN" : "lost"}.`;
  }
  if (cause === "underflow to 0") return `Every exp(z) is below the smallest ${dtype} and has become 0: 0/0 is NaN.`;
  if (cause === "underflow") return `The exponentials are so small that ${dtype} has few digits left for them.`;
  if (cause === "rounded logits") {
    return `The formula is not to blame: near these logits ${dtype} has one number every ${significant(latest.spacing, 3)}, so adding the offset has moved them apart or together.`;
  }
  return "Within half a percentage point of the probabilities without an offset, in float64.";
}

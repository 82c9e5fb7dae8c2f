// How often a classifier is right where it is so sure: as trained, and at a temperature that the reader moves.

import { curve, decades, horizontalAxis, line, linear, logarithmic, plot, TOP, text, verticalAxis } from "../charts.js";
import { code, slider, statistic } from "../controls.js";
import { h, svg } from "../dom.js";
import { fixed, percent, plain } from "../format.js";
import { Live } from "../live.js";
import { reliabilityDiagram } from "./reliability_diagram.js";

const [LOW, HIGH] = [0.2, 10];

export const calibration = {
  title: "Calibration",
  lead: "Softmax makes probabilities of logits, not true ones: a trained network says 90 % and is right less often. One temperature, fitted on held-out data, repairs most of it.",
  build,
};

function build({ numbers: first, settings, changed, follow, fail }) {
  let numbers = first;
  let sweep = null;
  const fitted = first.fitted_temperature;

  const slide = slider({
    label: "Temperature T",
    name: "temperature",
    value: first.temperature,
    low: LOW,
    high: HIGH,
    step: 0.005,
    logarithmic: true,
    changed: follow("temperature"),
  });
  const place = (name, value) => {
    const go = (event) => {
      slide.set(value);
      settings.set("temperature", value);
      changed(event);
    };
    return h("button", { type: "button", class: "small", click: go }, name);
  };
  const places = h(
    "div",
    { class: "row", role: "group", "aria-label": "Temperatures to try" },
    place("T = 1, as trained", 1),
    place(`Fitted T = ${fixed(fitted, 2)}`, Number(fitted.toPrecision(3))),
  );

  const before = reliabilityDiagram("As trained, T = 1", "before");
  const after = reliabilityDiagram("At this temperature", "after");
  const error = sweepPlot("expected calibration error", "ece", (tick) => `${fixed(100 * tick, 0)} %`);
  const loss = sweepPlot("negative log-likelihood, nats", "nll", (tick) => fixed(tick, 1));

  function sweepPlot(name, key, format) {
    const draw = (width, height) => {
      if (!sweep) return [];
      const [left, right, top, bottom] = [46, width - 8, TOP, height - 42];
      const values = sweep[key].map(Number);
      const step = key === "ece" ? 0.1 : 0.5;
      // Far from the fitted temperature the loss leaves the picture, which shows where it matters.
      const ceiling = key === "ece" ? Math.ceil(Math.max(...values) / step) * step : 2.5;
      const ticks = Array.from({ length: Math.round(ceiling / step) + 1 }, (_, index) => index * step);
      const x = logarithmic(LOW, HIGH, left, right);
      const y = linear(0, ceiling, bottom, top);
      const here = [x(numbers.temperature), y(Math.min(ceiling, Number(numbers.after[key])))];
      const inside = sweep.temperatures.filter((_, index) => values[index] <= ceiling);
      const nearRight = x(fitted) > (left + right) / 2;
      return [
        verticalAxis({ name, ticks, format, y, left, right, top }),
        horizontalAxis({
          name: "temperature T",
          ticks: [0.2, 0.5, ...decades(1, HIGH), 2, 5],
          format: plain,
          x,
          left,
          right,
          top,
          bottom,
        }),
        line(x(fitted), top, x(fitted), bottom, "fitted"),
        text(x(fitted) + (nearRight ? -6 : 6), top + 8, `fitted ${fixed(fitted, 2)}`, {
          class: "tick",
          "text-anchor": nearRight ? "end" : "start",
        }),
        curve(
          inside,
          values.filter((value) => value <= ceiling),
          x,
          y,
          "curve",
        ),
        line(here[0], here[1], here[0], bottom, "marker"),
        svg("circle", { cx: here[0], cy: here[1], r: 7, class: "dot" }),
      ];
    };
    return plot({ height: 260, label: `${name} against temperature`, draw });
  }

  const drawSweep = (latest) => {
    sweep = latest;
    error.redraw();
    loss.redraw();
  };
  new Live(() => "/api/calibration/sweep", drawSweep, fail).request();

  const ece = statistic("calibration error (ECE)", "ece");
  const nll = statistic("negative log-likelihood", "nll");
  const brier = statistic("Brier score", "brier");
  const accuracy = statistic("accuracy", "accuracy");
  const python = code("python");
  const was = (value) => h("small", {}, ` from ${value}`);

  const show = (latest) => {
    numbers = latest;
    before.show(latest.before);
    after.show(latest.after);
    error.redraw();
    loss.redraw();
    ece.output.replaceChildren(percent(latest.after.ece, 1), was(percent(latest.before.ece, 1)));
    nll.output.replaceChildren(fixed(latest.after.nll, 3), was(fixed(latest.before.nll, 3)));
    brier.output.replaceChildren(fixed(latest.after.brier, 3), was(fixed(latest.before.brier, 3)));
    accuracy.output.replaceChildren(percent(latest.after.accuracy, 1), h("small", {}, " at every T"));
    python.pre.textContent = [
      "fit = softmax_ext.fit_temperature(held_out_logits, held_out_labels)",
      `softmax_ext.calibration_error(logits, labels, temperature=${latest.temperature})`,
    ].join("\n");
  };

  const { documents, fit_documents, classes, floor } = first;
  return {
    show,
    elements: [
      h("section", { class: "card sticky", "aria-label": "Temperature" }, slide.element, places),
      h(
        "section",
        { class: "card statistics wide", "aria-label": "Results" },
        ece.element,
        nll.element,
        brier.element,
        accuracy.element,
      ),
      h("div", { class: "halves" }, before.element, after.element),
      h(
        "p",
        { class: "note" },
        `${documents.toLocaleString("en")} messages of ${classes} newsgroups that the classifier has not seen, none of the ${fit_documents.toLocaleString("en")} that T was fitted on. ` +
          `If every probability were right, so many messages would still show an error of ${percent(floor, 1)}. The order of the classes is kept at every T, and so is the accuracy.`,
      ),
      h(
        "div",
        { class: "halves" },
        h("section", { class: "card" }, h("h2", {}, "Calibration error at every temperature"), error.element),
        h("section", { class: "card" }, h("h2", {}, "Loss at every temperature"), loss.element),
      ),
      python.element,
    ],
  };
}

// One set of logits at every temperature: the bars reshape, the dot moves along the curve of the entropy.

import { h, svg } from "../dom.js";
import {
  AXIS,
  TOP,
  asNumber,
  curve,
  decades,
  horizontalAxis,
  line,
  linear,
  logarithmic,
  plot,
  probabilityBars,
  text,
  verticalAxis,
} from "../charts.js";
import { code, dtypeChoice, logitFields, pythonTensor, slider, statistic } from "../controls.js";
import { fixed } from "../format.js";
import { Live } from "../live.js";
import { classesOf } from "../settings.js";

const [LOW, HIGH] = [0.01, 100];

export const temperature = {
  title: "Temperature",
  lead: "T divides the logits. Towards 0 all probability goes to the largest; towards infinity each class gets the same. The order never changes.",
  build,
};

function build({ numbers: first, settings, changed, follow, fail }) {
  let numbers = first;
  let sweep = null;
  const classes = classesOf(first);

  const bars = plot({
    height: 320,
    label: "Probability of each class at this temperature",
    draw: (width, height) => probabilityBars({ width, height, ...numbers }),
  });
  const entropyCurve = plot({ height: 320, label: "Entropy against temperature", draw: drawCurve });

  function drawCurve(width, height) {
    if (!sweep) return [];
    const [left, right, top, bottom] = [AXIS, width - 8, TOP, height - 42];
    const ceiling = Math.max(sweep.max_entropy, 1e-9);
    const x = logarithmic(LOW, HIGH, left, right);
    const y = linear(0, ceiling, bottom, top);
    const here = [x(numbers.temperature), y(Math.min(ceiling, Number(numbers.entropy)))];
    let floor = 0;
    const bands = sweep.regimes.map(({ up_to, name }, index) => {
      const [from, to] = [y(floor * ceiling), y(up_to * ceiling)];
      floor = up_to;
      const kind = `band${index % 2 ? " band-odd" : ""}${name === numbers.regime ? " band-here" : ""}`;
      // Bands too thin for their name are named by the one place that says where the dot is.
      return [
        svg("rect", { x: left, y: to, width: right - left, height: from - to, class: kind }),
        from - to > 16 && text(left + 8, (from + to) / 2, name, { class: "band-name", "dominant-baseline": "central" }),
      ];
    });
    const step = ceiling > 3 ? 1 : 0.5;
    const ticks = Array.from({ length: Math.floor(ceiling / step) + 1 }, (_, index) => index * step);
    return [
      bands,
      horizontalAxis({
        name: "temperature T",
        ticks: decades(LOW, HIGH),
        format: asNumber,
        x,
        left,
        right,
        top,
        bottom,
      }),
      verticalAxis({ name: "entropy, bits", ticks, format: (tick) => fixed(tick, 1), y, left, right, top }),
      text(right, top - 7, `log₂ ${classes.length} = ${fixed(sweep.max_entropy, 3)} bits`, {
        class: "tick",
        "text-anchor": "end",
      }),
      line(left, top, right, top, "limit"),
      line(here[0], top, here[0], bottom, "marker"),
      curve(sweep.temperatures, sweep.entropy.map(Number), x, y, "curve"),
      svg("circle", { cx: here[0], cy: here[1], r: 7, class: "dot" }),
    ];
  }

  // The curve depends on the logits and the dtype, not on T: it is asked for when those change.
  const sweepOf = () => `/api/temperature/sweep${settings.query("temperature")}`;
  const drawSweep = (latest) => {
    sweep = latest;
    entropyCurve.redraw();
  };
  const curveLive = new Live(sweepOf, drawSweep, fail);
  curveLive.request();

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
  const dtype = dtypeChoice(first.dtype, (value, event) => {
    settings.set("dtype", value);
    curveLive.request();
    changed(event);
  });
  const logits = logitFields(classes, (_, event) => {
    settings.setClasses(classes);
    curveLive.request();
    changed(event);
  });

  const regime = statistic("regime", "regime");
  const entropy = statistic("entropy", "entropy");
  const share = statistic("H/Hmax", "entropy-share");
  const argmax = statistic("arg-max", "argmax");
  const python = code("python");

  const show = (latest) => {
    numbers = latest;
    bars.redraw();
    entropyCurve.redraw();
    regime.output.textContent = latest.regime;
    entropy.output.replaceChildren(fixed(latest.entropy, 3), h("small", {}, " bits"));
    share.output.textContent = fixed(latest.entropy_share, 2);
    argmax.output.textContent = latest.labels[latest.argmax] || `class ${latest.argmax + 1}`;
    python.pre.textContent = [
      `logits = ${pythonTensor(latest.logits, latest.dtype)}`,
      `softmax_ext.softmax(logits, 0, temperature=${latest.temperature})`,
    ].join("\n");
  };

  return {
    show,
    elements: [
      h("section", { class: "card sticky", "aria-label": "Temperature" }, slide.element),
      h(
        "section",
        { class: "card statistics wide", "aria-label": "Results" },
        regime.element,
        entropy.element,
        share.element,
        argmax.element,
      ),
      h(
        "div",
        { class: "halves" },
        h("section", { class: "card" }, h("h2", {}, "Probabilities"), bars.element),
        h("section", { class: "card" }, h("h2", {}, "Entropy at every temperature"), entropyCurve.element),
      ),
      h("section", { class: "card row", "aria-label": "Settings" }, logits, dtype),
      python.element,
    ],
  };
}

// Accuracy in each bin of confidence, the gap to the confidence, and how many predictions each bin holds.

import { AXIS, horizontalAxis, line, linear, plot, TOP, text, verticalAxis } from "../charts.js";
import { h, svg } from "../dom.js";
import { percent } from "../format.js";

const HISTOGRAM = 44; // pixels, below the diagram
const QUARTERS = [0, 0.25, 0.5, 0.75, 1];
const inPercent = (tick) => `${100 * tick} %`;

export function reliabilityDiagram(title, name) {
  let numbers = null;

  function draw(width, height) {
    if (!numbers) return [];
    const { edges, bin_confidence: confidence, bin_accuracy: accuracy, bin_count: count } = numbers;
    const [left, right, top, bottom] = [AXIS, width - 8, TOP, height - HISTOGRAM - 54];
    const floor = height - 4;
    const x = linear(0, 1, left, right);
    const y = linear(0, 1, bottom, top);
    const most = Math.max(...count);

    const bin = (number, index) => {
      const across = { x: x(edges[index]) + 1, width: x(edges[index + 1]) - x(edges[index]) - 2 };
      const tall = (number / most) * HISTOGRAM;
      const histogram = svg("rect", { ...across, y: floor - tall, height: tall, class: "bar" });
      if (number === 0) return [];
      const [right_, sure] = [y(Number(accuracy[index])), y(Number(confidence[index]))];
      const kind = sure < right_ ? "gap over" : "gap under";
      return [
        svg("rect", { ...across, y: right_, height: bottom - right_, class: "bar", "data-bin": index }),
        svg("rect", { ...across, y: Math.min(right_, sure), height: Math.abs(right_ - sure), class: kind }),
        line(across.x, right_, across.x + across.width, right_, "accuracy"),
        histogram,
      ];
    };
    return [
      verticalAxis({ name: "share that is right", ticks: QUARTERS, format: inPercent, y, left, right, top }),
      horizontalAxis({ name: "confidence", ticks: QUARTERS, format: inPercent, x, left, right, top, bottom }),
      count.map(bin),
      line(x(0), y(0), x(1), y(1), "limit"),
      text(left, floor - HISTOGRAM + 4, "predictions", { class: "tick" }),
    ];
  }

  const view = plot({ height: 400, label: `${title}: accuracy by confidence`, draw });
  const verdict = h("output", { name: `${name}-verdict`, class: "verdict" });
  const key = (kind, meaning) => h("span", { class: "key" }, h("i", { class: `swatch ${kind}` }), meaning);
  const element = h(
    "section",
    { class: "card", "data-name": name },
    h("h2", {}, title),
    verdict,
    view.element,
    h(
      "p",
      { class: "row legend" },
      key("drawn", "right"),
      key("over", "sure but wrong"),
      key("under", "right but unsure"),
    ),
  );
  const show = (latest) => {
    numbers = latest;
    view.redraw();
    verdict.textContent = `Sure of ${percent(latest.confidence, 1)}, right in ${percent(latest.accuracy, 1)}; calibration error ${percent(latest.ece, 1)}`;
  };
  return { element, show };
}

// One bar per token, as long as its count, with a mark where the count is expected to be.

import { horizontalAxis, line, linear, plot, text } from "../charts.js";
import { h, svg } from "../dom.js";
import { fixed, percent, plain } from "../format.js";

const ROW = 32;
const SHARES = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1]; // ends of the axis, as shares of the draws
const CENTRAL = { "dominant-baseline": "central" };

export function samplingBars() {
  let numbers = null;

  function draw(width, height) {
    if (!numbers) return [];
    const { tokens, counts, kept, draws, filtered_probabilities: expected, probabilities } = numbers;
    const [left, right, top, bottom] = [72, width - 84, 20, height - 44];
    const longest = Math.max(...counts.map((count) => count / draws), ...expected.map(Number));
    const share = SHARES.find((end) => longest <= end) ?? 1;
    const x = linear(0, share * draws, left, right);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => part * share * draws).filter(Number.isInteger);

    const row = (token, index) => {
      const middle = top + ROW * (index + 0.5);
      const mark = x(Number(expected[index]) * draws);
      const isKept = kept[index];
      const said = isKept ? percent(expected[index], 2) : "filtered";
      return [
        text(left - 10, middle, token, { class: isKept ? "label" : "label out", "text-anchor": "end", ...CENTRAL }),
        !isKept && ghost(x(Number(probabilities[index]) * draws) - left, middle),
        svg("rect", { class: "bar", x: left, y: middle - 10, width: x(counts[index]) - left, height: 20, rx: 3 }),
        isKept && line(mark, middle - 13, mark, middle + 13, "expected"),
        text(Math.max(x(counts[index]), isKept ? mark : 0) + 7, middle, plain(counts[index]), {
          class: "value",
          "data-count": index,
          ...CENTRAL,
        }),
        text(width, middle, said, {
          class: isKept ? "value" : "value out",
          "text-anchor": "end",
          "data-expected": index,
          ...CENTRAL,
        }),
      ];
    };
    const ghost = (length, middle) =>
      svg("rect", { class: "ghost", x: left, y: middle - 10, width: length, height: 20, rx: 3 });
    return [
      text(width, 8, "expected", { class: "axis", "text-anchor": "end" }),
      horizontalAxis({ name: "draws", ticks, format: (tick) => fixed(tick, 0), x, left, right, top, bottom }),
      tokens.map(row),
    ];
  }

  const view = plot({ height: 8 * ROW + 64, label: "Draws of each token, and how many are expected", draw });
  const key = (kind, meaning) => h("span", { class: "key" }, h("i", { class: `swatch ${kind}` }), meaning);
  const legend = h(
    "p",
    { class: "row legend" },
    key("drawn", "drawn"),
    key("expected", "expected"),
    key("ghost", "expected before the filters, of tokens that they cut"),
  );
  const show = (latest) => {
    numbers = latest;
    view.redraw();
  };
  return { element: view.element, legend, show };
}

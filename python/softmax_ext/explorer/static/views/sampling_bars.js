// One bar per token, as long as its count, with a mark where the count is expected to be.

import { horizontalAxis, line, linear, plot, text } from "../charts.js";
import { h, svg } from "../dom.js";
import { fixed, percent, plain } from "../format.js";

const ROW = 32;
const SHARES = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1]; // ends of the axis, as shares of the draws
const CENTRAL = { "dominant-baseline": "central" };

const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎");

export function samplingBars(first) {
  let numbers = first;

  // One row per token, and one for all others of a large vocabulary.
  function rows() {
    const { tokens, counts, kept, probabilities, filtered_probabilities: expected, others } = numbers;
    const list = tokens.map((token, index) => ({
      name: visible(token),
      count: counts[index],
      isKept: kept[index],
      before: Number(probabilities[index]),
      after: Number(expected[index]),
    }));
    if (others.tokens === 0) return list;
    const { counts: count, probabilities: before, filtered_probabilities: after } = others;
    const name = `${others.tokens.toLocaleString("en")} others`;
    return [...list, { name, count, isKept: others.kept > 0, before: Number(before), after: Number(after) }];
  }

  function draw(width, height) {
    const { draws } = numbers;
    const list = rows();
    const [left, right, top, bottom] = [list.length > 8 ? 104 : 72, width - 84, 20, height - 44];
    const longest = Math.max(...list.flatMap(({ count, after }) => [count / draws, after]));
    const share = SHARES.find((end) => longest <= end) ?? 1;
    const x = linear(0, share * draws, left, right);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => part * share * draws).filter(Number.isInteger);

    const row = ({ name, count, isKept, before, after }, index) => {
      const middle = top + ROW * (index + 0.5);
      const mark = x(after * draws);
      const bar = (kind, length) =>
        svg("rect", { class: kind, x: left, y: middle - 10, width: Math.min(length, right - left), height: 20, rx: 3 });
      return [
        text(left - 10, middle, name, { class: isKept ? "label" : "label out", "text-anchor": "end", ...CENTRAL }),
        !isKept && bar("ghost", x(before * draws) - left),
        bar("bar", x(count) - left),
        isKept && line(mark, middle - 13, mark, middle + 13, "expected"),
        text(Math.max(x(count), isKept ? mark : 0) + 7, middle, plain(count), {
          class: "value",
          "data-count": index,
          ...CENTRAL,
        }),
        text(width, middle, isKept ? percent(after, 2) : "filtered", {
          class: isKept ? "value" : "value out",
          "text-anchor": "end",
          "data-expected": index,
          ...CENTRAL,
        }),
      ];
    };
    return [
      text(width, 8, "expected", { class: "axis", "text-anchor": "end" }),
      horizontalAxis({ name: "draws", ticks, format: (tick) => fixed(tick, 0), x, left, right, top, bottom }),
      list.map(row),
    ];
  }

  const view = plot({
    height: rows().length * ROW + 64,
    label: "Draws of each token, and how many are expected",
    draw,
  });
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

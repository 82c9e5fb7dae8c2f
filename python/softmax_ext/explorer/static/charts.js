// Plots as inline SVG, drawn in the pixels that there are: text keeps its size at every width.

import { svg } from "./dom.js";
import { percent, plain } from "./format.js";

/** An `<svg>` that calls `draw(svg, width, height)` when it gets a size and when `redraw()` is called. */
export function plot({ height, label, draw }) {
  const element = svg("svg", { class: "plot", height, role: "img", "aria-label": label });
  const redraw = () => {
    const width = Math.round(element.clientWidth);
    if (!width) return;
    element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    element.replaceChildren(...draw(width, height).flat(Infinity).filter(Boolean));
  };
  new ResizeObserver(redraw).observe(element);
  return { element, redraw };
}

export const AXIS = 46; // room for the numbers of a vertical axis
export const TOP = 40; // and above it for its name

export const text = (x, y, content, properties = {}) => svg("text", { x, y, ...properties }, content);
export const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });

export const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
export const logarithmic = (low, high, from, to) => {
  const scale = linear(Math.log10(low), Math.log10(high), from, to);
  return (value) => scale(Math.log10(value));
};

export function verticalAxis({ name, ticks, format, y, left, right, top }) {
  return [
    ticks.map((tick) => [
      line(left, y(tick), right, y(tick), "grid"),
      text(left - 6, y(tick), format(tick), { class: "tick", "text-anchor": "end", "dominant-baseline": "central" }),
    ]),
    text(0, top - TOP + 12, name, { class: "axis" }),
  ];
}

export function horizontalAxis({ name, ticks, format, x, left, right, top, bottom }) {
  return [
    ticks.map((tick) => [
      line(x(tick), top, x(tick), bottom, "grid"),
      text(x(tick), bottom + 18, format(tick), { class: "tick", "text-anchor": "middle" }),
    ]),
    text((left + right) / 2, bottom + 36, name, { class: "axis", "text-anchor": "middle" }),
  ];
}

/** Bars from 0 to 100 %; `names` is false where something else stands below the bars. */
export function probabilityBars({ width, height, labels, probabilities, argmax, names = true }) {
  const [left, right, top, bottom] = [AXIS, width, TOP, height - (names ? 40 : 6)];
  const y = linear(0, 1, bottom, top);
  const slot = (right - left) / labels.length;
  const breadth = Math.min(72, slot * 0.66);
  return [
    verticalAxis({
      name: "probability",
      ticks: [0, 0.25, 0.5, 0.75, 1],
      format: (tick) => `${100 * tick} %`,
      y,
      left,
      right,
      top,
    }),
    probabilities.map((value, index) => {
      const middle = left + slot * (index + 0.5);
      const number = Number(value);
      const kind = index === argmax ? "bar top-bar" : "bar";
      const finite = Number.isFinite(number);
      return [
        finite &&
          svg("rect", {
            class: kind,
            x: middle - breadth / 2,
            y: y(number),
            width: breadth,
            height: bottom - y(number),
            rx: 3,
          }),
        text(middle, (finite ? y(number) : bottom) - 6, percent(value, 1), {
          class: index === argmax ? "value strong" : "value",
          "text-anchor": "middle",
          "data-probability": index,
        }),
        names && text(middle, bottom + 16, labels[index], { class: "label", "text-anchor": "middle" }),
      ];
    }),
    names && text((left + right) / 2, bottom + 36, "class", { class: "axis", "text-anchor": "middle" }),
  ];
}

export function curve(xs, ys, x, y, kind) {
  const points = xs.map((value, index) => `${x(value).toFixed(2)},${y(ys[index]).toFixed(2)}`);
  return svg("polyline", { points: points.join(" "), class: kind });
}

export const decades = (low, high) => {
  const ticks = [];
  for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++)
    ticks.push(Number(`1e${power}`));
  return ticks;
};

export const asNumber = (tick) => plain(tick);

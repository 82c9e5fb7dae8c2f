// For every dtype and both formulas, the offsets at which probabilities are right, off, or NaN.

import { horizontalAxis, line, linear, plot, text } from "../charts.js";
import { svg } from "../dom.js";
import { plain } from "../format.js";

const CENTRAL = { "dominant-baseline": "central" };

export function stabilityMap() {
  let map = null;
  let place = null;

  function draw(width, height) {
    if (!map || !place) return [];
    const [left, right, top, bottom] = [72, width - 12, 10, height - 42];
    const x = linear(-map.max_offset, map.max_offset, left, right);
    const slot = (bottom - top) / map.dtypes.length;
    const thickness = Math.min(20, slot * 0.32);
    const step = width < 500 ? 500 : 250;
    const ticks = Array.from({ length: (2 * map.max_offset) / step + 1 }, (_, index) => index * step - map.max_offset);

    const strip = (name, spans, y) => [
      spans.map(({ from, to, status }) => {
        const extent = { x: x(from), width: Math.max(1, x(to) - x(from)), y, height: thickness };
        return svg("rect", { ...extent, class: `span ${status}` });
      }),
      text(left + 5, y + thickness / 2, name, { class: "span-name", ...CENTRAL }),
    ];
    return [
      svg("defs", {}, hatching()),
      horizontalAxis({ name: "offset", ticks, format: plain, x, left, right, top, bottom }),
      map.dtypes.map(({ dtype, naive, stable }, index) => {
        const middle = top + slot * (index + 0.5);
        const kind = dtype === place.dtype ? "label strong" : "label";
        return [
          text(left - 8, middle, dtype, { class: kind, "text-anchor": "end", ...CENTRAL }),
          strip("as written", naive, middle - thickness - 1),
          strip("softmax_ext", stable, middle + 1),
        ];
      }),
      line(x(place.offset), top - 6, x(place.offset), bottom, "marker strong"),
    ];
  }

  const { element, redraw } = plot({ height: 300, label: "Where each dtype breaks, for both formulas", draw });
  return {
    element,
    setMap: (latest) => {
      map = latest;
      redraw();
    },
    setPlace: (offset, dtype) => {
      place = { offset, dtype };
      redraw();
    },
  };
}

function hatching() {
  const turned = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return svg(
    "pattern",
    { id: "hatch", width: 6, height: 6, ...turned },
    svg("rect", { width: 6, height: 6, class: "hatch-ground" }),
    svg("rect", { width: 3, height: 6, class: "hatch-line" }),
  );
}

// Numbers as text. NaN and infinities arrive as strings, since JSON has no word for them.

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const withMinus = (text) => text.replace("-", "−");

export function fixed(value, digits) {
  const number = Number(value);
  if (Number.isNaN(number)) return "NaN";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  const text = number.toFixed(digits);
  return withMinus(Number(text) === 0 ? text.replace("-", "") : text);
}

export function percent(value, digits) {
  const text = fixed(100 * Number(value), digits);
  return text === "NaN" ? text : `${text} %`;
}

/** With `digits` significant ones, and a power of ten where zeros would hide them. */
export function significant(value, digits = 4) {
  const number = Number(value);
  if (!Number.isFinite(number) || number === 0) return fixed(number, 0);
  const exponent = Math.floor(Math.log10(Math.abs(number)));
  if (exponent >= -3 && exponent < 6) return fixed(number, Math.max(0, digits - 1 - exponent));
  const [mantissa, power] = number.toExponential(digits - 1).split("e");
  const raised = [...power.replace("+", "")].map((digit) => SUPERSCRIPTS[digit]).join("");
  return `${withMinus(mantissa)}·10${raised}`;
}

export const plain = (value) => withMinus(String(value));

// Draws from a distribution over tokens, beside what one expects of it, under temperature and filters.

import { code, slider, statistic } from "../controls.js";
import { h } from "../dom.js";
import { fixed, plain } from "../format.js";
import { samplingBars } from "./sampling_bars.js";

const MAX_SEED = 2 ** 31 - 1;
// What the buttons set; whatever they do not name goes back to its default.
const PRESETS = [
  ["T = 0.3", { temperature: 0.3 }],
  ["T = 1", {}],
  ["T = 2", { temperature: 2 }],
  ["T = 2, top-k 3", { temperature: 2, top_k: 3 }],
  ["T = 2, top-p 0.9", { temperature: 2, top_p: 0.9 }],
  ["T = 2, min-p 0.2", { temperature: 2, min_p: 0.2 }],
];
const DEFAULTS = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 };

export const sampling = {
  title: "Sampling",
  lead: "A language model draws its next token. A low temperature repeats the likely ones, a high one wanders; filters cut off the tail and share its probability among the rest.",
  build,
};

function build({ numbers: first, settings, changed, follow }) {
  const bars = samplingBars(first);

  // Another source has its own bounds: it is another page.
  const sourceLink = ([name, { source }]) => {
    const here = name === first.data ? "page" : null;
    return h(
      "a",
      { class: "button", href: name === "words" ? "/sampling" : `/sampling?data=${name}`, "aria-current": here },
      source,
    );
  };
  const entries = Object.entries(first.sources);
  const sources = h(
    "nav",
    { class: "sources", "aria-label": "Logits", hidden: entries.length < 2 },
    entries.map(sourceLink),
  );
  const prompt = first.sources[first.data].prompt;

  const control = (label, name, low, high, step, more = {}) =>
    slider({ label, name, value: first[name], low, high, step, changed: follow(name), ...more });
  const controls = {
    temperature: control("Temperature T", "temperature", 0.01, 100, 0.005, { logarithmic: true }),
    top_k: control("top-k", "top_k", 0, Math.min(first.vocabulary, 200), 1, {
      whole: true,
      hint: "keep the k most probable; 0 is off",
    }),
    top_p: control("top-p", "top_p", 0, 1, 0.01, { hint: "keep the most probable up to this sum; 1 is off" }),
    min_p: control("min-p", "min_p", 0, 1, 0.01, { hint: "keep from this share of the largest on; 0 is off" }),
  };
  const draws = control("Draws", "draws", 1, 10000, 0.01, { logarithmic: true, whole: true });

  const seed = h("input", {
    type: "number",
    name: "seed",
    min: 0,
    max: MAX_SEED,
    step: 1,
    value: first.seed,
    input: (event) => {
      if (seed.value !== "" && seed.checkValidity()) follow("seed")(Number(seed.value), event);
    },
  });
  const again = h(
    "button",
    {
      type: "button",
      click: (event) => {
        seed.value = (Number(seed.value) + 1) % MAX_SEED;
        follow("seed")(Number(seed.value), event);
      },
    },
    "Draw again",
  );

  const preset = ([name, values]) => {
    const choose = (event) => {
      for (const [setting, value] of Object.entries({ ...DEFAULTS, ...values })) {
        controls[setting].set(value);
        settings.set(setting, value === DEFAULTS[setting] ? null : value);
      }
      changed(event);
    };
    return h("button", { type: "button", class: "small", click: choose }, name);
  };

  const distinct = statistic("distinct tokens drawn", "distinct");
  const kept = statistic("tokens kept", "kept");
  const entropy = statistic("entropy after filters", "entropy");
  const python = code("python");

  const show = (latest) => {
    bars.show(latest);
    distinct.output.replaceChildren(plain(latest.distinct), h("small", {}, ` in ${latest.draws} draws`));
    kept.output.replaceChildren(
      latest.kept_tokens.toLocaleString("en"),
      h("small", {}, ` of ${latest.vocabulary.toLocaleString("en")}`),
    );
    entropy.output.replaceChildren(fixed(latest.entropy, 3), h("small", {}, " bits"));
    const options = Object.keys(DEFAULTS).filter((name) => latest[name] !== DEFAULTS[name]);
    const call = [
      ...options.map((name) => `${name}=${latest[name]}`),
      `num_samples=${latest.draws}`,
      `seed=${latest.seed}`,
    ];
    python.pre.textContent = [
      latest.data === "words"
        ? `logits = torch.tensor([${latest.logits.join(", ")}], dtype=torch.float64)`
        : `logits = model(prompt)  # [${latest.vocabulary}]`,
      `tokens, log_probs = softmax_ext.sample(logits, ${call.join(", ")})`,
    ].join("\n");
  };

  return {
    show,
    elements: [
      sources,
      h("div", { class: "row", role: "group", "aria-label": "Settings to try" }, PRESETS.map(preset)),
      h(
        "div",
        { class: "layout" },
        h(
          "div",
          { class: "side" },
          h(
            "section",
            { class: "card" },
            h("h2", {}, prompt ? `What follows “${prompt}”` : "Draws of each token"),
            bars.element,
            bars.legend,
          ),
          h(
            "section",
            { class: "card statistics wide", "aria-label": "Results" },
            distinct.element,
            kept.element,
            entropy.element,
          ),
        ),
        h(
          "section",
          { class: "card stack", "aria-label": "Settings" },
          Object.values(controls).map(({ element }) => element),
          draws.element,
          h("div", { class: "row" }, h("label", { class: "row" }, "Seed", seed), again),
        ),
      ),
      python.element,
    ],
  };
}

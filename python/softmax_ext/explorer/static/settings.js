// What a view shows, as the query of its address: names with a value each, and `class`, which may come many times.

export class Settings {
  constructor(query) {
    this.values = new Map();
    for (const [name, value] of new URLSearchParams(query)) {
      if (name === "class") this.values.set(name, [...(this.values.get(name) ?? []), value]);
      else this.values.set(name, value);
    }
  }

  set(name, value) {
    if (value === null) this.values.delete(name);
    else this.values.set(name, value);
  }

  setClasses(classes) {
    this.values.set(
      "class",
      classes.map(({ label, logit }) => `${label}:${logit}`),
    );
  }

  /** The query string, without the settings named. */
  query(...without) {
    const encode = (text) => encodeURIComponent(text).replaceAll("%3A", ":").replaceAll("%20", "+");
    const kept = [...this.values].filter(([name]) => !without.includes(name));
    const pairs = kept.flatMap(([name, value]) => [value].flat().map((item) => `${name}=${encode(item)}`));
    return pairs.length ? `?${pairs.join("&")}` : "";
  }
}

export const classesOf = ({ labels, logits }) => labels.map((label, index) => ({ label, logit: logits[index] }));

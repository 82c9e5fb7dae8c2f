// Chooses the view of the address, gets its numbers, and keeps the address in step with its controls.

import { h } from "./dom.js";
import { Live, numbersAt } from "./live.js";
import { Settings } from "./settings.js";
import { calibration } from "./views/calibration.js";
import { explorer } from "./views/explorer.js";
import { sampling } from "./views/sampling.js";
import { stability } from "./views/stability.js";
import { temperature } from "./views/temperature.js";

const VIEWS = { explorer, temperature, stability, sampling, calibration };
const URL_DELAY = 200; // browsers refuse an address that changes at every step of a drag

const tabs = document.getElementById("tabs");
const main = document.getElementById("view");
const errorLine = document.getElementById("error");
const queries = {}; // where each view was left, for the way back to it
let live = null;

function fail(message) {
  errorLine.hidden = message === null;
  errorLine.textContent = message ?? "";
}

async function open(name, query) {
  live?.stop();
  const view = VIEWS[name];
  const settings = new Settings(query);
  document.title = `${view.title} · the softmax explorer`;
  for (const tab of tabs.children) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }

  // How long a control took to have its effect is in the browser's performance timeline, under "update".
  const draw = (numbers, since) => {
    shown?.show(numbers);
    performance.measure("update", { start: since, end: performance.now() });
  };
  let urlTimer = null;
  const remember = () => {
    queries[name] = settings.query();
    clearTimeout(urlTimer);
    urlTimer = setTimeout(() => {
      if (live === own) history.replaceState(null, "", `/${name}${settings.query()}`);
    }, URL_DELAY);
  };
  const own = new Live(() => `/api/${name}${settings.query()}`, draw, fail);
  live = own;
  const changed = (event) => {
    remember();
    own.request(event.timeStamp);
  };
  const follow = (setting) => (value, event) => {
    settings.set(setting, value);
    changed(event);
  };

  // The first answer has the defaults of what the address does not say.
  let shown = null;
  try {
    const numbers = await numbersAt(own.address());
    if (live !== own) return;
    fail(null);
    shown = view.build({ numbers, settings, changed, follow, fail });
    main.replaceChildren(
      h("div", { class: "heading" }, h("h1", {}, view.title), h("p", {}, view.lead)),
      ...shown.elements,
    );
    shown.show(numbers);
  } catch (error) {
    if (live !== own) return;
    const reset = h("a", { href: `/${name}`, class: "button" }, "Back to the default settings");
    main.replaceChildren(h("div", { class: "heading" }, h("h1", {}, view.title), h("p", {}, reset)));
    fail(error.message);
  }
}

function go(address) {
  history.pushState(null, "", address);
  openAddress();
  scrollTo(0, 0);
}

function openAddress() {
  const name = location.pathname.slice(1) || "explorer";
  open(name in VIEWS ? name : "explorer", location.search);
}

for (const [name, view] of Object.entries(VIEWS)) {
  tabs.append(h("a", { href: `/${name}`, "data-view": name }, view.title));
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='/']");
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const name = link.dataset.view;
  go(name && queries[name] !== undefined ? `/${name}${queries[name]}` : link.getAttribute("href"));
});
addEventListener("popstate", openAddress);
openAddress();

// What the page does more where scripts run; everything works without. No text ever becomes markup here: what the server wrote is
// fetched as a document (in which nothing runs) and its elements are moved over.
"use strict";

// Changes elsewhere: elements with an id and data-live="ledger live runs" are fetched again when one of their topics changes.
const said = document.getElementById("said");
let waiting = new Set();
let fetching = false;

function concerned() {
  return [...document.querySelectorAll("[data-live][id]")];
}

function wants(element, topics) {
  return element.dataset.live.split(" ").some((topic) => topics.has(topic));
}

function isBusy(element) {
  const active = document.activeElement;
  return element.contains(active) && active.matches("input, textarea, select");
}

function refresh() {
  const topics = waiting;
  const targets = concerned().filter((element) => wants(element, topics) && !isBusy(element));
  waiting = new Set();
  if (!targets.length || fetching) return;
  fetching = true;
  const request = new XMLHttpRequest();
  request.open("GET", location.href);
  request.responseType = "document";
  request.onloadend = () => {
    fetching = false;
    const fresh = request.status === 200 ? request.responseXML : null;
    if (!fresh || request.responseURL.includes("/sign-in")) return;
    for (const element of targets) {
      const next = fresh.getElementById(element.id);
      if (next && next.textContent !== element.textContent) exchange(element, document.adoptNode(next));
    }
    if (said) said.textContent = "Updated " + new Date().toLocaleTimeString();
    if (waiting.size) refresh();
  };
  request.send();
}

function exchange(before, after) {
  const open = [...before.querySelectorAll("details")].map((one) => one.open);
  const links = [...before.querySelectorAll("a, button, summary")];
  const place = links.indexOf(document.activeElement);
  [...after.querySelectorAll("details")].forEach((one, index) => { one.open = open[index] ?? one.open; });
  after.classList.add("is-new");
  before.replaceWith(after);
  if (place >= 0) after.querySelectorAll("a, button, summary")[place]?.focus();
  copying(after);
}

if (concerned().length) {
  const source = new EventSource("/events");
  source.addEventListener("hello", () => { document.documentElement.dataset.stream = "open"; });
  source.addEventListener("change", (event) => {
    for (const topic of JSON.parse(event.data).topics) waiting.add(topic);
    if (!document.hidden) refresh();
  });
  source.addEventListener("over", () => source.close());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && waiting.size) refresh(); });
  window.addEventListener("pagehide", () => source.close());
}

// Commands get a button that copies them.
function copying(root) {
  if (!navigator.clipboard) return;
  for (const box of root.querySelectorAll(".command")) {
    if (box.querySelector("button")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet small";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
}
copying(document);

// A link to sign in with carries its code behind the #, which no server and no log gets to see.
const field = document.getElementById("code");
if (field && location.hash.startsWith("#code=")) {
  field.value = decodeURIComponent(location.hash.slice(6));
  history.replaceState(null, "", location.pathname + location.search);
  field.form.querySelector("button").focus();
}

// On a phone the links are a strip: the page that is shown is in sight. By the strip's own scrolling: scrollIntoView would let the first Tab
// begin behind the link.
const current = document.querySelector(".bar nav [aria-current]");
if (current) {
  const strip = current.closest("nav");
  strip.scrollLeft += current.getBoundingClientRect().x - strip.getBoundingClientRect().x - (strip.clientWidth - current.offsetWidth) / 2;
}

// A form is sent once.
document.addEventListener("submit", (event) => {
  if (event.target.method === "post") for (const button of event.target.querySelectorAll("button")) setTimeout(() => { button.disabled = true; });
});
window.addEventListener("pageshow", () => { for (const button of document.querySelectorAll("form button")) button.disabled = false; });

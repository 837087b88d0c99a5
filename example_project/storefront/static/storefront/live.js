// Asks the API every few seconds and shows the browser's flags beside those of the page. An answer
// that has not changed is a 304 without a body. The page works without this file.

const SECONDS = 5;
const byId = (id) => document.getElementById(id);
const shown = (value) => (typeof value === "string" ? value : value ? "on" : "off");

let etag = null;

async function ask() {
  const headers = etag ? { "If-None-Match": etag } : {};
  const response = await fetch("/api/features/", { headers, cache: "no-store" });
  if (response.status === 200) {
    etag = response.headers.get("ETag");
    show(await response.json());
  } else if (response.status !== 304) {
    throw new Error(`the API answered ${response.status}`);
  }
  return response.status;
}

function show({ features, source, distinct_id: person }) {
  let agree = person === byId("distinct-id").textContent;
  for (const row of document.querySelectorAll("tr[data-flag]")) {
    const { flag, value } = row.dataset;
    const got = flag in features ? shown(features[flag]) : undefined;
    // Some flags are for servers only and some for browsers only: those have nothing to agree with.
    const differs = Boolean(got && value && got !== value);
    agree &&= !differs;
    fill(row.querySelector(".live"), got, differs);
  }
  for (const flag of Object.keys(features)) {
    if (!document.querySelector(`tr[data-flag="${CSS.escape(flag)}"]`)) {
      byId("rows").append(browserRow(flag, shown(features[flag])));
    }
  }
  byId("outage").hidden = source !== "fallback";
  for (const element of document.querySelectorAll(".live")) element.hidden = false;
  say(agree ? "The page and the browser agree." : "The flags changed since this page was made: reload it.");
}

function fill(cell, value, differs) {
  const badge = document.createElement("span");
  badge.textContent = value ?? "—";
  badge.className = value ? "value" : "hint";
  badge.classList.toggle("off", value === "off");
  badge.classList.toggle("differs", differs);
  cell.replaceChildren(badge);
}

function browserRow(flag, value) {
  const row = document.createElement("tr");
  Object.assign(row.dataset, { flag, value: "" });
  row.innerHTML =
    '<th scope="row"><code></code> <span class="hint">browser only</span></th>' +
    '<td><span class="hint">—</span></td><td class="live"></td><td></td>';
  row.querySelector("code").textContent = flag;
  fill(row.querySelector(".live"), value, false);
  return row;
}

function say(verdict) {
  // Said aloud by a screen reader, so only when it is new.
  if (byId("verdict").textContent !== verdict) byId("verdict").textContent = verdict;
}

async function keepAsking() {
  try {
    if (!document.hidden) {
      const status = await ask();
      byId("last-answer").textContent = `Last asked at ${new Date().toLocaleTimeString()}: ${status}.`;
    }
  } catch (error) {
    byId("verdict").parentElement.hidden = false;
    etag = null; // the next good answer is shown in full
    say(`No answer from the API: ${error.message}.`);
  }
  setTimeout(keepAsking, SECONDS * 1000);
}

keepAsking();

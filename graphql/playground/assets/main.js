import { query, subscribe } from "./client.js";
import { Docs, introspection } from "./docs.js";
import { Editor } from "./editor.js";
import { examples } from "./examples.js";
import { Schema, format, operations } from "./language.js";
import { Stream, indent, jsonView } from "./result.js";

const $ = (id) => document.getElementById(id);
const store = {
  get: (key, otherwise) => {
    try {
      return JSON.parse(localStorage.getItem("shiplog." + key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set: (key, value) => {
    try {
      localStorage.setItem("shiplog." + key, JSON.stringify(value));
    } catch {
      // Private windows may keep nothing; the page works without.
    }
  },
};

const editor = new Editor($("editor"), {
  onRun: () => run(),
  onFormat: () => (editor.text = format(editor.text)),
  onChange: () => {
    store.set("query", editor.text);
    hint();
  },
});
const docs = new Docs($("docs"));
let stop = null; // ends what runs
let head = 0;

function parse(id, what) {
  const text = $(id).value.trim();
  try {
    const value = text ? JSON.parse(text) : {};
    $(id).classList.remove("bad");
    return value;
  } catch (e) {
    $(id).classList.add("bad");
    throw new Error(`The ${what} are no JSON: ${e.message}`);
  }
}

function status(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", failed);
}

// operation is the one that the cursor is in, or else the first.
function operation() {
  const all = operations(editor.text);
  const at = editor.input.selectionStart;
  return all.find((o) => at >= o.at && at <= o.end) ?? all[0];
}

function running(on) {
  $("run").textContent = on ? "Stop" : "Run";
  $("run").classList.toggle("running", on);
}

async function run() {
  if (stop) {
    stop();
    return;
  }
  const op = operation();
  let variables, headers;
  try {
    variables = parse("variables", "variables");
    headers = parse("headers", "headers");
  } catch (e) {
    status(e.message, true);
    return;
  }
  if (!op) {
    status("There is no query to run.", true);
    return;
  }
  const moment = $("moment").value.trim();
  if (op.variables.includes("asOf") && moment && moment !== "now") variables.asOf = moment;
  remember();
  if (op.kind === "subscription") follow(op, variables, headers);
  else await ask(op, variables, headers);
}

async function ask(op, variables, headers) {
  const abort = new AbortController();
  stop = () => abort.abort();
  running(true);
  status("…");
  const began = performance.now();
  try {
    const { answer, text, size } = await query(editor.text, variables, op.name ?? undefined, headers, abort.signal);
    const took = Math.round(performance.now() - began);
    $("result").replaceChildren(jsonView(indent(text)));
    const errors = answer.errors?.length ? `${answer.errors.length} error${answer.errors.length > 1 ? "s" : ""}, ` : "";
    status(`${errors}${took} ms, ${size.toLocaleString()} bytes`, !!errors);
  } catch (e) {
    status(e.name === "AbortError" ? "Stopped." : `The server did not answer: ${e.message}`, true);
  } finally {
    stop = null;
    running(false);
    lookAtHead();
  }
}

function follow(op, variables, headers) {
  $("result").replaceChildren();
  const stream = new Stream($("result"));
  const told = (end) => `${stream.count.toLocaleString()} received${end}`;
  running(true);
  status("Following…");
  const over = () => {
    stop = null;
    running(false);
  };
  stop = subscribe(editor.text, variables, op.name ?? undefined, headers, {
    next: (answer) => {
      stream.add(answer);
      status(told(", following…"));
    },
    error: (text) => {
      over();
      status(told(`; ${text}`), true);
    },
    done: () => {
      over();
      status(told(", ended"));
    },
  });
}

// History and links.

function remember() {
  const entry = { query: editor.text, variables: $("variables").value, at: Date.now() };
  const list = store.get("history", []).filter((h) => h.query !== entry.query);
  list.unshift(entry);
  store.set("history", list.slice(0, 30));
  showHistory();
}

function showHistory() {
  $("history").replaceChildren(new Option("History…", ""));
  store.get("history", []).forEach((h, i) => {
    const name = operations(h.query)[0]?.name;
    $("history").append(new Option(`${new Date(h.at).toLocaleTimeString()}  ${name ?? h.query.replace(/\s+/g, " ").slice(0, 50)}`, i));
  });
}

function load(text, variables) {
  editor.text = text;
  $("variables").value = variables ?? "";
  store.set("variables", $("variables").value);
}

// The moment: text, slider and the queries that declare $asOf.

async function lookAtHead() {
  try {
    const { answer } = await query("{ head { position time } }", {}, undefined, parse("headers", "headers"));
    head = Number(answer.data?.head?.position ?? 0);
    $("slider").max = Math.max(head, 1);
    if (!past()) $("slider").value = $("slider").max;
    showPosition();
  } catch {
    $("position").textContent = "no answer";
  }
}

const past = () => {
  const m = $("moment").value.trim();
  return m !== "" && m !== "now";
};

function showPosition() {
  const m = $("moment").value.trim();
  $("position").textContent = past() ? `${m} of ${head}` : `now, ${head}`;
  document.body.classList.toggle("past", past());
}

function hint() {
  const op = operation();
  $("hint").textContent = past() && op && !op.variables.includes("asOf") ? "this query does not declare $asOf" : "";
}

let waiting = 0;
function moved(rerun) {
  if (/^\d+$/.test($("moment").value)) $("slider").value = $("moment").value;
  if (!past()) $("slider").value = $("slider").max;
  showPosition();
  hint();
  clearTimeout(waiting);
  if (rerun && operation()?.kind === "query" && operation().variables.includes("asOf")) waiting = setTimeout(() => stop || run(), 120);
}

$("slider").addEventListener("input", () => {
  $("moment").value = Number($("slider").value) >= head ? "" : $("slider").value;
  moved(true);
});
$("moment").addEventListener("change", () => moved(true));
$("now").addEventListener("click", () => {
  $("moment").value = "";
  lookAtHead();
  moved(true);
});
$("run").addEventListener("click", run);
$("format").addEventListener("click", () => (editor.text = format(editor.text)));
$("share").addEventListener("click", async () => {
  location.hash = new URLSearchParams({ query: editor.text, variables: $("variables").value, asOf: $("moment").value }).toString();
  try {
    await navigator.clipboard.writeText(location.href);
    status("The link is in the clipboard.");
  } catch {
    status("The link is in the address bar.");
  }
});
$("docs-toggle").addEventListener("click", () => {
  const hidden = document.querySelector("main").classList.toggle("nodocs");
  $("docs-toggle").setAttribute("aria-expanded", String(!hidden));
  store.set("nodocs", hidden);
});
for (const tab of document.querySelectorAll("#tabs button")) {
  tab.addEventListener("click", () => {
    for (const other of document.querySelectorAll("#tabs button")) {
      other.setAttribute("aria-selected", String(other === tab));
      $(other.dataset.pane).hidden = other !== tab;
    }
  });
}
$("variables").addEventListener("input", () => store.set("variables", $("variables").value));
examples.forEach(([name], i) => $("examples").append(new Option(name, i)));
$("examples").addEventListener("change", (e) => {
  if (e.target.value !== "") load(examples[e.target.value][1], examples[e.target.value][2]);
  e.target.value = "";
});
$("history").addEventListener("change", (e) => {
  const h = store.get("history", [])[e.target.value];
  if (h) load(h.query, h.variables);
  e.target.value = "";
});
addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && e.target !== editor.input) {
    e.preventDefault();
    run();
  }
});

const link = new URLSearchParams(location.hash.slice(1));
load(link.get("query") || store.get("query", "") || examples[1][1], link.get("variables") ?? store.get("variables", ""));
$("moment").value = link.get("asOf") ?? "";
if (store.get("nodocs", innerWidth < 1100)) $("docs-toggle").click();
showHistory();
await lookAtHead();
moved(false);
try {
  const { answer } = await query(introspection, {}, undefined, parse("headers", "headers"));
  editor.schema = new Schema(answer.data.__schema);
  docs.show(editor.schema);
} catch (e) {
  status(`The schema could not be read: ${e.message}`, true);
}

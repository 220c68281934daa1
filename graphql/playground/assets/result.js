// Answers, as text that one can read.

const words = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

// jsonView shows a value; numbers are shown as the text has them, so that none is rounded.
export function jsonView(text) {
  const pre = document.createElement("pre");
  let at = 0;
  for (const m of text.matchAll(words)) {
    pre.append(text.slice(at, m.index));
    at = m.index + m[0].length;
    const span = document.createElement("span");
    if (m[2] !== undefined) {
      span.className = "key";
      span.textContent = m[1];
      pre.append(span, m[2]);
      continue;
    }
    span.className = m[1] !== undefined ? "string" : /[-\d]/.test(m[0][0]) ? "number" : "word";
    span.textContent = m[0];
    pre.append(span);
  }
  pre.append(text.slice(at));
  return pre;
}

export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

// indent lays out the text of an answer without reading its numbers.
export function indent(text) {
  let out = "";
  let depth = 0;
  const line = () => (out += "\n" + "  ".repeat(depth));
  for (const [t] of text.matchAll(/"(?:\\.|[^"\\])*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (t === "{" || t === "[") {
      out += t;
      depth++;
      line();
    } else if (t === "}" || t === "]") {
      depth--;
      if (/[{[]\s*$/.test(out)) out = out.trimEnd();
      else line();
      out += t;
    } else if (t === ",") {
      out += t;
      line();
    } else out += t === ":" ? ": " : t;
  }
  return out;
}

// Stream shows the answers of a subscription, the newest first, and keeps the last ones.
export class Stream {
  constructor(host, keep = 500) {
    this.host = host;
    this.keep = keep;
    this.count = 0;
  }
  add(answer) {
    this.count++;
    const details = document.createElement("details");
    details.className = "event";
    details.open = this.count <= 3 || !!answer.errors;
    const summary = document.createElement("summary");
    const payload = answer.errors ?? Object.values(answer.data ?? {})[0] ?? {};
    const brief = answer.errors ? answer.errors.map((e) => e.message).join("; ") : this.brief(payload);
    summary.append(brief);
    if (answer.errors) summary.className = "bad";
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(jsonView(pretty(payload)));
    });
    if (details.open) details.append(jsonView(pretty(payload)));
    this.host.prepend(details);
    while (this.host.childElementCount > this.keep) this.host.lastElementChild.remove();
  }
  brief(p) {
    const parts = [p.position, p.type, p.ref?.id ?? p.object?.id ?? p.object?.name, p.event?.type].filter((x) => x !== undefined && x !== null);
    return parts.length ? parts.join("  ") : JSON.stringify(p).slice(0, 120);
  }
}

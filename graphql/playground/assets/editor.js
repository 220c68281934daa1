// The query editor: a text area over its highlighted text, with completion from the schema.
import { context, highlight, named, tokens, written } from "./language.js";

export class Editor {
  constructor(host, { onRun, onFormat, onChange }) {
    this.on = { onRun, onFormat, onChange };
    this.schema = null;
    this.stack = document.createElement("div");
    this.stack.className = "stack";
    this.view = document.createElement("pre");
    this.view.setAttribute("aria-hidden", "true");
    this.input = document.createElement("textarea");
    this.input.spellcheck = false;
    this.input.autocapitalize = "off";
    this.input.setAttribute("aria-label", "Query");
    this.stack.append(this.view, this.input);
    host.append(this.stack);
    this.menu = null;
    this.input.addEventListener("input", () => {
      this.paint();
      this.complete(false);
      onChange();
    });
    this.input.addEventListener("keydown", (e) => this.key(e));
    this.input.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    host.addEventListener("scroll", () => this.close());
  }
  get text() {
    return this.input.value;
  }
  set text(value) {
    this.close();
    this.input.value = value;
    this.paint();
    this.on.onChange();
  }
  paint() {
    highlight(this.input.value, this.view);
  }
  key(e) {
    if (this.menu) {
      const move = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (move) {
        this.choose((this.chosen + move + this.items.length) % this.items.length);
        e.preventDefault();
        return;
      }
      if ((e.key === "Enter" && !e.ctrlKey && !e.metaKey) || e.key === "Tab") {
        this.accept(this.items[this.chosen]);
        e.preventDefault();
        return;
      }
      if (e.key === "Escape") {
        this.close();
        e.preventDefault();
        return;
      }
    }
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      this.close();
      this.on.onRun();
    } else if (e.key === " " && e.ctrlKey) {
      e.preventDefault();
      this.complete(true);
    } else if (e.code === "KeyF" && e.shiftKey && e.altKey) {
      e.preventDefault();
      this.on.onFormat();
    } else if (e.key === "Tab") {
      e.preventDefault();
      this.insert("  ");
    } else if (e.key === "Enter") {
      const before = this.text.slice(0, this.input.selectionStart);
      const indent = /(?:^|\n)([ \t]*)[^\n]*$/.exec(before)[1];
      const open = /[{(]\s*$/.test(before);
      const closes = open && /^\s*[})]/.test(this.text.slice(this.input.selectionEnd));
      e.preventDefault();
      this.insert("\n" + indent + (open ? "  " : "") + (closes ? "\n" + indent : ""), closes ? indent.length + 1 : 0);
    } else if (e.key === "{" || e.key === "(") {
      e.preventDefault();
      this.insert(e.key === "{" ? "{}" : "()", 1);
    }
  }
  // insert goes through the browser's own editing, so that undo works.
  insert(text, back = 0) {
    if (!document.execCommand("insertText", false, text)) this.input.setRangeText(text, this.input.selectionStart, this.input.selectionEnd, "end");
    this.input.selectionStart = this.input.selectionEnd = this.input.selectionEnd - back;
    this.paint();
    this.on.onChange();
  }
  suggestions(before, typed) {
    const c = context(this.schema, before);
    const field = (f) => ({ name: f.name, type: written(f.type), doc: f.description, after: (f.args ?? []).some((a) => a.type.kind === "NON_NULL" && a.defaultValue == null) ? "(" : this.schema.types.get(named(f.type))?.fields ? " {" : "" });
    const type = this.schema.types.get(c.type);
    let all = [];
    switch (c.kind) {
      case "start":
        all = ["query", "subscription", "fragment"].map((name) => ({ name, type: "", after: " " }));
        break;
      case "field":
        all = (type?.fields ?? []).map(field);
        if (type?.possibleTypes) all.push(...type.possibleTypes.map((p) => ({ name: `... on ${p.name}`, type: p.name, after: " {" })));
        break;
      case "spread":
        all = [{ name: "on", type: "", after: " " }];
        break;
      case "arg":
        all = c.fields.map((a) => ({ name: a.name, type: written(a.type), doc: a.description, after: ": " }));
        break;
      case "type":
        all = [...this.schema.types.values()].filter((t) => !t.name.startsWith("__")).map((t) => ({ name: t.name, type: t.kind.toLowerCase(), doc: t.description }));
        break;
      case "value":
        all = (type?.enumValues ?? (c.type === "Boolean" ? [{ name: "true" }, { name: "false" }] : [])).map((v) => ({ name: v.name, type: c.type, doc: v.description }));
        all.push(...[...new Set(tokens(this.text).filter((t) => t.text[0] === "$").map((t) => t.text))].map((name) => ({ name, type: "variable" })));
        break;
      case "directive":
        all = ["include", "skip"].map((name) => ({ name, type: "", after: "(if: " }));
    }
    const want = typed.toLowerCase();
    return all
      .filter((s) => s.name.toLowerCase().includes(want) && s.name !== typed)
      .sort((a, b) => b.name.toLowerCase().startsWith(want) - a.name.toLowerCase().startsWith(want) || (want ? a.name.localeCompare(b.name) : 0))
      .slice(0, 60);
  }
  complete(asked) {
    if (!this.schema || this.input.selectionStart !== this.input.selectionEnd) return this.close();
    const at = this.input.selectionStart;
    const before = this.text.slice(0, at);
    const typed = /[$\w]*$/.exec(before)[0];
    if (!asked && !typed) return this.close();
    if (/#[^\n]*$/.test(before) || (before.match(/(?<!\\)"/g) ?? []).length % 2) return this.close();
    this.items = this.suggestions(before.slice(0, at - typed.length), typed);
    if (!this.items.length) return this.close();
    this.typed = typed;
    this.open(at - typed.length);
  }
  open(at) {
    this.close();
    this.menu = document.createElement("div");
    this.menu.className = "complete";
    for (const s of this.items) {
      const row = document.createElement("div");
      const type = document.createElement("small");
      type.textContent = s.type;
      row.append(s.name, type);
      row.addEventListener("mousedown", (e) => {
        e.preventDefault();
        this.accept(s);
      });
      this.menu.append(row);
    }
    this.doc = document.createElement("p");
    this.menu.append(this.doc);
    const lines = this.text.slice(0, at).split("\n");
    const style = getComputedStyle(this.view);
    const ruler = document.createElement("canvas").getContext("2d");
    ruler.font = style.font;
    const box = this.stack.getBoundingClientRect();
    const lineHeight = parseFloat(style.lineHeight);
    const top = box.top + parseFloat(style.paddingTop) + lines.length * lineHeight;
    document.body.append(this.menu);
    const fits = top + this.menu.offsetHeight < innerHeight;
    this.menu.style.left = `${box.left + parseFloat(style.paddingLeft) + ruler.measureText(lines[lines.length - 1]).width}px`;
    this.menu.style.top = `${fits ? top : top - lineHeight - this.menu.offsetHeight}px`;
    this.choose(0);
  }
  choose(i) {
    this.chosen = i;
    [...this.menu.querySelectorAll("div")].forEach((row, n) => {
      row.classList.toggle("on", n === i);
      if (n === i) row.scrollIntoView({ block: "nearest" });
    });
    this.doc.textContent = this.items[i].doc ?? "";
    this.doc.hidden = !this.items[i].doc;
  }
  accept(s) {
    this.input.selectionStart -= this.typed.length;
    this.close();
    const rest = this.text.slice(this.input.selectionEnd);
    let after = s.after ?? "";
    if (/^\s*[({:]/.test(rest)) after = "";
    if (after === " {") this.insert(s.name + " {  }", 2);
    else if (after === "(") this.insert(s.name + "()", 1);
    else this.insert(s.name + after);
    if (after === "(" || after === " {") this.complete(true);
  }
  close() {
    this.menu?.remove();
    this.menu = null;
  }
}

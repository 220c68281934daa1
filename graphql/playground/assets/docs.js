// The schema, to read and to search.
import { named, written } from "./language.js";

export class Docs {
  constructor(host) {
    this.host = host;
    this.trail = [];
  }
  show(schema) {
    this.schema = schema;
    this.trail = [];
    this.render(null);
  }
  open(type) {
    this.trail.push(type);
    this.render(type);
    this.host.scrollTop = 0;
  }
  link(text, type) {
    const a = document.createElement("a");
    a.textContent = text;
    a.href = "#";
    a.addEventListener("click", (e) => {
      e.preventDefault();
      this.open(type);
    });
    return a;
  }
  // prose is a description, its words between backquotes as code.
  prose(tag, text) {
    const e = document.createElement(tag);
    (text ?? "").split("`").forEach((part, i) => {
      const code = i % 2 ? document.createElement("code") : null;
      if (code) code.textContent = part;
      e.append(code ?? part);
    });
    return e;
  }
  element(tag, ...content) {
    const e = document.createElement(tag);
    e.append(...content);
    return e;
  }
  render(name) {
    this.host.textContent = "";
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Search the schema";
    search.setAttribute("aria-label", "Search the schema");
    const found = document.createElement("div");
    search.addEventListener("input", () => this.find(search.value.trim().toLowerCase(), found, body));
    const body = document.createElement("div");
    this.host.append(search, found, body);
    if (!name) return this.overview(body);
    const nav = document.createElement("nav");
    const home = this.element("a", "Schema");
    home.href = "#";
    home.addEventListener("click", (e) => {
      e.preventDefault();
      this.trail = [];
      this.render(null);
    });
    nav.append(home);
    this.trail.slice(-4).forEach((t) => nav.append(" › ", this.link(t, t)));
    body.append(nav);
    this.type(this.schema.types.get(name), body);
  }
  overview(body) {
    body.append(this.element("h2", "Schema"), this.element("p", "Ctrl+Space completes, Ctrl+Enter runs. Queries that declare $asOf follow the moment above."));
    const list = document.createElement("dl");
    for (const root of [this.schema.roots.query, this.schema.roots.subscription].filter(Boolean)) {
      list.append(this.element("dt", this.link(root, root)), this.prose("dd", this.schema.types.get(root).description));
    }
    const rest = [...this.schema.types.values()].filter((t) => !t.name.startsWith("__") && !Object.values(this.schema.roots).includes(t.name) && !/(Connection|Edge)$/.test(t.name));
    for (const t of rest.sort((a, b) => a.name.localeCompare(b.name))) list.append(this.element("dt", this.link(t.name, t.name)), this.prose("dd", t.description));
    body.append(list);
  }
  type(t, body) {
    body.append(this.element("h2", t.name), this.prose("p", t.description));
    if (t.interfaces?.length) body.append(this.element("p", "Has all fields of ", ...t.interfaces.map((i) => this.link(i.name, i.name))));
    if (t.possibleTypes?.length) {
      const p = this.element("p", "One of ");
      t.possibleTypes.forEach((x, i) => p.append(i ? ", " : "", this.link(x.name, x.name)));
      body.append(p);
    }
    const list = document.createElement("dl");
    for (const f of [...(t.fields ?? []), ...(t.inputFields ?? [])]) this.field(f, list);
    for (const v of t.enumValues ?? []) list.append(this.element("dt", v.name), this.prose("dd", v.description));
    body.append(list);
  }
  field(f, list) {
    const head = this.element("dt", f.name);
    if (f.args?.length) {
      head.append("(");
      f.args.forEach((a, i) => head.append(i ? ", " : "", `${a.name}: `, this.link(written(a.type), named(a.type)), a.defaultValue != null ? ` = ${a.defaultValue}` : ""));
      head.append(")");
    }
    head.append(": ", this.link(written(f.type), named(f.type)));
    list.append(head, this.prose("dd", f.description));
  }
  find(text, found, body) {
    found.textContent = "";
    body.hidden = text !== "";
    if (!text) return;
    const list = document.createElement("dl");
    let n = 0;
    for (const t of this.schema.types.values()) {
      if (t.name.startsWith("__")) continue;
      if (t.name.toLowerCase().includes(text) && n++ < 60) list.append(this.element("dt", this.link(t.name, t.name)), this.prose("dd", t.description));
      for (const f of [...(t.fields ?? []), ...(t.inputFields ?? [])]) {
        if (f.name.toLowerCase().includes(text) && n++ < 60) list.append(this.element("dt", this.link(`${t.name}.${f.name}`, t.name), ": ", this.link(written(f.type), named(f.type))), this.prose("dd", f.description));
      }
    }
    found.append(n ? list : this.element("p", "Nothing is called so."));
  }
}

export const introspection = `{ __schema { queryType { name } mutationType { name } subscriptionType { name } types { kind name description
  fields { name description args { name description defaultValue type { ...T } } type { ...T } }
  inputFields { name description defaultValue type { ...T } } interfaces { name } possibleTypes { name } enumValues { name description } } } }
fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }`;

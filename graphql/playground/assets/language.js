// What the page understands of GraphQL: words, what may stand at the cursor, formatting.

const words = /#[^\n]*|"""[\s\S]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?|\.\.\.|[{}()[\]:!=|&@,]|\$[A-Za-z_]\w*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]\w*/g;

export function tokens(text) {
  return [...text.matchAll(words)].map((m) => ({ text: m[0], at: m.index, end: m.index + m[0].length }));
}

const keywords = new Set(["query", "mutation", "subscription", "fragment", "on", "true", "false", "null"]);

export function highlight(text, into) {
  into.textContent = "";
  let at = 0;
  for (const t of tokens(text)) {
    if (t.at > at) into.append(text.slice(at, t.at));
    at = t.end;
    const c = t.text[0];
    let kind = "key";
    if (c === "#") kind = "comment";
    else if (c === '"') kind = "string";
    else if (c === "$") kind = "var";
    else if (/[-\d]/.test(c)) kind = "number";
    else if (/[^A-Za-z_]/.test(c)) kind = "punct";
    else if (keywords.has(t.text)) kind = "word";
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = t.text;
    into.append(span);
  }
  into.append(text.slice(at), "\n");
}

// operations lists what the text defines: their kind, name, variables, and where they stand.
export function operations(text) {
  const out = [];
  let depth = 0;
  let current = null;
  const list = tokens(text).filter((t) => t.text[0] !== "#");
  list.forEach((t, i) => {
    if (depth === 0 && ["query", "mutation", "subscription", "fragment"].includes(t.text)) {
      const name = /^\w/.test(list[i + 1]?.text ?? "") ? list[i + 1].text : null;
      current = { kind: t.text, name, at: t.at, end: text.length, variables: [] };
      if (t.text !== "fragment") out.push(current);
    } else if (depth === 0 && t.text === "{" && !current) {
      current = { kind: "query", name: null, at: t.at, end: text.length, variables: [] };
      out.push(current);
    }
    if (depth === 0 && t.text[0] === "$" && current) current.variables.push(t.text.slice(1));
    if (t.text === "{") depth++;
    if (t.text === "}" && --depth === 0) {
      if (current) current.end = t.end;
      current = null;
    }
  });
  return out;
}

export class Schema {
  constructor(introspection) {
    this.types = new Map(introspection.types.map((t) => [t.name, t]));
    this.roots = { query: introspection.queryType?.name, mutation: introspection.mutationType?.name, subscription: introspection.subscriptionType?.name };
  }
  field(type, name) {
    return this.types.get(type)?.fields?.find((f) => f.name === name);
  }
}

export const named = (t) => (t?.ofType ? named(t.ofType) : t?.name);
export const written = (t) => (t.kind === "NON_NULL" ? written(t.ofType) + "!" : t.kind === "LIST" ? `[${written(t.ofType)}]` : t.name);

// context says what may stand at the end of a text: fields of a type, arguments, values, types.
export function context(schema, before) {
  const stack = []; // what is open: {in: "fields"|"args"|"object"|"variables"|"list", ...}
  let root = "query";
  let field = null;
  let arg = null;
  let on = null;
  let expectType = false;
  const list = tokens(before).filter((t) => t.text[0] !== "#" && t.text !== ",");
  list.forEach((t, i) => {
    const top = stack[stack.length - 1];
    const previous = list[i - 1]?.text;
    expectType = false;
    switch (t.text) {
      case "{":
        if (!top) stack.push({ in: "fields", type: on ?? schema.roots[root] });
        else if (top.in === "fields") stack.push({ in: "fields", type: on ?? named(field?.type) });
        else stack.push({ in: "object", fields: schema.types.get(named(arg?.type))?.inputFields ?? [] });
        on = null;
        break;
      case "(":
        stack.push(top ? { in: "args", fields: field?.args ?? [], owner: field } : { in: "variables" });
        arg = null;
        break;
      case "[":
        stack.push({ in: "list", arg });
        break;
      case "}":
      case ")":
      case "]":
        stack.pop();
        arg = null;
        if (!stack.length) root = "query";
        break;
      case ":":
        if (top?.in === "variables") expectType = true;
        break;
      case "on":
        if (previous === "..." || !top) expectType = true;
        break;
      default:
        if (!/^\w/.test(t.text)) break;
        if (!top) {
          if (["query", "mutation", "subscription"].includes(t.text)) root = t.text;
          if (previous === "on") on = t.text;
        } else if (top.in === "fields") {
          if (previous === "on") on = t.text;
          else if (previous !== "@" && previous !== "...") field = schema.field(top.type, t.text) ?? (t.text === "__typename" ? null : field);
          if (top.type && previous !== "on") field = schema.field(top.type, t.text) ?? null;
        } else if ((top.in === "args" || top.in === "object") && previous !== ":") {
          arg = top.fields.find((f) => f.name === t.text) ?? null;
        }
    }
  });
  const top = stack[stack.length - 1];
  const last = list[list.length - 1]?.text;
  if (expectType) return { kind: "type" };
  if (!top) return { kind: "start" };
  if (top.in === "fields") return last === "..." ? { kind: "spread" } : last === "@" ? { kind: "directive" } : { kind: "field", type: top.type };
  if (top.in === "variables") return { kind: "none" };
  if (top.in === "list") return { kind: "value", type: named(top.arg?.type) };
  return last === ":" ? { kind: "value", type: named(arg?.type) } : { kind: "arg", fields: top.fields };
}

// format writes a query with one field a line. Comments stay where they are.
export function format(text) {
  const list = tokens(text);
  let out = "";
  let indent = 0;
  let parens = 0;
  const line = () => (out = out.trimEnd() + "\n" + "  ".repeat(indent));
  list.forEach((t, i) => {
    const next = list[i + 1]?.text;
    const previous = list[i - 1]?.text;
    if (t.text[0] === "#") {
      const own = i === 0 || /\n/.test(text.slice(list[i - 1].end, t.at));
      if (own && out) line();
      out = (own ? out : out.trimEnd() + " ") + t.text;
      line();
      return;
    }
    if (t.text === "{" && !parens) {
      out = out.trimEnd() + (out.trim() && !out.endsWith("\n") ? " {" : "{");
      indent++;
      line();
    } else if (t.text === "}" && !parens) {
      indent--;
      line();
      out += "}";
      if (indent === 0 && next) out += "\n\n";
      else if (next && next !== "}") line();
    } else if (t.text === "(" || t.text === "[") {
      if (t.text === "(") parens++;
      out = out.trimEnd() + (t.text === "[" && previous !== "(" && previous !== "[" ? " [" : t.text);
      if (t.text === "(" && indent === 0 && /^(query|subscription|mutation)$/.test(previous)) out = out.slice(0, -1) + " (";
    } else if (t.text === ")" || t.text === "]") {
      if (t.text === ")") parens--;
      out = out.trimEnd() + t.text;
      if (!parens && next && !/^[{@]$/.test(next) && t.text === ")" && indent) line();
      else out += t.text === ")" || parens ? " " : "";
    } else if (t.text === ":") out = out.trimEnd() + ": ";
    else if (t.text === "!") out = out.trimEnd() + "! ";
    else if (t.text === ",") out = parens ? out.trimEnd() + ", " : out;
    else if (t.text === "...") out += next === "on" ? "... " : "...";
    else if (t.text === "@") out = out.trimEnd() + " @";
    else {
      out += t.text;
      const ends = indent && !parens && next && !/^[:({@]$/.test(next) && t.text !== "on" && !(previous === "..." && next === "on");
      if (ends) line();
      else if (next && !/^[:)\]!,]$/.test(next)) out += parens && list[i + 2]?.text === ":" && !out.trimEnd().endsWith(",") ? ", " : " ";
    }
  });
  return out.trim() + "\n";
}

// Elements made by hand: text is only ever text.

/** An element with properties (or, where it has none of that name, attributes) and children. */
export function el(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that is an icon, with its name for those who hear, and those who hover. */
export function iconButton(icon, label, onclick, given = {}) {
  return el("button", { type: "button", class: `icon ${icon}`, title: label, ariaLabel: label, onclick, ...given });
}

// What has no glyph of its own, as app/rendering.py has it, except where it shapes its neighbours: joiners in emoji and
// in scripts that join or stack, selectors of an ideograph's form, tags of a flag.
const SHAPED = "[\\u0590-\\u1fff\\u2190-\\u2bff\\ufb1d-\\ufdff\\ufe0f\\ufe70-\\ufefc\\u{10000}-\\u{dffff}]";
const UNSEEN = "[[\\p{Cc}\\p{Default_Ignorable_Code_Point}\\u2028\\u2029\\ufff9-\\ufffb\\ufffe\\uffff]" +
  "--[\\t\\n\\u180b-\\u180d\\u180f\\u200c\\u200d\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}]]" +
  `|(?<!${SHAPED})[\\u200c\\u200d]|[\\u200c\\u200d](?!${SHAPED})` +
  "|(?<![\\u3400-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}])[\\u{e0100}-\\u{e01ef}]";
const FLAG_OR_UNSEEN = new RegExp(`\\u{1f3f4}[\\u{e0030}-\\u{e0039}\\u{e0061}-\\u{e007a}]{1,6}\\u{e007f}|(${UNSEEN})\\1*`, "gv");

/** The text with what does not show, and what would turn its lines around, made visible. */
export function visible(text) {
  return text.replace(/\r\n?/g, "\n").replace(FLAG_OR_UNSEEN, (run, sign) => {
    if (!sign) return run;
    const code = sign.codePointAt(0);
    const count = run.length / sign.length;
    if (code < 0x20) return String.fromCharCode(0x2400 + code).repeat(count);
    return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}${count > 1 ? `\u00d7${count}` : ""}]`;
  });
}

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

const PICTURES = /[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g;
const UNSEEN = /[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The text with what does not show, and what would turn its lines around, made visible. */
export function visible(text) {
  return text
    .replace(PICTURES, (sign) => String.fromCharCode(0x2400 + sign.charCodeAt(0)))
    .replace(UNSEEN, (sign) => `[U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

/** Copies a text, also where the page has no secure origin. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "unseen", value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// A plot of days: bars on a grid, drawn anew for whatever width there is, with the same figures as a table.

import { el } from "./dom.js";
import { FIGURES, sayBrief, sayCount, sayDay, sayWholeDay } from "./figures.js";

const SPACE = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const EDGE = { top: 12, right: 4, bottom: 24, left: 44 };
const LABEL_WIDTH = 64;
const TICKS = 4;
const WIDEST_BAR = 28;
const GAP = 2;
const ROUND = 3;

function svg(tag, given = {}, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A step of 1, 2 or 5 times a power of ten, of which few reach the top. */
function stepOf(most) {
  const rough = Math.max(1, most / TICKS);
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

/** A bar from one height to another, with round shoulders if nothing stands on it. */
function bar(className, x, width, from, to, isTop) {
  const round = isTop ? Math.min(ROUND, width / 2, from - to) : 0;
  return svg("path", {
    class: className,
    d: `M${x} ${from}V${to + round}q0 ${-round} ${round} ${-round}h${width - 2 * round}q${round} 0 ${round} ${round}V${from}z`,
  });
}

/** `series`: `[{name, of(day)}]`, stacked from below. */
export class Plot {
  #days = [];
  #isTable = false;
  #width = 0;

  constructor(name, help, series) {
    Object.assign(this, { name, series });
    this.readout = el("p", { class: "readout", ariaHidden: "true" });
    this.stage = el("div", { class: "stage" });
    this.toggle = el("button", { type: "button", class: "framed", onclick: () => this.#turn() }, FIGURES.table);
    this.toggle.ariaLabel = `${FIGURES.table}: ${name}`;
    this.toggle.ariaPressed = "false";
    const legend = series.length > 1
      ? el("p", { class: "legend" }, ...series.flatMap((one, place) => [el("i", { class: `key s${place}` }), `${one.name} `]))
      : null;
    this.element = el(
      "section", { class: "plot", ariaLabel: name },
      el("header", {}, el("h2", {}, name), el("span", { class: "help" }, help), this.toggle),
      legend, this.readout, this.stage,
    );
    new ResizeObserver(() => this.#isTable || this.stage.clientWidth === this.#width || this.#draw()).observe(this.stage);
  }

  show(days) {
    this.#days = days;
    this.#draw();
  }

  #turn() {
    this.#isTable = !this.#isTable;
    this.toggle.ariaPressed = String(this.#isTable);
    this.#draw();
  }

  #draw() {
    this.#width = this.stage.clientWidth;
    this.#tell(-1);
    if (this.#isTable) this.stage.replaceChildren(this.#table());
    else if (this.#days.some((day) => this.#sum(day))) this.stage.replaceChildren(this.#bars());
    else this.stage.replaceChildren(el("p", { class: "quiet" }, FIGURES.quiet));
  }

  #sum(day) {
    return this.series.reduce((sum, { of }) => sum + of(day), 0);
  }

  #table() {
    const names = this.series.map(({ name }) => el("th", { scope: "col" }, name));
    const rows = this.#days.toReversed().map((day) =>
      el("tr", {}, el("th", { scope: "row" }, sayWholeDay(day.day)),
        ...this.series.map(({ of }) => el("td", {}, sayCount(of(day))))));
    return el(
      "div", { class: "scroller", tabIndex: 0, role: "region", ariaLabel: `${FIGURES.table}: ${this.name}` },
      el("table", {},
        el("caption", { class: "unseen" }, this.name),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, FIGURES.day), ...names)),
        el("tbody", {}, ...rows)),
    );
  }

  #bars() {
    const days = this.#days;
    const sums = days.map((day) => this.#sum(day));
    const most = Math.max(...sums);
    const step = stepOf(most);
    const top = Math.ceil(most / step) * step;
    const width = Math.max(160, this.#width);
    const slot = (width - EDGE.left - EDGE.right) / days.length;
    const thick = Math.max(1, Math.min(WIDEST_BAR, slot - Math.min(GAP, slot / 3)));
    const y = (value) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - value / top);
    const x = (place) => EDGE.left + slot * (place + 0.5);
    const best = days[sums.indexOf(most)].day;
    const picture = svg("svg", {
      width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img",
      "aria-label": FIGURES.told(this.name, sayDay(days[0].day), sayDay(days.at(-1).day), sayCount(most), sayDay(best)),
    });
    for (let value = 0; value <= top; value += step) {
      picture.append(
        svg("line", { class: value ? "grid" : "axis", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
        svg("text", { x: EDGE.left - 8, y: y(value), "text-anchor": "end", dy: ".32em" }, sayBrief(value)),
      );
    }
    const every = Math.ceil(LABEL_WIDTH / slot);
    for (let place = days.length - 1; place >= 0; place -= every) {
      const isLast = place === days.length - 1 && slot < LABEL_WIDTH;
      picture.append(svg(
        "text", { x: isLast ? width - EDGE.right : x(place), y: HEIGHT - 6, "text-anchor": isLast ? "end" : "middle" },
        sayDay(days[place].day),
      ));
    }
    const mark = svg("rect", { class: "mark", y: EDGE.top, width: slot, height: y(0) - EDGE.top, visibility: "hidden" });
    picture.append(mark);
    for (const [place, day] of days.entries()) {
      let height = 0;
      for (const [number, { of }] of this.series.entries()) {
        if (!of(day)) continue;
        const from = y(height) - (height ? 1 : 0);
        height += of(day);
        picture.append(bar(`s${number}`, x(place) - thick / 2, thick, from, Math.min(y(height), from - 1), height === sums[place]));
      }
    }
    const point = ({ clientX }) => {
      const place = Math.floor((clientX - picture.getBoundingClientRect().left - EDGE.left) / slot);
      const isOn = place >= 0 && place < days.length;
      mark.setAttribute("visibility", isOn ? "visible" : "hidden");
      mark.setAttribute("x", EDGE.left + slot * place);
      this.#tell(isOn ? place : -1);
    };
    picture.addEventListener("pointermove", point);
    picture.addEventListener("pointerdown", point);
    picture.addEventListener("pointerleave", () => point({ clientX: -1 }));
    return picture;
  }

  /** Says the figures of a day; of none, the newest's. */
  #tell(place) {
    const day = this.#days.at(place);
    if (!day) return;
    const isNewest = day === this.#days.at(-1);
    const figures = this.series.map(({ name, of }) => (this.series.length > 1 ? `${name} ${sayCount(of(day))}` : sayCount(of(day))));
    this.readout.replaceChildren(
      el("b", {}, figures.join(" · ")), ` ${sayWholeDay(day.day)}${isNewest ? `, ${FIGURES.soFar}` : ""}`,
    );
  }
}

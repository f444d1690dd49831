// The words and the forms of figures: what the page of activity and the panel of a conversation say.

const LOCALE = "en-GB";

export const FIGURES = {
  perDay: "Days are counted in UTC.",
  back: "Conversations",
  range: "Range",
  days: (count) => `${count} days`,
  notAdmin: "Activity is for administrators",
  notAdminWhy: "This page shows what a whole tenant does, so it wants one of the tenant's admin keys. " +
    "The key of this tab is let in, but is none. Whoever runs this service can make one:",
  notAdminCommand: "verbatim keys create --tenant <tenant> --admin",
  otherKey: "Use another key",
  countedAt: (time) => `Counted at ${time}.`,
  notCounted: "Nothing is counted yet: sums are added up about once a minute.",
  quiet: "Nothing in these days.",
  soFar: "so far",
  table: "Table",
  plot: "Plot",
  day: "Day",

  begun: "Conversations begun",
  conversations: "Conversations",
  conversationsHelp: "in which something was said",
  messages: "Messages",
  messagesHelp: "said, also those deleted since",
  users: "Active users",
  usersHelp: "in whose conversations something was said",
  mostUsers: "Most users in a day",
  tokens: "Tokens",
  tokensHelp: "that models reported",
  inputTokens: "Input tokens",
  outputTokens: "Output tokens",
  input: "Input",
  output: "Output",
  told: (name, from, to, most, day) => `${name} per day, from ${from} to ${to}. The most: ${most}, on ${day}.`,

  figures: "Statistics",
  close: "Close",
  visible: "Messages",
  turns: "Turns",
  from: (role) => `from ${role}`,
  created: "Begun",
  updated: "Last changed",
  duration: "From begin to end",
  revision: "Other changes",
  archived: "Archived",
  yes: "yes",
  no: "no",
};

const count = new Intl.NumberFormat(LOCALE);
const brief = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const day = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short", timeZone: "UTC" });
const wholeDay = new Intl.DateTimeFormat(LOCALE, { weekday: "short", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const moment = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });

export const sayCount = (number) => count.format(number);
/** As 36M. */
export const sayBrief = (number) => brief.format(number);
export const sayMoment = (timestamp) => moment.format(new Date(timestamp));
/** Of a day as `2026-01-31`. */
export const sayDay = (text) => day.format(new Date(text));
export const sayWholeDay = (text) => wholeDay.format(new Date(text));

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];

/** Of seconds, in the two largest units that it has. */
export function sayDuration(seconds) {
  const first = UNITS.findIndex(([, size]) => seconds >= size);
  let left = Math.floor(seconds);
  const said = (first < 0 ? UNITS.slice(-1) : UNITS.slice(first, first + 2)).map(([unit, size]) => {
    const number = Math.floor(left / size);
    left -= number * size;
    return [number, new Intl.NumberFormat(LOCALE, { style: "unit", unit, unitDisplay: "long" }).format(number)];
  });
  return said.filter(([number], place) => number || !place).map(([, text]) => text).join(" ");
}

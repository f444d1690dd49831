// Every word that the pages say, in one place.

const LOCALE = "en-GB";
const DAY_MS = 86_400_000;

export const SAY = {
  name: "Verbatim",

  // Who is asking
  keyTitle: "Who is asking?",
  keyHelp: "Paste a key of this service. It stays in this tab, and is sent to this server only.",
  key: "Key",
  userName: "User",
  userHelp: "This key acts for whomever it names. Whose conversations are these?",
  enter: "Enter",
  waiting: "Trying again…",
  forgetKey: "Forget the key",
  otherKeyTitle: "Another key?",
  otherKeyHelp: "This link brings a key that is not the one of this tab. Whoever made the link may see what is said with it.",
  keepKey: "Stay with this tab's key",
  takeKey: "Use the link's key",

  // The list
  conversations: "Conversations",
  newConversation: "New conversation",
  search: "Search titles",
  pinned: "Pinned",
  today: "Today",
  yesterday: "Yesterday",
  untitled: "Untitled",
  empty: "Nothing said yet",
  archived: "Archived",
  back: "Back to all",
  activity: "Activity",
  noConversations: "No conversations yet.",
  nothingFound: "Nothing of that name.",
  loading: "Loading…",
  openList: "Open the list",
  closeList: "Close the list",

  // What to do with a conversation
  moreFor: (title) => `More for ${title}`,
  rename: "Rename",
  title: "Title",
  save: "Save",
  cancel: "Cancel",
  pin: "Pin",
  unpin: "Unpin",
  archive: "Archive",
  unarchive: "Bring back from the archive",
  copyAll: "Copy as Markdown",
  stats: "Statistics",
  delete: "Delete",
  deleted: "Conversation deleted.",
  undo: "Undo",
  copied: "Copied",

  // Messages
  messages: "Messages",
  user: "You",
  assistant: "Assistant",
  system: "System",
  developer: "Developer",
  tool: "Tool",
  asked: "Asked",
  answered: "Answered",
  noResult: "no result",
  more: "Show more",
  copy: "Copy",
  edit: "Edit and ask again",
  retry: "Try again",
  newest: "To the newest",
  tokens: (asked, said) => `${asked} → ${said} tokens`,
  "status-in_progress": "being made",
  "status-incomplete": "incomplete",
  "status-failed": "failed",
  "status-cancelled": "stopped",
  "status-sending": "sending…",

  // The composer
  message: "Message",
  say: "Say something…",
  send: "Send",
  stop: "Stop",
  askAgain: "Ask for a reply",
  editing: "What follows this message will be replaced.",
  welcome: "What is on your mind?",

  // What can go wrong
  offline: "The server does not answer. Trying again…",
  problem: "That did not work.",
  "problem-offline": "The server does not answer.",
  "problem-unavailable": "The server is busy.",
  "problem-not-found": "There is no such conversation.",
  "problem-invalid-credentials": "This key is not let in.",
  "problem-reply-in-progress": "A reply is still being made.",
  "problem-precondition-failed": "Something was said meanwhile. Look again.",
  "problem-too-large": "This is too long.",
};

/** What to say of a Problem. */
export function sayProblem(problem) {
  return SAY[`problem-${problem.name}`] ?? (problem.message || SAY.problem);
}

const dayOf = (year) => new Intl.DateTimeFormat(LOCALE, { weekday: "long", day: "numeric", month: "long", year });
const day = dayOf();
const oldDay = dayOf("numeric");
const time = new Intl.DateTimeFormat(LOCALE, { timeStyle: "short" });
const moment = new Intl.DateTimeFormat(LOCALE, { dateStyle: "full", timeStyle: "medium" });
const count = new Intl.NumberFormat(LOCALE);

export function sayDay(timestamp) {
  const date = new Date(timestamp);
  const today = new Date();
  const days = Math.round((new Date(today).setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / DAY_MS);
  if (days <= 1) return days === 1 ? SAY.yesterday : SAY.today;
  return (date.getFullYear() === today.getFullYear() ? day : oldDay).format(date);
}

export const sayTime = (timestamp) => time.format(new Date(timestamp));
export const sayMoment = (timestamp) => moment.format(new Date(timestamp));
export const sayCount = (number) => count.format(number);
export const sayBytes = (chars) => (chars < 1000 ? `${chars}` : `${count.format(Math.round(chars / 1000))} thousand characters`);

/** Of a usage object in any vendor's words; empty where it says nothing. */
export function sayTokens(usage) {
  const asked = usage?.prompt_tokens ?? usage?.input_tokens;
  const said = usage?.completion_tokens ?? usage?.output_tokens;
  if (!Number.isFinite(asked) && !Number.isFinite(said)) return "";
  return SAY.tokens(count.format(asked ?? 0), count.format(said ?? 0));
}

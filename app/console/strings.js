// Every word that the pages say, in one place.

export const SAY = {
  name: "Verbatim",

  // The door
  keyTitle: "Who is asking?",
  keyHelp: "Paste a key of Verbatim. It stays in this tab and is sent to this server only.",
  key: "Key",
  user: "User",
  userHelp: "This key acts for whomever it names. Whose conversations are these?",
  enter: "Enter",
  keyRefused: "This key is not let in.",
  forgetKey: "Forget the key",

  // What can go wrong
  offline: "The server does not answer. Trying again…",
  "problem-offline": "The server does not answer.",
  "problem-unavailable": "The server is busy.",
  "problem-not-found": "There is no such conversation.",
  "problem-invalid-credentials": "The key is let in no more.",
  "problem-reply-in-progress": "A reply is still being made.",
  "problem-precondition-failed": "Something was said meanwhile. Look again.",
  "problem-too-large": "This is too long.",
  problem: "That did not work.",
  tryAgain: "Try again",
};

/** What to say of a Problem. */
export function sayProblem(problem) {
  return SAY[`problem-${problem.name}`] ?? (problem.message || SAY.problem);
}

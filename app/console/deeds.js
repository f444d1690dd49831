// What can be done to a conversation: from the list, or where it is open.

import { copy } from "./clipboard.js";
import { askLine, openMenu } from "./menu.js";
import { SAY } from "./strings.js";
import { toast } from "./toast.js";
import { conversationMarkdown } from "./whole.js";

const TITLE_LIMIT = 500;

/** `shelf` of the list; `onChanged(conversation)`; `onGone(isPointed)`, `onBack()`; `attempt(work)` says what goes wrong. */
export function showDeeds(button, conversation, { api, shelf, onChanged, onGone, onBack, attempt }) {
  const { id, pinned_at, archived_at } = conversation;
  const path = `/v1/conversations/${id}`;
  const change = (body) => attempt(async () => {
    const changed = await api.ask("PATCH", path, { body });
    shelf.put(changed);
    onChanged(changed);
  });

  async function rename() {
    const line = await askLine(SAY.title, shelf.nameOf(conversation), TITLE_LIMIT);
    if (line !== null) await change({ title: line || null });
  }

  async function copyAll() {
    await copy(await conversationMarkdown(api, conversation));
    toast(SAY.copied);
  }

  async function remove(isPointed) {
    await api.ask("DELETE", path);
    shelf.remove(id);
    onGone(isPointed);
    toast(SAY.deleted, SAY.undo, () => attempt(async () => {
      shelf.put(await api.insist(() => api.ask("POST", `${path}/restore`)));
      onBack();
    }));
  }

  openMenu(button, [
    [SAY.rename, rename],
    [pinned_at ? SAY.unpin : SAY.pin, () => change({ pinned: !pinned_at })],
    [archived_at ? SAY.unarchive : SAY.archive, () => change({ archived: !archived_at })],
    [SAY.copyAll, () => attempt(copyAll)],
    [SAY.stats, () => attempt(async () => (await import("./stats.js")).showStats(api, { id, title: shelf.nameOf(conversation) }))],
    [SAY.delete, (isPointed) => attempt(() => remove(isPointed))],
  ]);
}

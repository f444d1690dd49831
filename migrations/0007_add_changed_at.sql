-- What changes a conversation without moving it in the list must be found by its followers, too.
-- depends: 0002_create_conversations

-- When title, metadata, tags, pin or archive changed last, or it was deleted or restored; NULL
-- until then. No append moves it, so that its index costs an append nothing.
ALTER TABLE conversations ADD COLUMN changed_at timestamptz;
